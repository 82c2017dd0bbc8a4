"""Sound to codes: X-Codec2's encoder here against the path of the published script, same random weights.

The published script runs all 24 layers of w2v-BERT 2.0 and takes what the 16th says. Theirs here does so too:
transformers' modules in float32, 24 layers, one clip at a time; the first 16 are the very modules of ours.
`16 layers` is transformers' own port, which builds no more. Ratios are theirs over ours. Ours is in float32
and, by the argument `encode_dtype`, in bfloat16, whose codes are compared and counted.

Checked: all codes of ours in float32 are theirs, and those of a batch are those of single clips.

    python benchmarks/codec_encode.py                # full size: 3.4 GB of weights, some minutes
    python benchmarks/codec_encode.py --size small --seconds 1 --rows 1 3 --rounds 3
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from paired import Ratio, finish, flags, header, paired
from torch import Tensor
from transformers import Wav2Vec2BertConfig, Wav2Vec2BertModel, Xcodec2Config, Xcodec2Model

from llasa.codec.xcodec2 import Xcodec2Codec
from llasa.core import Audio, Codes

RATE = 16_000
SMALL: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 2, "encoder_hidden_size": 4, "quantization_dim": 128,
}  # fmt: skip
SMALL_SEMANTIC: dict[str, Any] = {"hidden_size": 64, "num_attention_heads": 2, "intermediate_size": 128}


def random_model(size: str, seed: int, clip: Audio) -> Xcodec2Model:
    """Return X-Codec2 with random weights whose latents of a clip lie about zero, a level apart."""
    torch.manual_seed(seed)
    if size == "full":
        model = Xcodec2Model(Xcodec2Config()).eval()
    else:
        semantic = Wav2Vec2BertConfig(num_hidden_layers=16, **SMALL_SEMANTIC)
        model = Xcodec2Model(Xcodec2Config(semantic_model_config=semantic, **SMALL)).eval()
    project, seen = model.quantizer.project_in, list[Tensor]()
    hook = project.register_forward_hook(lambda *given: seen.append(given[2][0]))
    theirs(model, model.semantic_encoder)([clip])
    hook.remove()
    spread, middle = seen[0].std(0), seen[0].mean(0)
    project.weight /= spread[:, None]
    project.bias.copy_((project.bias - middle) / spread)
    return model


def deep(model: Xcodec2Model) -> Any:
    """Return the semantic encoder with 24 layers, the first 16 those of the model."""
    sizes: Any = model.config.semantic_model_config
    config = Wav2Vec2BertConfig.from_dict(sizes.to_dict())
    config.num_hidden_layers = 24
    with torch.device("meta"):
        full = Wav2Vec2BertModel(config).eval()
    own = model.semantic_encoder
    full.feature_projection, full.masked_spec_embed = own.feature_projection, own.masked_spec_embed
    for n, layer in enumerate(full.encoder.layers):
        if n < len(own.encoder.layers):
            full.encoder.layers[n] = own.encoder.layers[n]
        else:
            layer.to_empty(device="cpu").load_state_dict(own.encoder.layers[n - 16].state_dict())
    return full


def theirs(model: Xcodec2Model, semantic: Any) -> Callable[[list[Audio]], list[Codes]]:
    """Return the published path: clips to codes, one at a time, by what the 16th layer says."""
    inputs, said = Xcodec2Codec(model, "xcodec2@random").inputs, list[Tensor]()

    def encode(clips: list[Audio]) -> list[Codes]:
        found = []
        for clip in clips:
            wave, features = inputs(torch.from_numpy(clip.samples))
            hook = semantic.encoder.layers[15].register_forward_hook(lambda *given: said.append(given[2]))
            semantic(features[None])
            hook.remove()
            meant = model.semantic_adapter(said.pop().mT)
            heard = model.acoustic_encoder(wave[None, None])
            joint = model.fc_encoder(torch.cat((meant, heard), 1).mT)
            found.append(model.quantizer(joint)[1][0, :, 0].tolist())
        return found

    return encode


def clips_of(count: int, seconds: float, seed: int, ragged: bool = False) -> list[Audio]:
    """Return gliding tones in bursts of noise; ragged ones down to half as long."""
    draw, found = np.random.default_rng(seed), []
    for _ in range(count):
        t = np.arange(int(RATE * seconds * (draw.uniform(0.5, 1) if ragged else 1))) / RATE
        tone = np.sin(2 * np.pi * t * (draw.uniform(80, 300) + 400 * t)) * np.sin(2 * np.pi * 3 * t)
        noise = draw.standard_normal(len(t)) * (np.sin(2 * np.pi * draw.uniform(2, 6) * t) > 0)
        found.append(Audio((0.2 * tone + 0.1 * noise).astype(np.float32), RATE))
    return found


def agreement(found: list[Codes], wanted: list[Codes]) -> float:
    """Return the share of equal codes."""
    equal = [a == b for one, two in zip(found, wanted, strict=True) for a, b in zip(one, two, strict=True)]
    return float(np.mean(equal))


@torch.inference_mode()
def main() -> None:
    """Check, then time."""
    parser = flags(__doc__ or "")
    parser.add_argument("--size", choices=("full", "small"), default="full")
    parser.add_argument("--seconds", type=float, default=10.0, help="of a clip")
    parser.add_argument("--rows", nargs="+", type=int, default=[1, 8], help="clips in one call")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = random_model(args.size, args.seed, clips_of(1, args.seconds, args.seed)[0])
    full = theirs(model, deep(model))
    port = theirs(model, model.semantic_encoder)
    exact = Xcodec2Codec(model, "xcodec2@random")
    rough = Xcodec2Codec(model, "xcodec2@random", encode_dtype=torch.bfloat16)
    ragged = clips_of(max(args.rows), args.seconds, args.seed + 1, ragged=True)
    wanted, batch = full(ragged), exact.encode(ragged)
    checks = {
        "float32 as theirs": agreement(batch, wanted),
        "batch as alone": agreement(batch, [exact.encode([one])[0] for one in ragged]),
        "bfloat16 as theirs": agreement(rough.encode(ragged), wanted),
        "codes": sum(map(len, wanted)),
        "distinct": len(set().union(*wanted)),
    }
    _say(args.json, "  ".join(f"{name} {value:.5g}" for name, value in checks.items()))
    _say(args.json, header())
    ratios: dict[str, Ratio] = {}
    for rows in args.rows:
        clips = clips_of(rows, args.seconds, args.seed)
        for name, codec, other in (
            (f"float32 x {rows}", exact, full),
            (f"float32 x {rows}, theirs 16 layers", exact, port),
            (f"bfloat16 x {rows}", rough, full),
        ):
            ratios[name] = paired(
                lambda c=codec, k=clips: c.encode(k), lambda o=other, k=clips: o(k), args.rounds
            )
            _say(args.json, ratios[name].row(name))
    failed = [f"{k}: {checks[k]}" for k in ("float32 as theirs", "batch as alone") if checks[k] < 1]
    finish({"checks": checks, "ratios": {k: v.as_dict() for k, v in ratios.items()}}, failed, args.json)


def _say(quiet: bool, line: str) -> None:
    if not quiet:
        print(line, flush=True)


if __name__ == "__main__":
    main()

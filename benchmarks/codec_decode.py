"""Codes to sound: this project's codec against transformers' `Xcodec2Model` with the same random weights.

Theirs is the native model in float32, given rows of equal lengths in one batch, which suits it best. Ours is
measured twice: as it decodes by default on this machine (`fast`) and in float32 (`float32`). Ratios are
theirs over ours. Then rows of unlike lengths: each alone and padded in one batch of theirs, against ours. At
the end the compact codec of the starter: candidates behind a voice, in one call and one at a time.

Checked before anything is timed: the largest difference to theirs in float32 at most 1e-5, the loudest sample
being about 0.5; the fast one at least 30 dB above its error; a row in a batch of unlike ones as it is alone.

    python benchmarks/codec_decode.py                # full size: 2.5 GB of weights, some minutes
    python benchmarks/codec_decode.py --size small --codes 25 100 --rows 1 4 --rounds 3
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from paired import Ratio, finish, flags, header, paired
from torch import nn
from transformers import Wav2Vec2BertConfig, Xcodec2Config, Xcodec2Model

import llasa
from llasa.codec.compact import CompactCodec
from llasa.codec.xcodec2 import Xcodec2Codec
from llasa.core import Audio, Codes

MOST_ERROR, LEAST_SNR_DB = 1e-5, 30.0
SMALL: dict[str, Any] = {
    "hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "encoder_hidden_size": 4, "quantization_dim": 160,
}  # fmt: skip


def random_model(size: str, seed: int) -> Xcodec2Model:
    """Return X-Codec2 with random weights, as loud as speech; of its semantic encoder only a little."""
    semantic = Wav2Vec2BertConfig(
        hidden_size=1024 if size == "full" else 32, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=64,
    )  # fmt: skip
    torch.manual_seed(seed)
    config = Xcodec2Config(semantic_model_config=semantic, **(SMALL if size == "small" else {}))
    model = Xcodec2Model(config).eval()
    head = model.acoustic_decoder.head
    with torch.inference_mode():
        peak = native(model, [list(range(0, 50_000, 500))]).abs().max()
        head.linear.bias[: head.n_fft // 2 + 1] += (0.5 / peak).log()
    return model


def native(model: Xcodec2Model, rows: list[Codes]) -> torch.Tensor:
    """Return what the native model makes of rows of equal lengths, [rows, T]."""
    output: Any = model.decode(torch.tensor(rows)[:, None])
    return output.audio_values[:, 0]


def drawn(lengths: list[int], codebook: int, seed: int) -> list[Codes]:
    """Return rows of random codes."""
    draw = np.random.default_rng(seed)
    return [draw.integers(0, codebook, length).tolist() for length in lengths]


def differences(found: list[Audio], wanted: list[np.ndarray]) -> tuple[float, float]:
    """Return the largest difference and the ratio of sound to error, dB."""
    pairs = list(zip((one.samples for one in found), wanted, strict=True))
    error = sum(float(np.square(a - b, dtype=np.float64).sum()) for a, b in pairs)
    power = sum(float(np.square(b, dtype=np.float64).sum()) for _, b in pairs)
    return max(float(np.abs(a - b).max()) for a, b in pairs), 10 * float(np.log10(power / max(error, 1e-30)))


def check(model: Xcodec2Model, codecs: dict[str, Xcodec2Codec], rows: list[Codes]) -> list[dict[str, Any]]:
    """Return how far each codec is from the native model, and a row in company from the row alone."""
    wanted = [native(model, [row])[0].clamp(-1, 1).numpy() for row in rows]
    found = []
    for name, codec in codecs.items():
        batch, alone = codec.decode(rows), [codec.decode([row])[0].samples for row in rows]
        error, snr_db = differences(batch, wanted)
        company, company_db = differences(batch, alone)
        fast = name == "fast"
        good = snr_db >= LEAST_SNR_DB if fast else max(error, company) <= MOST_ERROR
        found.append(
            {"codec": name, "error": error, "snr_db": snr_db, "company": company, "company_db": company_db}
            | {"good": good}
        )
    return found


def unlike(model: Xcodec2Model, codec: Xcodec2Codec, rows: list[Codes], rounds: int) -> dict[str, Ratio]:
    """Return ratios for rows of unlike lengths: theirs one at a time, and padded to the longest."""
    longest = max(map(len, rows))
    padded = [row + [0] * (longest - len(row)) for row in rows]

    def alone() -> None:
        for row in rows:
            native(model, [row])

    ours = partial(codec.decode, rows)
    return {
        "unlike rows, theirs alone": paired(ours, alone, rounds),
        "unlike rows, theirs padded": paired(ours, lambda: native(model, padded), rounds),
    }


def starter(rows: int, rounds: int, seed: int) -> tuple[Ratio, float]:
    """Return the ratio of single calls to one, and their largest difference, for the starter's codec."""
    codec = CompactCodec.load(Path(llasa.__file__).parent / "assets" / "starter" / "codec")
    lengths = np.random.default_rng(seed).integers(60, 120, rows).tolist()
    codes = drawn(lengths, codec.codebook_size, seed)
    (voice,) = drawn([100], codec.codebook_size, seed + 1)

    def single() -> list[Audio]:
        return [codec.decode([row], voice)[0] for row in codes]

    apart, _ = differences(codec.decode(codes, voice), [one.samples for one in single()])
    return paired(lambda: codec.decode(codes, voice), single, rounds), apart


@torch.inference_mode()
def main() -> None:
    """Check, then time."""
    parser = flags(__doc__ or "")
    parser.add_argument("--size", choices=("full", "small"), default="full")
    parser.add_argument("--codes", nargs="+", type=int, default=[25, 100, 500, 1000], help="lengths of rows")
    parser.add_argument("--rows", nargs="+", type=int, default=[1, 4, 16], help="rows of equal length")
    parser.add_argument("--most", type=int, default=4000, help="codes in all above which a case is left out")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = random_model(args.size, args.seed)
    codecs = {
        "fast": Xcodec2Codec(model, "xcodec2@random"),
        "float32": Xcodec2Codec(model, "xcodec2@random", torch.float32),
    }
    few = drawn([args.codes[0], 7, 2 * args.codes[0], args.codes[0] + 3], 65_536, args.seed)
    checks = check(model, codecs, few)
    for one in checks:
        _say(args.json, "  ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{v}" for k, v in one.items()))
    ratios: dict[str, Ratio] = {}
    _say(args.json, header())
    for name, codec in codecs.items():
        for length in args.codes:
            for rows in (count for count in args.rows if count * length <= args.most):
                codes = drawn([length] * rows, 65_536, args.seed)
                _add(ratios, f"{name} {length} codes x {rows}", *_pair(codec, model, codes), args)
    draw = np.random.default_rng(args.seed).integers(args.codes[0], 4 * args.codes[0], max(args.rows))
    for name, ratio in unlike(model, codecs["fast"], drawn(draw.tolist(), 65_536, 1), args.rounds).items():
        ratios[name] = ratio
        _say(args.json, ratio.row(name))
    ratio, apart = starter(max(args.rows), args.rounds, args.seed)
    ratios["starter, one call for single calls"] = ratio
    _say(args.json, ratio.row("starter, one call for single"))
    failed = [f"{one['codec']}: {one}" for one in checks if not one["good"]]
    report = {"checks": checks, "ratios": {k: v.as_dict() for k, v in ratios.items()}, "starter_apart": apart}
    finish(report | {"decode_dtype": str(codecs["fast"].decode_dtype)}, failed, args.json)


def _pair(codec: Xcodec2Codec, model: nn.Module, codes: list[Codes]) -> tuple[Callable, Callable]:
    return lambda: codec.decode(codes), lambda: native(model, codes)  # pyright: ignore[reportArgumentType]


def _add(ratios: dict[str, Ratio], name: str, ours: Callable, theirs: Callable, args: Any) -> None:
    ratios[name] = paired(ours, theirs, args.rounds)
    _say(args.json, ratios[name].row(name))


def _say(quiet: bool, line: str) -> None:
    if not quiet:
        print(line, flush=True)


if __name__ == "__main__":
    main()

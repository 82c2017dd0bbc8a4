"""Runs the pip package `xcodec2` on random weights: the reference of `test_the_package_agrees`.

For an environment of its own, which has that package (0.1.3 or 0.1.5), vector-quantize-pytorch 1.17.8 and
torchtune: python tests/golden/codec_package.py FOLDER SIZE. Reads FOLDER/inputs.npz (`wave` [T], `features`
[N, 160]), writes package.safetensors, training.ckpt and outputs.npz (`codes`, `own_codes`, `samples`).
"""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel, SeamlessM4TFeatureExtractor, Wav2Vec2BertConfig, Wav2Vec2BertModel

# Semantic width, layers and inner width; first channels; width, layers and heads of the decoder.
SIZES = {"small": (64, 18, 96, 8, 128, 3, 2), "full": (1024, 24, 4096, 48, 1024, 12, 16)}


def build(size: str) -> Any:
    """Return the package's model, made of its modules: its own constructor would download one of them."""
    from xcodec2.configuration_bigcodec import BigCodecConfig
    from xcodec2.modeling_xcodec2 import XCodec2Model
    from xcodec2.vq.codec_decoder_vocos import CodecDecoderVocos
    from xcodec2.vq.codec_encoder import CodecEncoder_Transformer
    from xcodec2.vq.module import SemanticEncoder

    semantic, semantic_layers, inner, channels, width, layers, heads = SIZES[size]
    model: Any = XCodec2Model.__new__(XCodec2Model)
    PreTrainedModel.__init__(model, BigCodecConfig())
    model.semantic_model = Wav2Vec2BertModel(
        Wav2Vec2BertConfig(
            hidden_size=semantic, num_hidden_layers=semantic_layers, num_attention_heads=semantic // 64,
            intermediate_size=inner, output_hidden_size=semantic, output_hidden_states=True,
        )
    )  # fmt: skip
    model.SemanticEncoder_module = SemanticEncoder(semantic, semantic, semantic)
    model.CodecEnc = CodecEncoder_Transformer(ngf=channels, hidden_dim=width)
    both = semantic + width
    model.generator = CodecDecoderVocos(hidden_dim=width, depth=layers, heads=heads, vq_dim=both)
    model.fc_prior, model.fc_post_a = nn.Linear(both, both), nn.Linear(both, width)
    return model.eval()


@torch.no_grad()
def shake(model: Any) -> None:
    """Give every weight a value of its own, and the codes variety."""
    for name, weight in model.named_parameters():
        if ".act." in name or weight.ndim == 1:
            weight.add_(0.1 * torch.randn_like(weight))
    project = model.generator.quantizer.project_in
    states: list[Tensor] = []
    hook = project.register_forward_hook(lambda _module, _inputs, output: states.append(output))
    encode(model, torch.from_numpy(np.random.default_rng(1).normal(0, 0.1, 8000).astype(np.float32)))
    hook.remove()
    mean, spread = states[0].mean((0, 1)), states[0].std((0, 1))
    project.weight.div_(spread[:, None])
    project.bias.sub_(mean).div_(spread)


def encode(model: Any, wave: Tensor, features: Tensor | None = None) -> np.ndarray:
    """Return the package's codes [N], from features of its own or given ones."""
    model.feature_extractor = SeamlessM4TFeatureExtractor()
    if features is not None:
        given = SimpleNamespace(input_features=features[None])
        model.feature_extractor = lambda *_, **__: given
    return model.encode_code(wave[None])[0, 0].numpy()


def as_trained(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the names that the training code gives: what both pip packages renamed."""
    renamed = {}
    for name, tensor in tensors.items():
        if name.startswith("CodecEnc."):
            name = name.replace(".act.bias", ".act.beta")
            name = name.replace("parametrizations.weight.original0", "weight_g")
            name = name.replace("parametrizations.weight.original1", "weight_v")
        renamed[name] = tensor
    return renamed | {"fc_post_s.weight": torch.ones(2), "discriminator.a": torch.ones(2)}


def main(folder: Path, size: str) -> None:
    torch.manual_seed(0)
    model, inputs = build(size), np.load(folder / "inputs.npz")
    shake(model)
    wave, features = torch.from_numpy(inputs["wave"]), torch.from_numpy(inputs["features"])
    codes = encode(model, wave, features)
    samples = model.decode_code(torch.from_numpy(codes)[None, None])[0, 0].numpy()
    np.savez(folder / "outputs.npz", codes=codes, own_codes=encode(model, wave), samples=samples)
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, folder / "package.safetensors")
    settings = SimpleNamespace(lr=1e-4)
    torch.save({"state_dict": as_trained(tensors), "hyper_parameters": settings}, folder / "training.ckpt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])

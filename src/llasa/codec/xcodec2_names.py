"""The older names of X-Codec2's and NeuCodec's tensors, and the native ones. Knows no files.

One scheme with three accents: the training checkpoint and the Hub's `XCodec2Model` say `act.beta` and
`weight_g`, the pip packages `act.bias` and `parametrizations.weight.original0`. C channels, H width.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import NeuCodecConfig, Wav2Vec2BertConfig, Xcodec2Config

from llasa.errors import BundleError

Tensors = dict[str, Tensor]

SEMANTIC_LAYERS = 16  # of 24: the adapter reads the output of the 16th, so what follows changes nothing
HEAD_DIM = 64  # fixed in the original; no shape tells the number of heads
INPUT_RATE = 16_000  # Hz

_TRAINING = (
    "SemanticDecoder_module.", "criteria.", "discriminator.", "fc_post_s.", "model_spk.", "perception_model.",
    "spec_discriminator.",
)  # fmt: skip
_CONSTANT = re.compile(
    r"^CodecEnc\..*\.(upsample|downsample\.lowpass)\.filter$|^generator\.head\.istft\.window$"
)
_SEMANTIC_LAYER = re.compile(r"^semantic_model\.encoder\.layers\.(\d+)\.")
_PLAIN = (
    (re.compile(r"\.parametrizations\.weight\.original0$"), ".weight_g"),
    (re.compile(r"\.parametrizations\.weight\.original1$"), ".weight_v"),
    (re.compile(r"^(CodecEnc\..*\.act)\.bias$"), r"\1.beta"),
)
_PAIRS = {
    "CodecEnc.conv_blocks.0": "acoustic_encoder.conv1",
    "CodecEnc.conv_final_block.0.act": "acoustic_encoder.snake1.act",
    "CodecEnc.conv_final_block.1": "acoustic_encoder.conv2",
    "SemanticEncoder_module.initial_conv": "semantic_adapter.conv1",
    "SemanticEncoder_module.residual_blocks.1": "semantic_adapter.conv2",
    "SemanticEncoder_module.residual_blocks.3": "semantic_adapter.conv3",
    "SemanticEncoder_module.final_conv": "semantic_adapter.conv4",
    "fc_prior": "fc_encoder",
    "fc_post_a": "acoustic_decoder.fc",
    "generator.quantizer.project_in": "quantizer.project_in",
    "generator.quantizer.project_out": "quantizer.project_out",
    "generator.backbone.embed": "acoustic_decoder.embed",
    "generator.backbone.final_layer_norm": "acoustic_decoder.norm",
    "generator.head.out": "acoustic_decoder.head.linear",
}
_UNIT = {"0.act": "snake1.act", "1": "conv1", "2.act": "snake2.act", "3": "conv2"}
_LAYER = {
    "att_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "att.c_proj": "self_attn.o_proj",
    "att.c_attn": "self_attn", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2",
}  # fmt: skip


def plain(name: str) -> str:
    """Return a name without its accent: as the training checkpoint has it."""
    for pattern, replacement in _PLAIN:
        name = pattern.sub(replacement, name)
    return name


def is_dropped(name: str) -> bool:
    """Tell whether a plain name is of no use after training: losses, constants, layers nobody reads."""
    layer = _SEMANTIC_LAYER.match(name)
    unread = layer is not None and int(layer[1]) >= SEMANTIC_LAYERS
    return unread or name.startswith(_TRAINING) or _CONSTANT.match(name) is not None


def to_native(tensors: Mapping[str, Tensor]) -> Tensors:
    """Return float32 tensors under native names; a name that the table lacks stays as it is.

    Weight normalisation is multiplied out; the rows of `c_attn` are queries, keys and values, in this order.
    """
    table = dict(_modules(_count(tensors, r"CodecEnc\.conv_blocks\.(\d+)\.") - 1, _layers(tensors)))
    found: Tensors = {}
    for name, weight in _multiplied_out(tensors).items():
        module, _, leaf = name.rpartition(".")
        if name.startswith("semantic_model."):
            found["semantic_encoder." + name.removeprefix("semantic_model.")] = weight
        elif module.endswith(".att.c_attn") and module in table:
            parts = zip("qkv", weight.chunk(3), strict=True)
            found |= {f"{table[module]}.{part}_proj.{leaf}": rows.contiguous() for part, rows in parts}
        else:
            found[f"{table[module]}.{leaf}" if module in table else name] = weight
    return found


def config_of(tensors: Mapping[str, Tensor]) -> Xcodec2Config | NeuCodecConfig:
    """Return the configuration that the shapes of plainly named tensors tell.

    Raises:
        BundleError: modules are not numbered one after the other.
        KeyError: a tensor that tells a size is missing; the argument is its name.
    """
    blocks = _count(tensors, r"CodecEnc\.conv_blocks\.(\d+)\.") - 1
    strides = [_size(tensors, f"CodecEnc.conv_blocks.{i + 1}.block.4", 2) // 2 for i in range(blocks)]
    hidden = _size(tensors, "generator.backbone.embed", 0)
    levels, quantization_dim = tensors["generator.quantizer.project_in.weight"].shape
    fields: dict[str, Any] = {
        "hidden_size": hidden,
        "intermediate_size": _size(tensors, "generator.backbone.transformers.0.mlp.fc1", 0),
        "num_hidden_layers": _layers(tensors),
        "num_attention_heads": hidden // HEAD_DIM,
        "num_key_value_heads": hidden // HEAD_DIM,
        "head_dim": HEAD_DIM,
        "encoder_hidden_size": _size(tensors, "CodecEnc.conv_blocks.0", 0),
        "downsampling_ratios": strides,
        "quantization_dim": quantization_dim,
        "quantization_levels": [4] * levels,
        "semantic_model_config": _semantic_config(tensors),
    }
    hop, hop_out = int(torch.tensor(strides).prod()), (_size(tensors, "generator.head.out", 0) - 2) // 4
    if hop_out == hop:
        return Xcodec2Config(**fields, sampling_rate=INPUT_RATE)
    return NeuCodecConfig(**fields, output_sampling_rate=INPUT_RATE * hop_out // hop)


def _semantic_config(tensors: Mapping[str, Tensor]) -> Wav2Vec2BertConfig:
    hidden, features = tensors["semantic_model.feature_projection.projection.weight"].shape
    first = "semantic_model.encoder.layers.0"
    head_dim = tensors[f"{first}.self_attn.distance_embedding.weight"].shape[1]
    return Wav2Vec2BertConfig(
        hidden_size=hidden,
        output_hidden_size=hidden,
        feature_projection_input_dim=features,
        num_hidden_layers=SEMANTIC_LAYERS,
        num_attention_heads=hidden // head_dim,
        intermediate_size=_size(tensors, f"{first}.ffn1.intermediate_dense", 0),
        conv_depthwise_kernel_size=_size(tensors, f"{first}.conv_module.depthwise_conv", 2),
    )


def _modules(blocks: int, layers: int) -> Iterator[tuple[str, str]]:
    """Yield the older and the native path of each module outside the semantic model."""
    yield from _PAIRS.items()
    for i in range(blocks):
        old, new = f"CodecEnc.conv_blocks.{i + 1}.block", f"acoustic_encoder.block.{i}"
        yield from ((f"{old}.3.act", f"{new}.snake1.act"), (f"{old}.4", f"{new}.conv1"))
        for j in range(3):
            yield from ((f"{old}.{j}.block.{a}", f"{new}.res_unit{j + 1}.{b}") for a, b in _UNIT.items())
    for i in range(layers):
        old, new = f"generator.backbone.transformers.{i}", f"acoustic_decoder.layers.{i}"
        yield from ((f"{old}.{a}", f"{new}.{b}") for a, b in _LAYER.items())
    for net in ("prior_net.0", "prior_net.1", "post_net.0", "post_net.1"):
        for part in ("norm1", "conv1", "norm2", "conv2"):
            yield f"generator.backbone.{net}.{part}", f"acoustic_decoder.{net}.{part}"


def _multiplied_out(tensors: Mapping[str, Tensor]) -> Tensors:
    """Return weights instead of lengths `weight_g` [C, 1, 1] and directions `weight_v` [C, C', K]."""
    found = {name: tensor.float() for name, tensor in tensors.items()}
    for name in [name for name in found if name.endswith(".weight_g")]:
        if name[:-1] + "v" in found:
            length, direction = found.pop(name), found.pop(name[:-1] + "v")
            norm = direction.norm(dim=tuple(range(1, direction.ndim)), keepdim=True)
            found[name[:-2]] = direction * (length / norm)
    return found


def _layers(tensors: Mapping[str, Tensor]) -> int:
    return _count(tensors, r"generator\.backbone\.transformers\.(\d+)\.")


def _count(tensors: Mapping[str, Tensor], pattern: str) -> int:
    """Return how many numbered modules there are; a name alone may not make a model large."""
    numbers = {int(match[1]) for name in tensors if (match := re.match(pattern, name))}
    if numbers and max(numbers) + 1 != len(numbers):
        found = f"{len(numbers)} modules like '{pattern}', numbered up to {max(numbers)}"
        raise BundleError(f"Reading a codec's names: found {found}. Download the checkpoint again.")
    return len(numbers)


def _size(tensors: Mapping[str, Tensor], module: str, axis: int) -> int:
    """Return a size of a module's weight, normalised or not."""
    name = f"{module}.weight"
    return tensors[f"{name}_v" if f"{name}_v" in tensors else name].shape[axis]

"""A language model folder in Hugging Face layout to one GGUF file, for llama.cpp and what is built on it.

Weights stream from the folder into the file, one at a time. Must not know what ids mean or how one draws.

Shapes are PyTorch's, [rows, columns]; a GGUF file lists them the other way round.
"""

import difflib
import logging
import math
import os
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from llasa.engines.gguf import llama_errors, llama_library
from llasa.errors import BundleError, ConfigError, EngineError, MissingExtra
from llasa.export.gguf_tokens import AGAIN, DOING, Tokens, read_json
from llasa.held import scratch
from llasa.prompt import SPEECH_END

try:
    import gguf
except ImportError as error:
    raise MissingExtra(DOING, "gguf", "gguf") from error

DIRECT = ("f32", "f16", "bf16", "q8_0")
BY_LLAMA_CPP = ("q6_k", "q5_k_m", "q5_k_s", "q5_0", "q4_k_m", "q4_k_s", "q4_0", "q3_k_m", "q2_k")
QUANTS = DIRECT + BY_LLAMA_CPP
ARCHITECTURES = ("llama", "qwen2", "qwen3")  # called the same in transformers and in GGUF

Progress = Callable[[int, int], None] | None

_log = logging.getLogger(__name__)
_CHUNK = 1 << 24  # weights converted at a time
_DAMAGE = (
    ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError, StrictDataclassError,
    struct.error,
)  # fmt: skip
_K_BLOCK = 256  # weights of a row that share the scales of a k-quant


@dataclass(frozen=True)
class _Weight:
    """A weight: its `name` in GGUF, the `file` and the `source` name it is read from.

    heads: how many heads' rows change from transformers' rotary order to llama.cpp's; 0: none do.
    """

    name: str
    file: Path
    source: str
    shape: tuple[int, ...]
    heads: int

    def rows(self) -> Iterator[np.ndarray]:
        """Yield the rows in order, float32, some at a time."""
        step = self.shape[0] if self.heads else max(1, _CHUNK // self.shape[-1])
        with safe_open(self.file, "pt") as file:
            whole = file.get_slice(self.source)
            for start in range(0, self.shape[0], step):
                yield _interleaved(whole[start : start + step].float().numpy(), self.heads)


def _interleaved(rows: np.ndarray, heads: int) -> np.ndarray:
    """Put the two halves of each head that rotate together side by side, as llama.cpp's Llama has them."""
    if not heads:
        return rows
    return rows.reshape(heads, 2, -1, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


@dataclass(frozen=True)
class _Model:
    """What is known of a folder before anything is written. stored: the safetensors type of its matrices."""

    folder: Path
    config: PreTrainedConfig
    tokens: Tokens
    weights: list[_Weight]
    stored: str


def export_gguf(
    folder: Path,
    output: Path,
    quant: str = "q8_0",
    *,
    end_token: str = SPEECH_END,
    on_progress: Progress = None,
) -> Path:
    """Write a Llama, Qwen2 or Qwen3 folder as one GGUF file and return its path.

    It takes about the memory of the largest weight, in the type it is written in.

    Args:
        folder: config.json, tokenizer.json and safetensors weights, sharded or not.
        output: file to write; an old one is replaced once the new one is whole.
        quant: one of `QUANTS`; those in `BY_LLAMA_CPP` need a second, temporary file beside the output.
        end_token: ends speech; becomes the file's end of sequence.
        on_progress: called with bytes written and their total; llama.cpp's own pass does not report.

    Raises:
        ConfigError: no such quant, or the output cannot be written.
        BundleError: an architecture or option that llama.cpp would run differently; weights that are missing,
            unexpected or misshapen; a tokenizer that is damaged or does not fit.
        MissingExtra: `gguf`, or for `BY_LLAMA_CPP` `llama_cpp`, is not installed.
        EngineError: llama.cpp could not quantise.
    """
    quant, folder, output = quant.lower(), Path(folder), Path(output)
    if quant not in QUANTS:
        near = difflib.get_close_matches(quant, QUANTS, n=1, cutoff=0.3)
        todo = f"Did you mean '{near[0]}'?" if near else f"Choose one of {', '.join(QUANTS)}."
        raise ConfigError(f"{DOING}: found quantisation '{quant}'. {todo}")
    write = _write if quant in DIRECT else _write_by_llama_cpp
    model = _read(folder, end_token)
    with _temporary(output) as temporary:
        write(model, temporary, quant, on_progress)
        os.replace(temporary, output)
    return output


@contextmanager
def _temporary(output: Path) -> Iterator[Path]:
    """Yield a path beside the output; what lies there in the end is removed."""
    try:
        with scratch(output, f"Writing '{output}'") as folder:
            yield folder / output.name
    except OSError as error:
        found = f"the system says: {error.strerror or error}"
        raise ConfigError(f"Writing '{output}': {found}. Name a file in a folder with room.") from error


@contextmanager
def _undamaged(folder: Path) -> Iterator[None]:
    """Blame what fails on the folder: its configuration or tokenizer has impossible values."""
    try:
        yield
    except _DAMAGE as error:
        found = f"config.json of {folder}, or its tokenizer, is damaged ({error!r})"
        raise BundleError(f"{DOING}: {found}. {AGAIN}") from error


def _read(folder: Path, end_token: str) -> _Model:
    """Look at all but the weights' values, and refuse what would not speak as it does here."""
    with _undamaged(folder):
        config = _config(folder)
        tokens = Tokens.read(folder, config.vocab_size, end_token)
        return _Model(folder, config, tokens, *_weights(folder, config))


def _config(folder: Path) -> PreTrainedConfig:
    found = read_json(folder / "config.json").get("model_type")
    if found not in ARCHITECTURES:
        todo = f"Give it one of {', '.join(ARCHITECTURES)}"
        raise BundleError(f"{DOING}: {folder} holds a model of type '{found}'. {todo}.")
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except OSError as error:
        raise BundleError(f"{DOING}: config.json of {folder} is damaged ({error}). {AGAIN}") from error
    rotary = ("default", "llama3") if found == "llama" else ("default",)
    for option, value, known in (
        ("hidden_act", config.hidden_act, ("silu",)),
        ("rope_type", config.rope_parameters["rope_type"], rotary),
        ("partial_rotary_factor", config.rope_parameters.get("partial_rotary_factor", 1), (1,)),
        ("use_sliding_window", getattr(config, "use_sliding_window", False), (False,)),
    ):
        if value not in known:
            todo = f"Only {' or '.join(map(str, known))} is the same in llama.cpp"
            raise BundleError(f"{DOING}: the model in {folder} has {option} {value}. {todo}.")
    return config


def _weights(folder: Path, config: PreTrainedConfig) -> tuple[list[_Weight], str]:
    """Return all weights of a model, checked against transformers' own, and the type of its matrices."""
    with torch.device("meta"):
        expected = AutoModelForCausalLM.from_config(config).state_dict()
    found = _found(folder)
    # Older folders hold what is computed, and some a copy of what is shared.
    spare = {name for name in found if name.endswith("rotary_emb.inv_freq")}
    if config.tie_word_embeddings:
        spare.add("lm_head.weight")
    wanted = {name: tuple(weight.shape) for name, weight in expected.items() if name not in spare}
    _compare(folder, wanted, {name: shape for name, (_, shape, _) in found.items() if name not in spare})
    arch = gguf.MODEL_ARCH[config.model_type.upper()]
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    weights = []
    for name, shape in wanted.items():
        stem, _, suffix = name.rpartition(".")
        new = f"{names[stem]}.{suffix}"
        weights.append(_Weight(new, found[name][0], name, shape, _rotated(config, name)))
    return weights, found["model.embed_tokens.weight"][2]


def _found(folder: Path) -> dict[str, tuple[Path, tuple[int, ...], str]]:
    """Return file, shape and type of all weights in a folder."""
    index = folder / "model.safetensors.index.json"
    named = read_json(index).get("weight_map", {}).values() if index.is_file() else ["model.safetensors"]
    if outside := [name for name in named if not isinstance(name, str) or Path(name).name != name]:
        found = f"{index} names {outside[0]!r}, which is no file of the folder"
        raise BundleError(f"{DOING}: {found}. {AGAIN}")
    weights: dict[str, tuple[Path, tuple[int, ...], str]] = {}
    for path in (folder / name for name in sorted(set(named))):
        try:
            with safe_open(path, "pt") as file:
                for name in file.keys():  # noqa: SIM118 - it is no mapping
                    weight = file.get_slice(name)
                    weights[name] = path, tuple(weight.get_shape()), weight.get_dtype()
        except (OSError, SafetensorError) as error:
            raise BundleError(f"{DOING}: {path} is missing or damaged ({error}). {AGAIN}") from error
    return weights


def _compare(
    folder: Path, wanted: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]
) -> None:
    misshapen = {name for name in wanted.keys() & found.keys() if wanted[name] != found[name]}
    for names, what in (
        (wanted.keys() - found.keys(), "missing"),
        (found.keys() - wanted.keys(), "unexpected"),
        (misshapen, "of another shape than config.json says"),
    ):
        if names:
            listed = ", ".join(sorted(names)[:8]) + (", ..." if len(names) > 8 else "")
            raise BundleError(f"{DOING}: {len(names)} weights in {folder} are {what}: {listed}. {AGAIN}")


def _rotated(config: PreTrainedConfig, name: str) -> int:
    if config.model_type == "llama" and ".q_proj." in name:
        return config.num_attention_heads
    if config.model_type == "llama" and ".k_proj." in name:
        return config.num_key_value_heads
    return 0


def _write_by_llama_cpp(model: _Model, output: Path, quant: str, on_progress: Progress) -> None:
    llama = llama_library(f"{DOING} as {quant}")
    params = llama.llama_model_quantize_default_params()
    params.ftype = getattr(llama, f"LLAMA_FTYPE_MOSTLY_{quant.upper()}")
    params.nthread = torch.get_num_threads()
    if any(weight.shape[-1] % _K_BLOCK for weight in model.weights if len(weight.shape) > 1):
        _log.warning("not all rows are multiples of %d: some weights take more than %s", _K_BLOCK, quant)
    with _temporary(output) as source:
        _write(model, source, "bf16" if model.stored == "BF16" else "f16", on_progress)
        code = llama.llama_model_quantize(os.fsencode(source), os.fsencode(output), params)
    if code:
        raise EngineError(
            f"{DOING} as {quant}: llama.cpp failed ({llama_errors()}). See that there is room for the file, "
            f"or choose one of {', '.join(DIRECT)}, which do without it."
        )


def _write(model: _Model, output: Path, quant: str, on_progress: Progress) -> None:
    """Write the file in a type that the `gguf` package knows."""
    plan = [(weight, _kind(weight, quant)) for weight in model.weights]
    total = sum(math.prod(gguf.quant_shape_to_byte_shape(weight.shape, kind)) for weight, kind in plan)
    with closing(gguf.GGUFWriter(output, model.config.model_type)) as writer:
        writer.add_file_type(gguf.LlamaFileType["ALL_F32" if quant == "f32" else f"MOSTLY_{quant.upper()}"])
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        with _undamaged(model.folder):
            factors = _rotary_factors(model.config)
            _describe(writer, model, plan, factors)
        if factors is not None:
            writer.write_tensor_data(factors)
        done = 0
        for weight, kind in plan:
            data = _converted(weight, kind)
            writer.write_tensor_data(data)
            done += len(data)
            if on_progress:
                on_progress(done, total)


def _describe(
    writer: Any, model: _Model, plan: list[tuple[_Weight, Any]], factors: np.ndarray | None
) -> None:
    """Write all that comes before the weights."""
    _hyperparameters(writer, model)
    model.tokens.write(writer)
    if factors is not None:
        writer.add_tensor_info("rope_freqs.weight", factors.shape, factors.dtype, factors.nbytes)
    for weight, kind in plan:
        shape = gguf.quant_shape_to_byte_shape(weight.shape, kind)
        writer.add_tensor_info(weight.name, shape, np.dtype(np.uint8), math.prod(shape), kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()


def _kind(weight: _Weight, quant: str) -> Any:
    """Return the type of a weight: vectors stay exact, and rows that blocks do not divide are halves."""
    types = gguf.GGMLQuantizationType
    if len(weight.shape) == 1:
        return types.F32
    block, _ = gguf.GGML_QUANT_SIZES[types[quant.upper()]]
    if weight.shape[-1] % block:
        _log.warning("%s: its rows are no multiple of %d, so it is written as f16", weight.name, block)
        return types.F16
    return types[quant.upper()]


def _converted(weight: _Weight, kind: Any) -> np.ndarray:
    """Return a weight's bytes, uint8 [bytes]."""
    out = np.empty(math.prod(gguf.quant_shape_to_byte_shape(weight.shape, kind)), np.uint8)
    start = 0
    for rows in weight.rows():
        part = gguf.quantize(rows, kind).view(np.uint8).ravel()
        out[start : start + len(part)] = part
        start += len(part)
    return out


def _hyperparameters(writer: Any, model: _Model) -> None:
    config = model.config
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_type("model")
    writer.add_name(model.folder.resolve().name)
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_rope_dimension_count(width)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)


def _rotary_factors(config: PreTrainedConfig) -> np.ndarray | None:
    """Return what llama.cpp divides the rotary frequencies by, float32 [half a head]; None: nothing."""
    if config.rope_parameters["rope_type"] == "default":
        return None
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    exponents = torch.arange(len(scaled)) / len(scaled)
    return (config.rope_parameters["rope_theta"] ** -exponents / scaled).float().numpy()

"""LoRA adapters in peft's folder layout: read, checked, worn by single rows or merged into the model.

Rows of one forward pass wear different adapters, or none: the linear layers stay as they are, and what an
adapter adds is added to the outputs of its rows only. Must not know requests, threads or sampling.

Shapes: B rows, N ids, r rank; a layer maps K inputs to M outputs.
"""

import json
import math
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import linear

from llasa.engines.quantized import Int8Linear
from llasa.engines.weights import load_model
from llasa.errors import BundleError, ConfigError, MissingExtra
from llasa.weights import pickles

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_KEY = re.compile(r"base_model\.model\.(.+)\.lora_([AB])\.weight")
_MERGE = "Merge it into the model instead: llasa export hf --adapter"
_number = count().__next__
_TOKENIZER = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)
# What cannot change what an adapter computes, or is obeyed here; any other setting in use is refused.
_HARMLESS = {
    "alpha_pattern", "auto_mapping", "base_model_name_or_path", "corda_config", "eva_config",
    "exclude_modules", "inference_mode", "layers_pattern", "layers_to_transform", "loftq_config",
    "lora_alpha", "lora_dropout", "lora_ga_config", "megatron_core", "peft_version", "qalora_group_size",
    "r", "rank_pattern", "revision", "runtime_config", "target_modules", "task_type", "use_rslora",
}  # fmt: skip
# Settings that have to be these: other ways to start change the model that the adapter belongs to.
_NEEDED = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    "init_lora_weights": (True, False, "gaussian", "eva", "orthogonal"),
}

Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class Adapter:
    """What is added to the outputs of some linear layers.

    pairs: name of the layer -> down [r, K] and up [M, r], the latter scaled. number: no other has it, so that
    what was read with an adapter is told from what was read with its successor of the same name.
    """

    pairs: Mapping[str, Pair]
    number: int = field(default_factory=_number)


def read_adapter(folder: str | PathLike[str]) -> Adapter:
    """Return the adapter in a folder, in float32 on the CPU.

    Raises:
        BundleError: files are missing or damaged, or it does more than add to linear layers.
    """
    folder = Path(folder)
    doing = f"Loading the adapter in '{folder}'"
    settings = _settings(folder, doing)
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in _tensors(folder, doing).items():
        if (match := _KEY.fullmatch(key)) is None or tensor.ndim != 2:
            raise BundleError(
                f"{doing}: found '{key}' {list(tensor.shape)}, which is no LoRA of a linear layer. {_MERGE}."
            )
        found.setdefault(match[1], {})[match[2]] = tensor.float()
    _check_targets(found, settings, doing)
    return Adapter({name: _pair(name, sides, settings, doing) for name, sides in found.items()})


def _settings(folder: Path, doing: str) -> dict[str, Any]:
    try:
        settings: dict[str, Any] = dict(json.loads((folder / CONFIG).read_text(encoding="utf-8")).items())
    except (OSError, ValueError, AttributeError) as error:
        raise BundleError(
            f"{doing}: {CONFIG} is missing or damaged ({error}). Save it again with peft."
        ) from error
    for key, value in {"peft_type": None, **settings}.items():
        fits = value in _NEEDED[key] if key in _NEEDED else key in _HARMLESS or not value
        if not fits:
            raise BundleError(f"{doing}: found {key} {json.dumps(value)}, which rows cannot wear. {_MERGE}.")
    return settings


def _tensors(folder: Path, doing: str) -> dict[str, Tensor]:
    if not (folder / WEIGHTS).is_file():
        names = pickles(folder)
        found = f"only {', '.join(names)}, which can run code when opened" if names else "no weights"
        raise BundleError(
            f"{doing}: expected {WEIGHTS}, found {found}. Save it again with peft, as safetensors."
        )
    try:
        tensors = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise BundleError(f"{doing}: {WEIGHTS} is damaged ({error}). Fetch it again.") from error
    if not tensors:
        raise BundleError(f"{doing}: {WEIGHTS} holds no tensors. Save it again with peft.")
    return tensors


def _check_targets(found: Iterable[str], settings: dict[str, Any], doing: str) -> None:
    targets = settings.get("target_modules")
    for target in targets if isinstance(targets, list) else ():
        if not any(f".{name}".endswith(f".{target}") for name in found):
            raise BundleError(
                f"{doing}: target_modules names '{target}', {WEIGHTS} has no such layer. Fetch it again."
            )


def _pair(name: str, sides: dict[str, Tensor], settings: dict[str, Any], doing: str) -> Pair:
    for side in "AB":
        if side not in sides:
            raise BundleError(
                f"{doing}: '{name}.lora_{side}.weight' is missing from {WEIGHTS}. Fetch it again."
            )
    down, up = sides["A"], sides["B"]
    rank = _of_pattern(settings, "rank_pattern", "r", name, doing)
    for side, found in (("A", down.shape[0]), ("B", up.shape[1])):
        if found != rank or not found:
            raise BundleError(
                f"{doing}: '{name}.lora_{side}.weight' has rank {found}, expected {rank:g}. Fetch it again."
            )
    alpha = _of_pattern(settings, "alpha_pattern", "lora_alpha", name, doing)
    pair = down, up * (alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank))
    for side, tensor in zip("AB", pair, strict=True):
        if not tensor.isfinite().all():
            what = f"'{name}.lora_{side}.weight', scaled for lora_alpha {alpha:g}, is not finite"
            raise BundleError(f"{doing}: {what}. Fetch it again, or save it again with peft.")
    return pair


def _of_pattern(settings: dict[str, Any], kind: str, default: str, name: str, doing: str) -> float:
    """Return what rank_pattern or alpha_pattern says of a layer.

    To peft their keys are regular expressions; here they are names, or one could keep us busy for years.
    """
    try:
        values = dict(settings.get(kind) or {})
        if odd := next((key for key in values if not re.fullmatch(r"[\w.]+", key)), None):
            raise BundleError(f"{doing}: found '{odd}' in {kind}, expected names of layers. {_MERGE}.")
        own = (value for key, value in values.items() if f".{name}".endswith(f".{key}"))
        return float(next(own, settings.get(default, 8)))
    except (TypeError, ValueError, OverflowError) as error:
        raise BundleError(f"{doing}: {kind} or {default} is damaged ({error}). Save it again.") from error


def fitted(adapter: Adapter, model: nn.Module, folder: str | PathLike[str]) -> Adapter:
    """Return an adapter on the device and in the dtype of a model, each pair seen to fit its layer.

    Raises:
        BundleError: names the layer, what the model has there and what the adapter.
    """
    doing = f"Loading the adapter in '{folder}'"
    modules, like = dict(model.named_modules()), next(model.parameters())
    head = getattr(model, "get_output_embeddings", lambda: None)()
    for name, pair in adapter.pairs.items():
        layer = modules.get(name)
        if not isinstance(layer, nn.Linear | Int8Linear) or layer is head:
            what = (
                "the output head" if layer is head and head else type(layer).__name__ if layer else "missing"
            )
            raise BundleError(
                f"{doing}: '{name}', expected to be a linear layer of the model, is {what}. {_MERGE}."
            )
        _check_shapes(name, pair, (layer.out_features, layer.in_features), doing)
    return Adapter({name: (a.to(like), b.to(like)) for name, (a, b) in adapter.pairs.items()})


def _check_shapes(name: str, pair: Pair, shape: tuple[int, ...], doing: str) -> None:
    (rank, inputs), (outputs, _) = pair[0].shape, pair[1].shape
    for side, found, expected in (
        ("A", [rank, inputs], [rank, shape[1]]),
        ("B", [outputs, rank], [shape[0], rank]),
    ):
        if found != expected:
            what = f"'{name}.lora_{side}.weight' is {found}, expected {expected}"
            raise BundleError(f"{doing}: {what}. Take an adapter made for this model.")


class Wardrobe:
    """Lets rows of a model's forward pass wear adapters; outside `worn` the model is as it ever was."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._hooks: dict[str, Any] = {}
        self._worn: list[tuple[Adapter, Tensor | None]] = []

    @contextmanager
    def worn(self, by: Sequence[Adapter | None]) -> Iterator[None]:
        """Let each row of the forward passes within wear its adapter."""
        self._worn = [(adapter, self._rows(adapter, by)) for adapter in dict.fromkeys(by) if adapter]
        for adapter, _ in self._worn:
            for name in adapter.pairs.keys() - self._hooks.keys():
                layer = self._model.get_submodule(name)
                self._hooks[name] = layer.register_forward_hook(partial(self._add, name))
        try:
            yield
        finally:
            self._worn = []

    def close(self) -> None:
        """Leave the model as it was found."""
        for hook in self._hooks.values():
            hook.remove()
        self._hooks.clear()

    def _rows(self, adapter: Adapter, by: Sequence[Adapter | None]) -> Tensor | None:
        rows = [number for number, worn in enumerate(by) if worn is adapter]
        return (
            torch.tensor(rows, device=next(self._model.parameters()).device) if len(rows) < len(by) else None
        )

    def _add(self, name: str, layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        """Add to the output [B, N, M] of a layer, in place."""
        for adapter, rows in self._worn:
            if (pair := adapter.pairs.get(name)) is not None:
                down, up = pair
                inputs = args[0] if rows is None else args[0][rows]
                added = linear(linear(inputs, down), up)
                _ = output.add_(added) if rows is None else output.index_add_(0, rows, added)


def merged(model: Path, adapter: Path, output: Path) -> Path:
    """Write a model with an adapter merged into its weights, in Hugging Face layout.

    All that peft can merge: DoRA, embeddings and heads too.

    Args:
        model: folder with safetensors weights; they keep their dtype.
        adapter: peft's folder.
        output: a folder that is not there yet, whole once it is.

    Returns:
        `output`.

    Raises:
        BundleError: the model or the adapter is damaged, or they do not fit each other.
        ConfigError: the output is there already.
        MissingExtra: peft is not installed.
    """
    doing = f"Merging the adapter '{adapter}' into '{model}'"
    if output.exists():
        raise ConfigError(f"{doing}: '{output}' is there already. Name a new folder.")
    whole = _merged(load_model(model, "auto"), adapter, doing)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}-", dir=output.parent) as scratch:
        draft = Path(scratch) / output.name
        whole.save_pretrained(draft)
        for path in (path for pattern in _TOKENIZER for path in model.glob(pattern)):
            if not (draft / path.name).exists():
                shutil.copyfile(path, draft / path.name)
        draft.replace(output)
    return output


def _merged(model: "PreTrainedModel", adapter: Path, doing: str) -> "PreTrainedModel":
    try:
        from peft import PeftConfig, PeftModelForCausalLM
    except ImportError as error:
        raise MissingExtra("Merging an adapter", "peft", "train") from error
    _tensors(adapter, doing)
    head, embedding = _ends(model)
    tied = getattr(head, "weight", None) is embedding.weight
    if tied:
        # Or what is merged into the one would be merged into both.
        head.weight = nn.Parameter(head.weight.detach().clone())
    try:
        config = PeftConfig.from_pretrained(str(adapter))
        wrapped = PeftModelForCausalLM(model, config, autocast_adapter_dtype=False)
        report = wrapped.load_adapter(str(adapter), "default", autocast_adapter_dtype=False)
        if lost := [*report.missing_keys, *report.unexpected_keys]:
            raise BundleError(
                f"{doing}: {len(lost)} tensors are missing or left over, first {lost[0]}. Fetch it again."
            )
        whole: Any = wrapped.merge_and_unload(safe_merge=True)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise BundleError(f"{doing}: {error}. Take an adapter made for this model.") from error
    if tied:
        whole.config.tie_word_embeddings = _tie_again(whole)
    return whole


def _tie_again(model: "PreTrainedModel") -> bool:
    head, embedding = _ends(model)
    if same := torch.equal(head.weight, embedding.weight):
        head.weight = embedding.weight
    return same


def _ends(model: "PreTrainedModel") -> tuple[Any, Any]:
    return model.get_output_embeddings(), model.get_input_embeddings()

"""Runs a transformers causal LM for many rows, one column a step. Knows no sampling, requests or threads.

Shapes: B live rows, A allowed ids, V vocabulary, D width, P past ids of a prompt.

Layout of the key/value buffer: a column is a moment. The newest ids of all rows share one column, the cursor;
a row starts as many columns before it as the row is long, and what lies before its start is masked. Distances
within a row stay true, so rotary, learnt, sliding-window and ALiBi positions all hold, and writing a step is
one slice.
"""

from dataclasses import dataclass, field
from functools import partial
from inspect import signature
from typing import cast

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, DynamicCache, PreTrainedModel
from transformers.cache_utils import Cache, CacheLayerMixin
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from llasa.core import Ids
from llasa.engines.adapters import Adapter, Wardrobe
from llasa.engines.head import Head
from llasa.engines.prefixes import Past, Prefixes
from llasa.engines.quantized import Int8Linear

_COLUMNS = 256
# Measured, one core, 6M Llama: 163 ids take 12 ms in one pass, in blocks of 128 16, of 64 20, of 32 32 ms.
# On a GPU a pass over 512 ids costs hardly more than one over 64.
_BLOCK, _BLOCK_GPU = 64, 512
_KEPT = 8192  # ids, in bfloat16: 48 MiB for those 6M, 256 MiB for a Llama of 1B, 1 GiB for one of 8B
_WIDE = "llasa_float32"


@dataclass
class _Window:
    """Where live rows lie: `starts` [B] columns, the first of them, cursor; the buffer's size and dtype."""

    starts: list[int] = field(default_factory=list)
    first: int = 0
    cursor: int = 0
    rows: int = 0
    columns: int = 0
    dtype: torch.dtype | None = None


class _Layer(CacheLayerMixin):
    """Keys and values of one layer, [rows, heads, columns, head width]."""

    is_sliding = False
    keys: Tensor
    values: Tensor

    def __init__(self, window: _Window) -> None:
        super().__init__()
        self.window = window

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.keys = self._empty(key_states)  # pyright: ignore[reportIncompatibleVariableOverride]
        self.values = self._empty(value_states)  # pyright: ignore[reportIncompatibleVariableOverride]
        self.is_initialized = True

    def _empty(self, like: Tensor) -> Tensor:
        # Zeros, not memory as it comes: a masked weight of 0 times NaN is NaN.
        shape = (self.window.rows, like.shape[1], self.window.columns, like.shape[3])
        return like.new_zeros(shape, dtype=self.window.dtype)

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        live, first, now = len(self.window.starts), self.window.first, self.window.cursor
        self.put(slice(live), slice(now, now + 1), key_states, value_states)
        return self.keys[:live, :, first : now + 1], self.values[:live, :, first : now + 1]

    def put(self, rows: slice, columns: slice, keys: Tensor, values: Tensor) -> None:
        """Write into some rows and columns."""
        if not self.is_initialized:
            self.lazy_initialization(keys, values)
        self.keys[rows, :, columns] = keys
        self.values[rows, :, columns] = values

    def move(self, live: int, source: slice, target: slice) -> None:
        """Take new buffers of the window's size and bring the live columns over."""
        if self.is_initialized:
            keys, values = self.keys[:live, :, source], self.values[:live, :, source]
            self.lazy_initialization(keys, values)
            self.put(slice(live), target, keys, values)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_seq_length(self) -> int:
        return self.window.cursor - self.window.first

    def get_max_length(self) -> int:
        return -1


class Rows(Cache):
    """The live rows' keys and values; a row's number changes only by `drop`. dtype: the model's if None."""

    layers: list[_Layer]  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, dtype: torch.dtype | None = None) -> None:
        self.window = _Window(dtype=dtype)
        # Called without arguments, as a class would be.
        super().__init__(layer_class_to_replicate=partial(_Layer, self.window))  # pyright: ignore[reportArgumentType]

    def add(self, past: Past, length: int, count: int) -> None:
        """Append `count` rows that share one past of `length` ids."""
        window = self.window
        live = len(window.starts)
        self.reserve(live + count, length)
        columns = slice(window.cursor - length, window.cursor)
        window.starts += [columns.start] * count
        window.first = min(window.starts)
        self.layers += [_Layer(window) for _ in past[len(self.layers) :]]
        for layer, (keys, values) in zip(self.layers, past, strict=False):
            layer.put(slice(live, live + count), columns, keys, values)

    def drop(self, row: int) -> None:
        """Remove a row; the last row takes its number."""
        window = self.window
        last = len(window.starts) - 1
        columns = slice(window.first, window.cursor)
        if row != last:
            for layer in self.layers:
                keys, values = layer.keys[last, :, columns], layer.values[last, :, columns]
                layer.put(slice(row, row + 1), columns, keys, values)
        window.starts[row] = window.starts[last]
        window.starts.pop()
        window.first = min(window.starts, default=window.cursor)

    def reserve(self, rows: int, length: int) -> None:
        """Make room for `rows` rows, `length` columns before the cursor and one at it."""
        window = self.window
        if rows <= window.rows and length <= window.cursor < window.columns:
            return
        used = window.cursor - window.first
        end = max(length, used)
        source, target = slice(window.first, window.cursor), slice(end - used, end)
        window.rows = max(window.rows, 1 << (rows - 1).bit_length() if rows else 0)
        window.columns = (end // _COLUMNS + 1) * _COLUMNS
        for layer in self.layers:
            layer.move(len(window.starts), source, target)
        window.starts = [start + end - window.cursor for start in window.starts]
        window.first, window.cursor = end - used, end

    def mask(self, device: torch.device) -> Tensor | None:
        """Return which columns each row sees, bool [B, columns], or None where all rows see all."""
        window = self.window
        if window.first == max(window.starts):
            return None
        columns = torch.arange(window.first, window.cursor + 1, device=device)
        return columns >= torch.tensor(window.starts, device=device)[:, None]


@dataclass(frozen=True)
class Read:
    """The past of a prompt, and the adapter it was read with."""

    past: Past
    adapter: Adapter | None


class Backbone:
    """A causal LM with its live rows.

    model: any module that transformers would call a causal LM: input_ids, attention_mask, position_ids (if it
        takes them), past_key_values in; `.logits` out.
    vocab_size: V. sliced: whether heads are computed for allowed ids only.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self.device = next(model.eval().parameters()).device
        self._trunk, self._projection, self.vocab_size = _split(model, self.device)
        self.sliced = self._projection is not None
        self._takes_positions = "position_ids" in signature(self._trunk.forward).parameters
        wide = getattr(getattr(model, "config", None), "_attn_implementation", None) == _WIDE
        self._dtype = torch.float32 if wide else None
        self.rows = Rows(self._dtype)
        self._int8 = any(isinstance(layer, Int8Linear) for layer in model.modules())
        self._wardrobe = Wardrobe(model)
        self._adapters: list[Adapter | None] = []  # of the live rows
        self._prefixes = Prefixes(_BLOCK if self.device.type == "cpu" else _BLOCK_GPU, _KEPT)
        self._version: list[tuple[int, int]] | None = None

    def head(self, allowed: tuple[int, ...] | None) -> Head:
        """Return the head over some ids."""
        ids = None if allowed is None else sorted(set(allowed))
        return Head(self._projection, ids, self.vocab_size, self.device, self._int8)

    def prefill(self, ids: Ids, adapter: Adapter | None = None) -> tuple[Read, int]:
        """Return the past of a prompt, and how many of its first ids were known from earlier prompts."""
        self._follow_weights()
        reader = None if adapter is None else adapter.number
        known, length = self._prefixes.find(ids, reader)
        cache = DynamicCache(known or None)
        with self._wardrobe.worn([adapter]):
            for start, end in self._prefixes.blocks(len(ids), length):
                block = torch.tensor([ids[start:end]], device=self.device)
                self._trunk(input_ids=block, past_key_values=cache, use_cache=True)
        past = [(layer.keys, layer.values) for layer in cast(list[_Layer], cache.layers)]
        if past:
            self._prefixes.keep(ids, past, reader)
        return Read(past, adapter), length

    def _follow_weights(self) -> None:
        """Forget what was read with other weights."""
        weights = list(self._model.parameters())
        # Weights made in inference mode do not count their changes.
        known = not any(weight.is_inference() for weight in weights)
        version = [(weight.data_ptr(), weight._version) for weight in weights] if known else None
        if version is None or version != self._version:
            self.forget()
        self._version = version

    def forget(self) -> None:
        """Release what is kept of earlier prompts."""
        self._prefixes.clear()

    def step(self, ids: Ids) -> Tensor:
        """Feed one id to each live row and return what heads read, [B, D]."""
        self.rows.reserve(0, 0)
        window = self.rows.window
        inputs = {"input_ids": torch.tensor(ids, device=self.device)[:, None]}
        if self._takes_positions:
            positions = [window.cursor - start for start in window.starts]
            inputs["position_ids"] = torch.tensor(positions, device=self.device)[:, None]
        with self._wardrobe.worn(self._adapters):
            output = self._trunk(
                **inputs,
                attention_mask=self.rows.mask(self.device),
                past_key_values=self.rows,
                use_cache=True,
            )
        window.cursor += 1
        return (output.last_hidden_state if self.sliced else output.logits)[:, -1]

    def add(self, past: Read, length: int, count: int) -> None:
        """Append rows; see `loop.Runner.add`."""
        self.rows.add(past.past, length, count)
        self._adapters += [past.adapter] * count

    def drop(self, row: int) -> None:
        """Remove a row; the last row takes its number."""
        self.rows.drop(row)
        self._adapters[row] = self._adapters[-1]
        self._adapters.pop()

    def reset(self) -> None:
        """Forget all rows and release their memory."""
        self.rows, self._adapters = Rows(self._dtype), []

    def close(self) -> None:
        """Leave the model as it was given: whoever gave it keeps it."""
        self._wardrobe.close()


def widen_attention(model: PreTrainedModel) -> None:
    """Let a bfloat16 model on a CPU keep its keys and values, and attend, in float32.

    The CPU kernel for one bfloat16 query is 3 to 8 times slower than the float32 one (measured: torch 2.13,
    AVX512-BF16).
    """
    if model.config._attn_implementation == "sdpa":
        AttentionInterface.register(_WIDE, _wide_attention)
        AttentionMaskInterface.register(_WIDE, sdpa_mask)
        model.set_attn_implementation(_WIDE)


def _wide_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs
) -> tuple[Tensor, None]:
    states = (query.float(), key.float(), value.float())
    output, _ = sdpa_attention_forward(module, *states, attention_mask, **kwargs)
    return output.to(query.dtype), None


@torch.inference_mode()
def _split(model: nn.Module, device: torch.device) -> tuple[nn.Module, nn.Linear | None, int]:
    """Return trunk, output projection, V; the whole model and None if more follows the projection.

    Some models cap, scale or shift their logits after the projection: only a trial run tells. It takes a few
    ids, since one may be padding, whose logits may be zeros that no cap changes.
    """
    ids = torch.arange(3, device=device)[None]
    logits = model(input_ids=ids).logits
    trunk = getattr(model, "base_model", model)
    projection = getattr(model, "get_output_embeddings", lambda: None)()
    if trunk is not model and isinstance(projection, nn.Linear):
        hidden = getattr(trunk(input_ids=ids), "last_hidden_state", None)
        if hidden is not None and torch.equal(projection(hidden).float(), logits.float()):
            return trunk, projection, logits.shape[-1]
    return model, None, logits.shape[-1]

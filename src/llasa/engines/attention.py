"""Attention of rows that share a past: candidates of one prompt keep it once, and read it together.

Registered with transformers beside its own ways to attend; where keys come as plain tensors, theirs is used.
Must not know: requests, prompts, where rows lie.

Shapes: B live rows, S new ids of each, G shared pasts, W rows of a past at most, H heads of keys, R queries
for each of them, P ids of the longest past, T columns of a row's own, D head width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

_PLAIN, _WIDE = "llasa", "llasa_float32"
# Models that attend by scaled products and a mask of what came before, and by nothing else.
_SHARING = ("llama", "mistral", "qwen2", "qwen3", "smollm3")


class Places:
    """Where rows lie when they are put together by past.

    pasts: of each row, in [0, G). lengths: of each past. hidden: what padding makes of pasts, [G, 1, 1, P].
    """

    def __init__(self, pasts: Sequence[int], lengths: Sequence[int], device: torch.device) -> None:
        taken = [0] * len(lengths)
        places = list[tuple[int, int]]()
        for past in pasts:
            places.append((past, taken[past]))
            taken[past] += 1
        self.count, self.width = len(lengths), max(taken)
        self._places = torch.tensor([past * self.width + at for past, at in places], device=device)
        columns = torch.arange(max(lengths), device=device)
        hidden = columns >= torch.tensor(lengths, device=device)[:, None]
        self.hidden = hidden[:, None, None] if len(set(lengths)) > 1 else None

    def together(self, rows: Tensor) -> Tensor:
        """Return [B, H, R, X] by past, [G, H, W * R, X], with zeros where a past has fewer rows."""
        heads, queries, size = rows.shape[1:]
        by_past = rows.new_zeros(self.count * self.width, heads, queries, size)
        by_past[self._places] = rows
        by_past = by_past.view(self.count, self.width, heads, queries, size).transpose(1, 2)
        return by_past.reshape(self.count, heads, self.width * queries, size)

    def apart(self, by_past: Tensor) -> Tensor:
        """Return [G, H, W * R, X] by row, [B, H, R, X]."""
        count, heads, _, size = by_past.shape
        rows = by_past.view(count, heads, self.width, -1, size).transpose(1, 2)
        return rows.reshape(count * self.width, heads, -1, size)[self._places]


@dataclass(frozen=True)
class Held:
    """What stands for a layer's keys: its own [B, H, T, D], and the pasts' keys and values, [G, H, P, D]."""

    own: Tensor
    keys: Tensor
    values: Tensor
    places: Places


@dataclass(frozen=True)
class Whole:
    """What stands for a layer's keys in a step of fixed shape: all columns of a bucket, [B, H, T, D]."""

    keys: Tensor


def padded(pasts: Sequence[Tensor], dtype: torch.dtype | None) -> Tensor:
    """Return [1, H, length, D] each as one, [G, H, P, D]."""
    columns_first = [past[0].transpose(0, 1) for past in pasts]
    return (
        pad_sequence(columns_first, batch_first=True).transpose(1, 2).to(dtype or pasts[0].dtype).contiguous()
    )


def share_attention(model: nn.Module) -> bool:
    """Let a model attend to what rows share, and tell whether it can; elsewhere it attends as before."""
    config: Any = getattr(model, "config", None)
    types = set(getattr(config, "layer_types", None) or ["full_attention"])
    if getattr(config, "model_type", None) not in _SHARING or types != {"full_attention"}:
        return False
    if config._attn_implementation == "sdpa":
        _use(cast(PreTrainedModel, model), _PLAIN, _plain)
    return config._attn_implementation in (_PLAIN, _WIDE)


def widen_attention(model: PreTrainedModel) -> None:
    """Let a bfloat16 model on a CPU keep its keys and values, and attend, in float32.

    The CPU kernel for one bfloat16 query is 3 to 8 times slower than the float32 one (measured: torch 2.13,
    AVX512-BF16).
    """
    if model.config._attn_implementation == "sdpa":
        _use(model, _WIDE, _wide)


def is_wide(model: nn.Module) -> bool:
    """Tell whether keys and values are to be kept in float32."""
    return getattr(getattr(model, "config", None), "_attn_implementation", None) == _WIDE


def _use(model: PreTrainedModel, name: str, attention: Callable[..., tuple[Tensor, None]]) -> None:
    AttentionInterface.register(name, attention)
    AttentionMaskInterface.register(name, sdpa_mask)
    model.set_attn_implementation(name)


def _plain(
    module: nn.Module,
    query: Tensor,
    key: Tensor | Held | Whole,
    value: Tensor,
    mask: Tensor | None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    if isinstance(key, Tensor):
        return sdpa_attention_forward(module, query, key, value, mask, **kwargs)[0], None
    return attend(query, key, value, mask, kwargs["scaling"]), None


def _wide(
    module: nn.Module,
    query: Tensor,
    key: Tensor | Held | Whole,
    value: Tensor,
    mask: Tensor | None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    keys = key.float() if isinstance(key, Tensor) else key
    output, _ = _plain(module, query.float(), keys, value.float(), mask, **kwargs)
    return output.to(query.dtype), None


def attend(
    query: Tensor, key: Tensor | Held | Whole, value: Tensor, mask: Tensor | None, scaling: float
) -> Tensor:
    """Return what the newest ids of each row read, [B, S, H * R, D].

    Args:
        query: [B, H * R, S, D]. key, value: as a layer of `rows` gives them. mask: what ids see of them,
            [B, 1, S, T]; None for all.
    """
    if isinstance(key, Whole):
        return _whole(query, key.keys, value, cast(Tensor, mask), scaling)
    if isinstance(key, Held):
        return _shared(query, key, value, mask, scaling)
    shared = query.shape[1] != key.shape[1]
    read = F.scaled_dot_product_attention(query, key, value, mask, scale=scaling, enable_gqa=shared)
    return read.transpose(1, 2)


def _whole(query: Tensor, keys: Tensor, value: Tensor, mask: Tensor, scaling: float) -> Tensor:
    """Return what rows read of all columns, [B, 1, H * R, D]; keys are read once for all their queries.

    Args:
        query: [B, H * R, 1, D]. keys, value: [B, H, T, D]. mask: what rows see, [B, 1, 1, T].
    """
    queries = query.reshape(len(query), keys.shape[1], -1, query.shape[-1]) * scaling
    scores = (queries @ keys.mT).masked_fill(~mask, -torch.inf)
    read = scores.softmax(-1, torch.float32).to(value.dtype) @ value
    return read.reshape(len(query), 1, -1, query.shape[-1])


def _shared(query: Tensor, held: Held, value: Tensor, mask: Tensor | None, scaling: float) -> Tensor:
    """Return what rows read of what they share and of their own, [B, S, H * R, D].

    Args:
        query: [B, H * R, S, D]. value: own ones, [B, H, T, D]. mask: what of it ids see, [B, 1, S, T].
    """
    places, shape = held.places, (len(query), held.own.shape[1], -1, query.shape[-1])
    queries = query.reshape(shape) * scaling
    own = queries @ held.own.mT
    if mask is not None:
        ahead = mask.shape[2]
        mask = mask if ahead == 1 else mask.repeat(1, 1, queries.shape[2] // ahead, 1)
        own = own.masked_fill(~mask, -torch.inf)
    past = places.together(queries) @ held.keys.mT
    if places.hidden is not None:
        past = past.masked_fill(places.hidden, -torch.inf)
    # One softmax over both, in float32: what a row of its own would compute.
    weights = torch.cat([places.apart(past), own], -1).softmax(-1, torch.float32).to(value.dtype)
    of_past, of_own = weights.split([past.shape[-1], own.shape[-1]], -1)
    read = of_own @ value + places.apart(places.together(of_past) @ held.values)
    return read.reshape(query.shape).transpose(1, 2)

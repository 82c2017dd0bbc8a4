"""Attention of rows that share a past: candidates of one prompt keep it once, and read it together.

Must not know: models, requests, prompts, where rows lie.

Shapes: B live rows, S new ids of each, G shared pasts, W rows of a past at most, H heads of keys, R queries
for each of them, P ids of the longest past, T columns of a row's own, D head width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

WIDE = "llasa_float32"  # what a model's config calls attention in float32, see `interface.widen_attention`


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

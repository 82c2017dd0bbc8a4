"""From logits to one column for each row. Knows no model, cache, requests or threads.

Shapes: B rows (live candidates), A allowed ids. Rows have their own parameters and never affect each other.

Published vocabularies have 65,537 columns, so a pass over all of them counts. Where a bound proves that what
top_k and top_p keep lies in a few blocks of columns, only those are ranked, summed and searched.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llasa.core import SamplingParams
from llasa.errors import EngineError

_HEAD_OF_RANKING = 256
_LONGER = 16  # times as many where that was not enough
_BLOCK = 64  # columns ranked as one by their likeliest; of 65,537, topk then sees 1024 and 256 * 64
_SUMMED = 256  # columns summed as one


@dataclass(frozen=True)
class Settings:
    """Parameters of B rows as tensors [B]; the flags tell which work no row needs.

    head: how many of the likeliest are ranked first. some_whole: whether a row is not truncated.
    needs_all: whether top_p acts on a whole row.
    """

    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    penalty: Tensor
    all_greedy: bool
    truncates: bool
    penalises: bool
    some_greedy: bool
    some_whole: bool
    needs_all: bool
    head: int

    @classmethod
    def of(cls, rows: Sequence[SamplingParams], device: torch.device) -> "Settings":
        """Collect the parameters of each row."""
        return cls(
            torch.tensor([p.temperature for p in rows], dtype=torch.float32, device=device),
            torch.tensor([p.top_k for p in rows], device=device),
            torch.tensor([p.top_p for p in rows], dtype=torch.float64, device=device),
            torch.tensor([p.repetition_penalty for p in rows], dtype=torch.float32, device=device),
            all_greedy=all(p.temperature == 0 for p in rows),
            truncates=any(p.top_k or p.top_p < 1 for p in rows),
            penalises=any(p.repetition_penalty != 1 for p in rows),
            some_greedy=any(p.temperature == 0 for p in rows),
            some_whole=any(not p.top_k and p.top_p == 1 for p in rows),
            needs_all=any(not p.top_k and p.top_p < 1 for p in rows),
            head=max(p.top_k if p.top_k else _HEAD_OF_RANKING for p in rows),
        )


def penalise(logits: Tensor, seen: Tensor, penalty: Tensor) -> Tensor:
    """Return logits [B, A] with the `seen` [B, A] ids made less likely where `penalty` [B] is above 1.

    Source: Keskar et al., *CTRL*, 2019, section 4.1, with the sign rule of transformers.
    """
    factor = penalty[:, None]
    return torch.where(seen, torch.where(logits > 0, logits / factor, logits * factor), logits)


def draw(logits: Tensor, settings: Settings, uniform: Tensor) -> Tensor:
    """Return one column of `logits` for each row: the likeliest, or one drawn by inverting the distribution.

    Args:
        logits: float32 [B, A]; minus infinity forbids.
        settings: of the same B rows.
        uniform: float64 [B] in [0, 1).

    Returns:
        columns [B] in [0, A).

    Raises:
        EngineError: a row has no finite maximum.
    """
    greedy = settings.some_greedy
    peak, likeliest = logits.max(-1, keepdim=True) if greedy else (logits.amax(-1, keepdim=True), None)
    _check_finite(peak)
    if likeliest is not None and settings.all_greedy:
        return likeliest[:, 0]
    cold = settings.temperature == 0
    rows = _Rows(logits, peak, settings.temperature.masked_fill(cold, 1)[:, None])
    picked = _truncated(rows, settings, uniform) if settings.truncates else _inverted(rows.all(), uniform)
    return picked if likeliest is None else torch.where(cold, likeliest[:, 0], picked)


@dataclass(frozen=True)
class _Rows:
    """Logits [B, A], their largest and the temperature, both [B, 1]."""

    logits: Tensor
    peak: Tensor
    temperature: Tensor

    def all(self) -> Tensor:
        """Return the weights of all columns."""
        return self.of(self.logits)

    def of(self, logits: Tensor) -> Tensor:
        """Return what some logits weigh: 1 is the largest weight."""
        return (logits - self.peak).div_(self.temperature).exp_()


def _inverted(weights: Tensor, uniform: Tensor) -> Tensor:
    """Return the column [B] at which `uniform` of each row's mass is reached, looking into one block."""
    width = weights.shape[-1]
    whole = width // _SUMMED * _SUMMED
    blocks = weights[:, :whole].unflatten(-1, (-1, _SUMMED)).sum(-1)
    mass = torch.cat([blocks, weights[:, whole:].sum(-1, keepdim=True)], -1).cumsum(-1, dtype=torch.float64)
    wanted = uniform[:, None] * mass[:, -1:]
    block = _passing(mass, wanted)
    before = torch.where(block > 0, mass.gather(-1, (block - 1).clamp(min=0)), 0)
    columns = block * _SUMMED + torch.arange(_SUMMED, device=weights.device)
    inside = weights.gather(-1, columns.clamp(max=width - 1)).masked_fill(columns >= width, 0)
    return (block * _SUMMED + _passing(inside.cumsum(-1, dtype=torch.float64), wanted - before))[:, 0]


def _passing(mass: Tensor, wanted: Tensor) -> Tensor:
    """Return where running sums [B, X] first pass `wanted` [B, 1]; never behind the last that adds."""
    last = torch.searchsorted(mass, mass[:, -1:].contiguous())
    return torch.minimum(torch.searchsorted(mass, wanted, right=True), last)


def _truncated(rows: _Rows, settings: Settings, uniform: Tensor) -> Tensor:
    """Return the column [B] drawn of what top_k and top_p leave of each row."""
    weights = rows.all() if settings.needs_all else None
    kept, columns = _near_the_top(rows, weights, settings) or (None, None)
    if kept is None:
        weights = rows.all() if weights is None else weights
        kept = weights.masked_fill(weights < _thresholds(weights, settings)[:, None], 0)
    mass = kept.cumsum(-1, dtype=torch.float64)
    place = _passing(mass, uniform[:, None] * mass[:, -1:])
    return (place if columns is None else columns.gather(-1, place))[:, 0]


def _near_the_top(rows: _Rows, weights: Tensor | None, settings: Settings) -> tuple[Tensor, Tensor] | None:
    """Return what truncation leaves, zeros between, and its columns, both [B, X] in the order of columns.

    None where it is not proved that nothing else is left: rows that are not truncated, wide nuclei, ties.
    The K likeliest ids lie in the K blocks with the likeliest heads, and what lies elsewhere is no likelier
    than the head of the next one.

    weights: of all columns, if they are needed for their sums.
    """
    logits, size = rows.logits, settings.head
    width = logits.shape[-1]
    if settings.some_whole or _narrow(width, settings):
        return None
    whole = width // _BLOCK * _BLOCK
    heads, blocks = logits[:, :whole].unflatten(-1, (-1, _BLOCK)).amax(-1).topk(size + 1)
    inside = torch.arange(_BLOCK, device=logits.device)
    columns = (blocks[:, :size].sort(-1).values[..., None] * _BLOCK + inside).flatten(1)
    rest = torch.arange(whole, width, device=logits.device).expand(len(logits), -1)
    columns = torch.cat([columns, rest], -1)
    near = rows.of(logits.gather(-1, columns))
    totals = None if weights is None else weights.sum(-1, dtype=torch.float64)
    threshold, enough = _cut(near.topk(size).values, totals, settings, width)
    if not bool((enough & (threshold > rows.of(heads[:, size:])[:, 0])).all()):
        return None
    return near.masked_fill(near < threshold[:, None], 0), columns


def _narrow(width: int, settings: Settings) -> bool:
    """Tell whether the blocks that are likely to be looked into would be all there are."""
    return settings.head >= width // _BLOCK


def _cut(ranked: Tensor, totals: Tensor | None, settings: Settings, width: int) -> tuple[Tensor, Tensor]:
    """Return the least weight [B] that top_k, then top_p of what is left, keep, and where that is certain.

    ranked: the largest weights of each row, descending [B, X].
    """
    size = ranked.shape[-1]
    limit = settings.top_k.masked_fill(settings.top_k == 0, width).clamp(max=width)
    mass = ranked.cumsum(-1, dtype=torch.float64)
    kept = mass.gather(-1, (limit.clamp(max=size) - 1)[:, None])[:, 0]
    kept = kept if totals is None else torch.where(limit == width, totals, kept)
    nucleus = (mass < (settings.top_p * kept)[:, None]).sum(-1) + 1
    count = torch.minimum(limit, nucleus.masked_fill(settings.top_p == 1, width))
    last = ranked.gather(-1, (count.clamp(max=size) - 1)[:, None])[:, 0]
    return last.masked_fill(count == width, 0), (count <= size) | (count == width)


def _thresholds(weights: Tensor, settings: Settings) -> Tensor:
    """Return the least weight [B] that top_k, then top_p of what is left, keep; ties stay together."""
    width = weights.shape[-1]
    totals = weights.sum(-1, dtype=torch.float64)
    # Sorting everything is ten times dearer than the head of the ranking, which nearly always decides.
    head = settings.head if _narrow(width, settings) else _LONGER * settings.head
    threshold, enough = _cut(weights.topk(min(width, head)).values, totals, settings, width)
    if bool(enough.all()):
        return threshold
    return _cut(weights.sort(-1, descending=True).values, totals, settings, width)[0]


def shares(logits: Tensor, settings: Settings) -> Tensor:
    """Return the distribution that `draw` draws from, float64 [B, A]; for arguments and errors see there."""
    peak, likeliest = logits.max(-1, keepdim=True)
    _check_finite(peak)
    cold = settings.temperature == 0
    weights = _Rows(logits, peak, settings.temperature.masked_fill(cold, 1)[:, None]).all().double()
    if settings.truncates:
        weights = weights.masked_fill(weights < _thresholds(weights, settings)[:, None], 0)
    if settings.some_greedy:
        alone = torch.zeros_like(weights).scatter_(-1, likeliest, 1)
        weights = torch.where(cold[:, None], alone, weights)
    return weights / weights.sum(-1, keepdim=True)


def pick(weights: Tensor, uniform: Tensor) -> Tensor:
    """Return the column [B] at which `uniform` [B] of each row's mass [B, A] is reached."""
    return _inverted(weights, uniform)


def _check_finite(peak: Tensor) -> None:
    if not torch.isfinite(peak).all():
        raise EngineError(
            "Sampling: the model returned logits that are not finite. Check its weights, or use float32."
        )

"""Fits the weights of a judge to what people or planted defects say is better.

Candidates stand on ladders, from good to bad; each is judged once, part by part, and weights (and scales, of
scorers that have one) are sought that put better ones above worse ones. Must not know: where ladders come
from, command lines.

Shapes: C candidates, P graded parts that steer, K pairs.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch

from llasa import config
from llasa.core import Judged
from llasa.errors import InputError, ScorerError
from llasa.judge import Combine, Judge, JudgeBlock, Part
from llasa.ladders import Ladder

HELD_OUT = 4  # every fourth text is kept for the report
TEMPERATURE = 0.05  # a difference in value that a pair is ordered by with odds of e to 1
PULL = 0.01
REMOVABLE = 0.02  # a part with less than this share of the weight does nothing
_SMALLEST = 1e-9


@runtime_checkable
class Scaled(Protocol):
    """A scorer whose value is exp(-measure / scale); `scale` is an option of it."""

    scale: float


@dataclass(frozen=True)
class Verdicts:
    """A ladder, judged part by part.

    values: float64 [C, P]. gates: [C], what the combined parts are multiplied by; the declared value of
    candidates that were ruled out, whose `values` are 1. pairs: of candidates that both got a verdict.
    unjudged: why others got none.
    """

    ladder: Ladder
    values: torch.Tensor
    gates: torch.Tensor
    pairs: list[tuple[int, int]]
    unjudged: tuple[str, ...]

    @property
    def number(self) -> int:
        """Which of how many."""
        return self.ladder.number

    @property
    def total(self) -> int:
        """How many ladders there are."""
        return self.ladder.total


def judged(judge: Judge, ladders: Iterable[Ladder]) -> Iterator[Verdicts]:
    """Yield the verdicts on each ladder, judged in one batch."""
    for ladder in ladders:
        found = judge.judge(ladder.candidates)
        rows = [_values(one, judge.rubric.parts) for one in found]
        pairs = [(i, j) for i, j in ladder.pairs if found[i].score and found[j].score]
        yield Verdicts(
            ladder,
            torch.tensor([values for values, _ in rows], dtype=torch.float64),
            torch.tensor([gate for _, gate in rows], dtype=torch.float64),
            pairs,
            tuple(one.reason for one in found if one.score is None),
        )


def _values(one: Judged, parts: Sequence[Part]) -> tuple[list[float], float]:
    graded = [part for part in parts if not (part.gate or part.held_out)]
    if one.score is None or one.status != "scored":
        return [1.0] * len(graded), one.score.value if one.score else 0.0
    measures = one.score.measures
    gates = [measures[f"{part.name}.value"] for part in parts if part.gate and not part.held_out]
    return [measures[f"{part.name}.value"] for part in graded], float(torch.tensor(gates).prod())


@dataclass(frozen=True)
class Fit:
    """A fitted judge.

    ordered: share of held-out pairs in the right order before and after, by kind and "all". pairs: how many
    were fitted and held out. removable: parts that came out with hardly any weight. unjudged: candidates
    without a verdict.
    """

    block: JudgeBlock
    ordered: Mapping[str, tuple[float, float]]
    pairs: tuple[int, int]
    removable: tuple[str, ...] = ()
    unjudged: int = 0


@dataclass(frozen=True)
class _Pairs:
    """Pairs of many ladders. better, worse: values [K, P] and gates [K]. kinds: one a pair."""

    better: tuple[torch.Tensor, torch.Tensor]
    worse: tuple[torch.Tensor, torch.Tensor]
    kinds: list[str]


def fit(
    block: JudgeBlock,
    judge: Judge,
    verdicts: Sequence[Verdicts],
    combines: Sequence[Combine] | None = None,
    *,
    temperature: float = TEMPERATURE,
    pull: float = PULL,
) -> Fit:
    """Return the block with the weights and scales under which better candidates most likely win.

    Maximised is the mean of log sigmoid((value of better - value of worse) / temperature), less `pull` times
    the squared logarithms of how much each weight and scale changes. Every fourth text is kept out of it,
    and says how good the result is.

    Args:
        block: what to start from.
        judge: made from `block`; it gave the verdicts.
        combines: ways of combining to choose from; the block's own if None.

    Raises:
        InputError: fewer than two texts. ScorerError: no pair got a verdict.

    Source: R. Bradley and M. Terry, *Rank analysis of incomplete block designs* (1952).
    """
    seen, kept = _split(verdicts)
    graded = [part for part in judge.rubric.parts if not (part.gate or part.held_out)]
    start = torch.tensor([part.weight for part in graded], dtype=torch.float64)
    scaled = torch.tensor([isinstance(part.scorer, Scaled) for part in graded])
    found: list[tuple[float, torch.Tensor, Combine]] = [
        (*_fitted(start, scaled, seen, combine, temperature, pull), combine)
        for combine in combines or [block.combine]
    ]
    _, changes, combine = min(found, key=lambda one: one[0])
    none = torch.zeros_like(changes)
    before = _right(start, none, kept, block.combine)
    after = _right(start, changes, kept, combine)
    weights = start * changes[0].exp()
    return Fit(
        _changed(block, combine, graded, weights, changes[1]),
        {"all": (_mean(before), _mean(after))} | _by_kind(kept.kinds, before, after),
        (len(seen.kinds), len(kept.kinds)),
        tuple(p.name for p, w in zip(graded, weights / weights.sum(), strict=True) if w < REMOVABLE),
        sum(len(one.unjudged) for one in verdicts),
    )


def _split(verdicts: Sequence[Verdicts]) -> tuple[_Pairs, _Pairs]:
    """Return the pairs to fit to and those of the texts that are held out."""
    texts = list(dict.fromkeys(one.ladder.candidates[0].utterance.text for one in verdicts))
    if len(texts) < 2:
        raise InputError(f"Calibrating: found {len(texts)} texts. Give two or more: some are held out.")
    reasons = [reason for one in verdicts for reason in one.unjudged]
    held_out = {text for place, text in enumerate(texts) if place % HELD_OUT == min(len(texts), HELD_OUT) - 1}
    sides: tuple[list[Verdicts], list[Verdicts]] = ([], [])
    for one in verdicts:
        sides[one.ladder.candidates[0].utterance.text in held_out].append(one)
    if not all(any(one.pairs for one in side) for side in sides):
        found = f"too few pairs got a verdict{f' ({reasons[0]})' if reasons else ''}"
        raise ScorerError(f"Calibrating: {found}. Add pairs, or leave out the scorer that fails.")
    return _gathered(sides[0]), _gathered(sides[1])


def _gathered(verdicts: Sequence[Verdicts]) -> _Pairs:
    def side(which: int) -> tuple[torch.Tensor, torch.Tensor]:
        places = [[pair[which] for pair in one.pairs] for one in verdicts]
        values = torch.cat([one.values[at] for one, at in zip(verdicts, places, strict=True)])
        return values, torch.cat([one.gates[at] for one, at in zip(verdicts, places, strict=True)])

    return _Pairs(side(0), side(1), [one.ladder.kind for one in verdicts for _ in one.pairs])


def _fitted(
    start: torch.Tensor,
    scaled: torch.Tensor,
    pairs: _Pairs,
    combine: Combine,
    temperature: float,
    pull: float,
) -> tuple[float, torch.Tensor]:
    """Return the loss, and the logarithms [2, P] of what weights and scales are to be multiplied by."""
    changes = torch.zeros(2, len(start), dtype=torch.float64, requires_grad=True)
    free = torch.stack([torch.full_like(scaled, combine != "min"), scaled])
    optimizer = torch.optim.LBFGS([changes], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        margin = _margin(start, changes * free, pairs, combine)
        value = -torch.nn.functional.logsigmoid(margin / temperature).mean() + pull * changes.square().sum()
        value.backward()
        return value

    optimizer.step(loss)  # pyright: ignore[reportArgumentType]
    return float(loss().detach()), (changes * free).detach()


def _margin(start: torch.Tensor, changes: torch.Tensor, pairs: _Pairs, combine: Combine) -> torch.Tensor:
    """Return value of better - value of worse [K]."""
    weights, powers = start * changes[0].exp(), (-changes[1]).exp()
    better, worse = (
        gates * _combined(values.clamp_min(_SMALLEST) ** powers, weights, combine)
        for values, gates in (pairs.better, pairs.worse)
    )
    return better - worse


def _combined(values: torch.Tensor, weights: torch.Tensor, combine: Combine) -> torch.Tensor:
    """Return `judge.combined` of each row [K, P], so that it can be differentiated."""
    if combine == "min":
        return values.amin(dim=1)
    if combine == "mean":
        return (values * weights).sum(dim=1) / weights.sum()
    return weights.sum() / (weights / values).sum(dim=1)


def _right(start: torch.Tensor, changes: torch.Tensor, pairs: _Pairs, combine: Combine) -> list[bool]:
    return (_margin(start, changes, pairs, combine) > 0).tolist()


def _by_kind(
    kinds: Sequence[str], before: Sequence[bool], after: Sequence[bool]
) -> dict[str, tuple[float, float]]:
    places = {kind: [i for i, one in enumerate(kinds) if one == kind] for kind in dict.fromkeys(kinds)}
    return {
        kind: (_mean([before[i] for i in at]), _mean([after[i] for i in at])) for kind, at in places.items()
    }


def _mean(right: Sequence[bool]) -> float:
    return sum(right) / len(right)


def _changed(
    block: JudgeBlock,
    combine: Combine,
    graded: Sequence[Part],
    weights: torch.Tensor,
    log_scales: torch.Tensor,
) -> JudgeBlock:
    new: dict[str, dict[str, object]] = {}
    for part, weight, change in zip(graded, weights.tolist(), log_scales, strict=True):
        new[part.name] = {"weight": _short(weight)}
        if isinstance(part.scorer, Scaled) and change != 0:
            new[part.name]["scale"] = _short(part.scorer.scale * float(change.exp()))
    scorers = [one.model_dump() | new.get(one.label or one.name, {}) for one in block.scorers]
    return config.build(
        JudgeBlock, block.model_dump() | {"combine": combine, "scorers": scorers}, "Calibrating"
    )


def _short(number: float) -> float:
    return float(f"{number:.3g}")


def to_toml(block: JudgeBlock, comments: Sequence[str] = ()) -> str:
    """Return the [judge] table of a recipe; what is as by default is left out.

    Args:
        comments: lines above it.
    """
    above = "".join(f"# {line}".rstrip() + "\n" for line in comments)
    own = block.model_dump(exclude={"scorers"}, exclude_defaults=True) | {"combine": block.combine}
    parts = [part.model_dump(exclude_defaults=True) | (part.model_extra or {}) for part in block.scorers]
    tables = [f"[judge]\n{config.lines(own)}", *(f"[[judge.scorers]]\n{config.lines(one)}" for one in parts)]
    return above + "\n".join(tables)

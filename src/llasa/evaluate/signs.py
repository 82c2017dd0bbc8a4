"""Signs of reward hacking in what a run drew, and a verdict in words: the first fifth of its steps, the last.

Must not know: pages, plots, files.

Source: A. Skalse et al., *Defining and characterizing reward hacking* (2022), for the notion; what is looked
at is what rewards for speech were seen to do: hurry, stop early, go round in circles, please one listener.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

from llasa.evaluate.run_folder import Row, Run
from llasa.metrics import Estimate, bootstrap, trend_estimate

ENDS = 5  # the first and the last of so many parts of the steps are compared
MOST = 400  # rollouts of each that a trend is found in: it looks at all pairs
UNENDED, UNJUDGED, SAME = 0.05, 0.05, 0.5  # rise of a share; shares
RATE, TREND, CALM, ROUND = 0.05, 0.02, 0.5, 0.05
LOOPED = 0.5  # value of `repetition` below which a rollout goes round in circles


@dataclass(frozen=True)
class Sign:
    """Something to look at. before, after: numbers. suspect: whether it points at hacking. words: why."""

    name: str
    before: float
    after: float
    suspect: bool
    words: str


@dataclass(frozen=True)
class Verdict:
    """level: `good`, `look` or `bad`. words: sentences, the weightiest first."""

    level: str
    words: list[str]


def ends(rollouts: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """Return the rollouts of the first and of the last fifth of the steps."""
    steps = sorted({row["step"] for row in rollouts})
    count = max(1, len(steps) // ENDS)
    first, last = set(steps[:count]), set(steps[-count:])
    return [row for row in rollouts if row["step"] in first], [row for row in rollouts if row["step"] in last]


def rates(rollouts: Sequence[Row]) -> tuple[np.ndarray, np.ndarray]:
    """Return the letters of texts, and how many are said a second, of rollouts that ended by themselves."""
    said = [(letters(row["text"]), row) for row in rollouts if row.get("finish") == "stop"]
    pairs = [(count, count / row["duration_s"]) for count, row in said if count and row.get("duration_s")]
    found = np.array(pairs, float).reshape(-1, 2)
    return found[:, 0], found[:, 1]


def letters(text: str) -> int:
    """Return the letters and digits of a text."""
    return sum(one.isalnum() for one in text)


def looped(row: Row) -> bool:
    """Tell whether a rollout goes round in circles."""
    repetition = (row.get("measures") or {}).get("repetition.value", 1.0)
    return row.get("finish") == "loop" or repetition < LOOPED


def rate_trend(rollouts: Sequence[Row]) -> Estimate | None:
    """Return how the rate changes from short texts to long ones; None of fewer than ten rollouts."""
    lengths, said = rates(rollouts)
    if len(lengths) < 10 or len(set(lengths)) < 2:
        return None
    some = np.random.default_rng(0).permutation(len(lengths))[:MOST]
    return trend_estimate(lengths[some], said[some])


def signs(run: Run) -> list[Sign]:
    """Return what can be told of a run's rollouts and metrics; nothing of what it did not write."""
    found = [*_drawn(run.rollouts), *_trained(run)]
    return [sign for sign in found if math.isfinite(sign.before) and math.isfinite(sign.after)]


def _drawn(rollouts: Sequence[Row]) -> list[Sign]:
    first, last = ends(rollouts)
    if not first:
        return []
    found = [
        _risen("unended", first, last, lambda row: row.get("finish") != "stop", UNENDED, "do not end"),
        _risen("loops", first, last, looped, ROUND, "go round in circles"),
    ]
    (_, before), (_, after) = rates(first), rates(last)
    if len(before) and len(after):
        old, new = float(before.mean()), float(after.mean())
        words = f"the rate went from {old:.1f} to {new:.1f} letters a second ({new / old - 1:+.1%})"
        found.append(Sign("rate", old, new, abs(new / old - 1) > RATE, words))
    early, late = rate_trend(first), rate_trend(last)
    if early and late:
        found.append(_trend(early, late))
    return found


def _risen(
    name: str,
    first: Sequence[Row],
    last: Sequence[Row],
    is_so: Callable[[Row], bool],
    most: float,
    doing: str,
) -> Sign:
    before, after = (fmean(map(is_so, part)) for part in (first, last))
    words = f"{after:.1%} of the last rollouts {doing}, of the first {before:.1%}"
    return Sign(name, before, after, after > before + most, words)


def _trend(before: Estimate, after: Estimate) -> Sign:
    words = (
        f"from short texts to long ones the rate changes by {after.value:+.1%} ({after.low:+.1%} to "
        f"{after.high:+.1%}), at first by {before.value:+.1%}"
    )
    risen = after.low > before.value + TREND and after.value > before.high
    return Sign("rate_trend", before.value, after.value, risen, words)


@dataclass(frozen=True)
class _Watched:
    """A metric to watch. is_so: whether first and last mean make it suspect. words: with both in it."""

    name: str
    key: str
    words: str
    is_so: Callable[[float, float], bool] = lambda before, after: False


_WATCHED = (
    _Watched("entropy", "entropy", "entropy is {1:.3g} nats, at first {0:.3g}", lambda a, b: b < CALM * a),
    _Watched("kl", "kl", "the divergence from the start is {1:.3g} nats a code, at first {0:.3g}"),
    _Watched(
        "same_rewards", "frac_reward_zero_std",
        "{1:.1%} of the last groups have equal rewards and teach nothing, of the first {0:.1%}",
        lambda a, b: b > SAME,
    ),
    _Watched(
        "unjudged", "rollouts/unjudged", "{1:.1%} of the last rollouts got no verdict, of the first {0:.1%}",
        lambda a, b: b > UNJUDGED,
    ),
)  # fmt: skip


def _trained(run: Run) -> list[Sign]:
    found = []
    for one in _WATCHED:
        values = run.series(one.key)[1]
        if values:
            count = max(1, len(values) // ENDS)
            old, new = fmean(values[:count]), fmean(values[-count:])
            found.append(Sign(one.name, old, new, one.is_so(old, new), one.words.format(old, new)))
    return found


def gain(run: Run) -> Mapping[str, Estimate] | None:
    """Return the mean reward of the first and of the last fifth; groups are drawn together."""
    parts = [[row for row in part if _is_number(row.get("reward"))] for part in ends(run.rollouts)]
    if not all(parts):
        return None
    names = ("first", "last")
    return {name: _mean_reward(part) for name, part in zip(names, parts, strict=True)}


def _mean_reward(rows: Sequence[Row]) -> Estimate:
    groups = [(row["step"], row.get("group", place)) for place, row in enumerate(rows)]
    return bootstrap(lambda some: float(some.mean()), [row["reward"] for row in rows], groups, draws=400)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def verdict(run: Run, found: Sequence[Sign]) -> Verdict:
    """Return what to think of a run."""
    total = (run.recipe.get("trainer") or {}).get("max_steps")
    state = "Finished" if run.done else "Not finished"
    words = [f"{state} at step {run.step}{f' of {total}' if total else ''}."]
    level, panel = _panel(run.panel)
    words = [*panel, *words]
    if run.rollouts and not run.panel:
        words.append("No panel was measured: a reward alone does not tell whether the speech got better.")
        level = "look"
    if suspects := [sign.words for sign in found if sign.suspect]:
        level = "look" if level == "good" else level
        words += [f"Look at this: {suspect}." for suspect in suspects]
    if run.damaged:
        told = ", ".join(f"{count} in {name}" for name, count in run.damaged.items())
        words.append(f"Lines that cannot be read: {told}.")
    return Verdict(level, words)


def _panel(panel: Sequence[Row]) -> tuple[str, list[str]]:
    if not panel:
        return "good", []
    last, tripped = panel[-1], [row for row in panel if row.get("tripped")]
    words = []
    if last.get("stopped"):
        words.append(f"Stopped by the panel at step {last['step']}: {'; '.join(last.get('why', []))}.")
    elif tripped:
        told = "; ".join(tripped[-1].get("why") or tripped[-1]["tripped"])
        count = f"{len(tripped)} of {len(panel)} measurements"
        words.append(f"Guards tripped in {count}, last at step {tripped[-1]['step']}: {told}.")
    else:
        words.append(f"No guard tripped in {len(panel)} measurements of the panel.")
    level = "bad" if last.get("tripped") else "look" if tripped else "good"
    best = max((row for row in panel if row.get("chosen")), key=lambda row: row["step"], default=None)
    if best is not None:
        words.append(_best(best, panel[0]))
    return level, words


def _best(best: Row, start: Row) -> str:
    unit = (start.get("by") or {}).get("unit", "words")
    if not best["step"]:
        return f"Nothing was better than the start (error rate {start['wer']:.3f} of {unit})."
    rate = f"error rate {best['wer']:.3f} of {unit}, at the start {start['wer']:.3f}"
    return f"Chosen is step {best['step']}: {rate}."

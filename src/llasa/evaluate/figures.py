"""The plots of a run, as SVG. Must not know: the page they stand on, what is suspect."""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np

from llasa.evaluate.plotting import COLOURS, Plot, plot
from llasa.evaluate.run_folder import Row, Run
from llasa.evaluate.signs import ends, looped, rate_trend, rates
from llasa.metrics import span

BINS = 40  # of steps, in plots of shares
DRAWN = 1500  # points of a scatter
RELATIVE = ("rate", "pitch_range")  # limits of these are shares of the start

# title -> (unit, metrics drawn in it); those that a run did not write are left out
CURVES: Mapping[str, tuple[str, Sequence[str]]] = {
    "reward": ("value", ("reward", "reward_std")),
    "loss": ("nats a code", ("loss", "eval_held_loss", "eval_other_voice_loss")),
    "entropy": ("nats a code", ("entropy",)),
    "divergence from the start": ("nats a code", ("kl",)),
    "groups of equal rewards": ("share", ("frac_reward_zero_std",)),
    "without verdict, without end": ("share", ("rollouts/unjudged", "rollouts/unended")),
    "length": ("codes", ("completions/mean_length", "completions/max_length")),
    "time a step": ("s", ("time/rollout_s", "time/judge_s", "time/exposed_s", "time/step_s")),
    "samples": ("share", ("sample_wer", "sample_failures")),
    "learning rate": ("", ("learning_rate",)),
}
PANEL: Mapping[str, str] = {
    "wer": "error rate", "rate": "rate, units a second", "rate_change": "rate, long against short",
    "similarity": "likeness to the voice", "mos": "opinion, 1 to 5", "pitch_range": "melody, semitones",
    "failures": "lines that failed, share",
}  # fmt: skip


def plots(run: Run) -> dict[str, list[Plot]]:
    """Return the plots of a run by heading; none of what it did not write.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    drawn = {
        "The panel": [_panel_plot(name, run.panel) for name in PANEL if run.panel],
        "Rollouts": _rollouts(run.rollouts) if run.rollouts else [],
        "Training": [*_curves(run)],
    }
    return {heading: found for heading, found in drawn.items() if found}


def _curves(run: Run) -> list[Plot]:
    found = []
    parts = sorted({key for row in run.metrics for key in row if key.startswith("judge/")})
    values = [key for key in parts if key.endswith(".value")]
    for title, (unit, keys) in (dict(CURVES) | {"parts of the reward": ("value", values)}).items():
        lines = {key: line for key in keys if (line := run.series(key))[0]}
        if lines:
            found.append(_curve(title, unit, lines))
    return found


def _curve(title: str, unit: str, lines: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> Plot:
    def draw(axes: Any) -> None:
        for colour, (key, (steps, values)) in zip(cycle(COLOURS), lines.items(), strict=False):
            name = key.removeprefix("judge/").removesuffix(".value").rpartition("/")[2].replace("_", " ")
            thin = len(lines) == 1 and len(steps) > 60
            axes.plot(steps, values, color=colour, linewidth=0.7 if thin else 1.1, label=name, alpha=0.8)
            if thin:
                axes.plot(steps, _smoothed(values), color=COLOURS[1], linewidth=1.3, label="smoothed")
        axes.set_xlabel("step", fontsize=7)
        axes.set_ylabel(unit, fontsize=7)
        if len(axes.lines) > 1:
            axes.legend(fontsize=6, frameon=False)

    return plot(title, draw)


def _smoothed(values: Sequence[float], width: int = 15) -> np.ndarray:
    """Return the mean around each value."""
    known = np.convolve(np.ones(len(values)), np.ones(width), "same")
    return np.convolve(np.asarray(values, float), np.ones(width), "same") / known


def _panel_plot(name: str, panel: Sequence[Row]) -> Plot:
    rows = [row for row in panel if isinstance(row.get(name), int | float)]

    def draw(axes: Any) -> None:
        steps, values = [row["step"] for row in rows], np.array([row[name] for row in rows], float)
        low, high = (np.array([_bound(row, name, side) for row in rows]) for side in ("low", "high"))
        axes.fill_between(steps, low, high, color=COLOURS[0], alpha=0.2, linewidth=0)
        axes.plot(steps, values, color=COLOURS[0], marker=".", markersize=4, linewidth=1)
        for limit in _limits(name, rows):
            axes.axhline(limit, color=COLOURS[5], linewidth=0.9, linestyle="--")
        for is_so, marker, colour in ((_tripped(name), "X", COLOURS[5]), (_chosen, "*", COLOURS[2])):
            marked = [row for row in rows if is_so(row)]
            axes.scatter(*_points(marked, name), color=colour, marker=marker, s=45, zorder=3)
        axes.set_xlabel("step", fontsize=7)

    return plot(PANEL[name], draw)


def _points(rows: Sequence[Row], name: str) -> tuple[list[int], list[float]]:
    return [row["step"] for row in rows], [row[name] for row in rows]


def _bound(row: Row, name: str, side: str) -> float:
    found = row.get(f"{name}_{side}")
    return row[name] if found is None else found


def _tripped(name: str) -> Callable[[Row], bool]:
    return lambda row: name in row.get("tripped", [])


def _chosen(row: Row) -> bool:
    return bool(row.get("chosen"))


def _limits(name: str, rows: Sequence[Row]) -> list[float]:
    """Return where the limits of a measure lie, worked out from the start."""
    change = next((row["changes"][name] for row in rows if name in row.get("changes", {})), None)
    if change is None:
        return []
    start = rows[0][name]
    bounds = [one for one in (change["least"], change["most"]) if one is not None]
    return [start * (1 + one) if name in RELATIVE else start + one for one in bounds]


def _rollouts(rollouts: Sequence[Row]) -> list[Plot]:
    first, last = ends(rollouts)
    finishes = sorted({row.get("finish", "") for row in rollouts}, key=lambda one: one != "stop")
    reasons = {one: _shares(rollouts, _finished(one)) for one in finishes}
    states = {
        "round in circles": _shares(rollouts, looped),
        "ruled out": _shares(rollouts, lambda row: row.get("status") == "bad"),
        "no verdict": _shares(rollouts, lambda row: row.get("status") == "unjudged"),
    }
    return [
        _scatter(first, last),
        _stacked("how they ended", reasons),
        _curve("what went wrong", "share", states),
        _curve("length", "s", {"mean duration": _binned(rollouts, lambda row: row.get("duration_s", 0.0))}),
    ]


def _finished(how: str) -> Callable[[Row], bool]:
    return lambda row: row.get("finish", "") == how


def _shares(rollouts: Sequence[Row], is_so: Callable[[Row], bool]) -> tuple[list[float], list[float]]:
    return _binned(rollouts, lambda row: float(is_so(row)))


def _binned(rollouts: Sequence[Row], value: Callable[[Row], float]) -> tuple[list[float], list[float]]:
    """Return the middles of bins of steps, and the mean of a value in each."""
    steps = np.array([row["step"] for row in rollouts])
    values = np.array([value(row) for row in rollouts], float)
    known = sorted(set(steps.tolist()))
    bins = np.array_split(np.array(known), min(BINS, len(known)))
    means = [float(values[(steps >= part[0]) & (steps <= part[-1])].mean()) for part in bins]
    return [float(part.mean()) for part in bins], means


def _stacked(title: str, shares: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> Plot:
    def draw(axes: Any) -> None:
        steps = next(iter(shares.values()))[0]
        colours = [colour for colour, _ in zip(cycle(COLOURS), shares, strict=False)]
        axes.stackplot(steps, [one for _, one in shares.values()], labels=list(shares), colors=colours)
        axes.set_ylim(0, 1)
        axes.set_xlabel("step", fontsize=7)
        axes.set_ylabel("share", fontsize=7)
        axes.legend(fontsize=6, loc="lower left")

    return plot(title, draw)


def _scatter(first: Sequence[Row], last: Sequence[Row]) -> Plot:
    def draw(axes: Any) -> None:
        for colour, name, rows in ((COLOURS[0], "first steps", first), (COLOURS[1], "last steps", last)):
            lengths, said = rates(rows)
            some = np.random.default_rng(0).permutation(len(lengths))[:DRAWN]
            axes.scatter(lengths[some], said[some], s=6, alpha=0.5, color=colour, label=name, linewidth=0)
            if (trend := rate_trend(rows)) and math.isfinite(trend.value):
                axes.plot(*_line(lengths, said, trend.value), color=colour, linewidth=1.5)
        axes.set_xlabel("letters of the text", fontsize=7)
        axes.set_ylabel("letters a second", fontsize=7)
        if axes.has_data():
            axes.legend(fontsize=6, frameon=False)

    return plot("speaking rate against length", draw, width=7.4, height=3.2)


def _line(lengths: np.ndarray, said: np.ndarray, change: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the line of a trend, through the median of the rates."""
    short, long = span(lengths)
    along = np.linspace(lengths.min(), lengths.max(), 20)
    slope = math.log1p(change) / max(long - short, 1e-9)
    logs = np.log(said) - slope * lengths
    return along, np.exp(np.median(logs) + slope * along)

"""The plots of an evaluation, as SVG: one colour a system in all of them. Must not know the page."""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np

from llasa.data.texts import spread
from llasa.evaluate.columns import RATES, Column
from llasa.evaluate.plotting import COLOURS, Plot, plot
from llasa.evaluate.results import Evaluation, Row
from llasa.evaluate.summary import MOST, Table
from llasa.metrics import trend

ENDS = {
    "": ("no failure", "#b7d4c0"), "no end": ("no end", "#ccbb44"), "loop": ("loop", "#ee6677"),
    "empty": ("no sound", "#aa3377"), "error": ("error", "#222222"),
}  # fmt: skip
EDGES = (0.0, 1e-9, 0.1, 0.2, 0.3, 0.5, 1.0, math.inf)
BINS = ("0", "to 10", "to 20", "to 30", "to 50", "to 100", "more")
LONGEST = 30  # letters of a name beside a plot, which else has no room
_SMALL = {"fontsize": 7}


def colours(systems: Sequence[str]) -> dict[str, str]:
    """Return the colour of each system."""
    return dict(zip(systems, cycle(COLOURS), strict=False))


def charts(found: Evaluation, one: Table) -> list[Plot]:
    """Return the plots of a test set; none of what was not measured.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    rows = {name: found.of(one.test_set, name) for name in one.systems}
    colour, main = colours(found.systems), one.columns[0]
    drawn = [_forest(one, colour), _spread(rows, main, colour)] if _heard(main) else []
    drawn += [_ends(rows)]
    keys = {column.key for column in one.columns}
    drawn += [_compute(one, main, colour)] if "rtf" in keys else []
    drawn += [_rates(rows, colour)] if "rate" in keys else []
    drawn += [_radar(one, main, colour)] if len(_axes(one, main)) > 2 else []
    drawn += [_waiting(rows, colour)] if "first_s" in keys else []
    return drawn


def _heard(column: Column) -> bool:
    """Tell whether a measure is an error rate; without a recogniser there is none."""
    return column.key.partition(":")[0] in RATES


def _named(name: str) -> str:
    short = name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"
    return short.replace("$", r"\$")  # which would begin a formula


def _forest(one: Table, colour: Mapping[str, str]) -> Plot:
    """Draw the mean error rates with their intervals."""
    shown = [column for column in one.columns if _heard(column)]

    def draw(axes: Any) -> None:
        step = 1 / (len(one.systems) + 1)
        for place, column in enumerate(shown):
            for number, name in enumerate(one.systems):
                if (cell := one.cells.get((column.key, name))) is not None:
                    y, found = place + step * (number + 1) - 0.5, cell.found
                    ends = [100 * found.low, 100 * found.high]
                    axes.plot(ends, [y, y], color=colour[name], linewidth=2.5, alpha=0.4)
                    axes.plot(100 * found.value, y, "o", color=colour[name], markersize=5)
        axes.set_yticks(range(len(shown)), [_named(column.title) for column in shown])
        axes.set_ylim(len(shown) - 0.5, -0.5)
        axes.set_xlim(left=0)
        axes.set_xlabel("error rate, %", **_SMALL)
        axes.grid(axis="x", color="#eee")
        axes.set_axisbelow(True)

    return plot("error rates", draw, 4.4, 0.9 + 0.5 * len(shown))


def _spread(rows: Mapping[str, Sequence[Row]], main: Column, colour: Mapping[str, str]) -> Plot:
    """Draw how many utterances have which error rate."""

    def draw(axes: Any) -> None:
        width = 0.8 / len(rows)
        for number, (name, some) in enumerate(rows.items()):
            values = np.array([main.cells(row)[0] for row in some])
            counts = np.histogram(np.nextafter(values[np.isfinite(values)], -1), [-1.0, *EDGES[1:]])[0]
            places = np.arange(len(BINS)) + width * (number - (len(rows) - 1) / 2)
            axes.bar(places, counts, width, color=colour[name])
        axes.set_xticks(range(len(BINS)), BINS)
        axes.set_xlabel(f"{_named(main.title)} of an utterance, %", **_SMALL)
        axes.set_ylabel("utterances", **_SMALL)
        axes.yaxis.get_major_locator().set_params(integer=True)

    return plot("how errors are spread", draw, 4.4, 2.4)


def _ends(rows: Mapping[str, Sequence[Row]]) -> Plot:
    """Draw how utterances ended, as shares."""

    def draw(axes: Any) -> None:
        names, left = list(rows), np.zeros(len(rows))
        for failure, (title, colour) in ENDS.items():
            shares = np.array([np.mean([row["failure"] == failure for row in rows[name]]) for name in names])
            if shares.any():
                axes.barh(range(len(names)), 100 * shares, left=left, color=colour, label=title, height=0.6)
                left += 100 * shares
        axes.set_yticks(range(len(names)), [_named(name) for name in names])
        axes.invert_yaxis()
        axes.set_xlim(0, 100)
        axes.set_xlabel("share of utterances, %", **_SMALL)
        axes.figure.legend(fontsize=7, frameon=False, ncols=5, loc="outside lower center")

    return plot("how they ended", draw, 4.4, 1.3 + 0.3 * len(rows))


def _compute(one: Table, main: Column, colour: Mapping[str, str]) -> Plot:
    """Draw the error rate against what it costs."""

    def draw(axes: Any) -> None:
        for name in one.systems:
            error, cost = one.cells.get((main.key, name)), one.cells.get(("rtf", name))
            if error is None or cost is None:
                continue
            y, x = (np.array([cell.found.value, cell.found.low, cell.found.high]) for cell in (error, cost))
            y = 100 * y
            reach = [[[at[0] - at[1]], [at[2] - at[0]]] for at in (y, x)]
            style = {"color": colour[name], "elinewidth": 1.4, "alpha": 0.85, "markersize": 6}
            axes.errorbar(x[0], y[0], *reach, "o", **style)
        _log_scale(axes)
        axes.set_ylim(bottom=0)
        axes.margins(x=0.25)
        axes.set_xlabel("real-time factor (seconds of waiting a second of speech)", **_SMALL)
        axes.set_ylabel(f"{_named(main.title)}, %", **_SMALL)
        axes.grid(color="#eee")
        axes.set_axisbelow(True)

    return plot("what compute buys", draw, 4.4, 2.8)


def _rates(rows: Mapping[str, Sequence[Row]], colour: Mapping[str, str]) -> Plot:
    """Draw the speaking rate against the length of the text, with its trend."""

    def draw(axes: Any) -> None:
        for name, some in rows.items():
            pairs = [(row["measures"]["units"], row["measures"].get("rate")) for row in some]
            known = np.array([pair for pair in pairs if pair[1]], float).reshape(-1, 2)
            axes.scatter(*known.T, s=9, alpha=0.55, color=colour[name], linewidth=0)
            if len(set(known[:, 0])) > 1:
                some = known[spread(len(known), MOST)]
                axes.plot(*_line(some[:, 0], some[:, 1]), color=colour[name], linewidth=1.4)
        axes.set_xlabel("length of the text, phones or letters", **_SMALL)
        axes.set_ylabel("a second of speech", **_SMALL)

    return plot("speaking rate against length", draw, 4.4, 2.8)


def _line(lengths: np.ndarray, rates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    ends = (float(lengths.min()), float(lengths.max()))
    along = np.linspace(*ends, 20)
    slope = math.log1p(trend(lengths, rates, ends)) / (ends[1] - ends[0])
    return along, np.exp(np.median(np.log(rates) - slope * lengths) + slope * along)


def _axes(one: Table, main: Column) -> dict[str, tuple[str, Callable[[float], float]]]:
    """Return the axes of the radar: measure, and what brings it to 0 (centre) to 1 (best there is)."""
    known = {column.key for column in one.columns}
    wanted: dict[str, tuple[str, Callable[[float], float]]] = {
        "words right": (main.key if _heard(main) else "", lambda value: 1 - min(value, 1)),
        "ends by itself": ("failures", lambda value: 1 - value),
        "likeness": ("sim_o", lambda value: max(value, 0)),
        "opinion": ("mos", lambda value: (value - 1) / 4),
        "steady rate": ("rate_change", lambda value: 1 - min(abs(value), 1)),
        "speed": ("rtf", lambda value: 1 / (1 + value)),
    }
    return {name: axis for name, axis in wanted.items() if axis[0] in known}


def _radar(one: Table, main: Column, colour: Mapping[str, str]) -> Plot:
    """Draw all sides of a system at once, each from 0 to the best there is."""
    axes_of = _axes(one, main)

    def draw(axes: Any) -> None:
        angles = np.linspace(0, 2 * np.pi, len(axes_of), endpoint=False)
        for name in one.systems:
            cells = [(one.cells.get((key, name)), scale) for key, scale in axes_of.values()]
            values = [scale(cell.found.value) if cell else math.nan for cell, scale in cells]
            around, closed = [*angles, angles[0]], [*values, values[0]]
            axes.plot(around, closed, color=colour[name], linewidth=1.5, marker="o", markersize=2.5)
            if np.isfinite(values).all():
                axes.fill(around, closed, color=colour[name], alpha=0.07)
        axes.set_xticks(angles, list(axes_of))
        axes.set_ylim(0, 1)
        axes.set_yticks((0.25, 0.5, 0.75), ("", "0.5", ""))
        axes.grid(color="#ddd")
        axes.spines["polar"].set_visible(False)
        axes.set_theta_offset(np.pi / 2)
        axes.tick_params(axis="x", pad=9)

    return plot("all sides, from 0 to the best there is", draw, 4.4, 3.1, projection="polar")


def _log_scale(axes: Any) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "25" else "")
    axes.tick_params(axis="x", which="minor", labelsize=7)


def _waiting(rows: Mapping[str, Sequence[Row]], colour: Mapping[str, str]) -> Plot:
    """Draw how many utterances have begun to sound by when; a failure without sound never does."""

    def draw(axes: Any) -> None:
        for name, some in rows.items():
            waited = np.sort([row["first_s"] for row in some if row["first_s"] is not None])
            if len(waited):
                shares = 100 * np.arange(1, len(waited) + 1) / len(some)
                axes.step([waited[0], *waited], [0, *shares], where="post", color=colour[name], linewidth=1.5)
        _log_scale(axes)
        axes.set_xlabel("seconds until the first sound", **_SMALL)
        axes.set_ylabel("share of utterances, %", **_SMALL)
        axes.grid(color="#eee")
        axes.set_axisbelow(True)

    return plot("first sound", draw, 4.4, 2.4)

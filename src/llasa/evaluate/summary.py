"""Rows of an evaluation to numbers: measures with intervals, and what changed against another system or run.

Needs numpy only. Must not know: pages, models.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from llasa.core import plain
from llasa.data.texts import spread
from llasa.evaluate.columns import Column, columns, trend
from llasa.evaluate.results import Evaluation, Row
from llasa.metrics import Estimate, bootstrap, paired, permutation_test, trend_estimate, trend_test

MOST = 400  # rows that a trend is found in: it looks at all pairs
DRAWS = 1000  # of a permutation test
SURE = 0.05


def estimate(column: Column, rows: Sequence[Row]) -> Estimate | None:
    """Return a measure with its interval; None if it was not measured of any row."""
    kept = [row for row in rows if np.isfinite(column.cells(row)).all()]
    if not kept:
        return None
    cells, groups = _cells(column, kept), [row["line"] for row in kept]
    if column.statistic is not trend and (cells == cells[0]).all():  # no sample could differ
        return Estimate(*[column.statistic(cells)] * 3)
    if column.statistic is trend:
        some = spread(len(cells), MOST)
        cells, groups = cells[some], [groups[place] for place in some]
        return trend_estimate(cells[:, 0], cells[:, 1], groups) if len(set(cells[:, 0])) > 1 else None
    return bootstrap(column.statistic, cells, groups)


def _cells(column: Column, rows: Sequence[Row]) -> np.ndarray:
    return np.array([column.cells(row) for row in rows], float)


@dataclass(frozen=True)
class Change:
    """By how much a measure grew, over `n` utterances that both sides have; p: how likely that is chance.

    Of a trend, the value is that of the ratio of the two rates.
    """

    found: Estimate
    p: float
    n: int

    def verdict(self, better: int) -> str:
        """Return `better`, `worse`, `other`, or nothing where the interval holds 0 or p is 0.05 or more."""
        if not (self.found.low > 0 or self.found.high < 0) or self.p >= SURE:
            return ""
        return {0: "other", 1: "better", -1: "worse"}[better * (1 if self.found.value > 0 else -1)]


def change(column: Column, before: Sequence[Row], after: Sequence[Row]) -> Change | None:
    """Return how a measure changed, pair by pair; None where no utterance has it on both sides."""
    old_rows = {_place(row): row for row in before}
    pairs = [(old_rows[_place(row)], row) for row in after if _place(row) in old_rows]
    pairs = [pair for pair in pairs if all(np.isfinite(column.cells(row)).all() for row in pair)]
    if not pairs:
        return None
    old, new = (_cells(column, [pair[side] for pair in pairs]) for side in (0, 1))
    groups = [row["line"] for row, _ in pairs]
    if column.statistic is trend:
        some = spread(len(old), MOST)
        old, new, groups = old[some], new[some], [groups[place] for place in some]
        return _trend_change(old[:, 0], new[:, 1] / old[:, 1], groups)
    if np.array_equal(old, new):
        return Change(Estimate(0.0, 0.0, 0.0), 1.0, len(pairs))
    p = permutation_test(column.statistic, old, new, groups, DRAWS)
    return Change(paired(column.statistic, old, new, groups), p, len(pairs))


def _trend_change(lengths: np.ndarray, ratios: np.ndarray, groups: Sequence[str]) -> Change | None:
    if len(set(lengths)) < 2:
        return None
    if (ratios == ratios[0]).all():  # no sample could differ
        return Change(Estimate(0.0, 0.0, 0.0), 1.0, len(ratios))
    p = trend_test(lengths, ratios, groups)
    return Change(trend_estimate(lengths, ratios, groups), p, len(ratios))


def _place(row: Row) -> tuple[str, str, str, int]:
    return row["set"], row["line"], row["text"], row["take"]


@dataclass(frozen=True)
class Cell:
    """A measure of a system on a test set. against: how it differs from the first system."""

    found: Estimate
    n: int
    against: Change | None


@dataclass(frozen=True)
class Table:
    """What all systems came to on one test set.

    cells: by column and system; what was not measured is not there. lines: utterances of each system.
    failures: of each system, by kind.
    """

    test_set: str
    systems: list[str]
    columns: list[Column]
    cells: Mapping[tuple[str, str], Cell]
    lines: Mapping[str, int]
    failures: Mapping[str, Mapping[str, int]]


def table(found: Evaluation, test_set: str) -> Table:
    """Return the numbers of a test set."""
    every, rows = columns(found), {name: found.of(test_set, name) for name in found.systems}
    rows = {name: some for name, some in rows.items() if some}
    first = next(iter(rows))
    cells = dict[tuple[str, str], Cell]()
    for column in every:
        for name, some in rows.items():
            if (value := estimate(column, some)) is not None:
                against = change(column, rows[first], some) if name != first else None
                known = sum(bool(np.isfinite(column.cells(row)).all()) for row in some)
                cells[column.key, name] = Cell(value, known, against)
    shown = [column for column in every if any(key == column.key for key, _ in cells)]
    failures = {
        name: Counter(row["failure"] for row in some if row["failure"]) for name, some in rows.items()
    }
    return Table(
        test_set, list(rows), shown, cells, {name: len(some) for name, some in rows.items()}, failures
    )


def tables(found: Evaluation) -> list[Table]:
    """Return the numbers of all test sets."""
    return [table(found, name) for name in found.sets]


def numbers(found: Evaluation, some: Sequence[Table]) -> dict[str, Any]:
    """Return what a program may want to know."""
    return {
        "folder": str(found.folder),
        "sets": {one.test_set: {name: _system(one, name) for name in one.systems} for one in some},
        "columns": {
            column.key: {"title": column.title, "about": column.about, "better": column.better}
            for one in some for column in one.columns
        },
        "missing": found.facts["missing"],
        "recognizers": found.facts["recognizers"],
        "steered_by": {name: facts.get("steered_by", []) for name, facts in found.facts["systems"].items()},
    }  # fmt: skip


def _system(one: Table, name: str) -> dict[str, Any]:
    told = dict[str, Any]()
    for column in one.columns:
        if (cell := one.cells.get((column.key, name))) is not None:
            told[column.key] = vars(cell.found) | {"n": cell.n}
            if cell.against:
                told[column.key]["against_first"] = told_change(cell.against, column)
    return {
        "utterances": one.lines[name],
        "failures": dict(one.failures[name]),
        "measures": cast(Any, plain(told)),
    }


def told_change(found: Change, column: Column) -> dict[str, Any]:
    """Return a change as plain values."""
    told = vars(found.found) | {"p": found.p, "n": found.n, "verdict": found.verdict(column.better)}
    return cast(dict[str, Any], plain(told))

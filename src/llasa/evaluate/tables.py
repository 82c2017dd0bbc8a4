"""The numbers of an evaluation as text: for a terminal, and as Markdown for papers. Must not know pages."""

import math
from collections.abc import Sequence

from llasa.evaluate.columns import Column, trend
from llasa.evaluate.results import Evaluation
from llasa.evaluate.summary import Cell, Change, Table

POLICY = (
    "95 % bootstrap intervals over utterances. A failure (no end, loop, no sound, error) has an error rate "
    "of 1 and, without sound, the worst likeness and opinion; likelihood, manner and speed are of what has "
    "sound, and Seed-TTS-eval's own rate leaves failures out."
)  # fmt: skip
_PAPER = ("failures", "sim_o", "sim_r", "emotion", "mos", "rate_change", "rtf", "first_s", "cost")
_MARKS = {"better": "+", "worse": "-", "other": "~", "": ""}


def value(column: Column, cell: Cell | None, plus: bool = False) -> str:
    """Return a measure with its interval, as people read it; `plus`: and a sign of a sure difference."""
    if cell is None:
        return "not measured"
    found = cell.found
    told = column.shown(found.value)
    if math.isfinite(found.low) and math.isfinite(found.high) and found.low != found.high:
        told += f" [{column.shown(found.low)}, {column.shown(found.high)}]"
    return told + (_MARKS[cell.against.verdict(column.better)] if plus and cell.against else "")


def moved(column: Column, found: Change) -> str:
    """Return a change with its interval and p; of shares in percentage points."""
    parts = [_signed(column, one) for one in (found.found.value, found.found.low, found.found.high)]
    unit = " points" if "%" in column.form and column.statistic is not trend else ""
    p = "" if math.isnan(found.p) else f", p = {found.p:.3f}" if found.p >= 0.001 else ", p < 0.001"
    return f"{parts[0]}{unit} [{parts[1]}, {parts[2]}]{p}"


def _signed(column: Column, number: float) -> str:
    if "%" in column.form and column.statistic is not trend:
        return f"{100 * number:+.1f}" if number else "0.0"
    return column.shown(number) if "+" in column.form else ("+" if number > 0 else "") + column.shown(number)


def conclusions(found: Evaluation, one: Table) -> list[tuple[str, list[str], list[str]]]:
    """Return of each system but the first what is surely better and what is surely worse than the first's."""
    told = []
    for name in one.systems[1:]:
        sides: dict[str, list[str]] = {"better": [], "worse": [], "other": [], "": []}
        for column in one.columns:
            cell = one.cells.get((column.key, name))
            if cell is not None and cell.against is not None:
                mark = "†" if steered(found, column, name) else ""
                sides[cell.against.verdict(column.better)].append(column.title + mark)
        told.append((name, sides["better"], sides["worse"]))
    return told


def paper_columns(one: Table) -> list[Column]:
    """Return those columns that a paper would show."""
    words = [column for column in one.columns if column.group == "Words" and ":" in column.key]
    wanted = [
        column for column in words if not column.key.startswith("cer") and "corpus.cer" not in column.key
    ]
    return [*wanted, *(column for column in one.columns if column.key in _PAPER)]


def markdown(found: Evaluation, some: Sequence[Table]) -> str:
    """Return a table a test set, systems in rows."""
    parts = [_section(found, one) for one in some]
    missing = "".join(f"\nNot measured: {name}: {why}" for name, why in found.facts["missing"].items())
    return "\n".join([*parts, f"{POLICY}{flattered(found)}", *([missing] if missing else [])]) + "\n"


def _section(found: Evaluation, one: Table) -> str:
    shown = paper_columns(one)
    rows = [
        [
            _escaped(name),
            str(one.lines[name]),
            *(value(column, one.cells.get((column.key, name))) for column in shown),
        ]
        for name in one.systems
    ]
    head = ["system", "utterances", *(_escaped(column.title) for column in shown)]
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return f"**{_escaped(one.test_set)}**\n\n" + "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def steered(found: Evaluation, column: Column, system: str) -> bool:
    """Tell whether a column is heard by a recogniser that chose what the system said: it flatters."""
    label = column.key.partition(":")[2]
    chose = found.facts["systems"].get(system, {}).get("steered_by", [])
    return bool(label) and found.facts["recognizers"].get(label) in chose


def flattered(found: Evaluation) -> str:
    """Return sentences about recognisers that chose what a system said; nothing if none did."""
    told = [
        f" '{label}' chose what '{name}' said, so its rates of that system flatter."
        for label, listener in found.facts["recognizers"].items()
        for name, facts in found.facts["systems"].items()
        if listener in facts.get("steered_by", [])
    ]
    return "".join(told)


def plain_rows(one: Table) -> list[list[str]]:
    """Return the table for a terminal, measures in rows; a sign tells a sure difference from the first."""
    rows = [["", *one.systems], ["utterances", *(str(one.lines[name]) for name in one.systems)]]
    for column in one.columns:
        cells = [value(column, one.cells.get((column.key, name)), plus=True) for name in one.systems]
        rows.append([column.title, *cells])
    return rows

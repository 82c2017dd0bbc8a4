"""An evaluation as one HTML page that needs no other file, or as a Markdown table.

What it says is in `results.html.jinja`. Must not know: how anything was said or measured.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from llasa.audio import check_target, replace_file
from llasa.data.report import empty_figure, template_of
from llasa.evaluate import tables as told
from llasa.evaluate.charts import charts, colours
from llasa.evaluate.columns import Column
from llasa.evaluate.plotting import Plot
from llasa.evaluate.results import Evaluation, Row
from llasa.evaluate.run_report import sound_uri
from llasa.evaluate.summary import Table

SHOWN = 4  # utterances of each kind that can be listened to
_TEMPLATE = Path(__file__).with_name("results.html.jinja")


@dataclass(frozen=True)
class Shown:
    """A cell of the table. value, interval, change: as people read them. verdict: see `Change`."""

    value: str
    interval: str = ""
    change: str = ""
    verdict: str = ""
    few: str = ""
    steered: bool = False


@dataclass(frozen=True)
class Heard:
    """An utterance as a system said it. words: by recogniser, of (text, heard, status)."""

    system: str
    sound: str
    rate: str
    failure: str
    reason: str
    words: Mapping[str, Sequence[Sequence[str]]]


@dataclass(frozen=True)
class Utterance:
    """An utterance as all systems said it."""

    line: str
    text: str
    heard: Sequence[Heard]


@dataclass(frozen=True)
class Part:
    """What the page says of a test set."""

    table: Table
    groups: Mapping[str, list[tuple[Column, list[Shown]]]]
    conclusions: Sequence[tuple[str, list[str], list[str]]]
    plots: Sequence[Plot]
    utterances: Mapping[str, Sequence[Utterance]]


def check_ready(path: Path) -> None:
    """Find out before the work whether a page can be made and written.

    Raises:
        ConfigError: it cannot be written. MissingExtra: matplotlib is not installed.
    """
    check_target(path.resolve())
    if path.suffix != ".md":
        empty_figure()


def write(found: Evaluation, some: Sequence[Table], path: Path) -> None:
    """Write the page, or Markdown if the path ends in .md, whole or not at all.

    Raises:
        ConfigError, MissingExtra: as `check_ready`.
    """
    text = told.markdown(found, some) if path.suffix == ".md" else page(found, some)
    replace_file(path.resolve(), text.encode("utf-8", "replace"))


def page(found: Evaluation, some: Sequence[Table]) -> str:
    """Return the page.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    from markupsafe import Markup

    def safe(plot: Plot) -> Plot:
        return Plot(plot.title, Markup(plot.drawn))  # our own SVG; matplotlib escapes the names in it

    parts = [
        Part(
            one, _groups(found, one), told.conclusions(found, one),
            [safe(plot) for plot in charts(found, one)], _utterances(found, one),
        )
        for one in some
    ]  # fmt: skip
    return template_of(_TEMPLATE).render(
        found=found, parts=parts, colours=colours(found.systems), policy=told.POLICY, facts=_facts(found),
        steered=bool(told.flattered(found)),
        first=found.systems[0],
    )  # fmt: skip


def _facts(found: Evaluation) -> dict[str, str]:
    listeners = found.facts["recognizers"].items()
    return {
        "began": found.facts["began"],
        "heard by": ", ".join(name if name == whole else f"{name} ({whole})" for name, whole in listeners),
        "versions": ", ".join(f"{key} {value}" for key, value in found.facts["versions"].items()),
        "commit": found.facts["commit"] or "unknown",
    }


def _groups(found: Evaluation, one: Table) -> dict[str, list[tuple[Column, list[Shown]]]]:
    groups = dict[str, list[tuple[Column, list[Shown]]]]()
    for column in one.columns:
        row = [_shown(found, one, column, name) for name in one.systems]
        groups.setdefault(column.group, []).append((column, row))
    return groups


def _shown(found: Evaluation, one: Table, column: Column, name: str) -> Shown:
    cell = one.cells.get((column.key, name))
    if cell is None:
        return Shown("not measured")
    value, _, interval = told.value(column, cell).partition(" [")
    few = f"of {cell.n}" if cell.n < one.lines[name] else ""
    steered = told.steered(found, column, name)
    shown = Shown(value, interval.rstrip("]").replace(", ", " to "), few=few, steered=steered)
    if cell.against is None:
        return shown
    interval, comma, p = told.moved(column, cell.against).partition(", p")
    change = interval.replace(" ", "\N{NO-BREAK SPACE}") + comma + p  # lines end before p alone
    return replace(shown, change=change, verdict=cell.against.verdict(column.better))


def _utterances(found: Evaluation, one: Table) -> dict[str, list[Utterance]]:
    """Return the utterances to listen to: worst, best, and those that listeners disagree about most."""
    lines = dict[str, dict[str, Row]]()
    for name in one.systems:
        for row in found.of(one.test_set, name):
            if row["take"] == 0:
                lines.setdefault(row["line"], {})[name] = row
    main = one.columns[0]

    def error(line: str) -> float:
        return sum(main.cells(row)[0] for row in lines[line].values()) / len(lines[line])

    known = [line for line in lines if error(line) == error(line)]  # not those that nobody could hear
    worst = sorted(known, key=lambda line: -error(line))[:SHOWN]
    dispute = _dispute(found, main)
    open_lines = [line for line in known if line not in worst and dispute(lines[line]) > 0]
    disputed = sorted(open_lines, key=lambda line: -dispute(lines[line]))[:SHOWN]
    others = [line for line in known if line not in (*worst, *disputed)]
    best = sorted(others, key=lambda line: (error(line), -_length(lines[line])))[:SHOWN]
    chosen = {"Worst": worst, "Most disputed": disputed, "Best": best}
    shown = {
        title: [_utterance(found, line, lines[line], main) for line in some] for title, some in chosen.items()
    }
    return {title: some for title, some in shown.items() if some}


def _length(rows: Mapping[str, Row]) -> int:
    return max(len(row["text"]) for row in rows.values())


def _dispute(found: Evaluation, main: Column) -> Callable[[Mapping[str, Row]], float]:
    """Return how far two recognisers are apart about a line, or, with one recogniser, the systems."""
    first, *others = found.listeners or [""]

    def words_right(row: Row, label: str) -> float:
        words = row["words"].get(label)
        return sum(word[2] == "said" for word in words) / max(1, len(words)) if words else 0.0

    def apart(rows: Mapping[str, Row]) -> float:
        if others:
            pairs = [(words_right(row, first), words_right(row, others[0])) for row in rows.values()]
            return sum(abs(one - other) for one, other in pairs) / len(pairs)
        values = [main.cells(row)[0] for row in rows.values()]
        return max(values) - min(values)

    return apart


def _utterance(found: Evaluation, line: str, rows: Mapping[str, Row], main: Column) -> Utterance:
    heard = [_heard(found, name, row, main) for name, row in rows.items()]
    return Utterance(line, next(iter(rows.values()))["text"], heard)


def _heard(found: Evaluation, name: str, row: Row, main: Column) -> Heard:
    sound = sound_uri(found.folder / row["sound"]) if row["sound"] else ""
    return Heard(name, sound, main.shown(main.cells(row)[0]), row["failure"], row["reason"], row["words"])

"""`llasa evaluate`: systems against test sets, what became of runs, and comparisons by ear."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from llasa.cli import ab
from llasa.cli.terminal import JsonOption, emit, examples, note, tracked
from llasa.errors import ConfigError

if TYPE_CHECKING:
    from rich.table import Table as Shown

    from llasa.evaluate.run import Done
    from llasa.evaluate.summary import Table

BROKEN = 5  # exit code: something got worse than `--limit` allows
LOG_EVERY_S = 60.0


class _RunByDefault(TyperGroup):
    """Takes `llasa evaluate recipe.toml` for `llasa evaluate run recipe.toml`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """See `click.Group`."""
        return super().resolve_command(ctx, args if args[0] in self.commands else ["run", *args])


app = typer.Typer(
    name="evaluate",
    cls=_RunByDefault,
    help="Measure systems and what was trained, and tell of it. RECIPE.toml alone means `run RECIPE.toml`.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
EPILOG_RUN = examples(
    "llasa evaluate recipes/evaluate/starter.toml",
    "llasa evaluate recipe.toml --out results --set takes=3",
    "llasa evaluate recipe.toml --ray",
    "llasa evaluate report results",
)
EPILOG = examples(
    "llasa evaluate report results",
    "llasa evaluate report results -o table.md",
    "llasa evaluate report run",
    "llasa evaluate report run --json",
    "A run that is still going can be looked at; the page says how far it is.",
)
EPILOG_DIFF = examples(
    "llasa evaluate diff before after",
    "llasa evaluate diff before after --limit wer:pocketsphinx=0.02 --limit failures=0.01",
    f"Exit code {BROKEN} where a measure got worse than its limit: its whole interval has to lie beyond.",
)


app.command(epilog=ab.EPILOG)(ab.ab)


@app.command(epilog=EPILOG_RUN)
def run(
    recipe: Annotated[Path, typer.Argument(help="A TOML file; recipes/evaluate has examples.")],
    out: Annotated[Path, typer.Option(help="Folder of rows, sounds and numbers.")] = Path("results"),
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="Any field of the recipe.")
    ] = None,
    ray: Annotated[bool, typer.Option("--ray", help="On all cores, GPUs or machines of Ray.")] = False,
    changed_ok: Annotated[
        bool, typer.Option("--changed-ok", help="Go on although recipe, texts or weights have changed.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Have systems say test sets, listen, and tell the numbers; see docs/evaluation.md.

    Systems are bundles, checkpoints, one bundle at several efforts, recordings, and any server that speaks
    OpenAI's /v1/audio/speech. What cannot be evaluated is refused before the first line is said. Stopped or
    killed, the same command goes on where it was.
    """
    from llasa.audio import replace_file
    from llasa.evaluate.plan import read_plan
    from llasa.evaluate.results import read_evaluation
    from llasa.evaluate.run import run as evaluated
    from llasa.evaluate.summary import numbers, tables

    done = evaluated(read_plan(recipe, set_ or []), out, ray, changed_ok)
    for _ in _logged(tracked(done, "Evaluating")):
        pass
    found = read_evaluation(out)
    some = tables(found)
    told = numbers(found, some)
    replace_file(out / "summary.json", _json(told))
    if json:
        return emit(told)
    for one in some:
        _show(one)
    for name, why in found.facts["missing"].items():
        note(f"Not measured: {name}: {why}")
    note(f"A page with sounds: llasa evaluate report {out}")


def _json(told: dict[str, Any]) -> bytes:
    from json import dumps

    return dumps(told, indent=1, ensure_ascii=False).encode() + b"\n"


def _logged(done: "Iterator[Done]") -> "Iterator[Done]":
    """Yield the pieces, and where no bar is seen write a line a minute on standard error."""
    began = due = time.monotonic()
    for one in done:
        yield one
        now = time.monotonic()
        if not sys.stderr.isatty() and now >= due + LOG_EVERY_S:
            due = now
            left_s = (now - began) * (one.total - one.number) / max(1, one.number - one.before)
            note(f"Evaluating: {one.number} of {one.total} utterances, {left_s / 60:.0f} min left")


def _show(one: "Table") -> None:
    from rich.table import Table as Shown

    from llasa.evaluate.tables import plain_rows

    head, *rows = plain_rows(one)
    shown = Shown(*head, title=one.test_set, title_justify="left", box=None)
    for row in rows:
        shown.add_row(*row)
    _print(shown)


def _print(shown: "Shown") -> None:
    from rich.console import Console

    width = None if sys.stdout.isatty() else 200
    # Names are the user's: what looks like markup in them is none.
    Console(soft_wrap=True, width=width, highlight=False, markup=False, emoji=False).print(shown)


@app.command(epilog=EPILOG)
def report(
    folder: Annotated[Path, typer.Argument(help="A folder of 'llasa evaluate' or of 'llasa train'.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="The page; FOLDER/report.html if left out. A table if it ends in .md."
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Tell of an evaluation or a training run in one HTML page that needs no other file.

    Of an evaluation: numbers with intervals, plots, and the best, worst and most disputed utterances to
    listen to. Of a run: what to think of it, signs that a reward was cheated, plots, samples. With --json the
    numbers are printed, and a page is written only where -o names one.
    """
    from llasa.evaluate.results import is_evaluation

    target = output or (None if json else folder / "report.html")
    if is_evaluation(folder):
        return _report_evaluation(folder, target, json)
    if target and target.suffix == ".md":
        raise ConfigError(
            f"Reporting on '{folder}': a run of 'llasa train' has no table. Name an .html file."
        )
    _report_run(folder, target, json)


def _report_evaluation(folder: Path, target: Path | None, json: bool) -> None:
    from llasa.evaluate import results_page
    from llasa.evaluate.results import read_evaluation
    from llasa.evaluate.summary import numbers, tables

    found = read_evaluation(folder)
    if target:
        results_page.check_ready(target)
    some = tables(found)
    if target:
        results_page.write(found, some, target)
    if json:
        return emit({"output": str(target) if target else None} | numbers(found, some))
    print(target)


def _report_run(folder: Path, target: Path | None, json: bool) -> None:
    from llasa.evaluate.run_folder import read_run
    from llasa.evaluate.run_report import check_ready, numbers, write
    from llasa.evaluate.signs import signs, verdict

    found = read_run(folder)
    if target:
        check_ready(target)
        write(found, target)
    if json:
        return emit({"output": str(target) if target else None} | numbers(found))
    for sentence in verdict(found, signs(found)).words:
        note(sentence)
    print(target)


@app.command(epilog=EPILOG_DIFF)
def diff(
    before: Annotated[Path, typer.Argument(help="Folder of the first evaluation.")],
    after: Annotated[Path, typer.Argument(help="Folder of the second one.")],
    limit: Annotated[
        list[str] | None, typer.Option(metavar="MEASURE=NUMBER", help="How much worse it may get.")
    ] = None,
    measure: Annotated[list[str] | None, typer.Option(help="Only these; all if left out.")] = None,
    json: JsonOption = False,
) -> None:
    """Tell what changed between two evaluations, utterance by utterance, with intervals and p-values.

    Systems of one name are compared, or the only ones there are.
    """
    from llasa.evaluate.compare import differences
    from llasa.evaluate.results import read_evaluation

    limits = _limits(limit or [])
    found = differences(read_evaluation(before), read_evaluation(after), limits, measure or [])
    broken = [one for one in found if one.broken]
    if json:
        emit({"differences": [one.row() for one in found], "broken": len(broken)})
    else:
        _show_differences(found)
    for one in broken:
        note(f"Worse than allowed: {one.column.title} of '{one.system}' on '{one.test_set}'.")
    if broken:
        raise typer.Exit(BROKEN)


def _limits(words: list[str]) -> dict[str, float]:
    from llasa import config

    found = config.assignments(words)
    limits = {key: float(one) for key, one in found.items() if isinstance(one, int | float)}
    if wrong := [key for key in found if not limits.get(key, -1.0) >= 0]:
        shown = f"{wrong[0]} = {found[wrong[0]]!r}"
        raise ConfigError(f"Reading a limit: found {shown}. Give a number of at least 0.")
    return limits


def _show_differences(found: "list[Any]") -> None:
    from rich.table import Table as Shown

    from llasa.evaluate.tables import moved

    shown = Shown("set", "system", "measure", "change [95 %]", "", "n", box=None)
    for one in found:
        verdict = one.change.verdict(one.column.better)
        cells = (one.test_set, one.system, one.column.title, moved(one.column, one.change), verdict)
        shown.add_row(*cells, str(one.change.n))
    _print(shown)

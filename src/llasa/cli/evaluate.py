"""`llasa evaluate`: what became of runs, in numbers and as a page."""

from pathlib import Path
from typing import Annotated

import typer

from llasa.cli import ab
from llasa.cli.terminal import JsonOption, emit, examples, note

app = typer.Typer(
    name="evaluate",
    help="Measure what was trained, and tell of it.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
EPILOG = examples(
    "llasa evaluate report run",
    "llasa evaluate report run -o before.html",
    "llasa evaluate report run --json",
    "A run that is still going can be looked at; the page says how far it is.",
)


app.command(epilog=ab.EPILOG)(ab.ab)


@app.command(epilog=EPILOG)
def report(
    run: Annotated[Path, typer.Argument(help="Folder of a run of 'llasa train'.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The page; RUN/report.html if left out.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Tell of a training run in one HTML page: what to think of it, plots, worst and best, sounds.

    For reinforcement training it looks for signs that the reward was cheated: speech that hurries, most of
    all where texts are long, that does not end or goes round in circles. It needs no other file and loads
    nothing. With --json the numbers are printed, and a page is written only where -o names one.
    """
    from llasa.evaluate.run_folder import read_run
    from llasa.evaluate.run_report import check_ready, numbers, write
    from llasa.evaluate.signs import signs, verdict

    target = output or (None if json else run / "report.html")
    found = read_run(run)
    if target:
        check_ready(target)
        write(found, target)
    if json:
        return emit({"output": str(target) if target else None} | numbers(found))
    for sentence in verdict(found, signs(found)).words:
        note(sentence)
    print(target)

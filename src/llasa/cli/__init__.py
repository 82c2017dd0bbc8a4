"""The `llasa` command: its verbs, and the one place where errors become exit codes.

2: what the user gave (text, file, flag, bundle, output path). 3: the environment. 4: stopped as asked, all
saved; the same command goes on. 1: a bug, with traceback.
Verbs import heavy modules when they run, so that help comes at once.
"""

import sys
import traceback
from collections.abc import Sequence

import typer

from llasa import shortage
from llasa.cli import (
    bench,
    calibrate,
    codec,
    diagnose,
    doctor,
    evaluate,
    export,
    prepare,
    read,
    say,
    serve,
    train,
    voice,
)
from llasa.cli.terminal import examples, note, quieten
from llasa.errors import EngineError, Interrupted, LlasaError, MissingExtra, ScorerError

app = typer.Typer(
    name="llasa",
    help="Speech from text, on your own machine.",
    epilog=examples('llasa say "Hello there."', "llasa say --help", "llasa doctor"),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command(epilog=say.EPILOG)(say.say)
app.command(epilog=read.EPILOG)(read.read)
app.add_typer(voice.app)
app.add_typer(codec.app)
app.add_typer(export.app)
app.command(epilog=prepare.EPILOG)(prepare.prepare)
app.add_typer(train.app)
app.add_typer(evaluate.app)
app.command(epilog=calibrate.EPILOG)(calibrate.calibrate)
app.command(epilog=diagnose.EPILOG)(diagnose.diagnose)
app.command(epilog=serve.EPILOG)(serve.serve)
app.command(epilog=bench.EPILOG)(bench.bench)
app.command(epilog=doctor.EPILOG)(doctor.doctor)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command line (`sys.argv` if None) and exit."""
    quieten()
    try:
        app(arguments, prog_name="llasa")
    except Exception as error:  # the program's edge
        sys.exit(_complain(error))


def _complain(error: Exception) -> int:
    """Tell what went wrong and return the exit code."""
    if shortage.of_memory(error):  # whatever it was taken for on its way here
        todo = "Use a smaller bundle or a shorter text; in training, fewer ids or rows at a time"
        note(f"llasa: Running: memory ran out ({error}). {todo}.")
        return 3
    if isinstance(error, LlasaError):
        note(f"llasa: {error}")
        if isinstance(error, Interrupted):
            return 4
        return 3 if isinstance(error, EngineError | MissingExtra | ScorerError) else 2
    if shortage.of_room(error):
        note(f"llasa: Writing: the disk is full ({error}). Free some of it and run the same command again.")
        return 2
    traceback.print_exception(error)
    note("llasa: This is a bug. Please report it with the lines above.")
    return 1

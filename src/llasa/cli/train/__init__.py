"""`llasa train`: learns a codec, a recogniser, a letter model, drafts or a language model from a recipe."""

import signal
import threading

import typer

from llasa.cli.train import codec, dpo, grpo, letters, mtp, recognizer, sft


def _stay() -> None:
    """Let SIGUSR1, which asks a run to save, not end it before its first step or after its last."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)


app = typer.Typer(
    name="train",
    callback=_stay,
    help="Train from a TOML recipe; run again, a stopped run goes on by itself.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.command(epilog=sft.EPILOG)(sft.sft)
app.command(epilog=mtp.EPILOG)(mtp.mtp)
app.command(epilog=grpo.EPILOG)(grpo.grpo)
app.command(epilog=dpo.EPILOG)(dpo.dpo)
app.command(epilog=codec.EPILOG)(codec.codec)
app.command(epilog=recognizer.EPILOG)(recognizer.recognizer)
app.command(epilog=letters.EPILOG)(letters.letters)

"""`llasa train sft`: a language model learns to speak, from prepared folders, as a recipe says."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llasa.cli.terminal import JsonOption, emit, examples, note
from llasa.cli.train.options import (
    ChangedOption,
    OutOption,
    SetOption,
    ThreadsOption,
    settings_of,
    use_threads,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from llasa.train.preflight import Report

EPILOG = examples(
    "llasa prepare recordings/ prepared/",
    "llasa train sft recipes/sft/finetune.toml --set data=prepared --out run --dry-run",
    "llasa train sft recipes/sft/finetune.toml --set data=prepared --out run",
    "llasa train sft recipes/sft/lora.toml --set trainer.max_steps=200 --set lora.r=16",
    "torchrun --nproc-per-node 8 -m llasa.cli train sft recipe.toml",
    'llasa say "Hello there." --bundle run/bundle',
)


def sft(
    recipe: Annotated[Path, typer.Argument(help="A TOML file; recipes/sft has examples.")],
    settings: SetOption = None,
    out: OutOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only look at the first batch: OUT/preflight.")
    ] = False,
    threads: ThreadsOption = None,
    changed_ok: ChangedOption = False,
    json: JsonOption = False,
) -> None:
    """Teach a language model to speak: a bundle, any causal language model, or one from nothing.

    First OUT/preflight shows what the model is given, as text and sound, and a suspect first loss stops the
    run. Run the same command again and a stopped run goes on. OUT/bundle is the result; OUT/metrics.jsonl and
    metrics.png tell of the run, OUT/samples what it said, OUT/rejects.jsonl which rows could not be used.
    """
    from llasa.train.sft import read_recipe, train

    use_threads(threads)
    told = read_recipe(recipe, settings_of(settings, out))
    found = train(told, dry_run, changed_ok, _tracked, _tell)
    if not found.first:
        return  # under torchrun one process speaks
    if json:
        return emit({"output": found.bundle, "rejected": found.rejected} | found.report.facts())
    print(found.bundle or Path(told.out) / "preflight")


def _tell(report: "Report", rejected: int) -> None:
    for line in report.lines():
        note(line)
    if rejected:
        note(f"{rejected} rows could not be used; rejects.jsonl says why.")


def _tracked(rows: "Sequence[int]") -> "Iterator[int]":
    """Yield what is given, with a progress bar if a person is watching and it is worth one."""
    import sys

    from rich.console import Console
    from rich.progress import track

    quick = len(rows) < 1000 or not sys.stderr.isatty()
    return (
        iter(rows)
        if quick
        else iter(track(rows, "Measuring rows", console=Console(stderr=True), transient=True))
    )

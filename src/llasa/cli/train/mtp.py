"""`llasa train mtp`: draft modules that make a language model faster, as a recipe says."""

from pathlib import Path
from typing import Annotated

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

EPILOG = examples(
    "llasa train mtp recipes/mtp/starter.toml --out run",
    "llasa train mtp recipes/mtp/starter.toml --set model=HKUSTAudio/Llasa-1B --set data=prepared --out run",
    "llasa train mtp recipe.toml --set drafts=llasa_plus/model.safetensors",
    "llasa bench --bundle run/bundle --engine drafted:exact --effort 1",
)


def mtp(
    recipe: Annotated[Path, typer.Argument(help="A TOML file; recipes/mtp has an example.")],
    settings: SetOption = None,
    out: OutOption = None,
    threads: ThreadsOption = None,
    changed_ok: ChangedOption = False,
    json: JsonOption = False,
) -> None:
    """Teach draft modules to guess what a language model will say next (Llasa+); the model does not change.

    What is told is the share of guesses that would be accepted on held-out rows, by how far ahead they are.
    Run the same command again and a stopped run goes on. OUT/bundle is the result, and OUT/drafts the modules
    alone; speak with them by --engine drafted:exact. Under torchrun each process draws batches of its own.
    """
    from llasa.train.mtp import read_recipe, train

    use_threads(threads)
    told = read_recipe(recipe, settings_of(settings, out))
    measures = train(told, changed_ok)
    if measures is None:
        return
    result = Path(told.out) / "bundle"
    if json:
        return emit({"output": result} | dict(measures))
    accepted = [value for name, value in measures.items() if name.startswith("held_accepted")]
    note("accepted on held-out rows, by id ahead: " + ", ".join(f"{value:.1%}" for value in accepted))
    print(result)

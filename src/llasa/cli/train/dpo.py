"""`llasa train dpo`: a language model learns what people, or a judge, preferred, as a recipe says."""

from dataclasses import asdict
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
    from llasa.train.dpo import Told

EPILOG = examples(
    "llasa evaluate ab texts.txt -o listen/",
    "llasa train dpo recipes/preference/starter.toml --set pairs=listen --out run --dry-run",
    'llasa train dpo recipe.toml --set pairs=listen --set \'votes=["ann.jsonl", "ben.jsonl"]\' --out run',
    "llasa train dpo recipe.toml --set trainer.beta=0.05 --set trainer.learning_rate=1e-6",
    "llasa evaluate ab texts.txt -o again/ --bundle starter --bundle run/bundle",
)


def dpo(
    recipe: Annotated[Path, typer.Argument(help="A TOML file; recipes/preference has examples.")],
    settings: SetOption = None,
    out: OutOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only look at the pairs and votes.")] = False,
    threads: ThreadsOption = None,
    changed_ok: ChangedOption = False,
    json: JsonOption = False,
) -> None:
    """Learn from votes which of two sounds is better: pairs of `llasa evaluate ab`, and what was voted.

    Pairs without a better side are counted and left out. Some texts are held out: OUT/metrics.jsonl tells how
    often the model prefers what people did there (eval_rewards/accuracies). Run the same command again and a
    stopped run goes on. OUT/bundle is the result, OUT/rejects.jsonl tells which votes could not be used.
    """
    from llasa.train.dpo import read_recipe, train

    use_threads(threads)
    found = train(read_recipe(recipe, settings_of(settings, out)), dry_run, changed_ok, _tell)
    if not found.first:
        return  # under torchrun one process speaks
    if json:
        return emit({"output": found.bundle} | asdict(found.told))
    if found.bundle is not None:
        print(found.bundle)


def _tell(told: "Told") -> None:
    note(f"{told.train} pairs to learn from, {told.held} held out.")
    odd = {**told.left_out, **told.clashes, "unusable": told.rejected}
    if any(odd.values()):
        note("Left out: " + ", ".join(f"{count} {name}" for name, count in odd.items() if count) + ".")

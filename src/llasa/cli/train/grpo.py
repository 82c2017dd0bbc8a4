"""`llasa train grpo`: a language model is rewarded for speech that the judge likes, as a recipe says."""

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
    "llasa train grpo recipes/grpo/starter.toml --set prompts=lines.txt --out run --dry-run",
    "llasa train grpo recipes/grpo/starter.toml --set prompts=lines.txt --out run",
    "llasa train grpo recipe.toml --set trainer.learning_rate=1e-6 --set trainer.max_steps=200",
    "torchrun --nproc-per-node 8 -m llasa.cli train grpo recipe.toml",
    'llasa say "Hello there." --bundle run/bundle',
)


def grpo(
    recipe: Annotated[Path, typer.Argument(help="A TOML file; recipes/grpo has examples.")],
    settings: SetOption = None,
    out: OutOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only look at the recipe, the prompts and the judge.")
    ] = False,
    threads: ThreadsOption = None,
    changed_ok: ChangedOption = False,
    json: JsonOption = False,
) -> None:
    """Improve a language model that speaks: it draws groups of candidates, and the better ones are learnt.

    The [judge] of the recipe is the one of `llasa say --effort`. Run the same command again and a stopped run
    goes on. OUT/bundle is the result; OUT/metrics.jsonl and rollouts.jsonl tell of the run, OUT/samples what
    it said. Texts that cannot be said, and a judge that cannot judge them, are refused before it begins.
    """
    from llasa.train.grpo import read_recipe, train

    use_threads(threads)
    found = train(read_recipe(recipe, settings_of(settings, out)), dry_run, changed_ok)
    if not found.first:
        return  # under torchrun one process speaks
    if json:
        return emit({"output": found.bundle, "prompts": found.prompts, "steps": found.steps})
    if found.bundle is None:
        return note(f"{found.prompts} texts, {found.steps} steps: all parts fit.")
    print(found.bundle)

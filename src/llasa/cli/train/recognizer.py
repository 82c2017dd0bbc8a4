"""`llasa train recognizer`: a small CTC recogniser from speech with its texts, as a recipe says."""

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
    "llasa train recognizer recipes/starter/recognizer-a.toml --set data.0.path=speech --out my-ears",
    "llasa train recognizer recipe.toml --set text=letters --set steps=2000",
    "llasa codec check recordings --recognizer ctc:my-ears/recognizer",
)


def recognizer(
    recipe: Annotated[Path, typer.Argument(help="A TOML file; recipes/starter has examples.")],
    settings: SetOption = None,
    out: OutOption = None,
    threads: ThreadsOption = None,
    changed_ok: ChangedOption = False,
    json: JsonOption = False,
) -> None:
    """Train a recogniser of phones or letters, on speech and on its copies through a codec.

    Texts are held out, and the token and word errors on them told for originals and copies. Run the same
    command again and a stopped run goes on. OUT/recognizer is the result, loaded as ctc:OUT/recognizer. Under
    torchrun each process draws batches of its own.
    """
    from llasa.train.recognizer.recipe import read
    from llasa.train.recognizer.run import train

    use_threads(threads)
    wanted = read(recipe, settings_of(settings, out))
    measures = train(wanted, changed_ok)
    if measures is None:
        return
    result = Path(wanted.out) / "recognizer"
    if json:
        return emit({"output": result} | dict(measures))
    told = (f"{name[5:].replace('_', ' ')} {value:.1%}" for name, value in measures.items())
    note(f"errors on held-out texts: {', '.join(told)}")
    print(result)

"""`llasa train recognizer`: a small CTC recogniser from speech with its texts, as a recipe says."""

from json import dumps
from pathlib import Path
from typing import Annotated

import typer

from llasa.cli.terminal import JsonOption, emit, examples, note

EPILOG = examples(
    "llasa train recognizer recipes/starter/recognizer-a.toml --set data.0.path=speech --out my-ears",
    "llasa train recognizer recipe.toml --set text=letters --set steps=2000",
    "llasa codec check recordings --recognizer ctc:my-ears/recognizer",
)


def recognizer(
    recipe: Annotated[Path, typer.Argument(help="A TOML file; recipes/starter has examples.")],
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="KEY=VALUE, over what the recipe says; repeatable.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder of the run, over `out`.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of one CPU operation.")] = None,
    changed_ok: Annotated[
        bool, typer.Option("--changed-ok", help="Go on although recipe or data have changed.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Train a recogniser of phones or letters, on speech and on its copies through a codec.

    Texts are held out, and the token and word errors on them told for originals and copies. Run the same
    command again and a stopped run goes on. OUT/recognizer is the result, loaded as ctc:OUT/recognizer. Under
    torchrun each process draws batches of its own.
    """
    import torch

    from llasa.train.recognizer.recipe import read
    from llasa.train.recognizer.run import train

    if threads:
        torch.set_num_threads(threads)
    wanted = read(recipe, [*(settings or ()), *([f"out={dumps(str(out))}"] if out else [])])
    measures = train(wanted, changed_ok)
    if measures is None:
        return
    result = Path(wanted.out) / "recognizer"
    if json:
        return emit({"output": result} | dict(measures))
    told = (f"{name[5:].replace('_', ' ')} {value:.1%}" for name, value in measures.items())
    note(f"errors on held-out texts: {', '.join(told)}")
    print(result)

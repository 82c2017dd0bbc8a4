"""`llasa train codec`: a speech codec from recordings, as a recipe says."""

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
    "llasa train codec recipes/codec/compact.toml --set data.0.path=recordings --out my-codec",
    "llasa train codec recipe.toml --set stages.vocoder.steps=500 --set report.recognizer=''",
    "llasa codec check recordings --codec my-codec/codec",
)


def codec(
    recipe: Annotated[Path, typer.Argument(help="A TOML file; recipes/codec has examples.")],
    settings: SetOption = None,
    out: OutOption = None,
    threads: ThreadsOption = None,
    changed_ok: ChangedOption = False,
    json: JsonOption = False,
) -> None:
    """Train a codec: its stages in order, with what a round trip leaves of held-out speech on the way.

    Run the same command again and a stopped run goes on. OUT/codec is the result, OUT/report.json and
    report.png say how good it is, OUT/samples and OUT/tensorboard hold what was heard meanwhile. Under
    torchrun each process draws crops of its own.
    """
    from llasa.train.codec.recipe import read
    from llasa.train.codec.roundtrip import line
    from llasa.train.codec.run import train

    use_threads(threads)
    told = read(recipe, settings_of(settings, out))
    found = train(told, changed_ok)
    if found is None:
        return
    result = Path(told.out) / "codec"
    if json:
        return emit({"output": result, "codec": found.codec} | found.measures)
    note(f"{found.codec}, {found.measures['clips']:.0f} held-out clips: {line(found.measures)}")
    print(result)

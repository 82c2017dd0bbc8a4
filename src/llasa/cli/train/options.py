"""What the verbs of `llasa train` share: their options, and how those are put over a recipe."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="KEY=VALUE, over what the recipe says; repeatable.")
]
OutOption = Annotated[Path | None, typer.Option("--out", "-o", help="Folder of the run, over `out`.")]
ThreadsOption = Annotated[int | None, typer.Option(min=1, help="Threads of one CPU operation.")]
ChangedOption = Annotated[
    bool, typer.Option("--changed-ok", help="Go on although recipe or data have changed.")
]


def settings_of(settings: Sequence[str] | None, out: Path | None) -> list[str]:
    """Return the settings that go over a recipe, with the folder of the run among them."""
    from llasa.config import literal

    return [*(settings or ()), *([f"out={literal(str(out))}"] if out else [])]


def use_threads(threads: int | None) -> None:
    """Let an operation on the CPU use so many threads; as many as PyTorch likes if None."""
    import torch

    if threads:
        torch.set_num_threads(threads)

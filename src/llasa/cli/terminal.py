"""What the verbs share: options, results on standard output, messages and progress on standard error."""

import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Protocol, TypeVar

import typer

BundleOption = Annotated[str, typer.Option(help="'starter' (inside the package), a folder, or a Hub id.")]
CodecOption = Annotated[str | None, typer.Option(help="For a model without one: a codec's folder or Hub id.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]


class Numbered(Protocol):
    """A piece of work done: which of how many, from 1."""

    @property
    def number(self) -> int: ...
    @property
    def total(self) -> int: ...


Piece = TypeVar("Piece", bound=Numbered)


def emit(result: Mapping[str, object]) -> None:
    """Print a result as one JSON object."""
    print(json.dumps(result, indent=2, ensure_ascii=False, default=str))


def note(message: str) -> None:
    """Tell a person something that is not the result."""
    print(message, file=sys.stderr)


def quieten() -> None:
    """Switch off the progress bars of the libraries that load models, before they are imported."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def tracked(pieces: Iterable[Piece], doing: str) -> Iterator[Piece]:
    """Yield the pieces of a longer work, with a progress bar if a person is watching."""
    if not sys.stderr.isatty():
        yield from pieces
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(doing, total=None)
        for piece in pieces:
            bar.update(task, completed=piece.number, total=piece.total)
            yield piece


def examples(*lines: str) -> str:
    """Return the epilog of a help text; typer keeps only blank lines."""
    return "\n\n".join(("Examples:", *lines))

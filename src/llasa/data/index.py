"""The index of a prepared folder: one line a complete shard, written last, and a line that ends it.

What no line names does not exist. A last line without its end is a killed writer's and does not count.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ValidationError

from llasa.config import STRICT
from llasa.errors import BundleError
from llasa.weights import sha256

NAME = "index.jsonl"

Split = Literal["train", "heldout"]


class File(BaseModel):
    """A file of a shard: its rows of one split."""

    model_config = STRICT
    name: str
    split: Split
    sha256: str
    rows: int
    bytes: int


class Entry(BaseModel):
    """A complete shard.

    rows: of the source it covers, of which `kept` are in its files and `rejected` are not.
    speech_s: seconds its codes last. rejects_end: bytes of `rejects.jsonl` that tell of it and those before.
    """

    model_config = STRICT
    shard: int
    rows: int
    kept: int
    rejected: int
    speech_s: float
    rejects_end: int
    files: list[File]

    def line(self) -> bytes:
        """Return it as a line of the index."""
        return self.model_dump_json().encode() + b"\n"


class _End(BaseModel):
    model_config = STRICT
    shards: int


@dataclass(frozen=True)
class Index:
    """What is in a folder.

    entries: in order. whole: all of the source is there. end: bytes of the file that count.
    """

    entries: Sequence[Entry] = ()
    whole: bool = False
    end: int = 0


def last_line(shards: int) -> bytes:
    """Return the line that ends an index of so many shards."""
    return json.dumps({"shards": shards}).encode() + b"\n"


def load(folder: Path) -> Index:
    """Return the index of a folder; an empty one if there is none.

    Raises:
        BundleError: a line is damaged.
    """
    path = folder / NAME
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return Index()
    end = data.rfind(b"\n") + 1
    lines = data[:end].splitlines()
    try:
        whole = bool(lines) and lines[-1].startswith(b'{"shards"')
        entries = [Entry.model_validate_json(line) for line in lines[: len(lines) - whole]]
        ordered = [entry.shard for entry in entries] == list(range(len(entries)))
        if not ordered or (whole and _End.model_validate_json(lines[-1]).shards != len(entries)):
            raise ValueError("shards are missing or double")
    except (ValidationError, ValueError) as error:
        found = str(error).splitlines()[0]
        raise BundleError(
            f"Reading '{path}': it is damaged ({found}). Prepare into an empty folder."
        ) from error
    return Index(entries, whole, end)


def damage(folder: Path, file: File) -> str:
    """Return what is wrong with a file, or nothing if its bytes are those that were written."""
    path = folder / file.name
    try:
        size = path.stat().st_size
        if size != file.bytes:
            return f"it has {size} of {file.bytes} bytes"
        found = sha256([path])
    except OSError as error:
        return error.strerror or str(error)
    return "" if found == file.sha256 else f"its SHA-256 is {found[:12]}..., not {file.sha256[:12]}..."

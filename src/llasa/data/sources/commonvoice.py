"""Common Voice: tab-separated tables beside a folder `clips`."""

from functools import partial
from pathlib import Path

from llasa.core import Clip
from llasa.data.sources.fields import Asked, Fields, clip
from llasa.data.sources.lines import Rows, each, table
from llasa.data.sources.look import Look, first_lines

_SPLITS = {"train.tsv": "train", "dev.tsv": "dev", "test.tsv": "test"}


def find(look: Look) -> list[Path]:
    """Return the tables of the three splits, else the validated one, else the one that was named."""
    tables = [path for path in look.ending(".tsv") if {"path", "sentence"} <= _columns(path)]
    if look.path.is_file():
        return tables
    chosen = [path for path in tables if path.name in _SPLITS]
    return chosen or [path for path in tables if path.name == "validated.tsv"]


def _columns(path: Path) -> set[str]:
    return {name for line in first_lines(path, 1) for name in line.split("\t")}


def read(asked: Asked) -> Rows:
    """Yield the rows of the tables; a clip's id is its file's name."""
    for path in asked.files:
        make = partial(_row, asked, path.parent / "clips", _SPLITS.get(path.name, ""))
        yield from each(table(path, asked.named(path), "\t"), make)


def _row(asked: Asked, clips: Path, split: str, place: str, fields: Fields) -> Clip:
    return clip(asked, clips, {**fields, "id": Path(fields.get("path", "")).stem}, split)

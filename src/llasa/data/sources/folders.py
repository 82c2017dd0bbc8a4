"""Folders of sounds: with a table of names (Hugging Face), with a text beside each (fish), or alone."""

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from llasa.core import Clip
from llasa.data.rejects import BadClip
from llasa.data.sources import jsonl
from llasa.data.sources.fields import Asked, Fields, clip, identity, stem
from llasa.data.sources.lines import MAX_LINE, Rows, each, table
from llasa.data.sources.look import SOUNDS, Look, first_lines, split_of

_TEXTS = (".lab", ".txt")


def find_tables(look: Look) -> list[Path]:
    """Return the tables that have a column `file_name`."""
    tables = [path for path in look.ending(".csv") if "file_name" in _columns(path)]
    return [*tables, *jsonl.find("hf-folder", look)]


def _columns(path: Path) -> list[str]:
    return [name.strip(' "') for line in first_lines(path, 1) for name in line.split(",")]


def read_tables(asked: Asked) -> Rows:
    """Yield the rows of `metadata.csv` or `metadata.jsonl`."""
    for path in asked.files:
        if path.suffix != ".csv":
            yield from jsonl.read(False, Asked(asked.root, [path], asked.language))
            continue
        make = partial(_row, asked, path.parent, split_of(asked.named(path)))
        yield from each(table(path, asked.named(path), ","), make)


def _row(asked: Asked, base: Path, split: str, place: str, fields: Fields) -> Clip:
    return clip(asked, base, fields, split)


def find_lab(look: Look) -> list[Path]:
    """Return the folder if texts in `.lab` or `.txt` stand beside sounds."""
    labels = {path.with_suffix("") for path in look.ending(*_TEXTS)}
    return [look.root] if any(path.with_suffix("") in labels for path in look.ending(*SOUNDS)) else []


def read_lab(asked: Asked) -> Rows:
    """Yield each sound with the text beside it; the folder is the speaker."""
    return _walked(asked, texts=True)


def find_sounds(look: Look) -> list[Path]:
    """Return the folder, or the one file, if there are sounds."""
    return [look.path] if look.ending(*SOUNDS) else []


def read_sounds(asked: Asked) -> Rows:
    """Yield each sound without a text; the folder, if there is one, is the speaker."""
    return _walked(asked, texts=False)


def _walked(asked: Asked, texts: bool) -> Rows:
    for top in asked.files:
        found = ((path.relative_to(asked.root).as_posix(), path) for path in _sounds(top))
        yield from each(found, partial(_found, asked, texts))


def _sounds(top: Path) -> Iterator[Path]:
    if top.is_file():
        yield top
    for folder, below, names in os.walk(top):
        below[:] = sorted(name for name in below if not name.startswith("."))
        kept = sorted(name for name in names if name.lower().endswith(SOUNDS) and not name.startswith("."))
        yield from (Path(folder, name) for name in kept)


def _found(asked: Asked, texts: bool, place: str, path: Path) -> Clip:
    id = identity("", stem(asked.root, path))
    speaker = id.split("/")[-2] if "/" in id else ""
    text = _text(path) if texts else ""
    split = split_of(place.rpartition("/")[0])
    return Clip(id, str(path), text, speaker, asked.language, split=split)


def _text(sound: Path) -> str:
    path = next((one for ending in _TEXTS if (one := sound.with_suffix(ending)).exists()), None)
    if path is None:
        raise BadClip("no-text", f"There is no '{sound.stem}{_TEXTS[0]}' or {_TEXTS[1]} beside it.")
    try:
        with path.open("rb") as file:
            data = file.read(MAX_LINE + 1)
        if len(data) > MAX_LINE:
            raise BadClip("text-too-long", f"'{path.name}' is longer than {MAX_LINE} bytes.")
        return data.decode("utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BadClip("malformed", f"Reading '{path.name}': {error}") from error

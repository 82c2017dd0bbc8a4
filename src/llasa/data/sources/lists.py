"""Lists with `|` between columns: LJSpeech, Piper and VITS, F5."""

import os
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from llasa.core import Clip
from llasa.data.places import confined
from llasa.data.rejects import BadClip
from llasa.data.sources.fields import Asked, clip
from llasa.data.sources.lines import Rows, each, lines, table
from llasa.data.sources.look import SOUNDS, Look, first_lines, split_of

_LISTS = (".csv", ".txt", ".list")
_FOLDERS = ("wavs", "wav", "")


def find_ljspeech(look: Look) -> list[Path]:
    """Return lists of ids with a folder of sounds beside them, of several only `metadata.csv`."""
    found = [path for path in _piped(look) if _shape(path) == "ljspeech" and _has_folder(path.parent)]
    return [path for path in found if path.name == "metadata.csv"] or found


def find_piper(look: Look) -> list[Path]:
    """Return lists that begin with files, or with ids and short names of speakers."""
    return [path for path in _piped(look) if _shape(path) == "piper"]


def find_f5(look: Look) -> list[Path]:
    """Return lists with a first line that names the columns."""
    return [path for path in _piped(look) if _shape(path) == "f5"]


def _piped(look: Look) -> list[Path]:
    return [path for path in look.ending(*_LISTS) if _most(["|" in line for line in first_lines(path)])]


def _most(answers: Sequence[bool]) -> bool:
    """Return whether more than half are true: a broken row hides no format."""
    return 2 * sum(answers) > len(answers)


def _shape(path: Path) -> str:
    rows = [line.split("|") for line in first_lines(path)]
    if {"audio_file", "text"} <= {cell.strip() for cell in rows[0]}:
        return "f5"
    if _most([row[0].strip().lower().endswith(SOUNDS) for row in rows]):
        return "piper"
    # LJSpeech has the text as written in its second column, Piper a speaker.
    full = [row for row in rows if len(row) == 3]
    named = all(row[1].strip() and " " not in row[1].strip() and len(row[1]) < len(row[2]) for row in full)
    return "piper" if full and named else "ljspeech"


def _has_folder(base: Path) -> bool:
    return any((base / name).is_dir() for name in _FOLDERS if name)


def read_ljspeech(asked: Asked) -> Rows:
    """Yield rows of `id|text` or `id|text as written|text read out`; the last is taken if there is one."""
    return _listed(asked, speakers=False)


def read_piper(asked: Asked) -> Rows:
    """Yield rows of `file|text` or `file|speaker|text`."""
    return _listed(asked, speakers=True)


def _listed(asked: Asked, speakers: bool) -> Rows:
    for path in asked.files:
        usual = Counter(line.count("|") + 1 for line in first_lines(path)).most_common(1)
        columns = usual[0][0] if usual else 2
        make = partial(_row, asked, path, columns, speakers)
        yield from each(lines(path, asked.named(path)), make)


def _row(asked: Asked, path: Path, columns: int, speakers: bool, place: str, line: str) -> Clip:
    cells = [cell.strip() for cell in line.split("|")]
    if len(cells) != columns or not cells[0]:
        raise BadClip(
            "malformed", f"It has {len(cells)} columns and the name {cells[0]!r}, others {columns}."
        )
    text = cells[-1] or ("" if speakers else cells[1])
    speaker = cells[1] if speakers and columns > 2 else ""
    fields = {"audio": _sound(asked.root, path.parent, cells[0]), "text": text, "speaker": speaker}
    return clip(asked, path.parent, fields, split_of(asked.named(path)))


def _sound(root: Path, base: Path, name: str) -> str:
    """Return the file of a sound, relative to the list; the likeliest name if there is none."""
    if os.path.isabs(name):
        return name  # refused further on
    known = name.lower().endswith(SOUNDS)
    names = [name] if known else [name + suffix for suffix in SOUNDS]
    tried = [f"{folder}/{one}" if folder else one for folder in _FOLDERS for one in names]
    if known:
        tried = [*tried[-1:], *tried[:-1]]  # a file's name is mostly complete
    inside = (one for one in tried if (path := confined(root, base, one)) and path.is_file())
    return next(inside, tried[0])


def read_f5(asked: Asked) -> Rows:
    """Yield rows under the columns `audio_file` and `text`; absolute names are taken as they are."""
    for path in asked.files:
        split = split_of(asked.named(path))
        make = partial(_titled, asked, path.parent, split)
        yield from each(table(path, asked.named(path), "|"), make)


def _titled(asked: Asked, base: Path, split: str, place: str, fields: dict) -> Clip:
    return clip(asked, base, fields, split, absolute=True)

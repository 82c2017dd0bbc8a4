"""What there is to see of a data set before it is read: names and first lines, both bounded."""

import gzip
import json
import os
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from llasa.errors import ConfigError

UTF16 = (b"\xff\xfe", b"\xfe\xff")
SOUNDS = (".wav", ".flac", ".mp3", ".ogg", ".opus")
_DEPTH = 3  # folders below the named one
_MANY = (*SOUNDS, ".lab", ".txt", ".json")  # there may be one a clip: a thousand of each tell enough
_SNIFFED = 1 << 20  # bytes
_SPLIT = re.compile(r"(?<![a-z])(train|dev|validation|valid|val|eval|test)(?![a-z])")
_AS = {"train": "train", "test": "test"}  # the others are `dev`


@dataclass(frozen=True)
class Look:
    """A path the user named. root: the folder that names in manifests may not leave."""

    path: Path
    root: Path

    @classmethod
    def at(cls, path: str | os.PathLike[str]) -> "Look":
        """Return a look at a file or folder.

        Raises:
            ConfigError: there is no such path.
        """
        path = Path(path)
        if not path.exists():
            found = "there is no such file or folder"
            raise ConfigError(f"Opening the data set '{path}': {found}. Check the path.")
        return cls(path, path if path.is_dir() else path.parent)

    @cached_property
    def files(self) -> tuple[Path, ...]:
        """The file itself, or the files in the folder, nearest first, of the many kinds only the first."""
        if not self.path.is_dir():
            return (self.path,)
        found = Counter[str]()
        kept: list[Path] = []
        for path in _near(self.path):
            ending = path.suffix.lower()
            found[ending] += 1
            if ending not in _MANY or found[ending] <= 1000:
                kept.append(path)
        return tuple(kept)

    def ending(self, *suffixes: str) -> list[Path]:
        """Return the files with one of these endings."""
        return [path for path in self.files if path.name.lower().endswith(suffixes)]

    def named(self, path: Path) -> str:
        """Return a path below the root as messages say it."""
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else str(path)


def _near(folder: Path) -> Iterator[Path]:
    level = [folder]
    for _ in range(_DEPTH + 1):
        below: list[Path] = []
        for place in level:
            try:
                with os.scandir(place) as entries:
                    found = sorted((entry for entry in entries if entry.name[0] != "."), key=lambda e: e.name)
            except OSError as error:
                found = f"the system says: {error.strerror}"
                raise ConfigError(
                    f"Opening the data set '{place}': {found}. Make it readable first."
                ) from error
            yield from (Path(entry.path) for entry in found if entry.is_file())
            below += [Path(entry.path) for entry in found if entry.is_dir(follow_symlinks=False)]
        level = below


def first_lines(path: Path, most: int = 20) -> list[str]:
    """Return the first non-empty lines of a text file, the last of them perhaps cut; [] of other files."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            head = file.read(_SNIFFED)
    except (OSError, EOFError, zlib.error):
        return []
    if head.startswith(UTF16):
        return []
    lines = head.decode("utf-8-sig", "replace").splitlines()
    whole = lines[:-1] if len(head) == _SNIFFED and len(lines) > 1 else lines
    return [line for line in whole if line.strip()][:most]


def first_object(path: Path) -> dict[str, object]:
    """Return the first object of a JSON-lines file, {} of other files."""
    for line in first_lines(path):
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(found, dict):
            return found
    return {}


def split_of(name: str) -> str:
    """Return `train`, `dev` or `test` if a name, or a folder in it, says so, else ''."""
    found = (_SPLIT.search(part.lower()) for part in reversed(name.split("/")))
    word = next((match[1] for match in found if match), "")
    return _AS.get(word, "dev" if word else "")

"""Files that survive a kill and a power cut, and an index of them that is written last.

What an index lists is whole; where there is none, or not the one that was written, there is nothing. Knows no
model and no trainer.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def sync(path: Path) -> None:
    """Return when the bytes of a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def move(source: Path, target: Path) -> None:
    """Rename, and return when the new name is on the disk."""
    os.replace(source, target)
    sync(target.parent)


def write_index(path: Path, body: Mapping[str, Any]) -> None:
    """Write a JSON object that can tell whether it is still as it was written; whole or not there."""
    text = json.dumps(body, sort_keys=True)
    draft = path.with_name(f".{path.name}.part")
    with open(draft, "w", encoding="utf-8") as file:
        json.dump(json.loads(text) | {"seal": _seal(text)}, file)
        file.flush()
        os.fsync(file.fileno())
    move(draft, path)


def read_index(path: Path) -> dict[str, Any] | None:
    """Return what `write_index` wrote, or None if it is missing or not the same any more."""
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
        seal = body.pop("seal", None)
    except (OSError, ValueError, AttributeError, TypeError):
        return None
    # The first indices had no seal; a flipped bit that hides one has spent itself on that.
    return body if seal in (None, _seal(json.dumps(body, sort_keys=True))) else None


def _seal(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()

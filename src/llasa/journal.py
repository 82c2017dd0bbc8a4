"""Files of one JSON row a line, that grow while a run goes on. Must not know: what rows are of."""

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from llasa.audio import replace_file
from llasa.core import plain
from llasa.errors import ConfigError


def append(path: Path, rows: Iterable[Mapping[str, Any]], durable: bool = False) -> None:
    """Write rows behind those that are there; a number that is not finite becomes null.

    durable: return only once they are on the disk. Raises ConfigError if they cannot be written.
    """
    text = "".join(json.dumps(plain(row), ensure_ascii=False) + "\n" for row in rows)
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(text)
            if durable:
                file.flush()
                os.fsync(file.fileno())
    except OSError as error:
        todo = f"Free {len(text.encode())} bytes there and run the same command again"
        raise ConfigError(f"Writing '{path}': the system says: {error.strerror}. {todo}.") from error


def read(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a file that may not be there, without a last line that a killed run only began."""
    lines = path.read_text(encoding="utf-8").split("\n") if path.is_file() else []
    return [json.loads(line) for line in lines[:-1]]


def mended(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a file that may not be there, and cut off what a killed run only began."""
    data = path.read_bytes() if path.is_file() else b""
    if not data.endswith(b"\n") and data:
        replace_file(path, data[: data.rfind(b"\n") + 1])
    return read(path)


def keep_until(path: Path, step: int) -> None:
    """Take out what a killed run measured after the step it goes on from, and a line that it only began."""
    if path.is_file():
        # Not `splitlines`, which also cuts at signs that a text may hold.
        kept = [line for line in path.read_text("utf-8").split("\n") if _step(line) <= step]
        replace_file(path, "".join(f"{line}\n" for line in kept).encode())


def _step(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return math.inf

"""Manifests of one row a line: bounded, UTF-8, and each line that is not gives a reject instead of an end."""

import csv
import gzip
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

from llasa.core import Clip
from llasa.data.rejects import BadClip, Reject
from llasa.data.sources.look import UTF16
from llasa.errors import InputError

MAX_LINE = 4 << 20  # bytes
Line = tuple[str, str]  # place, text

Value = TypeVar("Value")
Made = TypeVar("Made")


def lines(path: Path, name: str) -> Iterator[Line | Reject]:
    """Yield the non-empty lines of a text file, perhaps gzipped, each with its place `NAME:NUMBER`.

    Raises:
        InputError: it cannot be opened, or is UTF-16.
    """
    try:
        file = cast(BinaryIO, gzip.open(path) if path.suffix == ".gz" else path.open("rb"))  # noqa: SIM115
    except OSError as error:
        raise InputError(f"Reading '{path}': the system says: {error.strerror}. Check the file.") from error
    with file:
        for number, data in _numbered(file, name):
            if isinstance(data, Reject):
                yield data
                continue
            if number == 1 and data.startswith(UTF16):
                raise InputError(f"Reading '{path}': it is UTF-16. Save it as UTF-8.")
            bare = data.removeprefix(b"\xef\xbb\xbf") if number == 1 else data
            yield from _decoded(bare, f"{name}:{number}")


def _numbered(file: BinaryIO, name: str) -> Iterator[tuple[int, bytes | Reject]]:
    number = 0
    try:
        while data := file.readline(MAX_LINE):
            number += 1
            if len(data) == MAX_LINE and not data.endswith(b"\n"):
                while (rest := file.readline(MAX_LINE)) and not rest.endswith(b"\n"):
                    pass
                found = f"The line is longer than {MAX_LINE} bytes."
                yield number, Reject("", f"{name}:{number}", "text-too-long", found)
                continue
            yield number, data
    except (OSError, EOFError, zlib.error) as error:  # gzip's own, mostly
        found = f"The file is damaged from here on: {error}"
        yield number + 1, Reject("", f"{name}:{number + 1}", "unreadable", found)


def _decoded(data: bytes, place: str) -> Iterator[Line | Reject]:
    try:
        text = data.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        found = f"Byte {error.start + 1} of the line is no UTF-8"
        yield Reject("", place, "malformed", f"{found}. Save the file as UTF-8.")
        return
    if text.strip():
        yield place, text


def objects(path: Path, name: str) -> Iterator[tuple[str, dict[str, Any]] | Reject]:
    """Yield the objects of a JSON-lines file, each with its place."""
    yield from each(lines(path, name), lambda place, text: (place, _object(text)))


def _object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadClip("malformed", f"It is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise BadClip("malformed", f"Found a {type(found).__name__}, expected an object.")
    return found


def table(path: Path, name: str, delimiter: str) -> Iterator[tuple[str, dict[str, Any]] | Reject]:
    """Yield the rows of a table by the names in its first line. A comma knows quotes, others do not."""
    columns: Sequence[str] = ()
    for row in lines(path, name):
        if isinstance(row, Reject):
            yield row
        elif not columns:
            columns = [column.strip() for column in _cells(row[1], delimiter)]
        else:
            yield from each([row], partial(_row, delimiter, columns))


def _row(delimiter: str, columns: Sequence[str], place: str, text: str) -> tuple[str, dict[str, Any]]:
    cells = _cells(text, delimiter)
    if len(cells) != len(columns):
        found = f"It has {len(cells)} columns, the first line {len(columns)}."
        raise BadClip("malformed", f"{found} A row is one line; '{delimiter}' in a text needs quotes.")
    return place, dict(zip(columns, cells, strict=True))


def _cells(text: str, delimiter: str) -> list[str]:
    if delimiter != ",":
        return text.split(delimiter)
    try:
        return next(csv.reader([text], strict=True), [])
    except csv.Error as error:
        raise BadClip("malformed", f"It is no line of comma-separated values: {error}.") from error


def each(
    rows: Iterable[tuple[str, Value] | Reject], make: Callable[[str, Value], Made]
) -> Iterator[Made | Reject]:
    """Yield what is made of each row; one that cannot be made is its reject, and so is a reject."""
    for row in rows:
        if isinstance(row, Reject):
            yield row
            continue
        try:
            yield make(*row)
        except BadClip as error:
            yield Reject("", row[0], error.reason, str(error))


Rows = Iterator[Clip | Reject]

"""Where the bytes of a sound are: a file, a part of an archive, a row of a table. Knows no audio format.

A place is one string, so that a clip stays small: `FILE`, `FILE#tar:OFFSET+SIZE` (a member of an uncompressed
tar), or `FILE#row:GROUP.INDEX` (a row of a Parquet row group, or of a record batch in an Arrow file).
"""

import io
import os
import re
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO

from llasa.data.rejects import BadClip
from llasa.errors import MissingExtra

MAX_BYTES = 200_000_000  # of a sound inside an archive, which is read whole
_INSIDE = re.compile(r"(.+)#(?:tar:(\d{1,18})\+(\d{1,18})|row:(\d{1,9})\.(\d{1,9}))", re.DOTALL)
_BATCH = 16  # rows of sound decoded at a time


def in_tar(path: Path, offset: int, size: int) -> str:
    """Return the place of a member of a tar: where its bytes begin, and how many there are."""
    return f"{path}#tar:{offset}+{size}"


def in_table(path: Path, group: int, index: int) -> str:
    """Return the place of a row: number of the row group or record batch, and of the row in it."""
    return f"{path}#row:{group}.{index}"


def confined(root: Path, base: Path, name: str, absolute: bool = False) -> Path | None:
    """Return the path that `name` means beside `base`, or None if it leads out of `root`.

    Args:
        absolute: take an absolute name as it is, wherever it leads.
    """
    if not name or "\0" in name:
        return None
    if os.path.isabs(name) and absolute:
        return Path(name)
    path = Path(os.path.normpath(base / name))
    return path if path.is_relative_to(os.path.normpath(root)) else None


def opened(place: str) -> str | BinaryIO:
    """Return the file that holds only this sound, or its bytes as an open file.

    Raises:
        BadClip: nothing can be read there.
        MissingExtra: it is in a table, and pyarrow is not installed.
    """
    inside = _INSIDE.fullmatch(place)
    if inside is None:
        return place
    try:
        if inside[2] is not None:
            return _named(_slice(inside[1], int(inside[2]), int(inside[3])), place)
        found = _rows(inside[1], int(inside[4])).cell(int(inside[5]))
    except (OSError, ValueError, IndexError) as error:  # pyarrow's own are of these
        raise _bad(place, "unreadable", f"found {error}. Copy the file again.") from error
    return _sound_in(found, inside[1], place)


def sound_column(schema: Any) -> str | None:
    """Return the column of a pyarrow schema that holds sound as Hugging Face datasets keep it, or None."""
    import pyarrow

    nested = [field.name for field in schema if pyarrow.types.is_struct(field.type) and _is_sound(field.type)]
    return "audio" if "audio" in nested else nested[0] if nested else None


def _is_sound(kind: Any) -> bool:
    names = {kind.field(index).name for index in range(kind.num_fields)}
    return {"bytes", "path"} <= names or {"array", "sampling_rate"} <= names


def _slice(path: str, offset: int, size: int) -> bytes:
    if size > MAX_BYTES:
        raise _bad(path, "too-long", f"found {size} bytes of one sound. Cut it to at most {MAX_BYTES} bytes.")
    with open(path, "rb") as file:
        file.seek(offset)
        return file.read(size)


def _sound_in(cell: Any, path: str, place: str) -> str | BinaryIO:
    """Return what a cell holds: the bytes of a file, samples and their rate, or the path of a file."""
    cell = cell or {}
    if cell.get("bytes") is not None:
        return _named(cell["bytes"], place)
    if cell.get("array") is not None:
        return _named(_wav(cell["array"], cell.get("sampling_rate") or 0, place), place)
    folder = Path(path).parent
    beside = confined(folder, folder, cell.get("path") or "")
    if beside is None:
        raise _bad(place, "missing", "found neither bytes nor the path of a file. Make the table again.")
    return str(beside)


def _wav(samples: list[float], rate: int, place: str) -> bytes:
    import numpy as np
    import soundfile

    file = io.BytesIO()
    try:
        soundfile.write(file, np.asarray(samples, np.float32), rate, format="WAV", subtype="FLOAT")
    except (RuntimeError, ValueError, TypeError, OverflowError) as error:
        raise _bad(
            place, "bad-rate", f"found samples at {rate} Hz ({error}). Make the table again."
        ) from error
    return file.getvalue()


def _named(data: bytes, place: str) -> BinaryIO:
    file = io.BytesIO(data)
    file.name = place  # what errors say
    return file


def _bad(place: str, reason: Any, found: str) -> BadClip:
    return BadClip(reason, f"Reading audio from '{place}': {found}")


@lru_cache(maxsize=2)
def _rows(path: str, group: int) -> "_Rows":
    return _Rows(path, group)


class _Rows:
    """The sound cells of a row group, read forward in small batches: memory is bounded, order is cheap."""

    def __init__(self, path: str, group: int) -> None:
        self._path, self._group, self._lock = path, group, Lock()
        self._restart()

    def cell(self, index: int) -> Any:
        with self._lock:
            if index < self._first:
                self._restart()
            while index >= self._first + len(self._batch):
                self._next()
            return self._batch[index - self._first].as_py()

    def _next(self) -> None:
        self._first += len(self._batch)
        found = next(self._batches, None)
        if found is None:
            self._restart()
            raise IndexError(f"no such row in group {self._group}")
        self._batch = found

    def _restart(self) -> None:
        self._first, self._batches = 0, cells(self._path, self._group)
        self._batch: Any = ()


def cells(path: str, group: int) -> Any:
    """Yield the sound column of a Parquet row group, or of a record batch of an Arrow file, in pieces.

    Raises:
        OSError, ValueError: the file cannot be read. IndexError: it has no such group or column.
        MissingExtra: pyarrow is not installed.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise MissingExtra("Reading sound from a table", "pyarrow", "train") from error
    if path.endswith(".arrow"):
        batch = arrow(path)[group]
        yield batch.column(_column(batch.schema))
        return
    with parquet.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as file:
        if group >= file.num_row_groups:
            raise IndexError(f"no row group {group}")
        name = _column(file.schema_arrow)
        for batch in file.iter_batches(_BATCH, row_groups=[group], columns=[name]):
            yield pyarrow.RecordBatch.column(batch, 0)


def _column(schema: Any) -> str:
    name = sound_column(schema)
    if name is None:
        raise IndexError("no column of sound")
    return name


@lru_cache(maxsize=2)
def arrow(path: str) -> list[Any]:
    """Return the record batches of an Arrow stream as `datasets` saves it, mapped and not yet read."""
    from pyarrow import ipc, memory_map

    return ipc.open_stream(memory_map(path)).read_all().to_batches()

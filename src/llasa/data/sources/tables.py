"""Hugging Face data sets: Parquet files, or the Arrow files of `save_to_disk`. Sound stays in the tables."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from llasa.core import Clip
from llasa.data.places import arrow, in_table, sound_column
from llasa.data.rejects import Reject
from llasa.data.sources.fields import ID, LANGUAGE, SPEAKER, TEXT, Asked, code, first, identity, label, words
from llasa.data.sources.lines import Rows, each
from llasa.data.sources.look import Look, split_of
from llasa.errors import MissingExtra

_ROWS = 1000  # read at a time, without their sound
_Place = tuple[int, int, dict[str, Any]]  # group, index, fields


def find(look: Look) -> list[Path]:
    """Return the tables that have a column of sound.

    Raises:
        MissingExtra: there are tables, and pyarrow is not installed.
    """
    return [path for path in look.ending(".parquet", ".arrow") if _has_sound(path)]


def _has_sound(path: Path) -> bool:
    try:
        import pyarrow
    except ImportError as error:
        raise MissingExtra("Reading a data set of tables", "pyarrow", "train") from error
    try:
        return sound_column(_schema(path)) is not None
    except (OSError, pyarrow.ArrowException):
        return False


def _schema(path: Path) -> Any:
    from pyarrow import ipc, memory_map, parquet

    return (
        ipc.open_stream(memory_map(str(path))).schema
        if path.suffix == ".arrow"
        else parquet.read_schema(path)
    )


def read(asked: Asked) -> Rows:
    """Yield a clip a row; its id is the row's, or the file's name and the row's number."""
    for path in asked.files:
        name = asked.named(path)
        make = partial(_clip, asked, path, split_of(name))
        yield from each(_rows(path, name), make)


def _rows(path: Path, name: str) -> Iterator[tuple[str, _Place] | Reject]:
    groups, number = _arrow_groups(path) if path.suffix == ".arrow" else _parquet_groups(path), 0
    try:
        for group, first_index, fields in groups:
            for index, row in enumerate(fields, first_index):
                number += 1
                yield f"{name}:{number}", (group, index, row)
    except (OSError, ValueError) as error:  # pyarrow's own are of these
        yield Reject("", f"{name}:{number + 1}", "unreadable", f"The table is damaged from here on: {error}")


def _parquet_groups(path: Path) -> Iterator[tuple[int, int, list[dict[str, Any]]]]:
    from pyarrow import parquet

    with parquet.ParquetFile(path, pre_buffer=False) as file:
        columns = _columns(file.schema_arrow)
        for group in range(file.num_row_groups):
            start = 0
            if not columns:
                yield group, 0, [{}] * file.metadata.row_group(group).num_rows
                continue
            for batch in file.iter_batches(_ROWS, row_groups=[group], columns=columns):
                yield group, start, batch.to_pylist()
                start += batch.num_rows


def _arrow_groups(path: Path) -> Iterator[tuple[int, int, list[dict[str, Any]]]]:
    for group, batch in enumerate(arrow(str(path))):
        columns = _columns(batch.schema)
        yield group, 0, batch.select(columns).to_pylist() if columns else [{}] * batch.num_rows


def _columns(schema: Any) -> list[str]:
    return [name for name in schema.names if name in {*ID, *TEXT, *SPEAKER, *LANGUAGE}]


def _clip(asked: Asked, path: Path, split: str, place: str, found: _Place) -> Clip:
    group, index, fields = found
    return Clip(
        id=identity(first(fields, ID), f"{path.stem}:{place.rpartition(':')[2]}"),
        audio=in_table(path, group, index),
        text=words(first(fields, TEXT)),
        speaker=label(first(fields, SPEAKER)),
        language=code(first(fields, LANGUAGE)) or asked.language,
        split=split,
    )

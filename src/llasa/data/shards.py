"""Shards of codes: Parquet files of rows, each a text, its codes and the code at which each word ends.

Text ids are not stored, so any tokenizer fits. Knows no model. A prepared folder holds shards and their index
(`data/index.py`), which has the hash of each.
"""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, overload

import numpy as np

from llasa.audio import replace_file
from llasa.data import index
from llasa.data.index import Entry, File, Split
from llasa.errors import BundleError, InputError, MissingExtra

try:
    import pyarrow as pa
    import pyarrow.parquet as pq
except ModuleNotFoundError as error:
    raise MissingExtra("Reading and writing shards", "pyarrow", "train") from error

log = logging.getLogger(__name__)

GROUP = 64  # rows that are read together: few, so that any row is cheap to come by
_GROUPS_KEPT, _FILES_KEPT = 1024, 16  # in memory: about 64 MB of rows
_AGAIN = "Make it again with `llasa prepare`."
# Parquet has no 16-bit numbers: in planes of bytes the zeros cost nothing.
_PLANES = {f"{column}.list.element": "BYTE_STREAM_SPLIT" for column in ("codes", "word_ends")}


@dataclass(frozen=True)
class Row:
    """One utterance.

    duration_s: what its codes last. codes: [N]. word_ends: codes [W] before the end of each word as the
    source aligned them, or empty; readers that cut at words compare W with the words they find in `text`.
    """

    id: str
    text: str
    speaker: str
    language: str
    duration_s: float
    codes: Sequence[int]
    word_ends: Sequence[int] = ()


@dataclass(frozen=True)
class Header:
    """What the codes of a shard mean: codec `kind@weights-hash`, codes a second, entries of its codebook."""

    codec: str
    frame_rate: float
    codebook_size: int


def write(path: Path, rows: Sequence[Row], header: Header) -> str:
    """Write rows as a shard, whole or not at all, and return its SHA-256; equal rows give equal bytes.

    Raises:
        InputError: a code is not the codec's. ConfigError: the file cannot be written.
    """
    data = packed(rows, header)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, data)
    return hashlib.sha256(data).hexdigest()


def packed(rows: Sequence[Row], header: Header) -> bytes:
    """Return rows as the bytes of a shard.

    Raises:
        InputError: a code is not of the codec, or does not fit 16 bits, which 65,536 entries do exactly.
    """
    top = min(header.codebook_size, 1 << 16)
    for row in rows:
        if len(row.codes) and not 0 <= min(row.codes) <= max(row.codes) < top:
            found = f"code {max(row.codes, key=abs)}, but codes go from 0 to {top - 1}"
            raise InputError(f"Writing row '{row.id}': found {found}. Use codes of '{header.codec}'.")
    names = ("id", "text", "speaker", "language", "duration_s")
    columns: dict[str, Any] = {name: [getattr(row, name) for row in rows] for name in names}
    columns["n_codes"] = [len(row.codes) for row in rows]  # known without reading codes
    columns["codes"] = _ragged([row.codes for row in rows])
    columns["word_ends"] = _ragged([row.word_ends for row in rows])
    sink = pa.BufferOutputStream()
    pq.write_table(
        pa.Table.from_pydict(columns, _schema(header)), sink, row_group_size=GROUP, compression="zstd",
        use_dictionary=["speaker", "language"],  # pyright: ignore[reportArgumentType]
        column_encoding=_PLANES, write_page_checksum=True,
    )  # fmt: skip
    return sink.getvalue().to_pybytes()


def _schema(header: Header) -> pa.Schema:
    facts = {
        "codec": header.codec,
        "frame_rate": repr(header.frame_rate),
        "codebook_size": str(header.codebook_size),
    }
    strings = [pa.field(name, pa.string(), False) for name in ("id", "text", "speaker", "language")]
    numbers = [pa.field("duration_s", pa.float64(), False), pa.field("n_codes", pa.int32(), False)]
    lists = [pa.field(name, pa.list_(pa.uint16()), False) for name in ("codes", "word_ends")]
    return pa.schema([*strings, *numbers, *lists], facts)


def _ragged(rows: Sequence[Sequence[int]]) -> pa.ListArray:
    flat = [np.asarray(row, np.uint16) for row in rows] or [np.zeros(0, np.uint16)]
    ends = np.cumsum([0, *(len(row) for row in rows)], dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(ends), pa.array(np.concatenate(flat)))


def read(path: Path, codec: str | None = None) -> list[Row]:
    """Return the rows of a shard.

    Args:
        path: of the file.
        codec: the codec its codes must belong to; any if None.

    Raises:
        BundleError: the file is missing or damaged, or its codes belong to another codec.
    """
    with _opened(path) as file:
        _check_codec(path, _header(path, file), codec)
        table = _parsed(path, lambda: file.read(use_threads=False))
    return [_row(table, number) for number in range(table.num_rows)]


def _opened(path: Path) -> pq.ParquetFile:
    return _parsed(path, lambda: pq.ParquetFile(path, page_checksum_verification=True))


def _parsed(path: Path, parse: Any) -> Any:
    try:
        return parse()
    except (OSError, ValueError, KeyError) as error:  # Arrow's errors are of these kinds
        raise BundleError(f"Reading the shard '{path}': {str(error).splitlines()[0]}. {_AGAIN}") from error


def _header(path: Path, file: pq.ParquetFile) -> Header:
    facts = {key.decode(): value.decode() for key, value in (file.schema_arrow.metadata or {}).items()}
    return _parsed(
        path, lambda: Header(facts["codec"], float(facts["frame_rate"]), int(facts["codebook_size"]))
    )


def _check_codec(path: Path, header: Header, codec: str | None) -> None:
    if codec is not None and header.codec != codec:
        raise BundleError(f"Reading '{path}': it is of codec '{header.codec}', not '{codec}'. {_AGAIN}")


def _row(table: pa.Table, number: int) -> Row:
    def cell(name: str) -> Any:
        value = table.column(name)[number]
        return value.values.to_numpy().tolist() if isinstance(value, pa.ListScalar) else value.as_py()

    return Row(*map(cell, ("id", "text", "speaker", "language", "duration_s", "codes", "word_ends")))


class Shards(Sequence[Row]):
    """The rows of one split of a prepared folder, in the order of the source; read when they are asked for.

    header: of all of them. lengths: int32 [rows], codes of each. speakers: of each. digest: changes with any
    row. skipped: names of damaged shards and what is wrong with them, if `skip_bad`.
    """

    def __init__(
        self, folder: str | Path, split: Split = "train", codec: str | None = None, skip_bad: bool = False
    ) -> None:
        """Verify every shard of the split against the index (about 1 s a GB) and take its lengths.

        Args:
            folder: one that `llasa prepare` finished.
            split: `train` or `heldout`; the latter may be empty.
            codec: the codec that the codes must belong to; any if None.
            skip_bad: leave damaged shards out, counted in `skipped`, instead of raising.

        Raises:
            BundleError: no prepared folder, not finished, damaged, or of another codec.
        """
        self.folder, self._given = Path(folder), (folder, split, codec, skip_bad)
        entries = _entries(self.folder)
        files = [file for entry in entries for file in entry.files if file.split == split]
        self.skipped = {file.name: wrong for file in files if (wrong := index.damage(self.folder, file))}
        if self.skipped and not skip_bad:
            raise BundleError(
                f"Reading '{folder}': {_told(self.skipped)}. Copy or make it again, or skip it."
            )
        if self.skipped:
            log.warning("Reading '%s' without damaged shards: %s", folder, _told(self.skipped))
        self._files = [file for file in files if file.name not in self.skipped]
        self.header = self._take_columns(entries, codec)
        told = "".join(f"{file.name} {file.sha256}\n" for file in self._files)
        self.digest = hashlib.sha256(told.encode()).hexdigest()
        self._file = lru_cache(_FILES_KEPT)(self._open)
        self._group = lru_cache(_GROUPS_KEPT)(self._read)

    def _take_columns(self, entries: Sequence[Entry], codec: str | None) -> Header:
        lengths, self.speakers, counts = [np.zeros(0, np.int32)], list[str](), [0]
        self._groups: list[tuple[int, int]] = []
        header = None
        for number, file in enumerate(self._files):
            with _opened(self.folder / file.name) as opened:
                header = _header(self.folder / file.name, opened)
                _check_codec(self.folder, header, codec)
                few = opened.read(["speaker", "n_codes"], use_threads=False)
                groups = opened.num_row_groups
                counts += [opened.metadata.row_group(group).num_rows for group in range(groups)]
            lengths.append(few.column("n_codes").to_numpy().astype(np.int32))
            self.speakers += few.column("speaker").to_pylist()
            self._groups += [(number, group) for group in range(groups)]
        self.lengths, self._starts = np.concatenate(lengths), np.cumsum(counts)
        return header or self._any_header(entries, codec)

    def _any_header(self, entries: Sequence[Entry], codec: str | None) -> Header:
        """Return what the other split's shards say, as this one has none."""
        for file in (file for entry in entries for file in entry.files):
            if file.name not in self.skipped:
                with _opened(self.folder / file.name) as opened:
                    header = _header(self.folder / file.name, opened)
                _check_codec(self.folder, header, codec)
                return header
        raise BundleError(f"Reading '{self.folder}': it has no rows that can be read. {_AGAIN}")

    def __reduce__(self) -> tuple[type["Shards"], tuple[object, ...]]:
        return Shards, self._given

    def __len__(self) -> int:
        return len(self.lengths)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        place = int(index) + len(self) * (index < 0)
        if not 0 <= place < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        group = int(np.searchsorted(self._starts, place, "right")) - 1
        return _row(self._group(group), place - int(self._starts[group]))

    def _open(self, number: int) -> pq.ParquetFile:
        return _opened(self.folder / self._files[number].name)

    def _read(self, group: int) -> pa.Table:
        number, inside = self._groups[group]
        path = self.folder / self._files[number].name
        return _parsed(path, lambda: self._file(number).read_row_group(inside, use_threads=False))


def _entries(folder: Path) -> Sequence[Entry]:
    found = index.load(folder)
    if not found.end:
        raise BundleError(
            f"Reading '{folder}': there is no {index.NAME}. Name a folder that `llasa prepare` finished."
        )
    if not found.whole:
        done = f"{len(found.entries)} shards are there, but not all"
        raise BundleError(f"Reading '{folder}': {done}. Run the same `llasa prepare` again to go on.")
    return found.entries


def _told(bad: dict[str, str]) -> str:
    told = [f"shard '{name}' is damaged ({wrong})" for name, wrong in list(bad.items())[:5]]
    return ", ".join([*told, f"and {len(bad) - 5} more"] if len(bad) > 5 else told)


def save(folder: Path, rows: Mapping[Split, Sequence[Row]], header: Header, shard_rows: int = 4096) -> None:
    """Write rows that are codes already as a whole prepared folder, shards of `shard_rows` rows each.

    Raises:
        BundleError: the folder has an index already.
    """
    if (folder / index.NAME).exists():
        raise BundleError(f"Writing '{folder}': it has an {index.NAME}. Name another folder.")
    folder.mkdir(parents=True, exist_ok=True)
    shards = -(-max(map(len, rows.values())) // shard_rows)
    lines = list[bytes]()
    for shard in range(shards):
        parts: dict[Split, Sequence[Row]] = {
            split: some[shard * shard_rows : (shard + 1) * shard_rows] for split, some in rows.items()
        }
        lines.append(entry(folder, shard, parts, header).line())
    replace_file(folder / index.NAME, b"".join([*lines, index.last_line(shards)]))


def entry(
    folder: Path,
    shard: int,
    rows: Mapping[Split, Sequence[Row]],
    header: Header,
    rejects: int = 0,
    end: int = 0,
) -> Entry:
    """Write a shard's rows, a file for each split that has some, and return its line of the index.

    Args:
        folder: where. shard: its number. rows: of each split.
        header: of the codes. rejects: rows that are not used. end: see `Entry.rejects_end`.
    """
    files = list[File]()
    for split, some in rows.items():
        if some:
            path = folder / f"{split}-{shard:05}.parquet"
            digest = write(path, some, header)
            files.append(
                File(name=path.name, split=split, sha256=digest, rows=len(some), bytes=path.stat().st_size)
            )
    kept, speech_s = (
        sum(map(len, rows.values())),
        sum(row.duration_s for some in rows.values() for row in some),
    )
    return Entry(
        shard=shard, rows=kept + rejects, kept=kept, rejected=rejects, speech_s=round(speech_s, 3),
        rejects_end=end, files=files,
    )  # fmt: skip

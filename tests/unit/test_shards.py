"""Shards of codes come back as they were written, from any place, and damage is noticed before use."""

import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from llasa.data import index, shards
from llasa.data.shards import Header, Row, Shards
from llasa.errors import BundleError, InputError

HEADER = Header("compact@0123", 25.0, 65_536)
ROWS = [
    Row("one", "héllo there.", "ada", "en", 0.12, [0, 65535, 7], [1, 3]),
    Row("two", "a", "", "it", 0.04, [9]),
]


def many(count: int, seed: int = 0) -> list[Row]:
    random = np.random.default_rng(seed)
    lengths = random.integers(1, 40, count)
    return [
        Row(f"row-{n}", f"text {n}", f"speaker {n % 3}", "en", length / 25, codes.tolist(), [1] * (n % 4))
        for n, length in enumerate(lengths.tolist())
        for codes in [random.integers(0, 4096, length)]
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shards.save(tmp_path / "made", {"train": many(300), "heldout": ROWS}, HEADER, shard_rows=150)
    return tmp_path / "made"


def test_round_trip(tmp_path: Path):
    path = tmp_path / "new" / "ada.parquet"
    digest = shards.write(path, ROWS, HEADER)
    assert [replace(row, word_ends=list(row.word_ends)) for row in ROWS] == shards.read(path)
    assert digest == shards.write(path, ROWS, HEADER)
    assert [one.name for one in path.parent.iterdir()] == ["ada.parquet"]


def test_other_programs_can_read_it(tmp_path: Path):
    import pyarrow.parquet as pq

    shards.write(tmp_path / "ada.parquet", ROWS, HEADER)
    schema = pq.read_schema(tmp_path / "ada.parquet")
    assert schema.metadata == {b"codec": b"compact@0123", b"frame_rate": b"25.0", b"codebook_size": b"65536"}
    assert str(schema.field("codes").type) == "list<element: uint16>"
    assert pq.read_table(tmp_path / "ada.parquet").column("n_codes").to_pylist() == [3, 1]


@pytest.mark.parametrize("codes", [[-1], [4096, 2], [70_000]])
def test_codes_that_are_not_the_codecs_are_refused(tmp_path: Path, codes: list[int]):
    with pytest.raises(InputError, match="codes go from 0 to 4095"):
        shards.write(tmp_path / "a", [replace(ROWS[1], codes=codes)], replace(HEADER, codebook_size=4096))
    assert not (tmp_path / "a").exists()


def test_codes_of_another_codec_are_refused(tmp_path: Path, folder: Path):
    shards.write(tmp_path / "ada.parquet", ROWS, HEADER)
    assert (
        len(shards.read(tmp_path / "ada.parquet", "compact@0123"))
        == 2
        == len(Shards(folder, "heldout", "compact@0123"))
    )
    for read in (
        lambda: shards.read(tmp_path / "ada.parquet", "compact@4567"),
        lambda: Shards(folder, codec="x"),
    ):
        with pytest.raises(BundleError, match="compact@0123"):
            read()


@pytest.mark.fault("R5")
def test_damaged_or_missing_file(tmp_path: Path):
    path = tmp_path / "ada.parquet"
    shards.write(path, ROWS, HEADER)
    path.write_bytes(path.read_bytes()[:-9])
    for broken in (path, tmp_path / "none.parquet"):
        with pytest.raises(BundleError, match="Make it again"):
            shards.read(broken)


def test_a_prepared_folder_is_a_sequence(folder: Path):
    found, rows = Shards(folder), many(300)
    assert list(found) == rows
    assert [found[place] for place in (299, 0, 150, -1)] == [rows[place] for place in (299, 0, 150, -1)]
    assert found[5:200:70] == rows[5:200:70]
    assert found.lengths.dtype == np.int32 and found.lengths.tolist() == [len(row.codes) for row in rows]
    assert found.speakers == [row.speaker for row in rows] and found.header == HEADER
    with pytest.raises(IndexError):
        found[300]
    assert list(pickle.loads(pickle.dumps(found))) == rows


def test_the_digest_is_that_of_the_rows(folder: Path, tmp_path: Path):
    shards.save(tmp_path / "same", {"train": many(300)}, HEADER, shard_rows=150)
    shards.save(tmp_path / "other", {"train": many(300, seed=1)}, HEADER, shard_rows=150)
    digests = [Shards(place).digest for place in (folder, tmp_path / "same", tmp_path / "other")]
    assert digests[0] == digests[1] != digests[2]
    assert Shards(folder, "heldout").digest not in digests


def test_a_split_without_rows(tmp_path: Path):
    shards.save(tmp_path, {"train": ROWS, "heldout": []}, HEADER)
    empty = Shards(tmp_path, "heldout")
    assert (len(empty), empty.header, empty.speakers, empty.lengths.tolist()) == (0, HEADER, [], [])


def damages(data: bytes) -> dict[str, bytes]:
    """A file cut at every boundary of 4 KiB, and with a thousand bits turned."""
    random = np.random.default_rng(0)
    cut = {f"cut at {size}": data[:size] for size in range(0, len(data), 4096)}
    flipped = {}
    for place, bit in zip(random.integers(0, len(data), 1000), random.integers(0, 8, 1000), strict=True):
        broken = bytearray(data)
        broken[place] ^= 1 << int(bit)
        flipped[f"bit {bit} of byte {place}"] = bytes(broken)
    return cut | flipped


@pytest.mark.fault("R5")
def test_every_damage_is_found(folder: Path):
    path = folder / "train-00001.parquet"
    whole = path.read_bytes()
    file = index.load(folder).entries[1].files[0]
    assert index.damage(folder, file) == "" and len(whole) > 8192
    for name, data in damages(whole).items():
        path.write_bytes(data)
        assert index.damage(folder, file), name


@pytest.mark.fault("R5")
def test_damage_is_named_or_skipped(folder: Path):
    (folder / "train-00000.parquet").unlink()
    with pytest.raises(BundleError, match=r"shard 'train-00000\.parquet' is damaged"):
        Shards(folder)
    rest = Shards(folder, skip_bad=True)
    assert list(rest) == many(300)[150:] and list(rest.skipped) == ["train-00000.parquet"]
    (folder / "train-00001.parquet").write_bytes(b"")
    assert len(Shards(folder, skip_bad=True)) == 0


def test_a_folder_that_is_not_whole_is_refused(folder: Path, tmp_path: Path):
    (tmp_path / "file").write_text("no folder")
    for name in ("none", "file"):
        with pytest.raises(BundleError, match="no index"):
            Shards(tmp_path / name)
    path = folder / index.NAME
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]) + lines[-1][:5])
    with pytest.raises(BundleError, match="go on"):
        Shards(folder)
    path.write_bytes(lines[1] + lines[-1])
    with pytest.raises(BundleError, match="damaged"):
        Shards(folder)
    assert json.loads(lines[-1]) == {"shards": 2}


def test_save_does_not_overwrite(folder: Path):
    with pytest.raises(BundleError, match="another folder"):
        shards.save(folder, {"train": ROWS}, HEADER)

"""Shards of codes come back as they were written, and damage is noticed."""

import pytest

from llasa.data import shards
from llasa.errors import BundleError

SHARD = shards.Shard(
    "ada", "compact@0123", 25.0, [shards.Row("héllo there.", [0, 65535, 7], [1, 3]), shards.Row("a", [9], [])]
)


def test_round_trip(tmp_path):
    shards.write(SHARD, tmp_path / "ada.safetensors")
    back = shards.read(tmp_path / "ada.safetensors")
    assert (back.speaker, back.codec, back.frame_rate) == ("ada", "compact@0123", 25.0)
    assert [(r.text, list(r.codes), list(r.word_ends)) for r in back.rows] == [
        (r.text, list(r.codes), list(r.word_ends)) for r in SHARD.rows
    ]


def test_damaged_or_missing(tmp_path):
    path = tmp_path / "ada.safetensors"
    shards.write(SHARD, path)
    path.write_bytes(path.read_bytes()[:-9])
    for broken in (path, tmp_path / "none.safetensors"):
        with pytest.raises(BundleError, match="Make it again"):
            shards.read(broken)

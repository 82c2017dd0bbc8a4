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


def test_codes_of_another_codec_are_refused(tmp_path):
    shards.write(SHARD, tmp_path / "ada.safetensors")
    assert shards.read(tmp_path / "ada.safetensors", "compact@0123").speaker == "ada"
    with pytest.raises(BundleError, match="compact@0123"):
        shards.read(tmp_path / "ada.safetensors", "compact@4567")


def test_damaged_or_missing(tmp_path):
    path = tmp_path / "ada.safetensors"
    shards.write(SHARD, path)
    path.write_bytes(path.read_bytes()[:-9])
    for broken in (path, tmp_path / "none.safetensors"):
        with pytest.raises(BundleError, match="Make it again"):
            shards.read(broken)

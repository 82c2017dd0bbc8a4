"""The held-out list is what it says, and nothing was trained on it."""

import hashlib
import re
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from llasa.data.shards import Row, Shards
from llasa.text.normalize import normalize

ROOT = Path(__file__).parents[2]
LINES = (ROOT / "tests/data/heldout.txt").read_text(encoding="utf-8").splitlines()
CODES = ROOT / "recipes/artifacts/codes"
SPEAKERS = ("rms-a", "slt-a", "awb-a", "kal16-a")


def key(text: str) -> str:
    return " ".join(re.findall(r"[a-z0-9']+", text.lower()))


def held_out() -> set[str]:
    return {key(normalize(line).text) for line in LINES} | {key(line) for line in LINES}


@pytest.fixture(scope="module")
def shards() -> list[Row]:
    return list(Shards(CODES))


def text_hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def test_two_hundred_plain_lines_and_a_hundred_others():
    assert len(LINES) == 300 == len({key(line) for line in LINES})
    assert all(len(line.split()) <= 16 and re.fullmatch(r"[A-Za-z' ,.?!]+", line) for line in LINES[:200])
    assert sum(bool(re.search(r"\d|Dr\.|Mr|\?|[a-z] [A-Z]", line)) for line in LINES[200:]) >= 95


@pytest.mark.parametrize("name", SPEAKERS)
def test_no_training_row_is_held_out(name, shards):
    trained = {key(row.text) for row in shards if row.id.startswith(name)}
    assert len(trained) > 1000
    assert not held_out() & trained


def test_no_training_text_at_all_is_held_out(shards):
    hashes = set(load_file(CODES / "trained-texts.safetensors")["sha256_first_64"].tolist())
    assert {text_hash(key(row.text)) for row in shards} <= hashes and len(hashes) > 15000
    assert not hashes & {text_hash(text) for text in held_out()}


def test_the_recipe_leaves_held_out_lines_out(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "recipes/starter"))
    from texts import key as recipe_key
    from texts import usable

    words = {word for line in LINES[:20] for word in recipe_key(line).split()}
    words |= {"a", "quiet", "sea", "today"}
    seen = {recipe_key(line) for line in LINES}
    lines = [*LINES[:20], LINES[3].upper().lower(), "a quiet sea today"]
    assert list(usable(lines, words, seen)) == ["a quiet sea today"]

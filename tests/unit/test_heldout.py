"""The held-out list is what it says, and nothing was trained on it."""

import re
from pathlib import Path

import pytest

from llasa.data import shards
from llasa.text.normalize import normalize

ROOT = Path(__file__).parents[2]
LINES = (ROOT / "tests/data/heldout.txt").read_text(encoding="utf-8").splitlines()
SHARDS = sorted((ROOT / "recipes/artifacts").glob("codes-*.safetensors"))


def key(text: str) -> str:
    return " ".join(re.findall(r"[a-z0-9']+", text.lower()))


def test_two_hundred_plain_lines_and_a_hundred_others():
    assert len(LINES) == 300 == len({key(line) for line in LINES})
    assert all(len(line.split()) <= 16 and re.fullmatch(r"[A-Za-z' ,.?!]+", line) for line in LINES[:200])
    assert sum(bool(re.search(r"\d|Dr\.|Mr|\?|[a-z] [A-Z]", line)) for line in LINES[200:]) >= 95


@pytest.mark.parametrize("path", SHARDS, ids=lambda path: path.stem)
def test_no_training_text_is_held_out(path):
    held = {key(normalize(line).text) for line in LINES} | {key(line) for line in LINES}
    trained = {key(row.text) for row in shards.read(path).rows}
    assert trained
    assert not held & trained


def test_the_training_codes_are_there():
    assert {"codes-rms-a", "codes-slt-a", "codes-awb-a", "codes-kal16-a"} <= {path.stem for path in SHARDS}


def test_the_recipe_leaves_held_out_lines_out(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "recipes/starter"))
    from texts import key as recipe_key
    from texts import usable

    words = {word for line in LINES[:20] for word in recipe_key(line).split()}
    words |= {"a", "quiet", "sea", "today"}
    seen = {recipe_key(line) for line in LINES}
    lines = [*LINES[:20], LINES[3].upper().lower(), "a quiet sea today"]
    assert list(usable(lines, words, seen)) == ["a quiet sea today"]

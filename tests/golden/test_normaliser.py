"""The comparing normaliser against stored readings: a change makes error rates of two versions incomparable.

Who changes a reading on purpose raises `reading.VERSION` and the version in the file with it.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from llasa.text.reading import VERSION, Reader

GOLDEN = json.loads(Path(__file__).with_name("normaliser.json").read_text("utf-8"))


def test_the_readings_are_of_this_version() -> None:
    assert GOLDEN["version"] == VERSION


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: case["text"][:20])
def test_reading(case: dict[str, Any]) -> None:
    words = Reader()(case["text"], case["unit"], case["language"])
    assert [[" ".join(word.tokens), word.start, word.end] for word in words] == case["words"]

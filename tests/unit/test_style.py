"""Styles: words to scorers' tables, and what is refused."""

import pytest

from llasa.errors import ConfigError
from llasa.judge import JudgeBlock
from llasa.style import Style, parse_style, parts


def test_words_and_numbers() -> None:
    style = parse_style("rate=1.1, pitch_range=wide,energy=high,pauses=few,pitch=0.9,emotion=happy")
    targets = {"rate": 1.1, "pitch_range": 1.5, "energy": 4.0, "pauses": 0.6, "pitch": 0.9}
    assert style == Style(targets, "happy")


def test_negative_decibels() -> None:
    assert parse_style("energy=-3").targets == {"energy": -3.0}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rat=1.1", r"unknown key 'rat'. Did you mean 'rate'\?"),
        ("tempo=2", r"Keys: rate, pitch, pitch_range, energy, pauses, emotion"),
        ("rate=9", r"rate: found 9.*slow, normal, fast, or a number from 0.5 to 2"),
        ("rate=quick", r"found 'quick'.*slow, normal, fast"),
        ("rate=true", r"found True"),
        ("rate=nan", r"rate: found nan"),
        ("rate", r"field=value"),
        ("", r"found nothing"),
        (" , ", r"found nothing"),
        ("rate=1,rate=2", r"given twice"),
        ("emotion=3", r"Use a label"),
        ("emotion=", r"Use a label"),
        ("rate=fast,emotion= ", r"Use a label"),
    ],
)
def test_refusals_say_what_is_allowed(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_style(text)


def test_parts_are_tables_of_a_judge() -> None:
    tables = parts(parse_style("rate=fast,emotion=happy"), "some/folder", weight=0.5)
    assert tables == [
        {"name": "prosody", "weight": 0.5, "targets": {"rate": 1.15}},
        {"name": "emotion", "weight": 0.5, "emotion": "happy", "classifier": "some/folder"},
    ]
    block = JudgeBlock.model_validate({"scorers": tables})
    assert [one.name for one in block.scorers] == ["prosody", "emotion"]


def test_only_what_was_asked_for() -> None:
    assert [table["name"] for table in parts(parse_style("rate=fast"))] == ["prosody"]
    assert [table["name"] for table in parts(parse_style("emotion=sad"), "x")] == ["emotion"]


def test_an_emotion_needs_a_classifier() -> None:
    with pytest.raises(ConfigError, match=r"'happy'.*classifier = FOLDER"):
        parts(parse_style("emotion=happy"))

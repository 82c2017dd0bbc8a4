"""Where long text is cut, and what every cut must keep."""

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llasa.errors import ConfigError, InputError
from llasa.text.normalize import normalize
from llasa.text.segment import segment


def texts(text, **options):
    return [part.text for part in segment(text, **options)]


def test_sentences_paragraphs_and_their_pauses():
    parts = segment("A title\n\nIt is short. Is it? Yes!\n\nThe end.")
    assert [(part.text, part.pause_s) for part in parts] == [
        ("A title", 0.6),
        ("It is short.", 0.3),
        ("Is it?", 0.3),
        ("Yes!", 0.6),
        ("The end.", 0.6),
    ]


def test_abbreviations_and_decimals_do_not_split():
    text = "Dr. Smith paid $3.50 to the U.S. Army at 9 a.m. today."
    assert texts(text, max_words=18) == [text]
    assert texts(text) == ["Dr. Smith paid $3.50", "to the U.S. Army at 9 a.m. today."]


def test_quoted_speech_stays_with_who_said_it():
    assert texts('"Stop!" he said. "Why?" Because.') == ['"Stop!" he said.', '"Why?"', "Because."]


def test_long_sentences_split_at_clauses():
    text = "It was a very bright and cold day in April; the clocks were striking, and everybody was at home."
    assert texts(text, max_words=12) == [
        "It was a very bright and cold day in April;",
        "the clocks were striking, and everybody was at home.",
    ]
    assert [part.pause_s for part in segment(text, max_words=12)] == [0.12, 0.6]


def test_conjunctions_come_before_the_word_limit():
    text = "the tall man walked slowly to the old house because his very small dog was waiting there for him"
    assert texts(text, max_words=14) == [
        "the tall man walked slowly to the old house",
        "because his very small dog was waiting there for him",
    ]


def test_no_tiny_segments_beside_a_neighbour():
    text = "Yes, " + "the man with the long grey coat went home early on that cold day, " + "no."
    assert all(len(part.split()) > 2 for part in texts(text, max_words=12))


def test_words_are_counted_as_they_are_said():
    parts = texts("in 1987 and 1988 and 1989 and 1990 and 1991 they went", max_words=8)
    assert len(parts) > 1
    assert all(len(normalize(part).text.split()) <= 8 for part in parts)


def test_a_long_number_is_never_cut():
    assert texts("Call 12345678901234567890 now", max_words=4) == ["Call", "12345678901234567890", "now"]


@pytest.mark.parametrize("max_words", [0, -1])
def test_word_limit_is_checked(max_words):
    with pytest.raises(ConfigError, match="Use 1 or more"):
        segment("hello", max_words=max_words)


def test_nothing_to_say_is_an_input_error():
    with pytest.raises(InputError):
        segment("😀")


PIECES = st.sampled_from(
    [
        "hello",
        "and",
        "Dr.",
        "no",
        " ",
        " ",
        "\n\n",
        ", ",
        ". ",
        "? ",
        "!",
        ";",
        "$3.50",
        "1987",
        "—",
        "(",
        '"',
        "😀",
        "<",
        "-",
    ]
)


@given(st.text() | st.lists(PIECES, max_size=60).map("".join), st.integers(1, 20))
@example("A.0", 1)  # the sign is said between letters, but is nothing by itself
def test_segments_hold_the_whole_text_in_order(text, max_words):
    try:
        parts = segment(text, max_words)
    except InputError:
        return
    assert "".join("".join(part.text for part in parts).split()) == "".join(text.split())
    assert all(text[part.start : part.end] == part.text for part in parts)
    assert all(left.end <= right.start for left, right in pairwise(parts))
    assert all(normalize(part.text).text for part in parts)
    assert parts[-1].pause_s == 0.6

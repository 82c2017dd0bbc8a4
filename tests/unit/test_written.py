"""Text for models that read what people write: made plain, in any language, and cut where one breathes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llasa.errors import InputError
from llasa.text.segment import PARAGRAPH_S, SENTENCE_S, segment
from llasa.text.written import likely_language, tidy


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("\u201cHello,\u201d she  said\u2014it\u2019s 20\u00b0C\u2026", "Hello, she said-it's 20\u00b0C..."),
        ("In 1999, Dr. Lee paid $3.50!", "In 1999, Dr. Lee paid $3.50!"),
        ("\u4f60\u597d\uff0c\u4e16\u754c\uff01", "\u4f60\u597d\uff0c\u4e16\u754c\uff01"),
        ("\uff28\uff49\u3000there", "Hi there"),
        ("Gr\u00f6\u00dfe: 3,5 m\u00b2.", "Gr\u00f6\u00dfe: 3,5 m\u00b2."),
        ("Gro\u0308\u00dfe", "Gr\u00f6\u00dfe"),
        ("3~5\u5929, 10^6, 4*4, 1#2 and C#", "3~5\u5929, 10^6, 4*4, 1#2 and C"),
        ('He said"yes"now', "He said yes now"),
        ("Done\u2705Next", "Done Next"),
        ("25\u2103, 100\u33a1", "25\u00b0C, 100m2"),
        ("line\none\ttab", "line one tab"),
        ("**bold** `code` # title", "bold code title"),
        (
            "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
            "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
        ),
    ],
)
def test_what_a_model_is_given(text: str, plain: str) -> None:
    assert tidy(text).text == plain


def test_what_is_left_out_is_told_once_and_in_order() -> None:
    assert tidy('a \U0001f600 \x07 b \U0001f600 "c"').dropped == ("\U0001f600", "\x07")


@pytest.mark.parametrize("text", ["", " \n", "!?", "\U0001f600", "\u201c\u201d"])
def test_nothing_to_say_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="letter or digit"):
        tidy(text)


def test_a_syllable_or_digit_weighs_like_several_letters() -> None:
    assert tidy("\u4f60\u597d").weight == tidy("ab cd ef").weight == 8
    assert tidy("1999").weight == 16


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Hello, world", "en"),
        ("Gr\u00fc\u00df Gott", "en"),
        ("\u4f60\u597d\u4e16\u754c OK", "zh"),
        ("\u3053\u3093\u306b\u3061\u306f\u4e16\u754c", "ja"),
        ("\u041f\u0440\u0438\u0432\u0435\u0442", "und"),
        ("123", "en"),
    ],
)
def test_how_to_cut_a_text_is_seen_from_its_letters(text: str, language: str) -> None:
    assert likely_language(text) == language


@given(st.text())
def test_plain_text_stays_as_it_is(text: str) -> None:
    if any(map(str.isalnum, text)):
        try:
            once = tidy(text).text
        except InputError:
            return
        assert tidy(once).text == once


def pieces(text: str, language: str) -> list[str]:
    return [part.text for part in segment(text, language=language)]


def test_chinese_is_cut_at_its_marks() -> None:
    text = "\u4f60\u597d\uff0c\u4e16\u754c\uff01\u4eca\u5929\u5929\u6c14\u5f88\u597d\u3002\u597d\u5417\uff1f"
    parts = segment(text, language="zh")
    assert [part.text for part in parts] == [text[:6], text[6:13], text[13:]]
    assert [part.pause_s for part in parts] == [SENTENCE_S, SENTENCE_S, PARAGRAPH_S]


def test_long_chinese_is_cut_but_never_inside_latin_words() -> None:
    text = "\u6211\u4eec\u5b66\u4e60\u4e86" * 12 + "OpenSource" + "\u6a21\u578b\u5f88\u5f3a" * 12
    parts = pieces(text, "zh")
    assert len(parts) > 3 and "".join(parts) == text
    assert any("OpenSource" in part for part in parts)


def test_numbers_and_abbreviations_do_not_end_a_sentence() -> None:
    text = "Das kostet 3.500 Euro. Dr. M\u00fcller z.B. sagt es. Gut!"
    assert pieces(text, "de") == ["Das kostet 3.500 Euro.", "Dr. M\u00fcller z.B. sagt es.", "Gut!"]


@given(st.text(st.characters(codec="utf-8"), max_size=200), st.sampled_from(["zh", "de", "ja", "hi", "th"]))
def test_pieces_hold_every_character_but_white_space(text: str, language: str) -> None:
    try:
        parts = segment(text, language=language)
    except InputError:
        return
    assert "".join("".join(part.text.split()) for part in parts) == "".join(text.split())
    assert all(text[part.start : part.end] == part.text for part in parts)

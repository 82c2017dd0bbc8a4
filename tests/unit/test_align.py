"""What became of each word of a text, where it was heard, and when."""

# ruff: noqa: RUF001 (signs of other languages)

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llasa.align import align, heard_text
from llasa.core import Word
from llasa.recognizers.base import TextForm, Transcript
from llasa.text.phones import Phonemizer
from llasa.text.reading import Reader

LEXICON = {
    "the": "DH AH",
    "cat": "K AE T",
    "kat": "K AE T",
    "sat": "S AE T",
    "nineteen": "N AY N T IY N",
    "ninety": "N AY N T IY",
    "nine": "N AY N",
    "red": "R EH D",
    "in": "IH N",
    "mat": "M AE T",
}
READER = Reader(Phonemizer(LEXICON, None))


def spoken(phones: str, step_s: float = 0.1) -> Transcript:
    """What a phone recogniser hears: each token has a peak of 20 ms, at every step."""
    tokens = tuple(phones.split())
    return Transcript(phones, tokens, tuple((i * step_s, i * step_s + 0.02) for i in range(len(tokens))))


def rows(words: tuple[Word, ...]) -> list[tuple[str, str, str]]:
    return [(word.text, word.heard, word.status) for word in words]


def test_phones_are_told_in_words_where_there_are_any() -> None:
    heard = spoken("DH AH | M AE P | IH N | K AE T")
    assert rows(align("The cat, in red.", heard, READER, "phones")) == [
        ("The", "The", "said"),
        ("cat", "/M AE P/", "changed"),
        ("in", "in", "said"),
        ("red", "cat", "changed"),
    ]


def test_a_third_of_the_phones_may_differ() -> None:
    assert rows(align("cat mat", spoken("K AH T | M AH P"), READER, "phones")) == [
        ("cat", "cat", "said"),
        ("mat", "/M AH P/", "changed"),
    ]


def test_missed_and_added_words_stand_where_they_belong() -> None:
    text = "The cat sat in red."
    words = align(text, spoken("DH AH | S AE T | IH N | R EH D | N AY N | M AE T"), READER, "phones")
    assert rows(words) == [
        ("The", "The", "said"),
        ("cat", "", "missed"),
        ("sat", "sat", "said"),
        ("in", "in", "said"),
        ("red", "red", "said"),
        ("", "nine mat", "added"),
    ]
    assert (words[1].start_s, words[1].end_s) == (None, None)
    assert (words[5].start, words[5].end) == (18, 18)
    assert heard_text(words) == "The sat in red nine mat"


def test_a_number_is_one_word() -> None:
    text = "In 1999 the cat"
    heard = "IH N | N AY N T IY N | N AY N T IY | N AY N | DH AH | K AE T"
    assert rows(align(text, spoken(heard), READER, "phones"))[1] == ("1999", "1999", "said")
    written = align(text, Transcript("In 1998, the cat."), READER, "written")
    assert rows(written)[1] == ("1999", "1998", "changed")
    assert text[written[1].start : written[1].end] == "1999"


def test_peaks_reach_to_the_middle_but_not_into_a_pause() -> None:
    heard = Transcript(
        "DH AH | K AE T",
        ("DH", "AH", "|", "K", "AE", "T"),
        ((0.05, 0.1), (0.2, 0.22), (0.24, 0.26), (0.3, 0.32), (0.4, 0.42), (0.9, 0.92)),
    )
    the, cat = align("the cat", heard, READER, "phones")
    assert (the.start_s, the.end_s) == pytest.approx((0.0, 0.26))
    assert (cat.start_s, cat.end_s) == pytest.approx((0.26, 1.02))


def test_written_words_keep_their_own_times_and_signs() -> None:
    heard = Transcript(
        "Uh, the Dog  sat.", ("Uh,", " the", " Dog", " sat."), ((0, 1), (1, 2), (3, 4), (5, 6))
    )
    words = align("The cat sat", heard, READER, "written")
    assert rows(words) == [
        ("", "Uh", "added"),
        ("The", "The", "said"),
        ("cat", "Dog", "changed"),
        ("sat", "sat", "said"),
    ]
    assert [(word.start_s, word.end_s) for word in words] == [(0, 1), (1, 2), (3, 4), (5, 6)]


def test_characters_are_told_as_they_were_heard() -> None:
    text = "the cat sat"
    heard = Transcript("the dog sat", tuple("the dog sat"), tuple((i / 10, i / 10 + 0.02) for i in range(11)))
    words = align(text, heard, READER, "characters")
    assert rows(words) == [("the", "the", "said"), ("cat", "dog", "changed"), ("sat", "sat", "said")]
    assert words[1].start_s == pytest.approx(0.31) and words[1].end_s == pytest.approx(0.71)


@pytest.mark.parametrize("form", ["phones", "characters", "written"])
def test_hearing_nothing_misses_everything(form: TextForm) -> None:
    words = align("the cat", Transcript(""), READER, form)
    assert rows(words) == [("the", "", "missed"), ("cat", "", "missed")]
    assert heard_text(words) == ""


def test_other_languages_are_aligned_sign_by_sign() -> None:
    words = align("你好，世界", Transcript("你好是界"), READER, "written", "zh")
    assert rows(words) == [
        ("你", "你", "said"),
        ("好", "好", "said"),
        ("世", "是", "changed"),
        ("界", "界", "said"),
    ]


SOME_WORDS = st.lists(st.sampled_from(["The", "cat,", "sat", "1999", ";", "in", "9", "mat."]), max_size=8)


@settings(max_examples=60, deadline=None)
@given(SOME_WORDS.map(lambda part: " ".join(["red", *part])), SOME_WORDS.map(" ".join))
def test_words_are_in_order_and_cover_the_text_whatever_was_heard(text: str, other: str) -> None:
    for form in ("written", "characters"):
        words = align(text, Transcript(other), READER, form)
        places = [place for word in words for place in (word.start, word.end)]
        assert places == sorted(places) and places[-1] <= len(text)
        assert all(text[word.start : word.end] == word.text for word in words)
        covered = {place for word in words for place in range(word.start, word.end)}
        assert covered >= {i for word in READER(text, "words") for i in range(word.start, word.end)}
        assert all((word.text == "") == (word.status == "added") for word in words)
        assert all((word.heard == "") == (word.status == "missed") for word in words)


@settings(max_examples=60, deadline=None)
@given(SOME_WORDS.map(lambda part: " ".join(["red", *part])))
def test_what_was_said_right_is_said(text: str) -> None:
    said = " | ".join(" ".join(word.tokens) for word in READER(text, "phones"))
    for form, heard in (("written", Transcript(text)), ("phones", spoken(said))):
        words = align(text, heard, READER, form)
        assert {word.status for word in words} == {"said"}
    times = [time for word in words for time in (word.start_s, word.end_s)]
    assert times == sorted(times)

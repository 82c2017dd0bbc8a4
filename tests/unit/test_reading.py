"""Reading a text as the words and tokens that are compared with what was heard."""

# ruff: noqa: RUF001 (look-alike characters are what is tested)

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llasa.errors import ConfigError, InputError
from llasa.text.phones import Phonemizer
from llasa.text.reading import Reader, tokens_of

LEXICON = {
    "the": "DH AH",
    "a": "AH",
    "b": "B IY",
    "cat": "K AE T",
    "can't": "K AE N T",
    "nine": "N AY N",
    "ten": "T EH N",
}
READER = Reader(Phonemizer(LEXICON, None))


def read(text: str, unit="words", language: str = "en") -> list[str]:
    return [" ".join(word.tokens) for word in READER(text, unit, language)]


def test_english_is_read_as_it_is_said_and_knows_its_places() -> None:
    text = "The cat -- can't pay $19!"
    words = READER(text, "words")
    assert [w.text for w in words] == ["the", "cat", "can't", "pay", "nineteen", "dollars"]
    assert [text[w.start : w.end] for w in words] == ["The", "cat", "can't", "pay", "$19", "$19"]


def test_characters_are_letters_and_apostrophes() -> None:
    assert read("Can't!", "characters") == ["c a n ' t"]


def test_phones_stay_with_their_words() -> None:
    assert read("The cat, can't. The 10, 9!", "phones") == [
        "DH AH",
        "K AE T",
        "K AE N T",
        "DH AH",
        "T EH N",
        "N AY N",
    ]


def test_a_letter_is_told_from_the_article_by_its_neighbours() -> None:
    assert read("a cat", "phones")[0] == "AH"
    assert read("a b", "phones")[0] == "EY"


@pytest.mark.parametrize(
    "text, language, words",
    [
        ("你好，世界 １２ＡＢ！", "zh-CN", ["你", "好", "世", "界", "1", "2", "a", "b"]),
        ("ｶﾞギ。", "ja", ["ガ", "ギ"]),
        ("สวัสดี", "th", ["ส", "วั", "ส", "ดี"]),
        ("L’Homme est-il là? 3,5 %", "fr", ["lhomme", "est", "il", "là", "3", "5"]),
        ("STRASSE Straße", "de_DE", ["strasse", "strasse"]),
        ("\u1112\u1161\u11ab 말", "ko", ["한", "말"]),
        ("cafe\u0301", "es", ["café"]),
        ("नमस्ते दुनिया", "hi", ["नमस्ते", "दुनिया"]),
    ],
)
def test_other_languages_are_only_made_plain(text: str, language: str, words: list[str]) -> None:
    assert read(text, "words", language) == words


def test_two_spellings_of_one_word_have_the_same_characters() -> None:
    assert tokens_of(READER("Straße", "characters", "de")) == tuple("strasse")


def test_places_of_other_languages_are_those_of_the_original() -> None:
    text = "«Ｌ’Homme», dit-il"
    assert [text[w.start : w.end] for w in READER(text, "words", "fr")] == ["Ｌ’Homme", "dit", "il"]
    assert [w.tokens for w in READER(text, "characters", "fr")][2] == ("i", "l")


@pytest.mark.parametrize("text, language", [("...", "en"), ("", "en"), ("！？ ", "zh"), ("— ´ %", "fr")])
def test_a_text_of_nothing_is_refused_and_hearing_nothing_is_not(text: str, language: str) -> None:
    with pytest.raises(InputError, match="nothing that can be said"):
        READER(text, "words", language)
    assert READER.heard(text, "written", "words", language) == ()


def test_what_cannot_be_read_as_phones_is_named() -> None:
    with pytest.raises(ConfigError, match="no pronouncing lexicon"):
        Reader()("the cat", "phones")
    with pytest.raises(ConfigError, match="language 'fr'"):
        READER("le chat", "phones", "fr")
    with pytest.raises(ConfigError, match="hears phones"):
        READER.heard("DH AH", "phones", "words")
    with pytest.raises(InputError, match="dog"):
        READER.heard("the dog", "written", "phones")


def test_heard_phones_are_words_with_places_in_the_transcript() -> None:
    words = READER.heard("DH AH | K AE T", "phones", "phones")
    assert [(w.tokens, w.start, w.end) for w in words] == [(("DH", "AH"), 0, 5), (("K", "AE", "T"), 8, 14)]


def test_a_writing_recogniser_can_be_compared_by_phones() -> None:
    assert tokens_of(READER.heard("The Cat.", "written", "phones")) == tokens_of(READER("the cat", "phones"))


@settings(max_examples=50, deadline=None)
@given(
    st.text(max_size=40), st.sampled_from(["en", "zh", "fr", "ko"]), st.sampled_from(["words", "characters"])
)
def test_places_are_ordered_and_inside_and_reading_again_changes_nothing(text, language, unit) -> None:
    words = READER.heard(text, "written", unit, language)
    ends = [0, *(place for word in words for place in (word.start, word.end))]
    assert all(word.tokens and word.start < word.end <= len(text) for word in words)
    assert ends[1::2] == sorted(ends[1::2]) and ends[2::2] == sorted(ends[2::2])
    if language != "en":
        again = READER.heard(" ".join(word.text for word in words), "written", unit, language)
        assert tokens_of(again) == tokens_of(words)

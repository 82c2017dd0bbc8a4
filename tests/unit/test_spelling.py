"""The symbols that a bundle of phones reads, for each language, and what they are compared as."""

# ruff: noqa: RUF001 (full-width signs are what is tested)

import builtins
import sys
from pathlib import Path

import pytest

from llasa.errors import ConfigError, MissingExtra
from llasa.text.normalize import normalize
from llasa.text.phones import PHONES, PUNCTUATION, WORD_BREAK, Phonemizer
from llasa.text.reading import Reader, tokens_of
from llasa.text.spelling import SYMBOLS, spell

ENGLISH = Phonemizer({"hello": "HH AH L OW", "cat": "K AE T"}, None)


def spelt(text: str, language: str) -> str:
    return spell(normalize(text, language).words, language, ENGLISH)


@pytest.mark.parametrize(
    ("language", "text", "wanted"),
    [
        ("it", "Ciao, l'età è 3.", "c i a o , l e t à | è | t r e ."),
        ("it", "Chi? Che!", "c h i ? c h e !"),
        ("de", "Größe: 2 Äpfel", "g r ö ß e , z w e i | ä p f e l"),
        ("zh", "你好，世界。", "n i 3 | h a o 3 , s h i 4 | j i e 4 ."),
        ("zh", "银行很行", "y i n 2 | h a n g 2 | h e n 3 | x i n g 2"),
        ("zh", "绿色的", "l ü 4 | s e 4 | d e 5"),
        ("zh", "我有2个cat", "w o 3 | y o u 3 | l i a n g 3 | g e 4 | K AE T"),
        ("en", "Hello cat.", "HH AH L OW | K AE T ."),
    ],
)
def test_what_is_read(language: str, text: str, wanted: str) -> None:
    assert spelt(text, language) == wanted


@pytest.mark.parametrize("language", SYMBOLS)
def test_all_symbols_are_listed_and_none_is_a_phone(language: str) -> None:
    text = {
        "it": "Perché wow, jazz à è ì ò ù é!",
        "de": "Äß über Öl, xylophon quiz vjk",
        "zh": "绿女吃鱼，日本人在这儿。",
    }
    symbols = set(spelt(text[language], language).split())
    assert symbols <= {*SYMBOLS[language], WORD_BREAK, *PUNCTUATION}
    assert not set(SYMBOLS[language]) & {*PHONES, WORD_BREAK, *PUNCTUATION}


def test_a_character_without_pinyin_is_silent_but_stays_a_word() -> None:
    assert spell(["你", "\U0003ffff", "好"], "zh", ENGLISH) == "n i 3 | | h a o 3"


def test_unknown_languages_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"'fr' has no symbols\. Use one of: de, it, zh"):
        spell(["bonjour"], "fr", ENGLISH)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: object) -> object:
        if name == "pypinyin":
            raise ImportError(name)
        return real(name, *args)  # pyright: ignore[reportArgumentType]

    monkeypatch.delitem(sys.modules, "pypinyin", raising=False)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtra, match=r"'pypinyin'.*llasa\[languages\]"):
        spell(["你"], "zh", ENGLISH)


def test_a_reader_compares_what_is_said_in_the_languages_of_its_bundle() -> None:
    reader, plain = Reader(ENGLISH, ["en", "it"]), Reader(ENGLISH)
    assert [word.text for word in reader("3 gatti", "words", "it")] == ["tre", "gatti"]
    assert [word.text for word in plain("3 gatti", "words", "it")] == ["3", "gatti"]
    assert tokens_of(reader("È il 3.", "phones", "it")) == ("è", "i", "l", "t", "r", "e")
    assert [(word.start, word.end) for word in reader("È il 3.", "phones", "it")] == [(0, 1), (2, 4), (5, 6)]
    with pytest.raises(ConfigError, match="language 'it' has no phonemizer"):
        plain("ciao", "phones", "it")


def test_heard_symbols_are_words_like_heard_phones() -> None:
    reader = Reader(ENGLISH, ["en", "it"])
    heard = reader.heard("è | i l , t r e .", "phones", "phones", "it")
    assert [word.tokens for word in heard] == [("è",), ("i", "l"), ("t", "r", "e")]


def test_the_lexicon_of_the_starter_reads_english_in_chinese(bundle_folder: Path) -> None:
    phonemizer = Phonemizer.load(bundle_folder / "phones")
    said = spell(normalize("打开Wifi，OK？", "zh").words, "zh", phonemizer)
    assert said.startswith("d a 3 | k a i 1 | W AY F AY , OW K EY")

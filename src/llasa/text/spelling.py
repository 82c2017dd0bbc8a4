"""Normalised words -> the symbols that a bundle of phones reads.

English is read by its phones, German and Italian by their letters, Chinese by its pinyin, spelt with the
tone's digit. Letters are small and so none of the phones. Latin words in Chinese are read as English.
Must not know: how text is normalised.
"""

import re
from collections.abc import Iterator, Sequence

from llasa.errors import ConfigError, MissingExtra
from llasa.text import german, italian
from llasa.text.chinese import CHARACTER
from llasa.text.phones import PUNCTUATION, WORD_BREAK, Phonemizer

_ALPHABET = "abcdefghijklmnopqrstuvwxyz"
SYMBOLS = {
    "de": tuple(_ALPHABET + german.LETTERS),
    "it": tuple(_ALPHABET + italian.LETTERS),
    "zh": (*_ALPHABET.replace("v", ""), "ü", *"12345"),
}

_MARKED = re.compile(f"(.*?)([{re.escape(''.join(PUNCTUATION))}]?)", re.DOTALL)
_CHINESE = re.compile(f"[{CHARACTER}]")


def spell(words: Sequence[str], code: str, english: Phonemizer) -> str:
    """Return words as symbols separated by spaces, e.g. "c i a o , m o n d o .".

    Args:
        words: of `normalize.Normalized.words`.
        code: "en" or one of `SYMBOLS`.
        english: of English, also in Chinese.

    Raises:
        ConfigError: there are no symbols for the language. InputError: a word cannot be pronounced.
        MissingExtra: pypinyin is not installed.
    """
    if code == "en":
        return english(" ".join(words))
    if code not in SYMBOLS:
        known = ", ".join(SYMBOLS)
        raise ConfigError(f"Spelling words: language '{code}' has no symbols. Use one of: {known}.")
    bare = [_MARKED.fullmatch(word) for word in words]
    said = [match[1] if match else word for match, word in zip(bare, words, strict=True)]
    symbols = _chinese(said, english) if code == "zh" else (_letters(word, code) for word in said)
    parts: list[str] = []
    for spelt, match in zip(symbols, bare, strict=True):
        parts += [WORD_BREAK] if parts and parts[-1] not in PUNCTUATION else []
        parts += [spelt] if spelt else []
        parts += [match[2]] if match and match[2] else []
    return " ".join(parts)


def _letters(word: str, code: str) -> str:
    return " ".join(letter for letter in word if letter in SYMBOLS[code])


def _chinese(words: Sequence[str], english: Phonemizer) -> Iterator[str]:
    """Yield the symbols of each word; how a character is said depends on its neighbours."""
    try:
        from pypinyin import Style, lazy_pinyin
    except ImportError as error:
        raise MissingExtra("Reading Chinese", "pypinyin", "languages") from error
    syllables = lazy_pinyin(
        "".join(word if _CHINESE.match(word) else " " for word in words),
        style=Style.TONE3,
        v_to_u=True,
        neutral_tone_with_five=True,
        errors=lambda run: [""] * len(run),  # pyright: ignore[reportArgumentType] (its stub is too narrow)
    )
    for word, syllable in zip(words, syllables, strict=True):
        yield " ".join(syllable) if _CHINESE.match(word) else english.say_of(word)

"""A text as the words and tokens that are compared with what was heard; each word knows its original place.

The one normaliser of all error rates: the text and what was heard both go through it. English, and what else
a bundle speaks by normalising it, is read as it is said ("1999" is three words). Texts of other languages are
only made plain: NFKC, casefold, no punctuation or symbols; digits stay digits. Must not know: recognisers,
scorers.
"""

import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Literal, NamedTuple

from llasa.errors import ConfigError, InputError
from llasa.text.normalize import Normalized, language_code, normalize
from llasa.text.phones import PUNCTUATION, WORD_BREAK, Phonemizer
from llasa.text.spelling import spell

# Goes into reports: error rates of different versions are not comparable.
VERSION = "1"

Unit = Literal["phones", "characters", "words"]

# Written without spaces: each character counts as a word.
UNSPACED = frozenset({"zh", "yue", "cmn", "wuu", "ja", "th", "lo", "km", "my", "bo"})

_WORD_END = re.compile(f"[{re.escape(WORD_BREAK + ''.join(PUNCTUATION))}]")
_SIGN = re.compile(r"\w\W*")  # a letter or digit with its accents and vowel signs
_SYMBOL = rf"[^\s{re.escape(WORD_BREAK + ''.join(PUNCTUATION))}]+"
_PHONE_WORD = re.compile(rf"{_SYMBOL}(?: +{_SYMBOL})*")


@dataclass(frozen=True)
class ReadWord:
    """A word to be said. text: normalised. tokens: what is compared. start, end: in the original text."""

    text: str
    tokens: tuple[str, ...]
    start: int
    end: int


def is_unspaced(language: str) -> bool:
    """Tell whether a language is written without spaces between words."""
    return language_code(language) in UNSPACED


def tokens_of(words: Iterable[ReadWord]) -> tuple[str, ...]:
    """Return the tokens of words, one after another."""
    return tuple(token for word in words for token in word.tokens)


class Reader:
    """Reads texts in a language as words of tokens; remembers what it has read."""

    def __init__(self, phonemizer: Phonemizer | None = None, languages: Collection[str] = ("en",)) -> None:
        """Take a bundle's phonemizer, without one no text is read as phones, and what it normalises."""
        self.phonemizer = phonemizer
        self._languages = {"en", *languages}
        self._cached = lru_cache(maxsize=1024)(self._read)

    def __call__(self, text: str, unit: Unit, language: str = "en") -> tuple[ReadWord, ...]:
        """Return the words of a text; never empty.

        Args:
            text: as people write it.
            unit: a word's tokens are its phones, its characters, or itself. A character of a language written
                without spaces is a word.
            language: a code such as "en" or "pt-BR". Numbers are read out in English and the bundle's own.

        Raises:
            InputError: nothing in the text can be said, or a word cannot be pronounced.
            ConfigError: phones of a language that the bundle does not know, or without a phonemizer.
            MissingExtra: reading the language takes a package that is not installed.
        """
        words = self._cached(text, unit, language)
        if not words:
            raise InputError(
                f"Reading a text for comparison: found nothing that can be said in {text[:40]!r}. "
                "Give text with at least one letter or digit."
            )
        return words

    def heard(self, text: str, form: str, unit: Unit, language: str = "en") -> tuple[ReadWord, ...]:
        """Return the words a recogniser heard, read like a text; () if there are none.

        Args:
            text: of a transcript; `start` and `end` are places in it.
            form: its `recognizers.base.TextForm`; phones can be compared as phones only.

        Raises:
            InputError, ConfigError: see `__call__`; phones are to be compared as something else.
        """
        if form != "phones":
            return self._cached(text, unit, language)
        if unit != "phones":
            raise ConfigError(
                f"Comparing what was heard: the recogniser hears phones, which do not make {unit}. "
                "Compare phones, or choose a recogniser that hears words."
            )
        found = ((tuple(m[0].split()), m) for m in _PHONE_WORD.finditer(text))
        return tuple(ReadWord(" ".join(tokens), tokens, m.start(), m.end()) for tokens, m in found)

    def _read(self, text: str, unit: Unit, language: str) -> tuple[ReadWord, ...]:
        code = language_code(language)
        if code in self._languages:
            return self._normalised(text, unit, code)
        if unit == "phones":
            raise ConfigError(
                f"Reading a text as phones: language '{language}' has no phonemizer. "
                "Choose a recogniser that hears words or characters."
            )
        found = _unspaced(text) if is_unspaced(language) else _spaced(text)
        return tuple(
            ReadWord("".join(signs), ("".join(signs),) if unit == "words" else tuple(signs), start, end)
            for signs, start, end in found
        )

    def _normalised(self, text: str, unit: Unit, code: str) -> tuple[ReadWord, ...]:
        normal = _normal(text, code)
        if normal is None:
            return ()
        words = [word.rstrip("".join(PUNCTUATION)) for word in normal.words]
        tokens = self._phones(normal, code) if unit == "phones" else [_tokens(word, unit) for word in words]
        rows = zip(words, tokens, normal.spans, strict=True)
        return tuple(ReadWord(word, parts, *span) for word, parts, span in rows)

    def _phones(self, normal: Normalized, code: str) -> list[tuple[str, ...]]:
        """Return the phones of each word; all at once, for how "a" is said depends on its neighbours."""
        if self.phonemizer is None:
            raise ConfigError(
                "Reading a text as phones: this bundle has no pronouncing lexicon. "
                "Choose a recogniser that hears words or characters, or a bundle that reads phones."
            )
        pieces = _WORD_END.split(spell(normal.words, code, self.phonemizer))
        return [tuple(piece.split()) for piece in pieces[: len(normal.words)]]


def _normal(text: str, code: str) -> Normalized | None:
    try:
        return normalize(text, code)
    except InputError:  # its only cause: nothing can be said
        return None


def _tokens(word: str, unit: Unit) -> tuple[str, ...]:
    return (word,) if unit == "words" else tuple(word)


class _Cluster(NamedTuple):
    """Characters that belong together, and the signs they make: none if they are not said."""

    signs: list[str]
    start: int
    end: int
    divides: bool


_Parts = tuple[list[str], int, int]


def _unspaced(text: str) -> Iterator[_Parts]:
    for cluster in _clusters(text):
        for sign in cluster.signs:
            yield [sign], cluster.start, cluster.end


def _spaced(text: str) -> Iterator[_Parts]:
    word: list[_Cluster] = []
    for cluster in (*_clusters(text), _Cluster([], len(text), len(text), True)):
        if cluster.signs:
            word.append(cluster)
        elif word and cluster.divides:
            yield [sign for part in word for sign in part.signs], word[0].start, word[-1].end
            word = []


def _clusters(text: str) -> Iterator[_Cluster]:
    starts = [i for i, character in enumerate(text) if not i or not _continues(character)]
    for start, end in pairwise((*starts, len(text))):
        plain = unicodedata.normalize("NFKC", text[start:end]).casefold()
        said = "".join(c for c in plain if unicodedata.category(c)[0] in "LMN")
        yield _Cluster(_SIGN.findall(said), start, end, plain not in _APOSTROPHES)


def _continues(character: str) -> bool:
    """Whether it belongs to the sign before: accents, vowel signs, parts of a Hangul syllable."""
    first = unicodedata.normalize("NFKD", character)[0]
    return unicodedata.category(first)[0] == "M" or "\u1160" <= first <= "\u11ff" or first == "\u200d"


_APOSTROPHES = frozenset("'‘’ʼ\u00ad")  # inside a word they, and soft hyphens, divide nothing

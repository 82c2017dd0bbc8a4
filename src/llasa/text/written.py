"""Text as people write it, for language models that learnt from transcripts: made plain, not spelt out.

Capitals, numbers and punctuation stay, in any language; what was hardly ever in transcripts and derails a
model (quotation marks, emoji, control characters) goes. Must not know: tokenizers, how English is read.
"""

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache

from llasa.errors import InputError

# English letters that take as long to say: a character that is a syllable, a digit.
_WIDE, _DIGIT = 4.0, 4.0
_KEPT = frozenset("\u200c\u00b0")  # parts of words and measures, whatever their category
_PLAIN = dict.fromkeys("\u2018\u2019\u02bc\u2032", "'") | dict.fromkeys("\u2010\u2011\uff5e\u301c", "-")
_PLAIN |= {"\u2026": "...", "\u2013": "-", "\u2014": "-", "\u00ad": ""}
_QUOTES = frozenset('"\u201c\u201d\u201e\u201f\u00ab\u00bb\u2039\u203a\u300c\u300d\u300e\u300f')
_PARTING = frozenset("_|<>\\[]{}")
_SPACE = re.compile(r"\s+")
# Emphasis, headings and code of Markdown; between letters or digits they mean something: 10^6, 3~5.
_MARKUP = re.compile(r"(?<![^\W_])[*#`~^]+|[*#`~^]+(?![^\W_])|`+")


@dataclass(frozen=True)
class Written:
    """What a language model is given. weight: its length in English letters. dropped: characters left out."""

    text: str
    weight: float
    dropped: tuple[str, ...]


def tidy(text: str) -> Written:
    """Return a text as it is said and written; time is linear in its length.

    Raises:
        InputError: there is no letter or digit in it.
    """
    composed = unicodedata.normalize("NFC", text)
    marks = {place for match in _MARKUP.finditer(composed) for place in range(*match.span())}
    pieces = [" " if place in marks else _plain(sign) for place, sign in enumerate(composed)]
    plain = _SPACE.sub(" ", "".join(pieces)).strip()
    if not any(map(str.isalnum, plain)):
        raise InputError(
            f"Reading a text for speech: found nothing that can be said in {text[:40]!r}. "
            "Give text with at least one letter or digit."
        )
    lost = (sign for sign, piece in zip(composed, pieces, strict=True) if not piece.strip() and _told(sign))
    return Written(plain, weight(plain), tuple(dict.fromkeys(lost)))


def weight(text: str) -> float:
    """Return the length of a text in English letters: a wide character or digit counts as several."""
    return sum(map(_weight, text))


def _told(sign: str) -> bool:
    """Whether it should be told that a sign was left out: not of those that nobody says."""
    return not (sign.isspace() or sign in _QUOTES or sign in _PLAIN)


@lru_cache(maxsize=4096)
def _plain(character: str) -> str:
    """Return what stands for a character; a space for one that parts words."""
    if character in _PLAIN or character in _KEPT:
        return _PLAIN.get(character, character)
    if character.isspace() or character in _PARTING or character in _QUOTES:
        return " "
    kind, wide = unicodedata.category(character), unicodedata.east_asian_width(character) == "F"
    if (wide and character.isalnum()) or kind == "So":  # Latin in Chinese width; a sign for a unit
        folded = unicodedata.normalize("NFKC", character)
        return folded if folded != character else " "
    return "" if kind[0] == "C" or (kind in ("Sk", "Me") and character not in "`^") else character


@lru_cache(maxsize=4096)
def _weight(character: str) -> float:
    if unicodedata.east_asian_width(character) == "W":
        return _WIDE
    return _DIGIT if character.isdecimal() else float(not unicodedata.combining(character))


def likely_language(text: str) -> str:
    """Return "zh", "ja" or "und" if most of a text's letters are not Latin, by weight, else "en"."""
    letters = [unicodedata.name(sign, "") for sign in text if sign.isalpha()]
    weights = [weight(sign) for sign in text if sign.isalpha()]
    latin = sum(one for name, one in zip(letters, weights, strict=True) if "LATIN" in name)
    if latin * 2 >= sum(weights):
        return "en"
    if any(name.startswith(("HIRAGANA", "KATAKANA")) for name in letters):
        return "ja"
    return "zh" if any(name.startswith("CJK") for name in letters) else "und"

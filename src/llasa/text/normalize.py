"""Written English -> the words to say, each with its place in the original text.

The text is first folded to plain characters that remember where they came from, then read once from left to
right by the rules of `quantities` and `writing`, so the time is linear in the length. Markers in the text are
ordinary signs here: no text can become one. Must not know: tokenizers, phones.
"""

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache

from llasa.errors import ConfigError, InputError
from llasa.text import quantities, writing
from llasa.text.quantities import Piece
from llasa.text.writing import MARKS


@dataclass(frozen=True)
class Normalized:
    """What is to be said.

    text: words of a-z and apostrophe, separated by single spaces, with at most one of , . ? ! after a word.
    spans: for each word, [start, end) in characters of the original; neither starts nor ends ever go back.
    dropped: the characters that cannot be said, each once, in order of appearance.
    """

    text: str
    spans: tuple[tuple[int, int], ...]
    dropped: tuple[str, ...]


def is_english(language: str) -> bool:
    """Tell whether a language code, such as "en-GB", is English's."""
    return language_code(language) == "en"


def language_code(language: str) -> str:
    """Return a language code without region and script."""
    return re.split("[-_]", language.lower())[0]


def normalize(text: str, language: str = "en") -> Normalized:
    """Return the words to say for a text as people write it.

    Args:
        text: any text of any length; time is linear in it.
        language: English's, such as "en" or "en-GB".

    Raises:
        ConfigError: the language is not supported.
        InputError: nothing in the text can be said.
    """
    if not is_english(language):
        raise ConfigError(f"Normalising text: language '{language}' is not supported. Use 'en'.")
    folded = _fold(text)
    words: list[str] = []
    marks: list[str] = []
    spans: list[tuple[int, int]] = []
    dropped = folded.dropped
    for match in _SCANNER.finditer(folded.text):
        if match.lastgroup is None:
            dropped.append(folded.starts[match.start()])
        for said, start, end in _pieces(match):
            if said in MARKS:
                marks[-1:] = [max(marks[-1], said, key=_STRENGTH.index)] if marks else []
            for word in said.split() if said not in MARKS else ():
                words.append(word)
                marks.append("")
                spans.append((folded.starts[start], folded.ends[end - 1]))
    if not words:
        raise InputError(
            f"Normalising text for speech: found nothing that can be said in {text[:40]!r}. "
            "Give text with at least one letter or digit."
        )
    spoken = " ".join(word + mark for word, mark in zip(words, marks, strict=True))
    return Normalized(spoken, tuple(spans), tuple(dict.fromkeys(text[i] for i in sorted(dropped))))


@dataclass(frozen=True)
class _Folded:
    """Plain characters, where each came from, [starts[i], ends[i]), and the places of those dropped."""

    text: str
    starts: list[int]
    ends: list[int]
    dropped: list[int]


def _fold(text: str) -> _Folded:
    plain: list[str] = []
    starts: list[int] = []
    ends: list[int] = []
    dropped: list[int] = []
    for index, character in enumerate(text):
        folded = _fold_character(character)
        plain.append(folded)
        starts += [index] * len(folded)
        ends += [index + 1] * len(folded)
        if not folded and unicodedata.category(character) != "Mn":
            dropped.append(index)
        elif not folded and ends:
            ends[-1] = index + 1
    return _Folded("".join(plain), starts, ends, dropped)


@lru_cache(maxsize=4096)
def _fold_character(character: str) -> str:
    if character in _PLAIN:
        return _PLAIN[character]
    digit = unicodedata.decimal(character, None)
    if digit is not None:
        return str(digit)
    decomposed = unicodedata.normalize("NFKD", character)
    if "⁄" in decomposed:
        return f" {decomposed}"
    return "".join(_PLAIN.get(part) or _fold_letter(part) for part in decomposed)


def _fold_letter(character: str) -> str:
    if (character.isascii() and character.isprintable()) or character in "\n\t\r":
        return character
    if unicodedata.category(character) in ("Mn", "Me", "Cc", "Cf", "Cs"):
        return ""
    named = _LATIN.fullmatch(unicodedata.name(character, ""))
    if named is None:
        return " " if character.isspace() else character
    return named[2] if named[1] == "CAPITAL" else named[2].lower()


_LATIN = re.compile(r"LATIN (CAPITAL|SMALL) (?:LETTER|LIGATURE) (?:DOTLESS )?([A-Z]{1,2})(?: WITH .*)?")
_PLAIN = dict.fromkeys("‘’‚‛′ʼ", "'") | dict.fromkeys("“”„‟″«»", '"') | dict.fromkeys("‐‑‒⁃", "-")
_PLAIN |= {"²": " squared ", "³": " cubed ", "º": "°", "ß": "ss", "þ": "th", "Þ": "Th", "ð": "th", "Ð": "Th"}
_STRENGTH = ("", *MARKS)
_RULES = [*writing.ADDRESS_RULES, *quantities.RULES, *writing.WORD_RULES, *writing.SIGN_RULES]
_READERS = {f"rule{i}": (re.compile(pattern), read) for i, (pattern, read) in enumerate(_RULES)}


def _unnamed(pattern: str) -> str:
    return re.sub(r"\(\?P<[a-z]+>", "(?:", pattern)


_SCANNER = re.compile("|".join(f"(?P<rule{i}>{_unnamed(p)})" for i, (p, _) in enumerate(_RULES)) + r"|[\s\S]")


def _pieces(match: re.Match[str]) -> list[Piece]:
    if match.lastgroup is None:
        return []
    pattern, read = _READERS[match.lastgroup]
    again = pattern.match(match.string, match.start())
    return read(again) if again else []

"""Written text -> the words to say, each with its place in the original text.

The text is first folded to plain characters that remember where they came from, then read once from left to
right by the rules of its language, so the time is linear in the length. English's are in `quantities` and
`writing`, German's and Italian's in `continental`, Chinese's in `chinese`. Markers in the text are
ordinary signs here: no text can become one. Must not know: tokenizers, phones.
"""

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from llasa.errors import ConfigError, InputError
from llasa.text import chinese, continental, german, italian, quantities, writing
from llasa.text.quantities import Piece, Rule
from llasa.text.writing import MARKS

LANGUAGES = ("en", "de", "it", "zh")


@dataclass(frozen=True)
class Normalized:
    """What is to be said.

    text: words of a-z and apostrophe, of German and Italian also their accented letters, separated by single
    spaces, with at most one of , . ? ! after a word. Chinese characters are words, with no spaces between.
    spans: for each word, [start, end) in characters of the original; neither starts nor ends ever go back.
    dropped: the characters that cannot be said, each once, in order of appearance.
    """

    text: str
    spans: tuple[tuple[int, int], ...]
    dropped: tuple[str, ...]

    @property
    def words(self) -> list[str]:
        """The words with the marks after them, as many as `spans`."""
        return _WORDS.findall(self.text)


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
        language: a code of English, German, Italian or Chinese, such as "en" or "de-AT".

    Raises:
        ConfigError: the language is not supported.
        InputError: nothing in the text can be said.
        MissingExtra: reading its numbers takes a package that is not installed.
    """
    grammar = _grammar(language)
    folded = _fold(text, grammar.kept)
    words: list[str] = []
    marks: list[str] = []
    spans: list[tuple[int, int]] = []
    dropped = folded.dropped
    for match in grammar.scanner.finditer(folded.text):
        if match.lastgroup is None:
            dropped.append(folded.starts[match.start()])
        for said, start, end in _pieces(match, grammar.readers):
            if said in MARKS:
                marks[-1:] = [max(marks[-1], said, key=_STRENGTH.index)] if marks else []
            for word in _WORDS.findall(said) if said not in MARKS else ():
                words.append(word)
                marks.append("")
                spans.append((folded.starts[start], folded.ends[end - 1]))
    if not words:
        raise InputError(
            f"Normalising text for speech: found nothing that can be said in {text[:40]!r}. "
            "Give text with at least one letter or digit."
        )
    spoken = " ".join(word + mark for word, mark in zip(words, marks, strict=True))
    return Normalized(
        _BETWEEN.sub("", spoken), tuple(spans), tuple(dict.fromkeys(text[i] for i in sorted(dropped)))
    )


@dataclass(frozen=True)
class _Folded:
    """Plain characters, where each came from, [starts[i], ends[i]), and the places of those dropped."""

    text: str
    starts: list[int]
    ends: list[int]
    dropped: list[int]


def _fold(text: str, kept: frozenset[str]) -> _Folded:
    plain: list[str] = []
    starts: list[int] = []
    ends: list[int] = []
    dropped: list[int] = []
    for index, character in enumerate(text):
        if plain and plain[-1] and (whole := unicodedata.normalize("NFC", plain[-1] + character)) in kept:
            plain[-1], ends[-1] = whole, index + 1
            continue
        folded = character if character in kept else _fold_character(character)
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
# A Chinese character is a word; between two of them there is no space.
_WORDS = re.compile(rf"[{chinese.CHARACTER}][,.?!]?|[^\s{chinese.CHARACTER}]+")
_BETWEEN = re.compile(
    rf"(?<=[{chinese.CHARACTER}]) (?=[{chinese.CHARACTER}])|(?<=[,.?!]) (?=[{chinese.CHARACTER}])"
)
_ENGLISH = [*writing.ADDRESS_RULES, *quantities.RULES, *writing.WORD_RULES, *writing.SIGN_RULES]
_Readers = dict[str, tuple[re.Pattern[str], Callable[[re.Match[str]], list[Piece]]]]


@dataclass(frozen=True)
class _Grammar:
    """How a language is read: `scanner` finds a rule by name, `readers` says what it means.

    kept: characters that folding leaves as they are.
    """

    scanner: re.Pattern[str]
    readers: _Readers
    kept: frozenset[str]


def _grammar(language: str) -> _Grammar:
    code = language_code(language)
    if code not in LANGUAGES:
        known = ", ".join(LANGUAGES)
        raise ConfigError(f"Normalising text: language '{language}' is not supported. Use one of: {known}.")
    return _made(code)


@lru_cache
def _made(code: str) -> _Grammar:
    if code == "en":
        return _compiled(_ENGLISH, "")
    if code == "zh":
        return _compiled(chinese.RULES, "²³")
    tongue = {"de": german.TONGUE, "it": italian.TONGUE}[code]
    return _compiled(continental.rules(tongue), tongue.letters + tongue.letters.upper() + "²³ºª")


def _compiled(rules: Sequence[Rule], kept: str) -> _Grammar:
    readers = {f"rule{i}": (re.compile(pattern), read) for i, (pattern, read) in enumerate(rules)}
    named = "|".join(f"(?P<rule{i}>{_unnamed(pattern)})" for i, (pattern, _) in enumerate(rules))
    return _Grammar(re.compile(named + r"|[\s\S]"), readers, frozenset(kept))


def _unnamed(pattern: str) -> str:
    return re.sub(r"\(\?P<[a-z]+>", "(?:", pattern)


def _pieces(match: re.Match[str], readers: _Readers) -> list[Piece]:
    if match.lastgroup is None:
        return []
    pattern, read = readers[match.lastgroup]
    again = pattern.match(match.string, match.start())
    return read(again) if again else []

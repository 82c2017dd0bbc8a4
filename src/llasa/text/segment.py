"""Long text -> segments short enough to say in one go, with the pause after each.

In English, sentences and clauses are read off the marks of the normalised text, so abbreviations and
decimals do not split; in other languages off the marks as written. Must not know: voices, engines, audio.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from llasa.errors import ConfigError
from llasa.text import german, italian
from llasa.text.continental import Tongue
from llasa.text.normalize import Normalized, is_english, language_code, normalize
from llasa.text.reading import Reader, ReadWord

PARAGRAPH_S, SENTENCE_S, CLAUSE_S = 0.6, 0.3, 0.12

_CHARACTER = 0.6  # words
_MARKS = dict(
    zip("\u3002\uff01\uff1f\uff0c\u3001\uff1b\uff1a\u060c\u061f\u0964;:", ".!?,,,,,?.,,", strict=True)
)
_MARKS |= {mark: mark for mark in ",.?!"}
_READER = Reader()


def _never_last(tongue: Tongue) -> frozenset[str]:
    return frozenset(one.rstrip(".").split(".")[-1] for one in (*tongue.titles, *tongue.numbered))


# Words whose dot is their own.
_ABBREVIATED = {"de": _never_last(german.TONGUE), "it": _never_last(italian.TONGUE)}

_STARTS = (
    "and but or nor because which that while when if so although though since where who until unless before "
    "after as then than yet whether to in on at for from with by into between through during without"
)
_PHRASE_STARTS = frozenset(_STARTS.split(" "))
# What it costs to end a segment there; each further segment costs 1 to 2, one of two words or fewer 4 more.
_SEMICOLON, _COMMA, _PHRASE, _ANYWHERE = 0.0, 0.5, 2.0, 8.0
_SHORT_WORDS, _SHORT_COST = 2, 4.0


@dataclass(frozen=True)
class Segment:
    """A piece of text to be said in one go.

    text: as written. start, end: its place [start, end) in the original characters.
    pause_s: seconds of silence after it.
    """

    text: str
    start: int
    end: int
    pause_s: float


@dataclass(frozen=True)
class _Token:
    """The words that one written token gives, which cannot be parted; `gap` is what is written after it."""

    words: float
    mark: str
    end: int  # in the original
    gap: str
    next: str  # the word after, if it begins with a small letter


def segment(text: str, max_words: int = 16, language: str = "en") -> list[Segment]:
    """Split a text into segments of at most `max_words` spoken words, at the best places.

    Together the segments hold every character of the text but white space, in order. Only a written token
    that gives more words than `max_words` (a long number) makes a longer one.

    Args:
        text: any text with something to say.
        max_words: words of the normalised text, 1 or more; in scripts without spaces a character counts 0.6.
        language: a code such as "en" or "zh".

    Raises:
        ConfigError: `max_words` is below 1. InputError: nothing in the text can be said.
    """
    if max_words < 1:
        raise ConfigError(f"Splitting text into segments: max_words is {max_words}. Use 1 or more.")
    tokens = _tokens(text, normalize(text)) if is_english(language) else _foreign(text, language)
    pauses = [_pause_after(token) for token in tokens]
    pauses[-1] = PARAGRAPH_S
    segments, first = [], 0
    for last, pause in enumerate(pauses):
        if pause > CLAUSE_S:
            parts = _split(tokens[first : last + 1], max_words)
            ends = [first + part for part in parts]
            segments += [(tokens[end - 1], CLAUSE_S) for end in ends[:-1]] + [(tokens[last], pause)]
            first = last + 1
    return _cut(text, segments)


def _cut(text: str, lasts: Sequence[tuple[_Token, float]]) -> list[Segment]:
    borders = [*(_border(token) for token, _ in lasts[:-1]), len(text)]
    segments, start = [], 0
    for end, (_, pause_s) in zip(borders, lasts, strict=True):
        # Signs alone go with what follows them, or at the end with what was before.
        if not _sayable(text[start:end]) and end < len(text):
            continue
        if segments and not _sayable(text[start:end]):
            start = segments.pop().start
        piece = text[start:end]
        place = start + len(piece) - len(piece.lstrip())
        segments.append(Segment(piece.strip(), place, place + len(piece.strip()), pause_s))
        start = end
    return segments


def _sayable(piece: str) -> bool:
    return any(map(str.isalnum, piece))


def _border(token: _Token) -> int:
    """Signs before the first white space belong to the word before, the others to the word after."""
    space = re.search(r"\s", token.gap)
    return token.end + (space.start() if space else len(token.gap))


def _tokens(text: str, normal: Normalized) -> list[_Token]:
    words = normal.text.split(" ")
    parted = (i for i in range(1, len(words)) if _parted(text, normal.spans, i))
    starts = [0, *parted, len(words)]
    tokens = []
    for first, after in pairwise(starts):
        end = normal.spans[after - 1][1]
        following = normal.spans[after][0] if after < len(words) else len(text)
        mark = words[after - 1].lstrip("abcdefghijklmnopqrstuvwxyz'")
        next_word = words[after] if after < len(words) and text[following].islower() else ""
        tokens.append(_Token(after - first, mark, end, text[end:following], next_word))
    return tokens


def _foreign(text: str, language: str) -> list[_Token]:
    tokens, count, code = [], 0.0, language_code(language)
    words = _READER(text, "words", language)
    for word, following in zip(words, (*words[1:], None), strict=True):
        count += _CHARACTER if _wide(word) else 1.0
        after = following.start if following else len(text)
        gap = text[word.end : after]
        if following and not (gap or _wide(word) or _wide(following)):
            continue  # a Latin word among characters comes letter by letter
        next_word = following.text if following and text[after].islower() else ""
        mark = _mark(text[word.start : word.end], gap, next_word, code)
        tokens.append(_Token(count, mark, word.end, gap, next_word))
        count = 0.0
    return tokens


def _wide(word: ReadWord) -> bool:
    return unicodedata.east_asian_width(word.text[0]) == "W"


def _mark(word: str, gap: str, next_word: str, code: str) -> str:
    """Return the strongest mark between two words; a dot may belong to a number or an abbreviation."""
    found = "".join(_MARKS.get(sign, "") for sign in gap)
    stops = (mark for mark in "!?" if mark in found)
    short = len(word) < 3 and (word[0].isupper() or (code == "de" and (word.isdigit() or len(word) == 1)))
    short = short or word in _ABBREVIATED.get(code, ())
    if "\u3002" in gap or ("." in found and gap != "." and not (next_word or short)):
        return next(stops, ".")
    return next(stops, "," if found else "")


def _parted(text: str, spans: Sequence[tuple[int, int]], i: int) -> bool:
    """Tell whether a word may begin a segment: one that comes from a sign may mean nothing on its own."""
    (start, end), (first, last) = spans[i - 1], spans[i]
    # Words of one number share its span, however long: looking at it for each of them would take too long.
    if first < end or _sign(text[start:end]):
        return False
    return not (i == len(spans) - 1 and _sign(text[first:last]))


def _sign(piece: str) -> bool:
    return not any(map(str.isalnum, piece))


def _pause_after(token: _Token) -> float:
    """Seconds after a token; no more than a clause's inside a sentence."""
    if re.search(r"\n\s*?\n", token.gap):
        return PARAGRAPH_S
    quoted = token.mark in ("?", "!") and token.next and re.match("['\"”’»]", token.gap.lstrip("?!"))
    return SENTENCE_S if token.mark in (".", "?", "!") and not quoted else CLAUSE_S


def _split(tokens: Sequence[_Token], max_words: int) -> list[int]:
    """Return where the cheapest parts of a sentence end, [parts], increasing; the last is the whole."""
    cost, came_from = [0.0], [0]
    for end in range(1, len(tokens) + 1):
        options, words = [], 0
        for start in reversed(range(end)):
            words += tokens[start].words
            if words > max_words and start < end - 1:
                break
            options.append((cost[start] + _cost(words, max_words), start))
        best, start = min(options)
        cost.append(best + (_cost_of_end(tokens[end - 1]) if end < len(tokens) else 0.0))
        came_from.append(start)
    ends = [len(tokens)]
    while came_from[ends[-1]]:
        ends.append(came_from[ends[-1]])
    return ends[::-1]


def _cost(words: float, max_words: int) -> float:
    return 1.0 + (_SHORT_COST if words <= _SHORT_WORDS else 0.0) + (words / max_words) ** 2


def _cost_of_end(token: _Token) -> float:
    if set(token.gap) & set(";:"):
        return _SEMICOLON
    return _COMMA if token.mark else _PHRASE if token.next in _PHRASE_STARTS else _ANYWHERE

"""Chapters -> numbered lines, each to be said in one go. Knows no engine and no sound.

In the text, `[pause:1.5]` sets the silence before what follows, in seconds, and `[voice:name]` who speaks
from there on; `[voice:]` gives the word back to the voice that was asked for.
"""

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from llasa.errors import InputError
from llasa.longform.book import Book
from llasa.text.segment import segment

TITLE_S, CHAPTER_S, MOST_PAUSE_S = 1.0, 1.8, 60.0
_log = logging.getLogger(__name__)
_MARK = re.compile(r"\[(pause|voice):([^\[\]]*)\]")

Spans = tuple[tuple[int, int, int, int], ...]


@dataclass(frozen=True)
class Line:
    """What is said in one go.

    number: in the book, from 1. chapter: from 0. text: as written. said: with respellings. respelt: of each,
    its place in `said` and in `text`. voice: None for the one that was asked for. pause_s: silence after it.
    """

    number: int
    chapter: int
    text: str
    said: str
    respelt: Spans = ()
    voice: str | None = None
    pause_s: float = 0.0

    def place(self, start: int, end: int) -> tuple[int, int]:
        """Return where in `text` stands what is at [start, end) of `said`."""
        moved = 0
        for said_start, said_end, text_start, text_end in self.respelt:
            if said_end <= start:
                moved = text_end - said_end
            elif said_start < end:
                return text_start, text_end
        return start + moved, end + moved


def lines_of(book: Book, language: str, respell: Mapping[str, str]) -> list[Line]:
    """Return all that is to be said, in order.

    Args:
        language: of the text. respell: words as written -> as they are to be read.

    Raises:
        InputError: a mark has no meaning; its chapter is named.
    """
    found, voice = list[Line](), None
    for number, chapter in enumerate(book.chapters):
        doing, begin = f"Reading chapter {number + 1} '{chapter.title:.40}'", len(found)
        if title := _lines(_MARK.sub(" ", chapter.title), number, None, language, respell):
            found += [*title[:-1], replace(title[-1], pause_s=TITLE_S)]
        for piece in _pieces(chapter.paragraphs):
            if isinstance(piece, str):
                found += _lines(piece, number, voice, language, respell)
            elif piece[1] == "voice":
                voice = piece[2].strip() or None
            else:
                pause_s = _pause(piece[2], doing)
                found[-1:] = [replace(last, pause_s=pause_s) for last in found[-1:]]
        if len(found) > begin:
            found[-1] = replace(found[-1], pause_s=max(found[-1].pause_s, CHAPTER_S))
    return [replace(line, number=at) for at, line in enumerate(found, 1)]


def _pieces(paragraphs: Sequence[str]) -> Iterator[str | re.Match[str]]:
    for paragraph in paragraphs:
        at = 0
        for mark in _MARK.finditer(paragraph):
            yield paragraph[at : mark.start()]
            yield mark
            at = mark.end()
        yield paragraph[at:]


def _pause(word: str, doing: str) -> float:
    try:
        seconds = float(word)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= MOST_PAUSE_S:
        found = f"found [pause:{word}]"
        raise InputError(f"{doing}: {found}. Give seconds from 0 to {MOST_PAUSE_S:g}, as in [pause:1.5].")
    return seconds


def _lines(
    text: str, chapter: int, voice: str | None, language: str, respell: Mapping[str, str]
) -> list[Line]:
    if not any(map(str.isalnum, text)):
        return []
    try:
        parts = segment(text, language=language)
    except InputError:  # of another script, say: the rest of the book can be read
        # Not the text: what people send to a service is not logged.
        _log.warning("Chapter %d: left out %d characters that cannot be said.", chapter + 1, len(text))
        return []
    return [Line(0, chapter, one.text, *_respelt(one.text, respell), voice, one.pause_s) for one in parts]


def _respelt(text: str, respell: Mapping[str, str]) -> tuple[str, Spans]:
    if not respell:
        return text, ()
    words = "|".join(re.escape(word) for word in sorted(respell, key=len, reverse=True))
    said, spans, at = "", list[tuple[int, int, int, int]](), 0
    for found in re.finditer(rf"(?<!\w)(?:{words})(?!\w)", text):
        said += text[at : found.start()]
        new = respell[found[0]]
        spans.append((len(said), len(said) + len(new), found.start(), found.end()))
        said, at = said + new, found.end()
    return said + text[at:], tuple(spans)

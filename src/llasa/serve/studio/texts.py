"""Files of text that were uploaded -> parts short enough to be said in one request. Must not know: pages."""

from collections.abc import Iterator
from pathlib import Path

from llasa.errors import InputError
from llasa.longform.book import read_book

MOST_PARTS = 500
_ENDS = (". ", "! ", "? ", "; ", ", ", " ")


def parts_of(path: Path, most: int) -> list[tuple[str, str]]:
    """Return the chapters of a book, each cut into parts: a title, and a text of at most `most` characters.

    Raises:
        InputError: as `read_book`, without the folder of the file.
    """
    try:
        book = read_book(path)
    except InputError as error:
        raise InputError(str(error).replace(f"{path.parent}/", "")) from None
    found = list[tuple[str, str]]()
    for number, chapter in enumerate(book.chapters, 1):
        title = chapter.title or (f"Chapter {number}" if len(book.chapters) > 1 else book.title)
        texts = list(
            _cut([chapter.title, *chapter.paragraphs] if chapter.title else chapter.paragraphs, most)
        )
        names = (
            [title]
            if len(texts) == 1
            else [f"{title} ({i} of {len(texts)})" for i in range(1, 1 + len(texts))]
        )
        found += zip(names, texts, strict=True)
    return found[:MOST_PARTS]


def _cut(paragraphs: list[str] | tuple[str, ...], most: int) -> Iterator[str]:
    """Yield the paragraphs, as many together as fit."""
    held = ""
    for paragraph in paragraphs:
        for piece in _short(paragraph, most):
            if held and len(held) + 2 + len(piece) > most:
                yield held
                held = ""
            held = f"{held}\n\n{piece}" if held else piece
    if held:
        yield held


def _short(text: str, most: int) -> Iterator[str]:
    """Yield a paragraph in pieces that fit, cut behind a sentence if there is one, else behind a word."""
    while len(text) > most:
        cuts = (text.rfind(end, 0, most) + len(end) for end in _ENDS if text.rfind(end, 0, most) > 0)
        at = min(next(cuts, most), most)
        yield text[:at].strip()
        text = text[at:].strip()
    yield text

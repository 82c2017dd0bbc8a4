"""Files of text -> chapters of paragraphs: plain text, Markdown, EPUB. Knows no voice and no sound.

Nothing outside the file is read: no link is followed, no entity resolved.
"""

import lzma
import posixpath
import re
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

from markdown_it import MarkdownIt

from llasa.errors import InputError

MOST_BYTES = 64 * 2**20  # unpacked, of all that is read of a book
_NUMBER = (
    r"\d+|[ivxlc]+|the|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|"
    r"first|second|third|fourth|fifth|sixth|last"
)
# A title begins with a large letter: "Part one of the crew slept" is a sentence.
_HEADING = re.compile(
    rf"(?i:chapter|book|part|act|kapitel|teil|capitolo|parte)\s+(?i:{_NUMBER})\b[.:\u2013\u2014-]?(?:\s+[^a-z\s].{{0,60}})?"
    r"|(?i:prologue|epilogue|preface|foreword|introduction|afterword|vorwort|nachwort|prologo|epilogo)"
    r"(?:[.:\u2013\u2014-].{0,60})?"
)
_UNCLOSED = re.compile(r"<(?:[^<>]*<){50}")  # html.parser takes quadratic time over them
_BLOCKS = {"p", "li", "blockquote", "div", "td", "dt", "dd", "figcaption", "pre", "br", "hr", "tr"}
_HEADINGS = {"h1", "h2", "h3"}
_UNSAID = {"script", "style", "head", "nav", "svg", "math", "table"}
_OPF = "{http://www.idpf.org/2007/opf}"
_DAMAGED = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, ElementTree.ParseError, UnicodeDecodeError, EOFError,
    KeyError, ValueError, NotImplementedError, RuntimeError,
)  # fmt: skip
_DC = "{http://purl.org/dc/elements/1.1/}"


@dataclass(frozen=True)
class Chapter:
    """A part of a book. title: may be empty. paragraphs: each on one line, none empty."""

    title: str
    paragraphs: tuple[str, ...]


@dataclass(frozen=True)
class Book:
    """What is to be read. author, language: empty if the file does not tell."""

    title: str
    author: str
    language: str
    chapters: tuple[Chapter, ...]


def read_book(path: Path) -> Book:
    """Return the book in a file.

    Args:
        path: `.epub`, `.md` or `.txt`, in UTF-8.

    Raises:
        InputError: it cannot be read, is no such file, is too large, or holds nothing that can be said.
    """
    readers: dict[str, Callable[[Path], Book]] = {
        ".epub": _epub, ".md": _markdown, ".markdown": _markdown, ".txt": _plain,
    }  # fmt: skip
    if (reader := readers.get(path.suffix.lower())) is None:
        raise InputError(f"Reading the book '{path}': found '{path.suffix}'. Give .epub, .md or .txt.")
    try:
        book = reader(path)
    except OSError as error:
        found = f"the system says: {error.strerror or error}"
        raise InputError(f"Reading the book '{path}': {found}. Check the path.") from error
    except _DAMAGED as error:
        raise InputError(f"Reading the book '{path}': it is damaged ({error}). Fetch it again.") from error
    if not book.chapters:
        raise InputError(f"Reading the book '{path}': found nothing that can be said. Name another file.")
    return book


def _plain(path: Path) -> Book:
    paragraphs = re.split(r"\n\s*\n", _text(path).replace("\r\n", "\n"))
    return Book(path.stem, "", "", _chapters((_is_heading(part), part) for part in paragraphs))


def _is_heading(paragraph: str) -> bool:
    return "\n" not in paragraph.strip() and _HEADING.fullmatch(paragraph.strip()) is not None


def _markdown(path: Path) -> Book:
    tokens, parts, title = MarkdownIt().parse(_text(path)), list[tuple[bool, str]](), ""
    for before, token in zip([None, *tokens], tokens, strict=False):
        if token.type != "inline":
            continue
        said = "".join(_said(child) for child in token.children or [])
        heading = before is not None and before.type == "heading_open" and before.tag in _HEADINGS
        parts.append((heading, said))
        title = title or (said if heading else "")
    return Book(title or path.stem, "", "", _chapters(parts))


def _said(child: object) -> str:
    kind = getattr(child, "type", "")
    if kind in ("softbreak", "hardbreak"):
        return " "
    return getattr(child, "content", "") if kind in ("text", "code_inline") else ""


def _text(path: Path) -> str:
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"it has more than {MOST_BYTES} bytes")
    return path.read_text(encoding="utf-8-sig")


def _epub(path: Path) -> Book:
    with zipfile.ZipFile(path) as archive:
        if sum(info.file_size for info in archive.infolist()) > 16 * MOST_BYTES:
            raise ValueError("it unpacks to more than a book can hold")
        place = _xml(archive, "META-INF/container.xml").find(".//{*}rootfile")
        if place is None:
            raise ValueError("its container names no package")
        package = place.attrib["full-path"]
        root = _xml(archive, package)
        files = {one.attrib["id"]: one.attrib for one in root.iter(f"{_OPF}item")}
        spine = [files[one.attrib["idref"]] for one in root.iter(f"{_OPF}itemref")]
        folder, parts, left = posixpath.dirname(package), list[tuple[bool, str]](), MOST_BYTES
        for item in spine:
            if "nav" in item.get("properties", "").split() or "html" not in item["media-type"]:
                continue
            page = _member(archive, posixpath.normpath(posixpath.join(folder, unquote(item["href"]))), left)
            left -= len(page)
            parts += _page(page.decode("utf-8-sig"))
        title, author, language = (_meta(root, name) for name in ("title", "creator", "language"))
    return Book(title or path.stem, author, language, _chapters(parts))


def _member(archive: zipfile.ZipFile, name: str, most: int) -> bytes:
    """Return a file of the archive, of which no more than `most` bytes are unpacked."""
    with archive.open(name) as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise ValueError(f"it has more than {MOST_BYTES} bytes of text")
    return data


def _xml(archive: zipfile.ZipFile, name: str) -> ElementTree.Element:
    data = _member(archive, name, 2**22)
    if b"<!ENTITY" in data or b"\0" in data:  # in UTF-16 they would look otherwise
        raise ValueError(f"{name} declares entities, or is not UTF-8")
    return ElementTree.fromstring(data)


def _meta(root: ElementTree.Element, name: str) -> str:
    found = root.find(f".//{_DC}{name}")
    return "" if found is None else " ".join((found.text or "").split())


class _Page(HTMLParser):
    """Collects paragraphs and headings of a page, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = list[tuple[bool, str]]()
        self._words, self._heading, self._unsaid = list[str](), False, 0

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag in _UNSAID:
            self._unsaid += 1
        elif tag == "br":
            self.end(self._heading)
        elif tag in _BLOCKS or tag in _HEADINGS:
            self.end(tag in _HEADINGS)

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        if tag in _BLOCKS:
            self.end(tag == "br" and self._heading)

    def handle_endtag(self, tag: str) -> None:
        if tag in _UNSAID:
            self._unsaid = max(self._unsaid - 1, 0)
        elif tag in _BLOCKS or tag in _HEADINGS:
            self.end(False)

    def handle_data(self, data: str) -> None:
        if not self._unsaid:
            self._words.append(data)

    def end(self, heading: bool) -> None:
        """End a paragraph; what follows may be a heading."""
        self.parts.append((self._heading, "".join(self._words)))
        self._words, self._heading = [], heading


def _page(page: str) -> list[tuple[bool, str]]:
    if _UNCLOSED.search(page):
        raise ValueError("a page has tags that do not end")
    parser = _Page()
    parser.feed(page)
    parser.close()
    parser.end(False)
    return parser.parts


def _chapters(parts: Iterable[tuple[bool, str]]) -> tuple[Chapter, ...]:
    """Return chapters, each begun by a heading; headings one after another are one title."""
    chapters, title, paragraphs = list[Chapter](), list[str](), list[str]()
    for heading, text in _sayable(parts):
        if heading and paragraphs:
            chapters.append(Chapter(". ".join(title), tuple(paragraphs)))
            title, paragraphs = [], []
        (title if heading else paragraphs).append(text)
    if title or paragraphs:
        chapters.append(Chapter(". ".join(title), tuple(paragraphs)))
    return tuple(chapters)


def _sayable(parts: Iterable[tuple[bool, str]]) -> Iterator[tuple[bool, str]]:
    for heading, text in parts:
        line = " ".join(text.split())
        if any(map(str.isalnum, line)):
            yield heading, line

"""Books: files to chapters, chapters to lines, lines to sound that is kept, and that to a book."""

import json
import re
import zipfile
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llasa.audio import BOOK_FORMATS, replace_file
from llasa.beams import BeamSearch
from llasa.core import Word
from llasa.errors import ConfigError, InputError
from llasa.longform.audiobook import bind, check_output
from llasa.longform.book import Book, Chapter, read_book
from llasa.longform.reading import Reading, numbers_of
from llasa.longform.script import CHAPTER_S, TITLE_S, Line, lines_of
from llasa.longform.subtitles import Cue, subtitles
from llasa.provenance import provenance
from llasa.recipe import Effort
from llasa.search import BestOfN
from llasa.synthesizer import load

MADE = provenance("starter", "rufus")
CONTAINER = """<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container">
<rootfiles><rootfile full-path="in/b.opf"/></rootfiles></container>"""
PACKAGE = """<package xmlns="http://www.idpf.org/2007/opf"><metadata xmlns:dc="http://purl.org/dc/elements/1.1/">
<dc:title>A  Book</dc:title><dc:creator>Ann Author</dc:creator><dc:language>en-GB</dc:language></metadata>
<manifest><item id="n" href="nav.xhtml" media-type="application/xhtml+xml" properties="nav"/>
<item id="a" href="one%20a.xhtml" media-type="application/xhtml+xml"/>
<item id="p" href="x.png" media-type="image/png"/>
<item id="b" href="t/two.xhtml" media-type="application/xhtml+xml"/></manifest>
<spine><itemref idref="n"/><itemref idref="a"/><itemref idref="p"/><itemref idref="b"/></spine></package>"""
ONE = """<html><head><title>no</title><style>p{}</style></head><body><h1>One</h1><p>First
 <em>para</em>graph &amp; more.</p><p>* * *</p><div>Second<br/>third</div>
<script>no()</script></body></html>"""
TWO = "<html><body><p>Before.</p><h2>Two</h2><ul><li>Item</li></ul></body></html>"


def epub(path: Path, **changed: str | bytes) -> Path:
    files = {"META-INF/container.xml": CONTAINER, "in/b.opf": PACKAGE, "in/nav.xhtml": "<p>nav</p>",
             "in/one a.xhtml": ONE, "in/t/two.xhtml": TWO, "in/x.png": b"png"} | changed  # fmt: skip
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def test_an_epub_is_read_in_the_order_of_its_spine(tmp_path: Path) -> None:
    book = read_book(epub(tmp_path / "b.epub"))
    assert (book.title, book.author, book.language) == ("A Book", "Ann Author", "en-GB")
    assert book.chapters == (
        Chapter("One", ("First paragraph & more.", "Second", "third", "Before.")),
        Chapter("Two", ("Item",)),
    )


@pytest.mark.parametrize(
    "changed",
    [
        {"in/b.opf": PACKAGE.replace("in/", "")[:80]},
        {"META-INF/container.xml": "<container/>"},
        {"META-INF/container.xml": '<!DOCTYPE x [<!ENTITY a "aa">]>' + CONTAINER},
        {"in/b.opf": PACKAGE.encode("utf-16")},
        {"in/t/two.xhtml": "<a " * 5000},
        {"in/b.opf": PACKAGE.replace("t/two", "../../../../etc/passwd")},
        {"in/t/two.xhtml": b"\xff\xfe\x00"},
        {"in/b.opf": PACKAGE.replace('idref="a"', 'idref="z"')},
    ],
    ids=["cut", "empty", "entity", "utf-16", "unclosed", "outside", "bytes", "missing"],
)
def test_a_damaged_epub_is_refused(tmp_path: Path, changed: dict[str, str | bytes]) -> None:
    with pytest.raises(InputError, match=r"Reading the book .*damaged .* Fetch it again"):
        read_book(epub(tmp_path / "b.epub", **changed))


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llasa.longform.book.MOST_BYTES", 100_000)
    with pytest.raises(InputError, match="more than"):
        read_book(epub(tmp_path / "b.epub", **{"in/t/two.xhtml": "<p>a</p>" * 100_000}))
    with pytest.raises(InputError, match="unpacks to more"):
        read_book(epub(tmp_path / "c.epub", **{"in/x.png": bytes(10_000_000)}))


@settings(max_examples=80, deadline=None)
@given(st.binary(max_size=300), st.integers(0, 2000))
def test_no_bytes_make_more_than_an_input_error(tmp_path_factory, data: bytes, at: int) -> None:
    path = epub(tmp_path_factory.mktemp("books") / "b.epub")
    whole = bytearray(path.read_bytes())
    whole[at : at + len(data)] = data
    path.write_bytes(whole)
    with suppress(InputError):
        assert read_book(path).chapters


def test_markdown_is_said_without_its_signs(tmp_path: Path) -> None:
    path = tmp_path / "b.md"
    path.write_text("Intro *here*.\n\n# Title\n\n## One\n\nSee [this](http://a.b) `x`,\nand more.\n\n"
                    "![picture](p.png)\n\n```\ncode\n```\n\n- item\n\n#### Small\n\n---\n")  # fmt: skip
    book = read_book(path)
    assert book.title == "Title"
    assert book.chapters == (
        Chapter("", ("Intro here.",)),
        Chapter("Title. One", ("See this x, and more.", "item", "Small")),
    )


def test_plain_text_has_paragraphs_and_chapters(tmp_path: Path) -> None:
    path = tmp_path / "b.txt"
    path.write_bytes(
        "\ufeffChapter 1: Dawn\r\n\r\nA line\r\nand another.\r\n\r\n***\r\n\r\nPart of it.\r\nx\r\n".encode()
    )
    assert read_book(path).chapters == (Chapter("Chapter 1: Dawn", ("A line and another.", "Part of it. x")),)


HEADINGS = (
    "Chapter 12", "CHAPTER IV. The Sea", "Part One", "Book the First", "Epilogue", "Kapitel 3: Regen",
    "Prologue: Before",
)  # fmt: skip
NO_HEADINGS = (
    "Part of the crew slept on deck.", "Act now, he said.", "Chapter", "Booking.",
    "Introduction of the law came late.", "Part one of the crew slept.",
)  # fmt: skip


@pytest.mark.parametrize("heading", HEADINGS)
def test_these_lines_are_headings(tmp_path: Path, heading: str) -> None:
    path = tmp_path / "b.txt"
    path.write_text(f"Before.\n\n{heading}\n\nAfter.\n")
    assert [chapter.title for chapter in read_book(path).chapters] == ["", heading]


@pytest.mark.parametrize("line", NO_HEADINGS)
def test_these_lines_are_text(tmp_path: Path, line: str) -> None:
    path = tmp_path / "b.txt"
    path.write_text(f"Before.\n\n{line}\n")
    assert read_book(path).chapters == (Chapter("", ("Before.", line)),)


def test_a_title_may_have_two_rows(tmp_path: Path) -> None:
    page = "<h2>CHAPTER I.<br/>Down the<br>Hole</h2><p>Text.</p>"
    book = read_book(epub(tmp_path / "b.epub", **{"in/one a.xhtml": page, "in/t/two.xhtml": "<p>x</p>"}))
    assert book.chapters == (Chapter("CHAPTER I.. Down the. Hole", ("Text.", "x")),)


@pytest.mark.parametrize(("name", "data"), [("b.txt", b" \n***\n"), ("b.pdf", b"x"), ("b.txt", b"\xff\xff"),
                                            ("b.epub", b"PK"), ("none/b.txt", None)])  # fmt: skip
def test_what_is_no_book_is_refused(tmp_path: Path, name: str, data: bytes | None) -> None:
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match="Reading the book"):
        read_book(tmp_path / name)


def script(*paragraphs: str, title: str = "", respell: dict[str, str] | None = None) -> list[Line]:
    return lines_of(Book("b", "", "", (Chapter(title, paragraphs),)), "en", respell or {})


def test_marks_set_silence_and_speaker_and_are_not_said() -> None:
    lines = script("Well. [pause:2.5] Now [voice:kalle] he spoke. [voice:] And I. [pause:3]", title="One")
    assert [(line.number, line.text, line.voice) for line in lines] == [
        (1, "One", None), (2, "Well.", None), (3, "Now", None), (4, "he spoke.", "kalle"),
        (5, "And I.", None),
    ]  # fmt: skip
    assert [lines[at].pause_s for at in (0, 1, 4)] == [TITLE_S, 2.5, 3.0]
    assert script("Last words.")[-1].pause_s == CHAPTER_S


def test_a_voice_speaks_on_in_the_next_chapter_and_titles_hold_no_marks() -> None:
    chapters = (Chapter("One [pause:2]", ("[voice:kalle] Well.",)), Chapter("Two", ("[pause:3] Now.",)))
    lines = lines_of(Book("b", "", "", chapters), "en", {})
    assert [(line.text, line.voice) for line in lines] == [
        ("One", None), ("Well.", "kalle"), ("Two", None), ("Now.", "kalle"),
    ]  # fmt: skip
    assert [line.pause_s for line in lines] == [TITLE_S, CHAPTER_S, 3.0, CHAPTER_S]


def test_what_cannot_be_said_is_left_out_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    assert [line.text for line in script("One line.", "\u65e5\u672c", "Another.")] == [
        "One line.",
        "Another.",
    ]
    assert "Chapter 1: left out" in caplog.text


@pytest.mark.parametrize("mark", ["x", "-1", "61", "nan", ""])
def test_a_mark_without_meaning_is_refused_with_its_chapter(mark: str) -> None:
    with pytest.raises(InputError, match=rf"chapter 1 'One': found \[pause:{re.escape(mark)}\]"):
        script(f"Well. [pause:{mark}] Now.", title="One")


def test_respellings_are_of_whole_words_and_lead_back_to_the_text() -> None:
    [line] = script(
        "In Leicester, Leicesters see Leicester.", respell={"Leicester": "Lester", "see": "saw it"}
    )
    assert line.said == "In Lester, Leicesters saw it Lester."
    for word, written in {
        "In": "In",
        "Lester,": "Leicester",
        "Leicesters": "Leicesters",
        "it": "see",
    }.items():
        start = line.said.index(word)
        place = line.place(start, start + len(word.rstrip(",")))
        assert line.text[slice(*place)] == written
    last = line.said.rindex("Lester")
    assert line.text[slice(*line.place(last, last + 6))] == "Leicester" and line.place(last, last + 6)[0] > 25


def test_subtitles_have_the_forms_that_players_read() -> None:
    cues = [
        Cue(1, 0, "Less < more & so on, for a line that is longer than a screen is wide.", 0.0, 3661.0625)
    ]
    srt, vtt = subtitles(cues, "srt"), subtitles(cues, "vtt")
    assert srt.startswith("1\n00:00:00,000 --> 01:01:01,062\nLess < more")
    assert vtt.startswith("WEBVTT\n\n1\n00:00:00.000 --> 01:01:01.062\nLess &lt; more &amp; so")
    assert max(map(len, srt.splitlines())) <= 42
    word = Word("Less", 0, 4, "less", "said", 0.1, 0.2)
    [told] = json.loads(subtitles([Cue(1, 0, "Less", 0.0, 1.0, (word,))], "json"))
    assert told["words"][0]["end_s"] == 0.2


def test_numbers_are_lists_and_ranges() -> None:
    assert numbers_of("3, 17-19", 19, "Reading") == [3, 17, 18, 19]
    for wrong in ("", "x", "0", "3-2", "20", "1-"):
        with pytest.raises(ConfigError, match="Reading: found"):
            numbers_of(wrong, 19, "Reading")


@pytest.fixture
def reading(tiny_bundle: Path, tmp_path: Path) -> Reading:
    speaker = load(tiny_bundle)
    return Reading(speaker, tmp_path / "lines", speaker.voice(None), None, 0, "en", {"max_tokens": 12})


def test_lines_are_kept_until_something_else_is_asked_for(reading: Reading) -> None:
    lines = script("One line here.", "Another line.", "A third.")
    first = {one.number: one.sound.read_bytes() for one in reading.lines(lines) if one.sound}
    assert len(first) == 3 and reading.kept(lines) == [1, 2, 3]
    places = [reading.folder / f"00000{name}.flac" for name in ("1", "2", "3")]
    before = [place.stat().st_mtime_ns for place in places]
    again = list(reading.lines(lines, again={2}))
    assert [one.take for one in again] == [0, 1, 0]
    assert [place.stat().st_mtime_ns for place in places[::2]] == before[::2] and not places[1].exists()
    assert (reading.folder / "000002-1.flac").read_bytes() != first[2]
    changed = script("One line here.", "Another word.", "A third.")
    assert reading.kept(changed) == [1, 3]
    reading.seed = 1
    assert reading.kept(lines) == []


@pytest.mark.fault("R3")
def test_lines_asked_for_again_go_on_where_that_was_stopped(
    reading: Reading, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = script("One line here.", "Another line.", "A third.")
    with reading.held():
        first = {one.number: one.sound.read_bytes() for one in reading.lines(lines) if one.sound}
    # No room for the sound, or for what is told of it: the take before stays as it was.
    for suffix in (".flac", ".json"):
        with monkeypatch.context() as patch, pytest.raises(ConfigError, match="No space"), reading.held():
            patch.setattr("llasa.longform.reading.replace_file", partial(full_for, suffix))
            list(reading.lines(lines, again={2, 3}))
        kept = {one.number: one.take for one in reading.lines(lines)}
        assert kept == {1: 0, 2: 0, 3: 0}
        assert (reading.folder / "000002.flac").read_bytes() == first[2]
    with pytest.raises(KeyboardInterrupt), reading.held():
        for one in reading.lines(lines, again={2, 3}):
            if one.number == 2:
                raise KeyboardInterrupt
    with reading.held():  # the second is not said once more
        assert [one.take for one in reading.lines(lines, again={2, 3})] == [0, 1, 1]
    with reading.held():
        assert [one.take for one in reading.lines(lines, again={2, 3})] == [0, 2, 2]
    names = sorted(path.name for path in reading.folder.glob("*.flac"))
    assert names == ["000001.flac", "000002-2.flac", "000003-2.flac"]


def test_a_take_under_the_name_of_the_first_one_is_kept(reading: Reading) -> None:
    """So earlier versions wrote a line that was said again."""
    lines = script("One line here.", "Another line.")
    list(reading.lines(lines))
    [_, redone] = reading.lines(lines, again={2})
    assert redone.sound is not None and redone.take == 1
    sound, before = redone.sound.read_bytes(), reading.folder / "000002.flac"
    redone.sound.rename(before)
    assert reading.kept(lines) == [1, 2]
    [_, found] = reading.lines(lines)
    assert (found.take, found.sound) == (1, before) and before.read_bytes() == sound
    with reading.held():
        [_, again] = reading.lines(lines, again={2})
    assert again.take == 2 and not before.exists()


def full_for(suffix: str, path: Path, data: bytes) -> None:
    if path.suffix == suffix and path.name != "again.json":
        raise ConfigError(f"Writing '{path}': the system says: No space left on device.")
    replace_file(path, data)


@pytest.mark.fault("R16")
def test_a_book_is_read_by_one_at_a_time(reading: Reading) -> None:
    with reading.held(), pytest.raises(ConfigError, match="is writing there"), reading.held():
        pass


@pytest.mark.parametrize("harm", ["json", "flac"])
def test_a_line_that_is_damaged_is_said_again(reading: Reading, harm: str) -> None:
    lines = script("One line here.")
    [wanted] = reading.lines(lines)
    sound = wanted.audio()
    place = reading.folder / f"000001.{harm}"
    place.write_text("{") if harm == "json" else place.unlink()
    assert reading.kept(lines) == []
    [found] = reading.lines(lines)
    again = found.audio()
    assert sound is not None and again is not None
    np.testing.assert_array_equal(again.samples, sound.samples)


def test_what_decides_the_sound_is_in_the_key(reading: Reading) -> None:
    [line] = script("One line here.")
    found = set[str]()
    searches: list[Any] = [BestOfN(2), BestOfN(2), BestOfN(3)]
    searches += [BeamSearch(4, 2, process=cast(Any, SimpleNamespace(partial=True))) for _ in range(2)]
    for search in searches:
        reading.effort = Effort(search, judge=None)  # pyright: ignore[reportArgumentType]
        found.add(reading._key(line))
    assert len(found) == 3  # two beams of one width are one


def test_a_line_that_fails_is_told_and_the_book_goes_on(
    reading: Reading, monkeypatch: pytest.MonkeyPatch
) -> None:
    speak: Any = reading.synthesizer.speak

    def failing(text: str, *rest: object, **options: object) -> object:
        if text == "Two lines.":
            raise InputError("Speaking: this one cannot be said.")
        return speak(text, *rest, **options)

    monkeypatch.setattr(reading.synthesizer, "speak", failing)
    first, second, third = reading.lines(script("One line.", "Two lines.", "Three lines."))
    assert second.sound is None and second.warnings == ("Speaking: this one cannot be said.",)
    assert first.sound and third.sound


def test_a_voice_that_nobody_has_is_refused_with_the_line(reading: Reading) -> None:
    with pytest.raises(ConfigError, match=r"line 2: found \[voice:nobody\]"):
        reading.check(script("Well. [voice:nobody] Now."))
    with pytest.raises(ConfigError, match="found"):
        reading.check(script("[voice:../../x] Now."))


@pytest.mark.parametrize("suffix", [f".{one}" for one in BOOK_FORMATS])
def test_a_book_is_bound_with_chapters_where_they_are_heard(
    reading: Reading, tmp_path: Path, suffix: str
) -> None:
    book = Book("Title", "Ann", "", (Chapter("First", ("One line here.",)), Chapter("", ("Another line.",))))
    read, path = list(reading.lines(lines_of(book, "en", {}))), tmp_path / f"b{suffix}"
    cues = bind(path, book, read, MADE)
    assert [cue.number for cue in cues] == [1, 2, 3]
    with av.open(str(path)) as file:
        total = sum(frame.samples / frame.sample_rate for frame in file.decode(audio=0))
        chapters, title = file.chapters(), file.metadata.get("title", file.streams[0].metadata.get("title"))
    assert total == pytest.approx(cues[-1].end_s + CHAPTER_S, abs=0.2)
    if suffix in (".m4b", ".m4a", ".mp3"):
        assert [(one["metadata"]["title"], one["start"] * one["time_base"]) for one in chapters] == [
            ("First", 0), ("Part 2", pytest.approx(cues[2].start_s, abs=0.002)),
        ]  # fmt: skip
    assert suffix == ".wav" or title == "Title"
    assert [one.name for one in tmp_path.glob(".*")] == []


def test_lines_without_sound_are_left_out_and_a_book_of_them_is_refused(
    reading: Reading, tmp_path: Path
) -> None:
    book = Book("b", "", "", (Chapter("", ("One line here.", "Another line.")),))
    first, second = reading.lines(lines_of(book, "en", {}))
    silent = type(first)(first.line, 2, None, 0, 0.0, (), None, ("no speech",))
    assert [cue.number for cue in bind(tmp_path / "b.wav", book, [silent, second], MADE)] == [2]
    with pytest.raises(InputError, match="no line has any sound"):
        bind(tmp_path / "b.wav", book, [silent], MADE)


def test_a_place_that_cannot_be_written_is_refused_at_once(tmp_path: Path) -> None:
    for path in (tmp_path / "b.aiff", tmp_path / "none" / "b.mp3", tmp_path):
        with pytest.raises(ConfigError, match="Writing"):
            check_output(path)

"""`llasa read`, by the real command: a book with its subtitles, kept lines, and errors before any work."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Ran

Run = Callable[..., Ran]
TEXT = "# Book\n\nA line here. Another line.\n\n## End\n\nThe last line.\n"


@pytest.fixture
def book(tmp_path: Path) -> Path:
    path = tmp_path / "book.md"
    path.write_text(TEXT)
    return path


def test_a_book_is_read_and_goes_on_where_it_was(run: Run, bundle_folder: Path, book: Path) -> None:
    words = ("read", book, "-o", book.with_suffix(".m4b"), "--bundle", bundle_folder, "--effort", 1)
    listed = json.loads(run(*words, "--lines", "--json").out)["lines"]
    assert [row["said"] for row in listed] == [False] * 5
    told = json.loads(run(*words, "--json").out)
    assert told["lines"] == 5 and Path(told["output"]).stat().st_size > 1000
    assert [Path(path).suffix for path in told["subtitles"].values()] == [".srt", ".vtt", ".json"]
    cues = json.loads(Path(told["subtitles"]["json"]).read_text())
    assert [cue["text"] for cue in cues][1:] == ["A line here.", "Another line.", "End", "The last line."]
    kept = {path: path.stat().st_mtime_ns for path in book.parent.glob("book.m4b.lines/*")}
    assert run(*words, "--redo", "3").code == 0
    now = {path: path.stat().st_mtime_ns for path in book.parent.glob("book.m4b.lines/*")}
    changed = {path.name for path, _ in kept.items() ^ now.items()} - {".owner"}
    assert changed == {"000003.json", "000003.flac", "000003-1.flac"} and len(now) == len(kept)
    assert "* " in run(*words, "--lines").out


@pytest.mark.parametrize(
    ("words", "said"),
    [(("-o", "b.aiff"), "b.aiff"), (("--redo", "9"), "There are 1 to 5"), (("--chapters", "x"), "found 'x'"),
     (("--say-as", "none.toml"), "none.toml"), (("--voice", "nobody"), "nobody")],
)  # fmt: skip
def test_what_is_wrong_is_refused_before_a_line_is_said(
    run: Run, bundle_folder: Path, book: Path, words: tuple[str, ...], said: str
) -> None:
    place = () if "-o" in words else ("-o", book.with_suffix(".mp3"))
    ended = run("read", book, "--bundle", bundle_folder, *place, *words)
    assert ended.code == 2 and said in ended.err
    assert sorted(path.name for path in book.parent.iterdir()) == ["book.md"]


def test_help_teaches(run: Run) -> None:
    told = run("read", "--help").out
    assert "llasa read book.epub -o book.m4b" in told and "[pause:1.5]" in told

"""The page of an evaluation: what it shows of failures, and that nothing in it is anybody's markup."""

import re
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")

from llasa.audio import write as write_sound
from llasa.errors import ConfigError
from llasa.evaluate.results import read_evaluation
from llasa.evaluate.results_page import check_ready, page, write
from llasa.evaluate.summary import tables
from tests.conftest import clip
from tests.unit.test_evaluate_summary import EAR
from tests.unit.test_evaluate_summary import row as row_of
from tests.unit.test_evaluate_summary import write as write_rows

NASTY = "<b>$x$ & co"


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("evaluation")
    changed = {EAR: [["text", "<i>test</i>", "changed"], ["gone", "", "missed"], ["", "more", "added"]]}
    rows = [row_of("first", line, 0.1 * line) for line in range(6)]
    rows += [row_of(NASTY, line, 0.2, words=changed) for line in range(5)]
    rows += [
        row_of(NASTY, 5, None, "error", reason="HTTP 500: <script>", duration_s=0.0, first_s=None, words={})
    ]
    (folder / "sounds").mkdir()
    write_sound(folder / "sounds/a.flac", clip(1.0))
    rows[0]["sound"], rows[1]["sound"] = "sounds/a.flac", "sounds/gone.flac"
    found = read_evaluation(write_rows(folder, rows))
    return page(found, tables(found))


def test_nothing_of_a_row_is_markup(shown: str) -> None:
    assert "<b>$x$" not in shown and "<script" not in shown and "<i>test" not in shown
    assert "&lt;b&gt;$x$ &amp; co" in shown and "HTTP 500: &lt;script&gt;" in shown


def test_it_needs_no_other_file(shown: str) -> None:
    assert all(place.startswith(("data:", "#")) for place in re.findall(r'(?:src|href)="([^"]*)"', shown))
    assert "default-src 'none'" in shown


def test_failures_and_words_are_seen(shown: str) -> None:
    assert '<span class="flag">error</span>' in shown and "no sound" in shown and "1 error" in shown
    assert "<del>gone</del>" in shown and "<ins>more</ins>" in shown
    assert "<del>text</del> <ins>&lt;i&gt;test&lt;/i&gt;</ins>" in shown
    assert shown.count("data:audio/mpeg") == 1  # of two sounds one is gone
    assert shown.count("<svg") == 7 and "not measured</span> mos: no model" in shown


def test_what_cannot_be_written_is_found_out_before(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no folder"):
        check_ready(tmp_path / "none" / "page.html")
    found = read_evaluation(write_rows(tmp_path, [row_of("a", 0)]))
    write(found, tables(found), tmp_path / "table.md")
    assert (tmp_path / "table.md").read_text("utf-8").startswith("**set**")

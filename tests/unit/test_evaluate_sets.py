"""Test sets: own texts, the lists of papers, data sets; and rows that are no lines."""

from pathlib import Path

import pytest

from llasa.audio import write
from llasa.errors import ConfigError
from llasa.evaluate.plan import SetBlock
from llasa.evaluate.sets import Line, digest, lines_of, problems_of, reference_of
from tests.conftest import clip


def test_the_built_in_lines_are_spread_evenly() -> None:
    every, some = lines_of(SetBlock()), lines_of(SetBlock(lines=5))
    assert len(every) == 40 and some == [every[place] for place in (0, 10, 20, 29, 39)]
    assert some[0] == Line("built-in", "line-1", "Bring two lemons.")


def test_own_texts(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("\ufeffOne.\n\n  Two.  \n", encoding="utf-8")
    found = lines_of(SetBlock(source=str(tmp_path / "mine.txt"), language="de"))
    assert [(line.id, line.text, line.language) for line in found] == [
        ("line-1", "One.", "de"), ("line-3", "Two.", "de"),
    ]  # fmt: skip


def seed_tts(folder: Path, *rows: str) -> SetBlock:
    for name in ("prompt-wavs/a.wav", "wavs/x1.wav"):
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        write(folder / name, clip())
    (folder / "meta.lst").write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
    return SetBlock(source=str(folder / "meta.lst"), language="en")


def test_seed_tts_eval(tmp_path: Path) -> None:
    block = seed_tts(
        tmp_path / "en", "x1|What I say.|prompt-wavs/a.wav|What to say.", "x2|W.|prompt-wavs/a.wav|Else."
    )
    first, second = lines_of(block)
    assert (first.id, first.text, first.reference_text) == ("x1", "What to say.", "What I say.")
    assert reference_of(first).duration_s == pytest.approx(2.0)
    assert first.recording is not None and first.recording.audio.endswith("wavs/x1.wav")
    assert second.recording is None and not problems_of(first)


def test_librispeech_pc(tmp_path: Path) -> None:
    row = "61-70968-0000\t4.9\tHe began.\t61-70968-0001\t5.1\tAnd ended."
    (tmp_path / "test.lst").write_text(f"{row}\n", encoding="utf-8")
    (tmp_path / "LS/61/70968").mkdir(parents=True)
    for name in ("0000", "0001"):
        write(tmp_path / f"LS/61/70968/61-70968-{name}.flac", clip())
    [line] = lines_of(SetBlock(source=str(tmp_path / "test.lst"), sounds=str(tmp_path / "LS")))
    assert (line.id, line.text, line.reference_text) == ("61-70968-0001", "And ended.", "He began.")
    assert not problems_of(line) and line.recording is not None
    with pytest.raises(ConfigError, match="sounds = 'LibriSpeech/test-clean'"):
        lines_of(SetBlock(source=str(tmp_path / "test.lst")))


def test_a_data_set(tmp_path: Path) -> None:
    (tmp_path / "wavs").mkdir()
    write(tmp_path / "wavs/one.wav", clip())
    (tmp_path / "metadata.csv").write_text("one|It has 1 line.|It has one line.\n", encoding="utf-8")
    [line] = lines_of(SetBlock(source=str(tmp_path)))
    assert line.text == "It has one line." and line.recording is not None and not problems_of(line)


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (["x1|two|columns"], "line-1: it has 3 columns"),
        (["x1|W.|../outside.wav|Text."], "leads out of the folder"),
        (["x1|W.|prompt-wavs/a.wav|  "], "x1: it has no text"),
        (["x1|W.|prompt-wavs/a.wav|A.", "x1|W.|prompt-wavs/a.wav|B."], "x1: another row has this name"),
        ([], "found no text"),
    ],
)
def test_rows_that_are_no_lines(tmp_path: Path, rows: list[str], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        lines_of(seed_tts(tmp_path, *rows))


def test_missing_sounds_are_told_by_row(tmp_path: Path) -> None:
    [line] = lines_of(seed_tts(tmp_path, "x9|W.|prompt-wavs/none.wav|Text."))
    [(name, why)] = problems_of(line)
    assert name.endswith("x9") and "none.wav" in why


def test_a_missing_list(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="system says"):
        lines_of(SetBlock(source=str(tmp_path / "none.txt")))
    with pytest.raises(ConfigError, match="no such file"):
        lines_of(SetBlock(source=str(tmp_path / "none"), kind="ljspeech"))


def test_the_digest_changes_with_any_line_and_not_with_the_folder(tmp_path: Path) -> None:
    row = "x1|W.|prompt-wavs/a.wav|Text."
    here, there = (digest(lines_of(seed_tts(tmp_path / name, row))) for name in ("a/en", "b/en"))
    other = digest(lines_of(seed_tts(tmp_path / "c/en", row.replace("Text", "Other"))))
    assert here == there != other

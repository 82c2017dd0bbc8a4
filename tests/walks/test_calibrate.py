"""`llasa calibrate`: from pairs to a recipe, by the real command."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from llasa.recipe import read_recipe
from tests.conftest import Ran

Run = Callable[..., Ran]

JUDGE = """
[judge]
combine = "mean"

[[judge.scorers]]
name = "duration"

[[judge.scorers]]
name = "lm"
label = "unused"
held_out = true

[[judge.scorers]]
name = "repetition"
weight = 2.0

[search]
n = 3
"""


@pytest.fixture
def told(tmp_path: Path) -> Path:
    """Labels that go with repetition: one code over and over is worst."""
    rows = [
        {"text": f"The cat sat on mat number {i}.", "voice": "ada", "codes": codes, "score": score}
        for i in range(8)
        for codes, score in (([7] * 50, 1), ([5, 6] * 25, 2), (list(range(i, i + 50)), 3))
    ]
    path = tmp_path / "told.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


@pytest.fixture
def judge(tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(JUDGE, encoding="utf-8")
    return path


def test_labels_to_a_recipe(run: Run, tmp_path: Path, told: Path, judge: Path, tiny_bundle: Path) -> None:
    asked = ("calibrate", "--judge", judge, "--pairs", told, "--bundle", tiny_bundle)
    ran = run(*asked, "-o", "new.toml")
    assert (ran.code, ran.out) == (0, "new.toml\n") and "told.jsonl" in ran.err
    assert "Fitted to 18 pairs. Of 6 pairs of other texts, in the right order:" in ran.err
    assert ("no better than before" in ran.err) == (" 100.0%   100.0%" in ran.err)
    written = (tmp_path / "new.toml").read_text(encoding="utf-8")
    assert written.startswith("# Fitted by `llasa calibrate` to the pairs of told.jsonl: 18 pairs.\n")
    block = read_recipe(tmp_path / "new.toml").judge
    assert [part.label or part.name for part in block.scorers] == ["duration", "unused", "repetition"]
    assert block.combine == "mean" and block.scorers[1].held_out
    found = json.loads(run(*asked, "--combine", "harmonic", "--json").out)
    assert found["combine"] == "harmonic" and found["output"] is None and found["pairs_held_out"] == 6
    assert found["ordered"]["all"]["after"] == 1.0 and found["parts"][0]["name"] == "duration"
    path = tmp_path / "printed.toml"
    path.write_text(found["recipe"], encoding="utf-8")
    assert read_recipe(path).judge.scorers[2].weight == found["parts"][2]["weight"]


def test_without_an_output_the_recipe_is_printed(
    run: Run, tmp_path: Path, told: Path, judge: Path, tiny_bundle: Path
) -> None:
    ran = run("calibrate", "--judge", judge, "--pairs", told, "--bundle", tiny_bundle)
    (tmp_path / "out.toml").write_text(ran.out, encoding="utf-8")
    assert ran.code == 0 and read_recipe(tmp_path / "out.toml").judge.combine == "mean"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--lines", "0"), "found --lines 0 and no --pairs"),
        (("--combine", "median"), "harmonic, mean, min"),
        (("-o", "nowhere/judge.toml"), "no such folder"),
        (("--judge", "none.toml"), "none.toml"),
        (("--pairs", "none.jsonl", "--judge", "mine.toml"), "none.jsonl"),
        ((), "has no judge of its own"),
    ],
)
def test_what_cannot_be_done_is_refused(
    run: Run, judge: Path, tiny_bundle: Path, flags: tuple[str, ...], said: str
) -> None:
    ran = run("calibrate", *flags, "--bundle", tiny_bundle)
    assert ran.code == 2 and said in ran.err and not ran.out


def test_what_is_read_is_not_written_over(run: Run, judge: Path, told: Path, tiny_bundle: Path) -> None:
    asked = ("calibrate", "--judge", judge, "--pairs", told, "--bundle", tiny_bundle)
    for path in (judge, told):
        before = path.read_text(encoding="utf-8")
        ran = run(*asked, "-o", path.name)
        assert ran.code == 2 and "it is read too" in ran.err and "Name another file" in ran.err
        assert path.read_text(encoding="utf-8") == before


def test_a_bad_line_is_named(run: Run, tmp_path: Path, judge: Path, tiny_bundle: Path) -> None:
    (tmp_path / "told.jsonl").write_text('{"text": "x", "better": "a.wav", "worse": "b.wav"}')
    ran = run("calibrate", "--judge", judge, "--pairs", "told.jsonl", "--bundle", tiny_bundle)
    assert ran.code == 2 and "told.jsonl', line 1: " in ran.err and "a.wav" in ran.err


def test_help_teaches_the_file(run: Run) -> None:
    ran = run("calibrate", "--help")
    assert ran.code == 0 and '"better": "take2.wav"' in ran.out and "--pairs" in ran.out

"""The recipes say what the commands understand, and their scripts write what the commands read."""

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

from llasa.core import Clip
from llasa.data.sources import open_source
from llasa.evaluate.plan import read_plan
from llasa.train.codec.recipe import read as read_codec
from llasa.train.recognizer.recipe import read as read_recognizer
from llasa.train.sft import read_recipe

RECIPES = Path(__file__).parents[2] / "recipes"


def test_the_starters_recipes_are_understood() -> None:
    codec = read_codec(
        RECIPES / "starter/codec.toml", ['data=[{ path = "a" }, { path = "b", kind = "audio" }]']
    )
    assert [block.path for block in codec.data] == ["a", "b"]
    streaming = read_codec(RECIPES / "starter/streaming.toml", ['data=[{ path = "a" }]'])
    assert streaming.init == "out/runs/codec/codec" and getattr(streaming, "ahead", None) == (2, 2)
    assert getattr(read_codec(RECIPES / "codec/xcodec2-streaming.toml"), "ahead", None) == 3
    lm = read_recipe(RECIPES / "starter/lm.toml", ["trainer.max_steps=9"])
    assert lm.trainer["max_steps"] == 9 and lm.codec == "out/runs/codec/codec"
    heard = [read_recognizer(RECIPES / f"starter/recognizer-{name}.toml") for name in "ab"]
    assert [one.text_form for one in heard] == ["phones", "characters"]
    assert heard[0].copies == heard[1].copies and heard[0].seed != heard[1].seed
    assert read_recipe(RECIPES / "scaling/lm.toml").scratch


def test_the_evaluation_is_understood() -> None:
    plan = read_plan(RECIPES / "evaluate/starter.toml")
    assert [(block.title, block.effort) for block in plan.systems] == [
        ("effort 1", 1), ("effort 4", 4), ("effort 16", 16),
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["starter.sh"])
def test_scripts_parse_and_refuse_strange_options(name: str) -> None:
    subprocess.run(["bash", "-n", RECIPES / name], check=True)
    ran = subprocess.run([RECIPES / name, "--colour", "blue"], capture_output=True, text=True, check=False)
    assert ran.returncode == 2 and "--extra-audio FOLDER" in ran.stderr


def test_every_command_of_the_starters_script_is_there() -> None:
    script = (RECIPES / "starter.sh").read_text("utf-8")
    stages = set(re.findall(r"^ *(?:\[.*\|\| )?stage ([a-z]+) ", script, re.MULTILINE))
    assert stages == {"texts", "speech", "reference", "pack", "listen"}
    assert all((RECIPES / f"starter/{stage}.py").is_file() for stage in stages)
    rows = [line.split() for line in (RECIPES / "starter/speech.txt").read_text("utf-8").splitlines()]
    assert all(len(row) == 8 and row[0] in ("flite", "festival") for row in rows)
    assert len({row[-1] for row in rows}) == len(rows)
    assert sum(float(row[3]) for row in rows) > 45


def test_spoken_utterances_are_a_source(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(RECIPES / "starter"))
    from spoken import Spoken, write

    words, phones = [("ada", 0.5), ("says", 0.9)], [("ey", 0.25), ("d", 0.3), ("ax", 0.5), ("z", 0.90001)]
    noise = (np.random.default_rng(0).normal(size=16000) * 3000).astype(np.int16)
    whole = Spoken("ada says.", noise, words, phones)
    wrong = Spoken("ada says so", noise, words, phones)
    write([wrong, whole, whole.resampled(1.25), whole], tmp_path, "ann.b", 2.7 / 3600)
    first, second, third = (row for row in open_source(tmp_path).rows() if isinstance(row, Clip))
    assert [clip.id for clip in (first, second, third)] == ["ann.b-00000", "ann.b-00001", "ann.b-00002"]
    assert (first.text, first.speaker, first.words) == ("ada says.", "ann", tuple(words))
    assert (second.start_s, second.end_s, second.words[-1]) == (1.0, 1.8, ("says", 0.72))
    assert second.phones[-1] == ("z", 0.72) and third.start_s == 1.8

    from llasa.data import sounds

    np.testing.assert_array_equal(np.round(sounds.load(third).samples * 32768), noise)
    with pytest.raises(SystemExit, match="ran out"):
        write([whole], tmp_path, "bob", 1.0)


def test_festivals_words_are_joined_as_they_are_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(RECIPES / "starter"))
    from festival import _joined

    said = [("it's", 0.2), ("mary", 0.6), ("'s", 0.0), ("dog", 0.9)]
    assert _joined(said) == [("it's", 0.2), ("mary's", 0.6), ("dog", 0.9)]


def test_what_is_not_heard_has_no_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(RECIPES / "starter"))
    from listen import words

    assert words("") == "" and words("Dr. Hill, 2!") == "doctor hill two"


def test_scaling_takes_smaller_data_from_larger(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(RECIPES / "scaling"))
    from run import HOURS, SIZES, draw, take_data

    from llasa.data.shards import Header, Row, Shards, save

    codes = list(range(100))
    rows = [Row(str(n), f"text {n}", "ann", "en", 4.0, codes) for n in range(400)]
    save(tmp_path / "codes", {"train": rows}, Header("a@b", 25.0, 200))
    for hours in (0.05, 0.2):
        take_data(tmp_path / "codes", hours, tmp_path / str(hours))
    few, many = (Shards(tmp_path / name) for name in ("0.05", "0.2"))
    assert (len(few), len(many)) == (45, 180) and [row.id for row in few] == [row.id for row in many[:45]]
    held = {row.text for row in Shards(tmp_path / "0.2", "heldout")}
    assert held == {row.text for row in Shards(tmp_path / "0.05", "heldout")} and held
    assert not held & {row.text for row in many}
    with pytest.raises(SystemExit, match=r"it has 0\.4 h"):
        take_data(tmp_path / "codes", 3.0, tmp_path / "3")

    cells = [
        {"millions": size.millions, "hours": hours, "held_loss": 4.0, "wer": 50.0, "per": 40.0}
        for size in SIZES
        for hours in HOURS
    ]
    draw(cells, tmp_path / "scaling.png")
    assert (tmp_path / "scaling.png").stat().st_size > 10_000

"""`llasa bench`, by the real command: figures that hold together, a picture, and errors before any work."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from llasa import bench
from tests.conftest import Ran

Run = Callable[..., Ran]


@pytest.mark.slow  # a process that loads torch and transformers for each effort
def test_what_is_measured_holds_together(run: Run, tiny_bundle: Path, tmp_path: Path):
    picture = tmp_path / "speed.png"
    words = (
        "--bundle",
        tiny_bundle,
        "--seconds",
        0.2,
        "--no-published",
        "--price-per-hour",
        2,
        "--plot",
        picture,
    )
    told = json.loads(run("bench", "--json", "--effort", 1, "--effort", 4, *words).out)
    [one] = told["efforts"]
    spent_s = one["draw_s"] + one["decode_s"] + one["judge_s"]
    assert 0 < spent_s <= one["elapsed_s"] and one["codes"] > 0 and one["first_audio_s"] > 0
    assert one["real_time_factor"] == pytest.approx(one["elapsed_s"] / one["audio_s"])
    assert one["cost_per_audio_hour"] == pytest.approx(2 * one["real_time_factor"])
    assert one["peak_bytes"] > 50e6 and one["load_s"] > 0
    assert "judge" in told["problems"]["4"]  # the tiny bundle has none
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("words", "said"),
    [(("--effort", 0), "--effort is 0"), (("--seconds", 0), "--seconds is 0"),
     (("--price-per-hour", -1), "--price-per-hour is -1"), (("--plot", "no/such/folder/x.png"), "no folder")],
)  # fmt: skip
def test_wrong_flags_are_refused_before_anything_is_measured(run: Run, words: tuple[object, ...], said: str):
    ended = run("bench", *words)
    assert ended.code == 2 and said in ended.err


def test_guesses_of_draft_modules_are_told_as_shares():
    counts = {"drafts_passes": 12.0, "drafts_guessed": 10.0, "drafts_held_1": 4.0, "drafts_held_2": 1.0}
    plain = bench.Speed(1, 1.0, 0.1, 2.0, 1.0, 50, 0.8, 0.1, 0.0, None, 0)
    assert plain.held == [] and plain.to_json()["drafts"] == {}
    assert replace(plain, drafts=counts).to_json()["held"] == [0.4, 0.1]


@pytest.mark.parametrize("held", [0, 300_000_000])
def test_peak_memory_tells_of_what_was_let_go(held: int):
    code = f"from llasa import bench; bytearray(b'x' * {held}); print(bench.peak_bytes())"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert held <= int(told.stdout) < held * 3 + 200_000_000


def test_what_the_process_says_last_is_told(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bench.sys, "executable", "/bin/false")
    with pytest.raises(bench.EngineError, match="Measuring effort 1: it ended with 1"):
        bench.measure(bench.Setup(), 1)


def test_cost_of_an_hour_of_speech():
    assert bench.cost(0.25, 2.0) == 0.5

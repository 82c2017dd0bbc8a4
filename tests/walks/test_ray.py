"""`--ray`: Ray's workers give what the command gives by itself."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from llasa import audio
from tests.conftest import Ran
from tests.sounds import speechlike

pytest.importorskip("ray")
pytestmark = pytest.mark.slow

Run = Callable[..., Ran]
RECIPE = """
bundle = "{bundle}"
recognizers = []
seed_tts_eval = false
scorers = [{{ name = "repetition" }}]
sets = [{{ lines = 3 }}]
systems = [{{ name = "hot", bundle = "{bundle}", sampling = {{ max_tokens = 40, temperature = 1.0 }} }}]
"""


def test_prepare_writes_the_same_bytes(run: Run, tiny_bundle: Path, tmp_path: Path):
    (tmp_path / "said").mkdir()
    for n in range(7):
        audio.write(tmp_path / "said" / f"{n}.wav", speechlike(0.5 + n / 20))
        (tmp_path / "said" / f"{n}.lab").write_text(f"Number {n}.", encoding="utf-8")
    (tmp_path / "said" / "8.lab").write_text("Nobody says this.", encoding="utf-8")
    found = list[dict[str, bytes]]()
    for out, more in (("one", ()), ("many", ("--ray",))):
        ran = run("prepare", "said", out, "--bundle", tiny_bundle, "--set", "shard_rows=2", *more)
        assert ran.code == 0, ran.err
        found.append({p.name: p.read_bytes() for p in (tmp_path / out).iterdir() if p.name[0] != "."})
    assert found[0] == found[1] and sum(name.endswith(".parquet") for name in found[0]) >= 4


def test_evaluate_writes_the_same_rows_and_sounds(run: Run, tiny_bundle: Path, tmp_path: Path):
    (tmp_path / "recipe.toml").write_text(RECIPE.format(bundle=tiny_bundle), encoding="utf-8")
    rows, sounds = list[list[dict[str, object]]](), list[dict[str, bytes]]()
    for out, more in (("one", ()), ("many", ("--ray",))):
        ran = run("evaluate", "recipe.toml", "--out", out, *more)
        assert ran.code == 0, ran.err
        told = [
            json.loads(line) for line in (tmp_path / out / "results.jsonl").read_text("utf-8").splitlines()
        ]
        timed = ("total_s", "first_s")
        rows.append([{key: value for key, value in row.items() if key not in timed} for row in told])
        sounds.append({p.parent.name + p.name: p.read_bytes() for p in (tmp_path / out).rglob("*.flac")})
    assert len(rows[0]) == 3 and rows[0] == rows[1] and len(sounds[0]) == 3 and sounds[0] == sounds[1]

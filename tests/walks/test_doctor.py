"""`llasa doctor`, by the real command."""

import json
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from llasa import probe
from llasa.cli.doctor import EXTRAS
from tests.conftest import Ran

Run = Callable[..., Ran]


@pytest.fixture
def small_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shapes that cost nothing, one of them too large for any machine, and little time for speaking."""
    small = probe.Shape("small", 64, 128, 2, 4, 2, 16, True)
    huge = probe.Shape("huge", 1 << 20, 1 << 22, 1000, 64, 64, 128, False)
    monkeypatch.setattr(probe, "SHAPES", (small, huge))
    monkeypatch.setattr(probe, "SPEAK_S", 0.2)


def test_a_whole_bundle(run: Run, tiny_bundle: Path, small_shapes: None):
    told = json.loads(run("doctor", "--json", "--bundle", tiny_bundle).out)
    assert (
        told["bundle"]["whole"]
        and told["bundle"]["voices"]
        and told["bundle"]["compared_with"] == "bundle.toml"
    )
    assert told["packages"]["torch"] and "llasa" in told["packages"]
    assert told["devices"][0]["device"] == "cpu" and told["devices"][0]["free_bytes"] > 1e6
    assert told["devices"][0]["dtype"] in ("bfloat16", "float32")
    assert told["engines"]["native"]["here"] and told["engines"]["remote:URL#MODEL"]["here"]
    assert told["files"]["bundle"] == str(tiny_bundle) and told["files"]["hub"]
    speed = told["speed"]
    assert speed["codes"] > 0 and speed["codes_per_s"] > 0
    # Drawing is part of the whole: 25 codes are a second of sound.
    assert speed["real_time_factor"] > 25 / speed["codes_per_s"] * 0.99


def test_the_published_shapes(run: Run, tiny_bundle: Path, small_shapes: None):
    models = json.loads(run("doctor", "--json", "--bundle", tiny_bundle).out)["published"]["models"]
    assert (
        models["small"]["fits"] and models["small"]["real_time_factor"] == 50 * models["small"]["step_s"] > 0
    )
    assert models["huge"]["fits"] is False and models["huge"]["real_time_factor"] is None


def test_nothing_is_measured_unless_wanted(run: Run, tiny_bundle: Path):
    told = json.loads(run("doctor", "--json", "--no-probe", "--bundle", tiny_bundle).out)
    assert "speed" not in told and "published" not in told


def test_for_people(run: Run, tiny_bundle: Path, small_shapes: None):
    ran = run("doctor", "--bundle", tiny_bundle)
    assert ran.code == 0
    headings = [line for line in ran.out.splitlines() if not line.startswith(" ")]
    assert [line.split()[0].rstrip(":") for line in headings] == [
        "Packages", "Devices", "Engines", "Extras", "Files", "Bundle", "Speed", "Published",
    ]  # fmt: skip
    assert "real-time factor" in ran.out and max(map(len, ran.out.splitlines())) < 200


def test_a_model_that_cannot_fit_is_not_loaded(
    run: Run, tiny_bundle: Path, small_shapes: None, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(probe, "free_memory", lambda device: 1000)
    ran = run("doctor", "--json", "--bundle", tiny_bundle)
    assert ran.code == 0
    assert json.loads(ran.out)["speed"]["problem"].startswith("Not tried: its weights take 0.0 GiB")


def test_a_damaged_bundle(run: Run, broken_bundle: Path, small_shapes: None):
    (broken_bundle / "lm" / "model.safetensors").unlink()
    ran = run("doctor", "--json", "--bundle", broken_bundle)
    assert ran.code == 2 and "lm/model.safetensors" in ran.err
    told = json.loads(ran.out)
    assert told["bundle"]["whole"] is False and told["speed"] is None
    assert told["packages"] and told["published"]["models"]["small"]["real_time_factor"] > 0


def test_every_extra_is_explained():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))[
        "project"
    ]
    assert set(project["optional-dependencies"]) == set(EXTRAS)


def test_sizes_of_the_published_shapes():
    layers = {shape.name: shape.layers * shape.layer_weights for shape in probe.SHAPES}
    assert layers == pytest.approx({"1B": 973e6, "3B": 2819e6, "8B": 6980e6}, rel=3e-4)
    by_name = {shape.name: shape for shape in probe.SHAPES}
    weights = 973_078_528 + (probe.ROWS + probe.SPOKEN_ROWS) * 2048 + 16 * 2 * 8 * 64 * 2048
    assert by_name["1B"].bytes(torch.bfloat16) == 2 * weights + probe.CODEC_BYTES

"""`llasa export`, by the real command."""

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from llasa.bundle import load_bundle
from tests.conftest import Ran

Run = Callable[..., Ran]


def test_hf_tells_how_to_upload(run: Run, tiny_bundle: Path, tmp_path: Path):
    ran = run("export", "hf", "--bundle", tiny_bundle, "-o", "out", "--repo", "me/tiny", "--license", "mit")
    assert (ran.code, ran.out) == (0, "out\n")
    assert "hf upload me/tiny out" in ran.err and "--license" not in ran.err
    assert load_bundle(tmp_path / "out").name == "tiny"


def test_hf_without_licence_and_name_says_so(run: Run, tiny_bundle: Path):
    ran = run("export", "hf", "--bundle", tiny_bundle, "-o", "out", "--name", "my voice")
    assert ran.code == 0 and "states no licence" in ran.err and "OWNER/my-voice" in ran.err


def test_hf_as_json(run: Run, tiny_bundle: Path):
    told = json.loads(run("export", "hf", "--bundle", tiny_bundle, "-o", "out", "--json").out)
    assert (
        told["upload"] == "hf upload OWNER/tiny out"
        and "bundle.toml" in told["files"]
        and told["bytes"] > 1000
    )


def test_hf_refuses_a_folder_in_use(run: Run, tiny_bundle: Path, tmp_path: Path):
    (tmp_path / "thesis.txt").write_text("years of work")
    ran = run("export", "hf", "--bundle", tiny_bundle, "-o", ".", "--force")
    assert ran.code == 2 and "Choose a new folder" in ran.err


@pytest.mark.skipif(find_spec("gguf") is None, reason="the gguf extra is not installed")
def test_gguf(run: Run, bundle_folder: Path, tmp_path: Path):
    told = json.loads(run("export", "gguf", "--bundle", bundle_folder, "-o", "model.gguf", "--json").out)
    assert told == {"file": "model.gguf", "quant": "q8_0", "bytes": (tmp_path / "model.gguf").stat().st_size}
    assert (tmp_path / "model.gguf").read_bytes()[:4] == b"GGUF"


@pytest.mark.skipif(find_spec("gguf") is None, reason="the gguf extra is not installed")
def test_gguf_of_a_language_model_alone(run: Run, bundle_folder: Path, tmp_path: Path):
    assert run("export", "gguf", "--bundle", bundle_folder / "lm", "-o", "alone.gguf").code == 0
    assert run("export", "gguf", "--bundle", bundle_folder, "-o", "whole.gguf").code == 0
    assert (tmp_path / "alone.gguf").stat().st_size == (tmp_path / "whole.gguf").stat().st_size


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("-o", "model.bin"), "ends in .gguf"),
        (("-o", "m.gguf", "--quant", "q9"), "q9"),
        (("-o", "no/m.gguf"), "no"),
    ],
)
def test_gguf_refuses(run: Run, tiny_bundle: Path, arguments: tuple[str, ...], said: str):
    ran = run("export", "gguf", "--bundle", tiny_bundle, *arguments)
    assert ran.code == 2 and said in ran.err


def test_help_teaches_which_quant_to_choose(run: Run):
    told = " ".join(run("export", "gguf", "--help").out.split())
    assert "q5_k_m are smaller" in told and "plain q4_0 is clearly worse" in told

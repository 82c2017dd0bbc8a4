"""`llasa doctor`, by the real command."""

import json
from collections.abc import Callable
from pathlib import Path

from tests.conftest import Ran

Run = Callable[..., Ran]


def test_a_whole_bundle(run: Run, bundle_folder: Path):
    told = json.loads(run("doctor", "--json", "--bundle", bundle_folder).out)
    assert told["bundle"]["whole"] and told["bundle"]["voices"]
    assert told["packages"]["torch"] and "llasa" in told["packages"]
    assert told["devices"][0]["device"] == "cpu"
    assert told["devices"][0]["dtype"] in ("bfloat16", "float32")


def test_for_people(run: Run, bundle_folder: Path):
    ran = run("doctor", "--bundle", bundle_folder)
    assert ran.code == 0
    assert {"python", "packages", "devices", "bundle"} <= {
        line for line in ran.out.splitlines() if line[0] != " "
    }


def test_a_damaged_bundle(run: Run, broken_bundle: Path):
    (broken_bundle / "lm" / "model.safetensors").unlink()
    ran = run("doctor", "--json", "--bundle", broken_bundle)
    assert ran.code == 2 and "lm/model.safetensors" in ran.err
    assert json.loads(ran.out)["bundle"]["whole"] is False

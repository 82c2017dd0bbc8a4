"""What the speech service says of itself is true: Schemathesis asks all of it, and each route has a policy.

The full form is `CASES=5000 pytest -m slow tests/unit/test_schema.py`; SEED repeats a run.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("schemathesis")
pytest.importorskip("uvicorn")

from llasa.serve.guard import Rules
from tests.paced import Live, paced

TESTS = Path(__file__).parent.parent
KEY = {"Authorization": "Bearer s3cret"}
SEED = os.environ.get("SEED", "1")


@pytest.fixture(scope="module")
def live(tiny_bundle: Path) -> Iterator[Live]:
    with paced(tiny_bundle, step_s=0.0002, codes=20, rules=Rules(key="s3cret other")) as found:
        yield found


def explored(url: str, cases: str, phases: str, folder: Path) -> None:
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", TESTS / "schemathesis.toml", "run"]
    command += [f"{url}/openapi.json", "--header", "Authorization: Bearer s3cret", "--max-examples", cases]
    command += ["--phases", phases, "--seed", SEED, "--no-color", "--max-failures", "5"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(TESTS.parent), *sys.path))}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"seed {SEED}\n" + done.stdout[-8000:] + done.stderr[-2000:]


def test_every_route_does_what_the_schema_says(live: Live, tmp_path: Path) -> None:
    before = live.held()
    explored(live.url, "50", "examples,fuzzing", tmp_path)
    assert live.settled(before) == {}


@pytest.mark.slow
def test_every_route_does_so_for_long(live: Live, tmp_path: Path) -> None:
    before = live.held()
    explored(live.url, os.environ.get("CASES", "500"), "examples,coverage,fuzzing,stateful", tmp_path)
    assert live.settled(before) == {}

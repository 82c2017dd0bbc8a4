"""Runs the blocks of README.md that are marked `runnable`, in order, in one empty folder, on the starter."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"
BLOCK = re.compile(r"^```(\w+) runnable\n(.*?)^```$", re.DOTALL | re.MULTILINE)
PROGRAMS = {"python": (sys.executable, "-c"), "bash": ("bash", "-euo", "pipefail", "-c")}


def blocks() -> list[tuple[str, str]]:
    """Return (language, code) of each runnable block."""
    return [(found[1], found[2]) for found in BLOCK.finditer(README.read_text(encoding="utf-8"))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("readme")


def test_both_languages_are_shown():
    assert {language for language, _ in blocks()} == set(PROGRAMS)


@pytest.mark.parametrize(("language", "code"), blocks(), ids=lambda part: part.splitlines()[0][:40])
def test_block_runs(language: str, code: str, folder: Path):
    environment = os.environ | {
        "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])),
        "LLASA_HOME": str(folder / "home"),
    }
    ran = subprocess.run(
        [*PROGRAMS[language], code], cwd=folder, env=environment, capture_output=True, text=True, timeout=600
    )
    assert ran.returncode == 0, f"{code}\n{ran.stdout}\n{ran.stderr}"

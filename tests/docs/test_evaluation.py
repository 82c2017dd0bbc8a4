"""Runs the blocks of docs/evaluation.md that are marked `runnable`, in order, in one empty folder."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from llasa import config
from llasa.evaluate.plan import Plan, checked
from tests.docs.test_readme import BLOCK, PROGRAMS

PAGE = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")
BLOCKS = [(found[1], found[2]) for found in BLOCK.finditer(PAGE)]

pytest.importorskip("pocketsphinx")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("evaluation")


@pytest.mark.slow  # tests/walks/test_evaluate.py has the same commands in one process
@pytest.mark.parametrize(("language", "code"), BLOCKS, ids=lambda part: part.splitlines()[0][:40])
def test_block_runs(language: str, code: str, folder: Path) -> None:
    paths = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    environment = os.environ | {"PATH": paths, "LLASA_HOME": str(folder / "home")}
    ran = subprocess.run(
        [*PROGRAMS[language], code], cwd=folder, env=environment, capture_output=True, text=True, timeout=600
    )
    assert ran.returncode == 0, f"{code}\n{ran.stdout}\n{ran.stderr}"


def test_the_recipes_on_the_page_are_recipes() -> None:
    blocks = [block.partition("```")[0] for block in PAGE.split("```toml\n")[1:]]
    assert len(blocks) == 2
    values = tomllib.loads("\n".join(blocks))
    found = checked(config.build(Plan, values, "Reading the page"))
    assert len(found.systems) == 4 and len(found.sets) == 4

"""README and pages: blocks marked `runnable` run in order, in one empty folder a page, on the starter.

Every `llasa` command of any page, run or not, names a verb and flags that there are.
"""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from llasa.cli import app

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w+)( runnable)?\n(.*?)^```$", re.DOTALL | re.MULTILINE)
PROGRAMS = {"python": (sys.executable, "-c"), "bash": ("bash", "-euo", "pipefail", "-c")}


def blocks(page: Path) -> list[tuple[str, bool, str]]:
    """Return language, whether it is to be run, and code of each block."""
    return [
        (found[1], bool(found[2]), found[3]) for found in BLOCK.finditer(page.read_text(encoding="utf-8"))
    ]


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def run(language: str, code: str, folder: Path) -> None:
    environment = os.environ | {
        "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])),
        "LLASA_HOME": str(folder / "home"),
    }
    ran = subprocess.run(
        [*PROGRAMS[language], code], cwd=folder, env=environment, capture_output=True, text=True, timeout=600
    )
    assert ran.returncode == 0, f"{code}\n{ran.stdout}\n{ran.stderr}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("readme")


def test_both_languages_are_shown():
    assert {language for language, runs, _ in blocks(PAGES[0]) if runs} == set(PROGRAMS)


@pytest.mark.parametrize(
    ("language", "code"),
    [(language, code) for language, runs, code in blocks(PAGES[0]) if runs],
    ids=lambda part: part.splitlines()[0][:40],
)
def test_block_of_the_readme_runs(language: str, code: str, folder: Path):
    run(language, code, folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [page for page in PAGES[1:] if any(one[1] for one in blocks(page))], ids=named
)
def test_page_runs(page: Path, tmp_path: Path):
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    for language, runs, code in blocks(page):
        if runs:
            run(language, code, tmp_path)


def commands(code: str) -> Iterator[list[str]]:
    """Yield the words behind `llasa` of each command in a block for the shell."""
    for line in code.replace("\\\n", " ").splitlines():
        try:
            words = shlex.split(line, comments=True)
        except ValueError:  # a quote that goes on: a file is being written
            continue
        for place, word in enumerate(words):
            starts = place == 0 or words[place - 1] in ("&&", "|", "{", "do", "-m") or "=" in words[place - 1]
            if word in ("llasa", "llasa.cli") and starts:
                rest = words[place + 1 :]
                ends = [rest.index(sign) for sign in ("&&", "|", ";", "&", ">", "};", "}") if sign in rest]
                yield rest[: min(ends, default=None)]


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_commands_that_are_shown_exist(page: Path):
    for language, _, code in blocks(page):
        for words in commands(code) if language == "bash" else ():
            command: Any = typer.main.get_command(app)
            while hasattr(command, "commands") and words:
                usual = words[0] not in command.commands and "run" in command.commands
                verb, *words = ["run", *words] if usual else words
                assert verb in command.commands, f"llasa {verb}"
                command = command.commands[verb]
            known = {flag for option in command.params for flag in (*option.opts, *option.secondary_opts)}
            flags = {word.split("=")[0] for word in words if re.match(r"--?[a-z]", word)}
            assert flags <= known | {"--help"}, f"{command.name}: {flags - known}"

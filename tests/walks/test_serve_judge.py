"""`llasa serve --judge`, by the real command: it judges as the judge here does, and ends when asked to."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

from llasa.bundle import load_bundle
from llasa.cli.serve import _rules
from llasa.core import Candidate, Utterance
from llasa.errors import ConfigError
from llasa.judge import JudgeBlock, PartBlock, build_judge
from llasa.recipe import read_recipe
from llasa.remote_judge import RemoteJudge
from tests.conftest import Ran
from tests.judging import verdicts

Run = Callable[..., Ran]
RECIPE = """
model = "a run's own key"

[judge]
combine = "mean"

[[judge.scorers]]
name = "repetition"

[[judge.scorers]]
name = "duration"

[[judge.scorers]]
name = "clipping"
"""


@contextmanager
def serving(*arguments: object, **environment: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The command as a process, and its URL, as soon as it says that it listens."""
    command = [sys.executable, "-m", "llasa.cli", "serve", *map(str, arguments), "--port", "0"]
    own = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | environment)
    assert own.stderr is not None
    try:
        said = own.stderr.readline()
        found = re.search(r"http://\S+:\d+", said)
        assert found, said + own.stderr.read()
        yield found[0], own
    finally:
        own.kill()
        own.wait()


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE)
    return path


def test_it_judges_as_here_and_ends_when_asked(tiny_bundle: Path, recipe: Path) -> None:
    bundle = load_bundle(tiny_bundle)
    block = read_recipe(recipe).judge
    voice = bundle.voices.get("ada")
    rows = [
        Candidate(Utterance(str(n), "the cat sat on the mat", one), [(n * i) % 64 for i in range(60)], "stop")
        for n, one in enumerate((voice, None, voice))
    ]
    with serving("--judge", recipe, "--bundle", tiny_bundle, LLASA_JUDGE_KEY="s3cret") as (url, own):
        judge = RemoteJudge([url], key="s3cret")
        judge.check(block, bundle.codec.name)
        told = judge.judge(rows)
        other = JudgeBlock(scorers=[PartBlock(name="repetition")])
        with pytest.raises(ConfigError, match=r"judge\.combine is 'mean' there and 'harmonic' here"):
            RemoteJudge([url], key="s3cret").check(other, bundle.codec.name)
        own.send_signal(signal.SIGTERM)
        assert own.wait(15) == 0
    assert verdicts(told) == verdicts(build_judge(block, bundle.parts).judge(rows))
    assert {one.status for one in told} == {"scored"}


def test_what_cannot_be_served_ends_with_2(run: Run, tiny_bundle: Path, recipe: Path, tmp_path: Path) -> None:
    own = ("--judge", recipe, "--bundle", tiny_bundle)
    told = run("serve", *own, "--host", "0.0.0.0")
    assert told.code == 2 and "LLASA_JUDGE_KEY" in told.err
    with socket.create_server(("127.0.0.1", 0)) as taken:
        told = run("serve", *own, "--port", taken.getsockname()[1])
    assert told.code == 2 and "in use" in told.err
    told = run("serve", *own, "--host", "host.invalid")
    assert told.code == 2
    (tmp_path / "empty.toml").write_text("model = 1")
    assert "no [judge] table" in run("serve", "--judge", tmp_path / "empty.toml").err
    (tmp_path / "unknown.toml").write_text(RECIPE.replace("clipping", "cliping"))
    told = run("serve", "--judge", tmp_path / "unknown.toml", "--bundle", tiny_bundle, "--port", 0)
    assert told.code == 2 and "clipping" in told.err


def test_an_address_of_version_6_is_one_of_its_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLASA_JUDGE_KEY", "s3cret")
    hosts = _rules("FD00::1", ["Judge1"], "LLASA_JUDGE_KEY").hosts
    assert "[fd00::1]" in hosts and "judge1" in hosts  # as Host headers say it, without the port


def test_help_teaches(run: Run) -> None:
    told = run("serve", "--help")
    assert told.code == 0 and "llasa serve --judge recipes/grpo/starter.toml" in told.out
    assert len(re.findall(r"^  --", told.out, re.MULTILINE)) <= 17

"""`run.json` and the folder's lock: what a later start has to agree with."""

import json
import os
import subprocess
import sys

import pytest

from llasa import begun as run
from llasa.errors import ConfigError

FACTS = {"recipe": {"trainer": {"learning_rate": 1e-4, "steps": 10}, "stages": [{"name": "a", "steps": 1}]},
         "data": "d1", "tokenizer": "t1"}  # fmt: skip

HOLDER = """
import fcntl, os, sys, time
file = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
fcntl.lockf(file, fcntl.LOCK_EX)
os.write(file, b'{"pid": 4711}')
print("held", flush=True)
time.sleep(60)
"""


def change(path: str, value: object) -> dict:
    facts = json.loads(json.dumps(FACTS))
    *inner, last = path.split(".")
    place = facts
    for key in inner:
        place = place[int(key) if key.isdigit() else key]
    place[last] = value
    return facts


def test_first_start_writes_what_the_run_is_made_of(tmp_path):
    run.start(tmp_path / "new", FACTS)
    body = json.loads((tmp_path / "new" / "run.json").read_text(encoding="utf-8"))
    assert body["facts"] == FACTS
    assert {"python", "torch", "transformers"} <= body["versions"].keys()
    assert body["changes"] == []


def test_the_same_facts_go_on_and_leave_the_file(tmp_path):
    run.start(tmp_path, FACTS)
    before = (tmp_path / "run.json").read_bytes()
    run.start(tmp_path, FACTS)
    assert (tmp_path / "run.json").read_bytes() == before


@pytest.mark.fault("R17")
@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("recipe.trainer.learning_rate", 2e-4, "recipe.trainer.learning_rate: was 0.0001, is 0.0002"),
        ("recipe.trainer.warmup", 5, "recipe.trainer.warmup: was not set, is 5"),
        ("recipe.stages.0.steps", 2, "recipe.stages.0.steps: was 1, is 2"),
        ("data", "d2", 'data: was "d1", is "d2"'),
        ("tokenizer", None, 'tokenizer: was "t1", is null'),
    ],
)
def test_any_change_is_refused_with_was_and_is(tmp_path, field, value, told):
    run.start(tmp_path, FACTS)
    with pytest.raises(ConfigError) as caught:
        run.start(tmp_path, change(field, value))
    assert [line.strip() for line in str(caught.value).splitlines()[1:-1]] == [told]
    assert json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))["facts"] == FACTS


@pytest.mark.fault("R17")
def test_an_allowed_change_is_told_for_good(tmp_path):
    run.start(tmp_path, FACTS)
    run.start(tmp_path, change("data", "d2"), changed_ok=True)
    run.start(tmp_path, change("data", "d2"))
    body = json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))
    assert [change["lines"] for change in body["changes"]] == [['data: was "d1", is "d2"']]


@pytest.mark.fault("R17")
@pytest.mark.parametrize("text", ["", "{", "[]", '{"facts": {}}'])
def test_a_damaged_file_is_refused(tmp_path, text):
    (tmp_path / "run.json").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match="damaged"):
        run.start(tmp_path, FACTS)


def test_states_of_something_else_are_not_taken_over(tmp_path):
    (tmp_path / "checkpoint-5").mkdir()
    with pytest.raises(ConfigError, match="says of what"):
        run.start(tmp_path, FACTS)


@pytest.mark.fault("R16")
def test_two_writers_and_a_dead_one(tmp_path):
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "run.lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout and other.stdout.readline() == "held\n"
        with pytest.raises(ConfigError, match="4711"):
            run.start(tmp_path, FACTS)
        other.kill()
        other.wait()
    run.start(tmp_path, FACTS)
    assert json.loads((tmp_path / "run.lock").read_text(encoding="utf-8"))["pid"] == os.getpid()


@pytest.mark.fault("R16")
@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(ConfigError, match="the system says"):
        run.start(tmp_path / "new", FACTS)


@pytest.mark.fault("R16")
def test_a_file_in_the_way(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="the system says"):
        run.start(tmp_path / "file" / "new", FACTS)


def test_only_the_first_process_writes(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    run.start(tmp_path / "new", FACTS)
    assert not (tmp_path / "new").exists()


@pytest.mark.fault("R3")
def test_what_a_killed_run_only_began_to_write_is_gone(tmp_path):
    (tmp_path / "sounds" / ".recognizer.part").mkdir(parents=True)
    for name in (".0123456789abcdef.part", "sounds/.0123456789abcdef.part", "sounds/kept.part"):
        (tmp_path / name).write_bytes(b"half")
    run.start(tmp_path, FACTS)
    left = {path.name for path in tmp_path.rglob("*")} - {"run.json", "run.lock"}
    assert left == {"sounds", "kept.part", ".recognizer.part"}


def test_what_no_option_allows_is_not_offered(tmp_path):
    run.start(tmp_path, FACTS)
    with pytest.raises(ConfigError) as refused:
        run.start(tmp_path, change("data", "d2"), None)
    assert str(refused.value).endswith("name another folder.")


def test_a_lock_is_not_written_through_a_link(tmp_path):
    (tmp_path / "mine").write_text("keep")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "run.lock").symlink_to(tmp_path / "mine")
    with pytest.raises(ConfigError, match="Name another folder"):
        run.start(tmp_path / "out", FACTS)
    assert (tmp_path / "mine").read_text() == "keep"

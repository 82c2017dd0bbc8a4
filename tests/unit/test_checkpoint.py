"""Checkpoints: whole or not there, verified, newest complete one wins."""

import errno
import json
import logging
import os
import random
import resource
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from llasa.errors import ConfigError
from llasa.train import checkpoint, durable


def parts(value: float) -> dict[str, dict[str, torch.Tensor]]:
    return {"model": {"weight": torch.full((3,), value)}}


def test_newest_is_loaded_and_old_ones_go(tmp_path):
    for step in (10, 20, 30):
        checkpoint.save(tmp_path, step, parts(step), {"note": step}, keep=2)
    step, loaded, meta = checkpoint.load_latest(tmp_path)
    assert (step, meta) == (30, {"note": 30})
    assert loaded["model"]["weight"].tolist() == [30, 30, 30]
    assert [path.name for path in sorted(tmp_path.glob("step-*"))] == ["step-000000020", "step-000000030"]


@pytest.mark.fault("R5")
def test_damaged_newest_falls_back_to_the_one_before(tmp_path):
    checkpoint.save(tmp_path, 1, parts(1), {})
    newest = checkpoint.save(tmp_path, 2, parts(2), {}) / "model.safetensors"
    data = bytearray(newest.read_bytes())
    data[-1] ^= 1
    newest.write_bytes(data)
    assert checkpoint.load_latest(tmp_path)[0] == 1


@pytest.mark.fault("R5")
def test_truncated_manifest_and_unfinished_draft_are_ignored(tmp_path):
    checkpoint.save(tmp_path, 1, parts(1), {})
    broken = checkpoint.save(tmp_path, 2, parts(2), {}) / "manifest.json"
    broken.write_text(broken.read_text(encoding="utf-8")[:-5], encoding="utf-8")
    (tmp_path / ".step-000000003.part").mkdir()
    assert checkpoint.load_latest(tmp_path)[0] == 1


def test_nothing_there(tmp_path):
    assert checkpoint.load_latest(tmp_path) is None


def test_optimizer_state_round_trip():
    weights = [torch.nn.Parameter(torch.ones(4)), torch.nn.Parameter(torch.ones(2, 2))]
    first = torch.optim.AdamW(weights, 1e-2)
    for weight in weights:
        weight.grad = torch.randn_like(weight)
    first.step()
    second = torch.optim.AdamW(weights, 5e-3)
    checkpoint.restore_optimizer(second, checkpoint.optimizer_tensors(first))
    for a, b in zip(first.state.values(), second.state.values(), strict=True):
        assert all(torch.equal(torch.as_tensor(a[key]), torch.as_tensor(b[key])) for key in a)
    assert second.param_groups[0]["lr"] == 5e-3


@contextmanager
def largest_file(size: int):
    """Let no file grow beyond `size` bytes, as a quota would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def big(value: float) -> dict[str, dict[str, torch.Tensor]]:
    return parts(value) | {"big": {"weight": torch.full((50_000,), float(value))}}


@pytest.mark.fault("R4")
def test_a_full_disk_names_file_and_bytes_and_leaves_the_one_before(tmp_path):
    checkpoint.save(tmp_path, 1, big(1), {})
    with largest_file(150_000), pytest.raises(ConfigError) as caught:
        checkpoint.save(tmp_path, 2, big(2), {})
    message = str(caught.value)
    assert "'big.safetensors' had no room" in message
    missing = int(message.split(" bytes are missing")[0].split()[-1])
    assert 50_000 <= missing <= 60_000  # 200,000 and a header, less 150,000
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000001"]
    assert checkpoint.load_latest(tmp_path)[0] == 1
    checkpoint.save(tmp_path, 2, big(2), {})
    assert checkpoint.load_latest(tmp_path)[0] == 2


@pytest.mark.fault("R4")
@pytest.mark.parametrize("name", ["fsync", "replace"])
@pytest.mark.parametrize("nth", range(4))
def test_no_room_at_any_operation(tmp_path, monkeypatch, name, nth):
    checkpoint.save(tmp_path, 1, parts(1), {})
    original, calls = getattr(os, name), []

    def failing(*arguments, **named):
        calls.append(1)
        if len(calls) == nth + 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(*arguments, **named)

    monkeypatch.setattr(os, name, failing)
    try:
        checkpoint.save(tmp_path, 2, parts(2), {})
    except (ConfigError, OSError):
        assert len(calls) == nth + 1
    monkeypatch.undo()
    step, loaded, _ = checkpoint.load_latest(tmp_path)
    assert loaded["model"]["weight"].tolist() == [step] * 3
    checkpoint.save(tmp_path, 3, parts(3), {})
    assert checkpoint.load_latest(tmp_path)[0] == 3


@pytest.mark.fault("R4")
def test_too_little_room_is_seen_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=100_000))
    with pytest.raises(ConfigError, match=r"it takes 2\d{5} bytes, 1\d{5} more than are free"):
        checkpoint.save(tmp_path, 1, big(1), {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.fault("R5")
def test_any_flipped_bit_or_cut_is_seen(tmp_path):
    checkpoint.save(tmp_path, 1, parts(1), {"note": 1.5})
    newest = checkpoint.save(tmp_path, 2, parts(2), {"note": 2.5})
    draw = random.Random(0)
    for file in sorted(newest.iterdir()):
        whole = file.read_bytes()
        for _ in range(150):
            place, bit = draw.randrange(len(whole)), 1 << draw.randrange(8)
            spoilt = bytearray(whole)
            spoilt[place] ^= bit
            file.write_bytes(spoilt)
            step, loaded, meta = checkpoint.load_latest(tmp_path)
            # A flip may hide the seal, which harms nothing; what is loaded is always what was written.
            assert (loaded["model"]["weight"].tolist(), meta) == ([step] * 3, {"note": step + 0.5})
        for place in range(0, len(whole), 16):
            file.write_bytes(whole[:place])
            assert checkpoint.load_latest(tmp_path)[0] == 1
        file.write_bytes(whole)
    assert checkpoint.load_latest(tmp_path)[0] == 2


def test_what_is_passed_over_is_told(tmp_path, caplog):
    checkpoint.save(tmp_path, 1, parts(1), {})
    (checkpoint.save(tmp_path, 2, parts(2), {}) / "model.safetensors").unlink()
    with caplog.at_level(logging.WARNING):
        checkpoint.load_latest(tmp_path)
    assert "step-000000002" in caplog.text and "model.safetensors is missing" in caplog.text


def test_a_damaged_newer_one_never_outlives_a_whole_one(tmp_path):
    checkpoint.save(tmp_path, 10, parts(10), {})
    (checkpoint.save(tmp_path, 20, parts(20), {}) / "manifest.json").unlink()
    for step in (11, 12, 13):
        checkpoint.save(tmp_path, step, parts(step), {}, keep=2)
    assert sorted(path.name[-2:] for path in tmp_path.iterdir()) == ["12", "13"]


def test_the_same_step_again_replaces_it(tmp_path):
    checkpoint.save(tmp_path, 1, parts(1), {})
    checkpoint.save(tmp_path, 1, parts(5), {})
    assert checkpoint.load_latest(tmp_path)[1]["model"]["weight"].tolist() == [5, 5, 5]
    assert len(list(tmp_path.iterdir())) == 1


def test_drafts_of_killed_saves_do_not_gather(tmp_path):
    for step in (3, 4):
        draft = tmp_path / f".step-{step:09d}.part"
        draft.mkdir()
        (draft / "model.safetensors").write_bytes(bytes(100))
    checkpoint.save(tmp_path, 5, parts(5), {})
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000005"]


@pytest.mark.fault("R5")
def test_an_index_that_was_changed_is_none(tmp_path):
    path = tmp_path / "index.json"
    durable.write_index(path, {"step": 1, "loss": 0.1, "names": ["ä"]})
    assert durable.read_index(path) == {"step": 1, "loss": 0.1, "names": ["ä"]}
    body = json.loads(path.read_text(encoding="utf-8")) | {"step": 2}
    path.write_text(json.dumps(body), encoding="utf-8")
    assert durable.read_index(path) is None


@pytest.mark.fault("S14")
def test_states_from_before_there_was_a_seal_still_load(tmp_path):
    path = checkpoint.save(tmp_path, 1, parts(1), {}) / "manifest.json"
    body = json.loads(path.read_text(encoding="utf-8"))
    del body["seal"]
    path.write_text(json.dumps(body), encoding="utf-8")
    assert checkpoint.load_latest(tmp_path)[0] == 1

"""Checkpoints: whole or not there, verified, newest complete one wins."""

import torch

from llasa.train import checkpoint


def parts(value: float) -> dict[str, dict[str, torch.Tensor]]:
    return {"model": {"weight": torch.full((3,), value)}}


def test_newest_is_loaded_and_old_ones_go(tmp_path):
    for step in (10, 20, 30):
        checkpoint.save(tmp_path, step, parts(step), {"note": step}, keep=2)
    step, loaded, meta = checkpoint.load_latest(tmp_path)
    assert (step, meta) == (30, {"note": 30})
    assert loaded["model"]["weight"].tolist() == [30, 30, 30]
    assert [path.name for path in sorted(tmp_path.glob("step-*"))] == ["step-000000020", "step-000000030"]


def test_damaged_newest_falls_back_to_the_one_before(tmp_path):
    checkpoint.save(tmp_path, 1, parts(1), {})
    newest = checkpoint.save(tmp_path, 2, parts(2), {}) / "model.safetensors"
    data = bytearray(newest.read_bytes())
    data[-1] ^= 1
    newest.write_bytes(data)
    assert checkpoint.load_latest(tmp_path)[0] == 1


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

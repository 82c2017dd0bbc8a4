"""The training loop: a stopped run that goes on ends where an uninterrupted one ends."""

import itertools
import json

import pytest
import torch
from torch import nn

from llasa.train.loop import Plan, fit, rate_at


class Regression:
    """Fits a line to noisy points drawn from torch's global generator;
    stops when told to, as a kill would.
    """

    def __init__(self, stop_before: int | None = None) -> None:
        torch.manual_seed(7)
        self.line = nn.Linear(3, 1)
        self.modules = {"line": self.line}
        self.optimizers = {"adamw": torch.optim.AdamW(self.line.parameters(), 0.05)}
        self.stop_before = stop_before

    def step(self, index: int) -> dict[str, float]:
        if index == self.stop_before:
            raise KeyboardInterrupt
        x = torch.randn(8, 3)
        loss = (self.line(x) - x.sum(1, keepdim=True)).square().mean()
        self.optimizers["adamw"].zero_grad()
        loss.backward()
        self.optimizers["adamw"].step()
        return {"loss": loss.item()}

    def validate(self) -> dict[str, float]:
        return {"weight": float(self.line.weight.detach().sum())}


def plan(steps: int) -> Plan:
    return Plan(steps, seed=3, validate_every=5, save_every_s=0.0)


def test_resumed_run_equals_uninterrupted(tmp_path):
    whole = Regression()
    fit(whole, tmp_path / "whole", plan(20))
    with pytest.raises(KeyboardInterrupt):
        fit(Regression(stop_before=11), tmp_path / "cut", plan(20))
    resumed = Regression()
    fit(resumed, tmp_path / "cut", plan(20))
    assert torch.equal(whole.line.weight, resumed.line.weight)
    assert torch.equal(whole.line.bias, resumed.line.bias)


def test_metrics_are_averages_since_the_last_row(tmp_path):
    fit(Regression(), tmp_path, plan(20))
    rows = [
        json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert [row["step"] for row in rows] == [5, 10, 15, 20]
    assert rows[-1]["loss"] < rows[0]["loss"]


def test_snapshots_stay(tmp_path):
    fit(Regression(), tmp_path, Plan(12, validate_every=6, save_every_s=0.0, snapshot_every=4))
    assert [path.name[-2:] for path in sorted((tmp_path / "snapshots").iterdir())] == ["04", "08", "12"]


def test_rate_rises_holds_and_falls_to_zero():
    rates = [rate_at(i, 1000, warmup=100, hold=0.3) for i in range(1000)]
    assert rates[0] == pytest.approx(0.01)
    assert max(rates) == 1.0 == rates[200]
    assert rates[-1] < 0.01
    assert all(a >= b for a, b in itertools.pairwise(rates[300:]))

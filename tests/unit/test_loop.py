"""The training loop: a stopped run that goes on ends where an uninterrupted one ends."""

import itertools
import json
import os
import random
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from llasa.errors import Interrupted, TrainingError
from llasa.train import checkpoint
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


def plan(steps: int, save_every_s: float = 0.0) -> Plan:
    return Plan(steps, seed=3, validate_every=5, save_every_s=save_every_s)


RARELY = 1e9


@pytest.mark.fault("R2")
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


class Noisy(Regression):
    """Draws from every global generator, keeps a running mean, and does odd things at given steps."""

    def __init__(self, at: dict[int, object] | None = None) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.modules["norm"] = self.norm
        self.at = at or {}

    def step(self, index: int) -> dict[str, float]:
        asked = self.at.get(index)
        if isinstance(asked, signal.Signals):
            os.kill(os.getpid(), asked)
        x = torch.randn(8, 3) + random.random() + float(np.random.rand())
        if asked == "nan":
            x[3] = float("nan")
        wanted = x.sum(1, keepdim=True)
        loss = (self.line(self.norm(x)) - wanted).square().mean()
        optimizer = self.optimizers["adamw"]
        optimizer.zero_grad()
        loss.backward()
        if asked == "inf":
            self.line.weight.grad[0, 0] = float("inf")
        optimizer.step()
        return {"loss": 0.0 if asked == "inf" else loss.item(), "tokens": 8.0}


def rows_of(folder) -> list[dict]:
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    clocks = ("elapsed_s", "steps_per_s", "tokens_per_s")
    return [{k: v for k, v in json.loads(line).items() if k not in clocks} for line in lines]


@pytest.mark.fault("R15")
@pytest.mark.parametrize("asked", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_step_saves_and_the_run_goes_on(tmp_path, asked):
    whole, resumed, before = Noisy(), Noisy(), signal.getsignal(asked)
    fit(whole, tmp_path / "whole", plan(20, RARELY))
    long = plan(20, RARELY)
    with pytest.raises(Interrupted, match="after step 13 of 20"):
        fit(Noisy({12: asked}), tmp_path / "cut", long)
    assert checkpoint.load_latest(tmp_path / "cut")[0] == 13
    fit(resumed, tmp_path / "cut", long)
    assert torch.equal(whole.line.weight, resumed.line.weight)
    assert torch.equal(whole.norm.running_mean, resumed.norm.running_mean)
    assert rows_of(tmp_path / "whole") == rows_of(tmp_path / "cut")
    assert signal.getsignal(asked) is before


@pytest.mark.fault("R15")
def test_a_second_interrupt_ends_it_at_once(tmp_path):
    class Impatient(Noisy):
        def step(self, index):
            if index == 5:
                os.kill(os.getpid(), signal.SIGINT)
                os.kill(os.getpid(), signal.SIGINT)
            return super().step(index)

    with pytest.raises(KeyboardInterrupt):
        fit(Impatient(), tmp_path, plan(8))
    assert checkpoint.load_latest(tmp_path)[0] == 5


@pytest.mark.fault("R15")
def test_a_signal_in_the_last_step_changes_nothing(tmp_path):
    fit(Noisy({19: signal.SIGTERM}), tmp_path, plan(20, RARELY))
    assert checkpoint.load_latest(tmp_path)[0] == 20


@pytest.mark.fault("R15")
def test_usr1_saves_and_goes_on(tmp_path):
    class Curious(Noisy):
        def step(self, index):
            if index == 9:
                assert checkpoint.load_latest(tmp_path)[0] == 8
            return super().step(index)

    fit(Curious({7: signal.SIGUSR1}), tmp_path, plan(20, RARELY))
    assert checkpoint.load_latest(tmp_path)[0] == 20


@pytest.mark.fault("R2")
def test_rows_written_after_the_last_save_are_taken_back(tmp_path):
    fit(Noisy(), tmp_path / "whole", plan(20, RARELY))
    rare = plan(20, RARELY)
    with pytest.raises(Interrupted):
        fit(Noisy({6: signal.SIGTERM}), tmp_path / "cut", rare)

    class Killed(Noisy):
        def step(self, index):
            if index == 17:
                raise SystemExit
            return super().step(index)

    with pytest.raises(SystemExit):
        fit(Killed(), tmp_path / "cut", rare)
    assert [row["step"] for row in rows_of(tmp_path / "cut")] == [5, 10, 15]
    with open(tmp_path / "cut" / "metrics.jsonl", "a", encoding="utf-8") as file:
        file.write('{"step": 2')
    fit(Noisy(), tmp_path / "cut", rare)
    assert rows_of(tmp_path / "cut") == rows_of(tmp_path / "whole")


@pytest.mark.fault("R13")
@pytest.mark.parametrize("kind", ["nan", "inf"])
def test_a_spoilt_step_is_left_out_and_kept(tmp_path, kind):
    task = Noisy({6: kind})
    fit(task, tmp_path, plan(10, RARELY))
    assert torch.isfinite(task.line.weight).all() and torch.isfinite(task.norm.running_mean).all()
    assert [row.get("spoilt", 0) for row in rows_of(tmp_path)] == [0, 1]
    step, parts, meta = checkpoint.load_latest(tmp_path / "spoilt")
    before = Noisy()
    fit(before, tmp_path / "before", plan(6, RARELY))
    assert (step, meta) == (6, {"seed": 3})
    assert torch.equal(parts["line"]["weight"], before.line.weight)


@pytest.mark.fault("R13")
def test_three_spoilt_steps_in_a_row_end_the_run(tmp_path):
    fit(Noisy({4: "nan", 5: "nan", 7: "nan", 8: "nan"}), tmp_path / "two", plan(10, RARELY))
    with pytest.raises(TrainingError, match=r"the last 3 steps, up to step 7.*lower the learning rate"):
        fit(Noisy({4: "nan", 5: "inf", 6: "nan"}), tmp_path / "three", plan(10))
    assert len(list((tmp_path / "three" / "spoilt").iterdir())) == 3
    assert all(p.isfinite().all() for p in checkpoint.load_latest(tmp_path / "three")[1]["line"].values())


def test_the_learning_speed_is_told(tmp_path):
    fit(Noisy(), tmp_path, plan(10, RARELY))
    row = json.loads((tmp_path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert row["tokens"] == 8
    assert row["tokens_per_s"] == pytest.approx(8 * row["steps_per_s"])


def test_stopped_as_asked_has_an_exit_code_of_its_own(monkeypatch):
    from llasa import cli

    def stopped(*_, **__) -> None:
        raise Interrupted("stopped")

    monkeypatch.setattr(cli, "app", stopped)
    with pytest.raises(SystemExit) as caught:
        cli.main(["train"])
    assert caught.value.code == 4


TOGETHER = """
import os, signal, sys
from pathlib import Path
import torch
from llasa.errors import Interrupted
from llasa.train.loop import Plan, average_gradients, fit, join_group

rank, line = join_group(), torch.nn.Linear(3, 1)
torch.nn.init.ones_(line.weight), torch.nn.init.zeros_(line.bias)

class Task:
    modules = {"line": line}
    optimizers = {"adamw": torch.optim.AdamW(line.parameters(), 0.05)}
    def step(self, index):
        x = torch.randn(8, 3)
        if rank == 1 and index == 3:
            x[0] = float("nan")
        if rank == 1 and index == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGTERM)
        loss = (line(x) - x.sum(1, keepdim=True)).square().mean()
        self.optimizers["adamw"].zero_grad()
        loss.backward()
        average_gradients(line.parameters())
        self.optimizers["adamw"].step()
        return {"loss": loss.item()}
    def validate(self):
        return {}

try:
    fit(Task(), Path(sys.argv[1]), Plan(10, validate_every=5, save_every_s=1e9))
    print("done", line.weight.tolist())
except Interrupted as error:
    print("stopped", error)
"""


@pytest.mark.slow
def test_processes_stop_and_leave_out_together(tmp_path):
    script = tmp_path / "together.py"
    script.write_text(TOGETHER, encoding="utf-8")

    def run(name: str, stop: int) -> list[str]:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
        found = subprocess.run(
            [*command, script, tmp_path / name, str(stop)],
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )
        return sorted(found.stdout.splitlines())

    whole, stopped = run("whole", -1), run("cut", 6)
    assert whole[0] == whole[1] and whole[0].startswith("done")
    assert len(stopped) == 2 and all("after step 7 of 10" in line for line in stopped)
    assert run("cut", -1) == whole
    assert rows_of(tmp_path / "cut") == rows_of(tmp_path / "whole")
    assert rows_of(tmp_path / "cut")[0]["spoilt"] == 1

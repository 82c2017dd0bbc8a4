"""The training loop that our tasks share: seeded, resumable, with progress, metrics and checkpoints.

All randomness is a function of (seed, step, rank), so a resumed run draws what an uninterrupted one would
have drawn, and there is no state of random numbers to save. Started by torchrun, each process draws rows of
its own, gradients are averaged, and rank 0 alone writes.
"""

import json
import math
import random
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torch import nn

from llasa import shortage
from llasa.audio import replace_file
from llasa.errors import ConfigError, Interrupted
from llasa.train import checkpoint, finite, group
from llasa.train.group import average_gradients as average_gradients
from llasa.train.group import join_group as join_group
from llasa.train.group import processes as processes
from llasa.train.group import wait_for_all as wait_for_all
from llasa.train.signals import Signals


class Task(Protocol):
    """What is trained.

    modules: name -> module to save. optimizers: name -> optimizer. `step(i)` runs forward and backward and
    updates; it draws all its randomness from torch's, numpy's or Python's global generator, and sets its
    learning rate by i. Both return measures in natural units; one called `tokens` is also told a second.
    """

    modules: dict[str, nn.Module]
    optimizers: dict[str, torch.optim.Optimizer]

    def step(self, index: int) -> Mapping[str, float]:
        """Take step `index`, from 0, and return measures of it."""
        ...

    def validate(self) -> Mapping[str, float]:
        """Return measures on what is held out; changes nothing."""
        ...


@dataclass(frozen=True)
class Plan:
    """How long to train, in steps, and how often to look and save.

    snapshot_every: steps between copies of the modules that are kept for good, in `snapshots`; 0 keeps none.
    """

    steps: int
    seed: int = 0
    validate_every: int = 500
    save_every_s: float = 120.0
    snapshot_every: int = 0


def rate_at(index: int, steps: int, warmup: int = 200, hold: float = 0.3) -> float:
    """Return the learning-rate factor: linear warm-up, flat until `hold` of the run, then linearly to 0."""
    rising = min(1.0, (index + 1) / warmup)
    falling = min(1.0, (1 - index / steps) / (1 - hold))
    return min(rising, falling)


def fit(task: Task, folder: Path, plan: Plan) -> None:
    """Train `task` in `folder` until `plan.steps`;
    called again, it goes on where the newest whole checkpoint stands.

    Writes `metrics.jsonl` (one row a validation) and checkpoints. A step whose loss or gradient is no number
    is not taken; `spoilt` keeps what it started from: load it and call `task.step` to see it again.
    SIGTERM or Ctrl-C ends it after a step, SIGUSR1 makes it save.

    Raises:
        Interrupted: a signal asked to stop; all is saved.
        TrainingError: three steps in a row were spoilt.
        ConfigError: the disk is full, or the processes see different checkpoints.
    """
    run = _Run(task, folder, plan, join_group())
    run.resume()
    optimizers = task.optimizers.values()
    with Signals() as signals, finite.guarded(optimizers), _progress(run.rank > 0) as progress:
        bar = progress.add_task(folder.name, total=plan.steps, completed=run.done, told="")
        while run.done < plan.steps:
            run.step()
            stop, save = signals.take()
            run.look_and_save(stop or save)
            progress.update(bar, completed=run.done, told=run.told)
            if stop and run.done < plan.steps:
                raise Interrupted(
                    f"Training in '{folder}': stopped as asked after step {run.done} of {plan.steps}, which "
                    "is saved. Run the same command to go on."
                )


@dataclass
class _Tally:
    """What was counted since the last row of metrics; saved with each checkpoint, so that rows go on too."""

    sums: dict[str, float] = field(default_factory=dict)
    steps: int = 0
    spoilt: int = 0
    in_a_row: int = 0
    elapsed_s: float = 0.0
    row_s: float = 0.0

    def row(self) -> dict[str, float]:
        """Return what the next row says."""
        took_s = max(1e-9, self.elapsed_s - self.row_s)
        means = {name: value / max(1, self.steps) for name, value in self.sums.items()}
        speed: dict[str, float] = {"steps_per_s": (self.steps + self.spoilt) / took_s}
        if "tokens" in self.sums:
            speed["tokens_per_s"] = self.sums["tokens"] / took_s
        return (
            {"elapsed_s": self.elapsed_s} | speed | ({"spoilt": self.spoilt} if self.spoilt else {}) | means
        )


class _Run:
    """One run in one process, between its steps."""

    def __init__(self, task: Task, folder: Path, plan: Plan, rank: int) -> None:
        self.task, self.folder, self.plan, self.rank = task, folder, plan, rank
        self.done, self.tally, self.told = 0, _Tally(), ""
        self.buffers = [buffer for module in task.modules.values() for buffer in module.buffers()]
        self.began = self.saved = time.monotonic()
        with shortage.told(f"Training in '{folder}'", folder):
            folder.mkdir(parents=True, exist_ok=True)

    def resume(self) -> None:
        """Go back to the newest whole checkpoint."""
        found = checkpoint.load_latest(self.folder)
        if found is not None:
            self.done, parts, meta = found
            self._restore(parts)
            self.tally = _Tally(**meta.get("tally", {}))
        if group.highest(self.done, -self.done) != [self.done, -self.done]:
            raise ConfigError(
                f"Training in '{self.folder}': the processes find different checkpoints there. "
                "Name a folder that all hosts share."
            )
        self.began -= self.tally.elapsed_s
        if self.rank == 0:
            _cut(self.folder / "metrics.jsonl", self.done)

    def _restore(self, parts: checkpoint.Parts) -> None:
        for name, module in self.task.modules.items():
            module.load_state_dict(parts[name])
        for name, optimizer in self.task.optimizers.items():
            checkpoint.restore_optimizer(optimizer, parts[f"{name}-optimizer"])

    def step(self) -> None:
        """Take one step, or leave out the update of a spoilt one."""
        seed(self.plan.seed, self.done, self.rank)
        before = [buffer.clone() for buffer in self.buffers]
        try:
            measures = self.task.step(self.done)
            bad = not all(map(math.isfinite, measures.values()))
        except finite.Spoilt:
            measures, bad = {}, True
        bad = bool(group.highest(bad)[0])
        if bad:
            self._leave_out(before)
        else:
            self.tally.steps += 1
            for name, value in measures.items():
                self.tally.sums[name] = self.tally.sums.get(name, 0.0) + value
        self.done += 1
        self.tally.in_a_row = self.tally.in_a_row + 1 if bad else 0
        finite.stop_if_lost(self.folder, self.done, self.tally.in_a_row)

    def _leave_out(self, before: list[torch.Tensor]) -> None:
        """Undo what a spoilt step did to running means, and keep it for another look."""
        with torch.no_grad():
            for buffer, value in zip(self.buffers, before, strict=True):
                buffer.copy_(value)
        for optimizer in self.task.optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        self.tally.spoilt += 1
        if self.rank == 0:
            checkpoint.save(
                self.folder / "spoilt", self.done, self._parts(), {"seed": self.plan.seed}, finite.IN_A_ROW
            )

    def look_and_save(self, asked: bool) -> None:
        """Validate, log and save what is due after a step; `asked`: save in any case."""
        plan, last = self.plan, self.done == self.plan.steps
        if self.rank > 0:
            return
        self.tally.elapsed_s = time.monotonic() - self.began
        if last or self.done % plan.validate_every == 0:
            self._log({"step": self.done} | self.tally.row() | dict(self.task.validate()))
            self.tally = _Tally(
                in_a_row=self.tally.in_a_row, elapsed_s=self.tally.elapsed_s, row_s=self.tally.elapsed_s
            )
        if plan.snapshot_every and self.done % plan.snapshot_every == 0:
            parts = {name: module.state_dict() for name, module in self.task.modules.items()}
            checkpoint.save(self.folder / "snapshots", self.done, parts, {}, keep=plan.steps)
        if last or asked or time.monotonic() - self.saved > plan.save_every_s:
            checkpoint.save(self.folder, self.done, self._parts(), {"tally": asdict(self.tally)})
            self.saved = time.monotonic()

    def _parts(self) -> checkpoint.Parts:
        parts = {name: module.state_dict() for name, module in self.task.modules.items()}
        states = {f"{n}-optimizer": checkpoint.optimizer_tensors(o) for n, o in self.task.optimizers.items()}
        return parts | states

    def _log(self, row: Mapping[str, float]) -> None:
        path = self.folder / "metrics.jsonl"
        with shortage.told(f"Training in '{self.folder}'", path), open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        left_s = (self.plan.steps - self.done) / row["steps_per_s"]
        self.told = " ".join(f"{k} {v:.4g}" for k, v in row.items() if k not in ("step", "elapsed_s"))
        print(
            f"step {self.done}/{self.plan.steps} left_s {left_s:.0f} {self.told}", file=sys.stderr, flush=True
        )


def seed(seed: int, index: int, rank: int) -> None:
    """Make all global generators what they are at this step of this process."""
    chosen = hash((seed, index, rank)) & 0x7FFFFFFF
    torch.manual_seed(chosen)
    np.random.seed(chosen)
    random.seed(chosen)


def _progress(disable: bool) -> Progress:
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    return Progress(
        TextColumn("{task.description}"), *columns, TextColumn("{task.fields[told]}"),
        console=Console(stderr=True), disable=disable or not sys.stderr.isatty(),
    )  # fmt: skip


def _cut(path: Path, step: int) -> None:
    """Remove the rows after `step`: the run that wrote them did not get to save it."""
    if not path.exists():
        return
    text = path.read_text(encoding="utf-8")
    kept = "".join(line for line in text.splitlines(keepends=True) if _step_of(line) <= step)
    if kept != text:
        replace_file(path, kept.encode())


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"] if line.endswith("\n") else math.inf
    except ValueError:
        return math.inf  # cut off in the middle

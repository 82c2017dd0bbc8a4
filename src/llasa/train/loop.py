"""The training loop that every task shares: seeded, resumable, with progress, metrics and checkpoints.

Randomness is a function of (seed, step, rank), so a resumed run draws what an uninterrupted one would have
drawn. Started by torchrun, each process draws rows of its own, gradients are averaged, and rank 0 alone
writes.
"""

import json
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
import torch.distributed as dist
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torch import nn

from llasa.train import checkpoint


class Task(Protocol):
    """What is trained.

    modules: name -> module to save. optimizers: name -> optimizer. `step(i)` runs forward and backward and
    updates; it draws all its randomness from torch's global generator. Both return measures in natural units.
    """

    modules: dict[str, nn.Module]
    optimizers: dict[str, torch.optim.Optimizer]

    def step(self, index: int) -> Mapping[str, float]: ...

    def validate(self) -> Mapping[str, float]: ...


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


def join_group() -> int:
    """Join the process group that torchrun set up, if it did, and return this process's rank."""
    if "RANK" in os.environ and not dist.is_initialized():
        dist.init_process_group("gloo")
    return dist.get_rank() if dist.is_initialized() else 0


def wait_for_all() -> None:
    """Wait until every process of the group is here."""
    if dist.is_initialized():
        dist.barrier()


def processes() -> int:
    """Return how many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def average_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Average gradients over the process group, in place; alone, do nothing."""
    if not dist.is_initialized():
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def fit(task: Task, folder: Path, plan: Plan) -> None:
    """Train `task` in `folder` until `plan.steps`;
    called again, it goes on where the newest checkpoint stands.

    Writes `metrics.jsonl` (one row a validation) and checkpoints.
    """
    rank = join_group()
    folder.mkdir(parents=True, exist_ok=True)
    start = _resume(task, folder)
    began = saved = time.monotonic()
    sums: dict[str, float] = {}
    since = start
    with _progress(disable=rank > 0) as progress:
        bar = progress.add_task(folder.name, total=plan.steps, completed=start, measures="")
        for index in range(start, plan.steps):
            torch.manual_seed(hash((plan.seed, index, rank)) & 0x7FFFFFFF)
            for name, value in task.step(index).items():
                sums[name] = sums.get(name, 0.0) + value
            done = index + 1
            if rank > 0:
                continue
            if done % plan.validate_every == 0 or done == plan.steps:
                measures = {name: value / (done - since) for name, value in sums.items()} | dict(
                    task.validate()
                )
                _log(folder, {"step": done, "elapsed_s": time.monotonic() - began} | measures)
                progress.update(bar, measures=" ".join(f"{k} {v:.3f}" for k, v in measures.items()))
                sums, since = {}, done
            progress.update(bar, completed=done)
            if plan.snapshot_every and done % plan.snapshot_every == 0:
                parts = {name: module.state_dict() for name, module in task.modules.items()}
                checkpoint.save(folder / "snapshots", done, parts, {}, keep=plan.steps)
            if time.monotonic() - saved > plan.save_every_s or done == plan.steps:
                _save(task, folder, done)
                saved = time.monotonic()


def _progress(disable: bool) -> Progress:
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    return Progress(
        TextColumn("{task.description}"), *columns, TextColumn("{task.fields[measures]}"), disable=disable
    )


def _resume(task: Task, folder: Path) -> int:
    found = checkpoint.load_latest(folder)
    if found is None:
        return 0
    step, parts, _ = found
    for name, module in task.modules.items():
        module.load_state_dict(parts[name])
    for name, optimizer in task.optimizers.items():
        checkpoint.restore_optimizer(optimizer, parts[f"{name}-optimizer"])
    return step


def _save(task: Task, folder: Path, step: int) -> None:
    parts = {name: module.state_dict() for name, module in task.modules.items()}
    parts |= {f"{n}-optimizer": checkpoint.optimizer_tensors(o) for n, o in task.optimizers.items()}
    checkpoint.save(folder, step, parts, {})


def _log(folder: Path, row: Mapping[str, float]) -> None:
    with open(folder / "metrics.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    print(" ".join(f"{k}={v:.4g}" for k, v in row.items()), flush=True)

"""The processes that train together, as torchrun started them; alone, every function does next to nothing."""

import os
from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.distributed as dist


def join_group() -> int:
    """Join the process group that torchrun set up, if it did, and return this process's rank."""
    if "RANK" in os.environ and not dist.is_initialized():
        dist.init_process_group("gloo")
    return rank()


def rank() -> int:
    """Return this process's rank; 0 alone."""
    return dist.get_rank() if dist.is_initialized() else 0


def processes() -> int:
    """Return how many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def own_device() -> str | None:
    """Return the name of this process's own GPU among those of its host; None alone or without GPUs."""
    place = os.environ.get("LOCAL_RANK")
    return f"cuda:{place}" if place and torch.cuda.is_available() else None


def sharded(trainer: Mapping[str, Any]) -> bool:
    """Return whether a process is to hold a part of the weights: by a recipe's [trainer], or accelerate's."""
    asked = [os.environ.get(f"ACCELERATE_USE_{kind}", "").lower() for kind in ("FSDP", "DEEPSPEED")]
    return bool(trainer.get("fsdp") or trainer.get("deepspeed")) or not {"1", "true"}.isdisjoint(asked)


def wait_for_all() -> None:
    """Wait until every process of the group is here."""
    if dist.is_initialized():
        dist.barrier()


def highest(*values: int) -> list[int]:
    """Return the highest of each value over all processes: for a flag, whether it is up anywhere."""
    if not dist.is_initialized():
        return [int(value) for value in values]
    device = "cuda" if torch.cuda.is_available() and "nccl" in dist.get_backend() else "cpu"
    noted = torch.tensor(values, dtype=torch.int64, device=device)
    dist.all_reduce(noted, dist.ReduceOp.MAX)
    return noted.tolist()


def from_first(value: str | None) -> str | None:
    """Return the value that the first process has, in all."""
    box = [value]
    if dist.is_initialized():
        dist.broadcast_object_list(box)
    return box[0]


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

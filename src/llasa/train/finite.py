"""Updates that would spoil a model are left out: no gradient with NaN or infinity reaches an optimizer."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llasa.errors import TrainingError
from llasa.train import group

IN_A_ROW = 3  # spoilt steps after which a run stops


class Spoilt(Exception):
    """An optimizer was given a gradient that is not finite; its step was not taken."""


def spoilt(parameters: Iterable[Tensor]) -> bool:
    """Return whether the gradient of any parameter, in any process, holds NaN or infinity."""
    # Sharded gradients are looked at where they are; then the processes agree.
    gradients: list[Any] = [p.grad for p in parameters if p.grad is not None]
    here = [gradient.to_local() if hasattr(gradient, "to_local") else gradient for gradient in gradients]
    fine = bool(torch.nn.utils.get_total_norm(here).isfinite())
    return bool(group.highest(not fine)[0])


@contextmanager
def guarded(optimizers: Iterable[torch.optim.Optimizer]) -> Iterator[None]:
    """Let these optimizers raise `Spoilt` instead of taking a step that would spoil their parameters."""
    handles = [optimizer.register_step_pre_hook(_check) for optimizer in optimizers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _check(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    if spoilt(p for group in optimizer.param_groups for p in group["params"]):
        raise Spoilt


def stop_if_lost(place: Path, step: int, in_a_row: int) -> None:
    """Raise TrainingError if too many steps in a row, up to `step`, were spoilt for the run to make sense."""
    if in_a_row >= IN_A_ROW:
        raise TrainingError(
            f"Training in '{place}': the last {in_a_row} steps, up to step {step}, had a loss or a gradient "
            f"that is no number. Their updates were left out; what they saw is in '{place / 'spoilt'}'. Look "
            "at it, or lower the learning rate, and go on from the last checkpoint."
        )

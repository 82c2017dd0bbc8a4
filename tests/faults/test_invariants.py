"""Other ways to the same numbers: differences are small, and none leans to one side along a trajectory."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from llasa.train.loss import in_chunks
from llasa.train.policy import speech_only
from tests.faults.rows import trials
from tests.judging import candidate, local_judge, verdicts
from tests.unit.test_sft import batches, prompt, tiny

Reached = Callable[[int, int], None]
Batch = dict[str, Tensor]
assert prompt  # a fixture


def even(residuals: Sequence[float], tolerance: float) -> None:
    """See that differences are small, and that their mean is that of noise."""
    found = np.array(residuals)
    assert np.abs(found).max() <= tolerance, found
    assert abs(found.mean()) <= max(4 * found.std() / math.sqrt(len(found)), tolerance / 50), found


def trajectory(model: Any, steps: Sequence[Sequence[Batch]]) -> list[float]:
    """Return the loss of each step, each a batch in parts."""
    optimizer, told = torch.optim.SGD(model.parameters(), 0.1), list[float]()
    for parts in steps:
        labels = sum(int((part["labels"][:, 1:] != -100).sum()) for part in parts)
        losses = [model(**part, num_items_in_batch=labels).loss for part in parts]
        optimizer.zero_grad()
        torch.stack(losses).sum().backward()
        optimizer.step()
        told.append(sum(loss.item() for loss in losses))
    return told


def one_by_one(batch: Batch) -> list[Batch]:
    return [{key: value[i : i + 1] for key, value in batch.items()} for i in range(len(batch["labels"]))]


def alone(batch: Batch) -> list[Batch]:
    """Return the rows without what makes them as long as others."""
    rows = one_by_one(batch)
    ends = [int((row["labels"][0] != -100).nonzero()[-1]) + 1 for row in rows]
    return [{key: value[:, :end] for key, value in row.items()} for row, end in zip(rows, ends, strict=True)]


@pytest.mark.fault("R18")
@pytest.mark.parametrize("cut", [one_by_one, alone])
def test_training_in_parts(prompt: Any, reached: Reached, cut: Callable[[Batch], list[Batch]]) -> None:
    count = len(trials(8, 100))
    steps = [{key: value for key, value in batches(prompt)[i].items()} for i in range(count)]
    models = [tiny(prompt), tiny(prompt)]
    for model in models:
        in_chunks(model)
    whole = trajectory(models[0], [[batch] for batch in steps])
    parts = trajectory(models[1], [cut(batch) for batch in steps])
    even([a - b for a, b in zip(whole, parts, strict=True)], 2e-4)
    assert whole[-1] < whole[0]
    reached(count, count)


@pytest.mark.fault("R18")
def test_a_head_of_some_ids_and_one_that_forbids_the_others(prompt: Any, reached: Reached) -> None:
    model, allowed = tiny(prompt, tied=False), sorted(prompt.allowed_token_ids)
    head = model.get_output_embeddings()
    sliced = head.weight.detach()[allowed].clone()
    speech_only(model, allowed)
    residuals = []
    for number in (made := trials(25, 300)):
        hidden = torch.randn(32, generator=torch.Generator().manual_seed(number))
        masked = head(hidden).log_softmax(-1)[allowed]
        residuals.append(float((masked - (sliced @ hidden).log_softmax(-1)).mean().detach()))
    even(residuals, 1e-5)
    reached(len(made), len(made))


@pytest.mark.fault("R18")
def test_candidates_judged_together_and_alone(reached: Reached) -> None:
    judge, rows = local_judge(), [candidate(n) for n in (100, 500, -1, 13, 999, *range(200, 260))]
    assert verdicts(judge.judge(rows)) == verdicts([judge.judge([row])[0] for row in rows])
    reached(len(rows), len(rows))

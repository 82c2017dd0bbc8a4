"""Log-probabilities with shared prompts are TRL's own, and so are their gradients."""

from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from trl.trainer.utils import add_fused_lm_head

from llasa.train.logprobs import share_prompts
from llasa.train.policy import speech_only

ALLOWED = (3, *range(20, 52))
COLUMNS = 9  # of prompts


def policy(**ours: Any) -> Any:
    torch.manual_seed(0)
    settings = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, eos_token_id=3, initializer_range=0.4,
    )  # fmt: skip
    model = LlamaForCausalLM(settings).train()
    speech_only(model, ALLOWED)
    add_fused_lm_head(model, 0.7, outputs=("log_probs", "entropy"))
    if ours:
        share_prompts(model, 0.7, **ours)
    return model


def batch(lengths: list[int], groups: int = 3) -> dict[str, torch.Tensor]:
    """Rows of some groups in turn: prompts padded before, completions of some lengths padded behind."""
    random = torch.Generator().manual_seed(0)
    width = COLUMNS + max(lengths)
    ids, seen = torch.zeros(len(lengths), width, dtype=torch.long), torch.zeros(len(lengths), width)
    prompts = [torch.randint(4, 20, (COLUMNS - 2 * n,), generator=random) for n in range(groups)]
    for row, length in enumerate(lengths):
        start = COLUMNS - len(prompts[row % groups])
        ids[row, start:COLUMNS] = prompts[row % groups]
        ids[row, COLUMNS : COLUMNS + length] = torch.randint(20, 52, (length,), generator=random)
        seen[row, start : COLUMNS + length] = 1
    labels = ids.masked_fill(seen == 0, -100)
    labels[:, :COLUMNS] = -100
    return {"input_ids": ids, "attention_mask": seen.long(), "labels": labels}


def told(model: Any, rows: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What is told, and the gradient of one loss of it."""
    found = model(**rows, fused_lm_head=True)
    weights = torch.linspace(-1, 1, found.log_probs.numel()).view_as(found.log_probs)
    (found.log_probs * weights).sum().backward()
    gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    return found.log_probs.detach(), found.entropy.detach(), gradient


def near(found: torch.Tensor, expected: torch.Tensor) -> bool:
    return float((found - expected).abs().max()) <= 1e-5 * max(1.0, float(expected.abs().max()))


@pytest.mark.fault("R18")
@pytest.mark.parametrize("chunk", [1 << 26, 64 * 5])
@pytest.mark.parametrize("lengths", [[5, 7, 3, 6, 4, 1, 7], [1, 1, 1], [6]])
def test_they_are_those_of_trl(lengths, chunk):
    rows = batch(lengths)
    usual, ours = told(policy(), rows), told(policy(chunk=chunk), rows)
    for expected, found in zip(usual, ours, strict=True):
        assert near(found, expected)


def test_they_are_the_same_where_activations_are_computed_again():
    rows, model = batch([5, 7, 3]), policy(chunk=1 << 26)
    model.gradient_checkpointing_enable()
    for expected, found in zip(told(policy(), rows), told(model, rows), strict=True):
        assert near(found, expected)


def test_nothing_to_learn_gives_a_gradient_of_nothing():
    rows = batch([4, 4])
    rows["labels"][:] = -100
    log_probs, entropy, gradient = told(policy(chunk=1 << 26), rows)
    assert log_probs.shape == (2, COLUMNS + 3) and not log_probs.any() and not entropy.any()
    assert not gradient.any()


def test_entropy_carries_gradient_only_where_a_bonus_needs_it():
    rows = batch([4, 5])
    assert not policy(chunk=1 << 26)(**rows, fused_lm_head=True).entropy.requires_grad
    model, usual = policy(entropy_grad=True), policy()
    for one in (model, usual):
        one(**rows, fused_lm_head=True).entropy.sum().backward()
    for found, expected in zip(model.parameters(), usual.parameters(), strict=True):
        assert near(found.grad, expected.grad)


def test_other_calls_go_where_they_went():
    model, plain = policy(chunk=1 << 26), policy()
    ids = torch.arange(4, 20)[None]
    assert torch.equal(model(input_ids=ids).logits, plain(input_ids=ids).logits)

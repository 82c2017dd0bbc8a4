"""Log-probabilities of completions as TRL asks a model for them, with less work for the same numbers.

A prompt that several completions share is read once, and the head looks at completions only: TRL's own
scores every place where there is no Triton. Must not know: rewards, recipes.

Shapes: B rows, S ids, P of a prompt, C of a completion, U different prompts, D width, V vocabulary.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import DynamicCache

from llasa.prompt import IGNORED
from llasa.train.loss import CHUNK


def share_prompts(model: Any, temperature: float, entropy_grad: bool = False, chunk: int = CHUNK) -> None:
    """Make a causal language model answer `fused_lm_head=True` as after TRL's `add_fused_lm_head`.

    Args:
        model: of transformers, limited by `policy.speech_only`; other calls go where they went.
        temperature: that logits are divided by.
        entropy_grad: whether entropies carry gradient, as a bonus for them needs. chunk: logits at once.
    """
    usual = model.forward

    def forward(*args: Any, fused_lm_head: bool = False, **inputs: Any) -> Any:
        if not fused_lm_head:
            return usual(*args, **inputs)
        from trl.trainer.utils import FusedCausalLMOutput

        ids, seen, labels = inputs["input_ids"], inputs["attention_mask"].bool(), inputs["labels"]
        start, end = _span(labels)
        hidden = _hidden(model, ids[:, :end], seen[:, :end], start)
        return FusedCausalLMOutput(**_told(model, hidden, labels, start, temperature, entropy_grad, chunk))

    model.forward = forward


def _span(labels: Tensor) -> tuple[int, int]:
    """Return the first column of completions and the column after their last."""
    used = (labels != IGNORED).any(0).nonzero()
    return (int(used[0]), int(used[-1]) + 1) if len(used) else (1, 2)


def _hidden(model: Any, ids: Tensor, seen: Tensor, start: int) -> Tensor:
    """Return what the head reads to tell each id from column `start` on, [B, C, D]."""
    trunk = model.base_model
    if getattr(trunk, "gradient_checkpointing", False) and trunk.training:  # which keeps no past
        places = (seen.long().cumsum(1) - 1).clamp(min=0)
        found = trunk(input_ids=ids, attention_mask=seen.long(), position_ids=places, use_cache=False)
        return found.last_hidden_state[:, start - 1 : -1]
    prompts, lengths, which = _prompts(ids[:, :start], seen[:, :start])
    there = torch.arange(prompts.shape[1], device=ids.device) < lengths[:, None]
    past = DynamicCache()
    read = trunk(input_ids=prompts, attention_mask=there.long(), past_key_values=past, use_cache=True)
    last = read.last_hidden_state[torch.arange(len(prompts)), lengths - 1][which][:, None]
    if ids.shape[1] - start < 2:
        return last
    layers: Any = past.layers
    shared = DynamicCache([(layer.keys[which], layer.values[which]) for layer in layers])
    told, drawn = ids[:, start:-1], seen[:, start:-1]
    places = lengths[which][:, None] + torch.arange(told.shape[1], device=ids.device)
    mask = torch.cat([there[which], drawn], 1).long()
    found = trunk(
        input_ids=told, attention_mask=mask, position_ids=places, past_key_values=shared, use_cache=True
    )
    return torch.cat([last, found.last_hidden_state], 1)


def _prompts(ids: Tensor, seen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the different prompts [U, P], padded behind, their lengths [U], and each row's number [B]."""
    rows = [tuple(row[mask].tolist()) for row, mask in zip(ids.cpu(), seen.cpu(), strict=True)]
    different = list(dict.fromkeys(rows))
    place = {prompt: number for number, prompt in enumerate(different)}
    longest = max(map(len, different))
    padded = [(*prompt, *[0] * (longest - len(prompt))) for prompt in different]
    lengths = [len(prompt) for prompt in different]
    made = (padded, lengths, [place[row] for row in rows])
    prompts, sizes, which = (torch.tensor(part, device=ids.device) for part in made)
    return prompts, sizes, which


def _told(
    model: Any, hidden: Tensor, labels: Tensor, start: int, temperature: float, entropy_grad: bool, chunk: int
) -> dict[str, Tensor]:
    """Return log-probability and entropy of each labelled id, both [B, S - 1], 0 elsewhere."""
    head = model.get_output_embeddings()
    wanted = labels[:, start : start + hidden.shape[1]] != IGNORED
    read, names = hidden[wanted], labels[:, start : start + hidden.shape[1]][wanted]
    size = max(1, chunk // head.weight.shape[0])
    parts = [
        # Logits of a chunk are computed again for its gradient instead of being kept.
        checkpoint(_scored, *part, head, temperature, entropy_grad, use_reentrant=False)
        if len(names) > size
        else _scored(*part, head, temperature, entropy_grad)
        for part in zip(read.split(size), names.split(size), strict=True)
    ]
    log_probs, entropy = (torch.cat(found) for found in zip(*parts, strict=True))
    places = torch.zeros_like(labels[:, 1:], dtype=torch.bool)
    places[:, start - 1 : start - 1 + wanted.shape[1]] = wanted
    told = {"log_probs": log_probs, "entropy": entropy}
    return {name: found.new_zeros(places.shape).masked_scatter(places, found) for name, found in told.items()}


def _scored(hidden: Tensor, names: Tensor, head: Any, temperature: float, entropy_grad: bool) -> Any:
    logits = F.linear(hidden, head.weight, head.bias).float() / temperature
    chosen = -F.cross_entropy(logits, names, reduction="none")
    with torch.set_grad_enabled(entropy_grad and torch.is_grad_enabled()):
        total = logits.logsumexp(-1)
        entropy = total - ((logits - total[:, None]).exp() * logits).sum(-1)
    return chosen, entropy

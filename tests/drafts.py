"""Draft modules with random weights, and a toy whose distribution is known exactly."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from scipy.stats import chi2
from transformers import LlamaForCausalLM

from llasa.core import Ids, SamplingParams
from llasa.engines.drawing import Settings, shares
from llasa.engines.mtp import Drafts
from tests.causal import llama

STATES = tuple(range(20, 28))
MARKOV = SamplingParams(
    temperature=0.9, top_k=6, top_p=0.95, allowed_token_ids=STATES, min_tokens=1, loop_guard=False
)


def noisy(model: LlamaForCausalLM, count: int = 2, noise: float = 0.05) -> Drafts:
    """Return drafts of a model that guess now and then what it will say."""
    torch.manual_seed(3)
    made = Drafts.fresh(model.model, count)
    for weight in made.parameters():
        weight.data += noise * torch.randn_like(weight)
    return made.to(model.dtype).eval().requires_grad_(False)


def markov() -> LlamaForCausalLM:
    """Return a Llama that looks at the last id only: what it draws is a chain of known probabilities."""
    model = llama().eval()
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.data.zero_()
    return model


@torch.inference_mode()
def chain(model: LlamaForCausalLM, params: SamplingParams = MARKOV) -> np.ndarray:
    """Return how likely each of `STATES` is after each of them, [from, to]."""
    logits = model(input_ids=torch.tensor(STATES)[:, None]).logits[:, 0, list(STATES)].float()
    return shares(logits, Settings.of([params] * len(STATES), torch.device("cpu"))).numpy()


def p_value(rows: Sequence[Ids], expected: np.ndarray) -> float:
    """Return how likely counts this far from the chain are, of what follows what in rows of `STATES`."""
    counts = np.zeros(expected.shape)
    for ids in rows:
        states = np.array(ids) - STATES[0]
        np.add.at(counts, (states[:-1], states[1:]), 1)
    if counts[expected == 0].any():
        return 0.0
    wanted = counts.sum(1, keepdims=True) * expected
    possible = wanted > 0
    found = ((counts - wanted) ** 2 / np.where(possible, wanted, 1))[possible].sum()
    return float(chi2.sf(found, possible.sum() - possible.any(1).sum()))


def long(count: int, n: int, **changes) -> SamplingParams:
    """Return parameters of n rows of so many ids of the toy."""
    return replace(MARKOV, n=n, max_tokens=count, min_tokens=count, **changes)

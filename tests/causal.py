"""Small causal models and the native engine over them."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor, nn
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
)

from llasa.core import Ids, SamplingParams
from llasa.engines.native import NativeEngine

STOP = 60
ALLOWED = (*range(20, 60), STOP)
GREEDY = SamplingParams(
    temperature=0,
    allowed_token_ids=ALLOWED,
    stop_token_ids=(STOP,),
    min_tokens=8,
    max_tokens=24,
    loop_guard=False,
)
SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "vocab_size": 64,
    "initializer_range": 0.3,
    "max_position_embeddings": 512,
}


def llama(**changes) -> LlamaForCausalLM:
    torch.manual_seed(1)
    return LlamaForCausalLM(LlamaConfig(**SMALL | changes))


@contextmanager
def running(model: nn.Module, **settings) -> Iterator[NativeEngine]:
    engine = NativeEngine(model, **{"max_length": 400} | settings)
    yield engine
    engine.close()


def prompts() -> list[Ids]:
    """Eight prompts of different lengths, half of them ending in 'voice' ids."""
    generator = np.random.default_rng(0)
    texts = [generator.integers(1, 20, n).tolist() for n in (1, 2, 5, 9, 14, 20, 33, 60)]
    return [text + generator.integers(20, 60, 40).tolist() * (k % 2) for k, text in enumerate(texts)]


class Scripted(nn.Module):
    """A model whose next id depends on the last one only: {last id: [(next id, logit), ...]}."""

    def __init__(self, script: dict[int, list[tuple[int, float]]]) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.full((64, 64), -20.0))
        for last, following in script.items():
            for token_id, logit in following:
                self.table.data[last, token_id] = logit

    def forward(self, input_ids: Tensor, **_) -> SimpleNamespace:
        return SimpleNamespace(logits=self.table[input_ids])

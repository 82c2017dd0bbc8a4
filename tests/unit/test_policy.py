"""What a model in training can say, and that the engine and the loss agree on it."""

from typing import Any

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM
from trl.trainer.utils import add_fused_lm_head

from llasa.core import SamplingParams
from llasa.engines.native import NativeEngine
from llasa.errors import ConfigError
from llasa.train.policy import check_head, speech_only

ALLOWED = (3, *range(20, 52))


def tiny(dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(0)
    settings = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=64, bos_token_id=None, eos_token_id=3,
        initializer_range=0.5,
    )  # fmt: skip
    return LlamaForCausalLM(settings).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_nothing_else_can_be_said(dtype):
    model = tiny(dtype)
    speech_only(model, ALLOWED)
    probabilities = model(torch.arange(10)[None]).logits.float().softmax(-1)
    others = [i for i in range(64) if i not in ALLOWED]
    assert float(probabilities[..., others].sum()) == 0.0
    assert torch.allclose(probabilities.sum(-1), torch.ones(1, 10), atol=1e-5)


def test_the_loss_sees_what_the_engine_draws_from():
    model = tiny()
    speech_only(model, ALLOWED)
    params = SamplingParams(
        temperature=1.0, max_tokens=30, seed=5, allowed_token_ids=ALLOWED, stop_token_ids=(3,), logprobs=True
    )
    engine = NativeEngine(model, max_length=64)
    prompt = [1, 2, 9, 10]
    [drawn] = engine.submit(prompt, params).result()
    engine.close()
    add_fused_lm_head(model, outputs=("log_probs", "entropy"))
    ids = torch.tensor([prompt + drawn.ids])
    labels = ids.clone()
    labels[:, : len(prompt)] = -100
    told = model(input_ids=ids, labels=labels, fused_lm_head=True)
    assert drawn.logprobs and len(drawn.ids) > 3
    found = told.log_probs[0, len(prompt) - 1 :]
    assert torch.allclose(found, torch.tensor(drawn.logprobs), atol=1e-4)
    assert bool(told.entropy.isfinite().all())


def test_what_is_saved_is_what_was_loaded(tmp_path):
    model = tiny()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    speech_only(model, ALLOWED)
    model.save_pretrained(tmp_path)
    again = LlamaForCausalLM.from_pretrained(tmp_path)
    assert again.state_dict().keys() == before.keys() and again.lm_head.bias is None
    assert all(torch.equal(value, before[name]) for name, value in again.state_dict().items())


def test_heads_of_other_kinds_are_refused():
    model = tiny()
    model.set_output_embeddings(nn.Linear(32, 64, bias=True))
    with pytest.raises(ConfigError, match="a head with a bias"):
        speech_only(model, ALLOWED)
    model = tiny()
    model.config.logit_scale = 2.0
    with pytest.raises(ConfigError, match="logit_scale"):
        speech_only(model, ALLOWED)


def test_another_head_than_the_engines_is_refused():
    model = tiny()
    head = model.get_output_embeddings()
    check_head(model, head)
    model.set_output_embeddings(nn.Linear(32, 64, bias=False))
    with pytest.raises(ConfigError, match="lm_head"):
        check_head(model, head)

"""Rows that share a past: what they hold once, and that they read what rows of their own would."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from llasa.engines.backbone import Backbone
from llasa.engines.interface import share_attention, widen_attention

SIZES = {
    "vocab_size": 60, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "max_position_embeddings": 256,
}  # fmt: skip


def llama(heads: int = 4) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(**SIZES, num_key_value_heads=heads, initializer_range=0.3)
    return LlamaForCausalLM(config).eval()


def wide() -> PreTrainedModel:
    model = llama().bfloat16()
    widen_attention(model)
    return model


MODELS = {"llama": llama, "grouped": lambda: llama(2), "wide": wide}


def apart(model: PreTrainedModel) -> Backbone:
    backbone = Backbone(model)
    backbone._sharing = False
    backbone.reset()
    return backbone


def coming_and_going(backbone: Backbone) -> Iterator[Tensor]:
    """Yield the states of steps between which rows join and leave, as they may."""
    draw = np.random.default_rng(5)
    live = 0
    for count in (5, 1, 7, 4, 0, 2, 6, 0):
        prompt = draw.integers(1, 60, draw.integers(3, 40)).tolist()
        if count:
            backbone.add(backbone.prefill(prompt)[0], len(prompt), count)
        live += count
        for _ in range(3):
            yield backbone.step(draw.integers(1, 60, live).tolist())
        for _ in range(min(live - 1, 5)):
            backbone.drop(int(draw.integers(live)))
            live -= 1


@pytest.mark.parametrize("name", MODELS)
@torch.inference_mode()
def test_rows_that_share_a_past_read_what_rows_of_their_own_would(name: str) -> None:
    model = MODELS[name]()
    sharing, plain = Backbone(model), apart(model)
    assert sharing._sharing
    near = {"rtol": 0.1, "atol": 0.1} if name == "wide" else {"rtol": 1e-4, "atol": 1e-4}
    shared = 0
    for found, expected in zip(coming_and_going(sharing), coming_and_going(plain), strict=True):
        shared += sharing.rows.window.places is not None
        assert plain.rows.window.places is None
        torch.testing.assert_close(found, expected, **near)
    assert shared > 10


@torch.inference_mode()
def test_a_past_is_held_once_and_no_longer_than_rows_share_it() -> None:
    backbone = Backbone(llama())
    for count, length in ((6, 200), (4, 100)):
        prompt = list(range(1, 51)) * 4
        backbone.add(backbone.prefill(prompt[:length])[0], length, count)
    backbone.step([1] * 10)
    layer = backbone.rows.layers[0]
    assert layer.shared is not None and layer.shared[0].shape == (2, 4, 200, 8)
    assert backbone.rows.window.cursor == 1  # of their own they hold one id each
    for row in range(5, -1, -1):  # the first group leaves; the other's rows take their numbers
        backbone.drop(row)
    backbone.step([1] * 4)
    assert layer.shared[0].shape == (1, 4, 100, 8)
    backbone.reset()
    assert backbone.rows.window.places is None


@torch.inference_mode()
def test_a_model_that_looks_through_a_window_keeps_rows_apart() -> None:
    config = Qwen2Config(
        **SIZES, num_key_value_heads=4, use_sliding_window=True, sliding_window=8, max_window_layers=0
    )
    assert not share_attention(Qwen2ForCausalLM(config))
    assert share_attention(Qwen2ForCausalLM(Qwen2Config(**SIZES, num_key_value_heads=4)))


@pytest.mark.parametrize("name", MODELS)
@torch.inference_mode()
def test_an_old_row_beside_young_ones_takes_no_columns_of_theirs(name: str) -> None:
    model = MODELS[name]()
    sharing, plain = Backbone(model), apart(model)
    near = {"rtol": 0.1, "atol": 0.1} if name == "wide" else {"rtol": 1e-4, "atol": 1e-4}
    draw, prompt = np.random.default_rng(2), [3, 4, 5]
    for backbone in (sharing, plain):
        backbone.add(backbone.prefill(prompt)[0], len(prompt), 1)
    for step in range(560):
        ids = draw.integers(1, 60, 1 + 5 * (step >= 100)).tolist()
        for backbone in (sharing, plain):
            if step == 100:  # five begin beside it, and begin anew all the time
                backbone.add(backbone.prefill([7, 8])[0], 2, 3)
                backbone.add(backbone.prefill([9])[0], 1, 2)
            elif step > 100 and step % 30 == 0:
                backbone.drop(5)
                backbone.add(backbone.prefill([6, 5])[0], 2, 1)
                backbone.drop(1)  # the newest takes its place
                backbone.add(backbone.prefill([8])[0], 1, 1)
                backbone.drop(1)
                backbone.add(backbone.prefill([2, 2])[0], 2, 1)
                backbone.drop(2)
                backbone.add(backbone.prefill([2])[0], 1, 1)
        torch.testing.assert_close(sharing.step(ids), plain.step(ids), **near)
    assert plain.rows.window.columns == 768 and sharing.rows.window.columns <= 512
    assert sharing.rows.positions() == plain.rows.positions()


@torch.inference_mode()
def test_memory_of_rows_that_left_is_given_back() -> None:
    backbone = Backbone(llama(), sharing=False)
    backbone.add(backbone.prefill([1, 2])[0], 2, 33)
    for _ in range(33 - 3):
        backbone.drop(0)
    for _ in range(256):
        backbone.step([1] * 3)
    assert backbone.rows.layers[0].keys.shape[0] == 4

"""8-bit layers: near the wide ones, rows that do not feel each other, and the engine over them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from llasa.engines.base import generate
from llasa.engines.head import Head
from llasa.engines.native import NativeEngine
from llasa.engines.quantized import Int8Linear, best_dtype, quantize
from llasa.errors import ConfigError
from tests.causal import ALLOWED, GREEDY, STOP, llama, prompts, running

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("int8")
    llama(tie_word_embeddings=True).save_pretrained(path)
    return path


@pytest.mark.parametrize("shape", [(7, 5), (64, 96), (96, 33)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_outputs_are_near_those_of_the_wide_layer(shape: tuple[int, int], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    weight, bias = torch.randn(shape) * torch.logspace(-3, 3, shape[0])[:, None], torch.randn(shape[0])
    inputs = (torch.randn(2, 50, shape[1]) * torch.logspace(-3, 3, 50)[:, None]).to(dtype)
    found, expected = Int8Linear(weight, bias)(inputs), nn.functional.linear(inputs.float(), weight, bias)
    assert (found.dtype, found.shape) == (dtype, expected.shape)
    relative = (found - expected).norm(dim=(0, 1)) / expected.norm(dim=(0, 1))
    assert 0 < relative.max() < 0.02


def test_rows_do_not_feel_each_other() -> None:
    torch.manual_seed(0)
    layer = Int8Linear(torch.randn(64, 48))
    rows = torch.randn(33, 48) * torch.logspace(-4, 4, 33)[:, None]
    together = layer(rows)
    for count in (1, 2, 7, 16):
        assert torch.equal(torch.cat([layer(part) for part in rows.split(count)]), together)


def test_zeros_stay_and_what_is_not_finite_is_seen() -> None:
    weight = torch.randn(4, 8)
    weight[2] = 0
    layer = Int8Linear(weight)
    rows = torch.zeros(3, 8)
    rows[1, 3], rows[2, 0] = torch.nan, torch.inf
    found = layer(rows)
    assert torch.equal(found[0], torch.zeros(4))
    assert found[1:].isnan().any(-1).all()
    assert layer(torch.randn(5, 8))[:, 2].abs().max() == 0


def test_a_head_in_8_bits_follows_its_weights() -> None:
    projection = nn.Linear(16, 32, bias=False)
    head = Head(projection, list(range(8, 20)), 32, CPU, int8=True)
    state = torch.randn(3, 16)
    for _ in range(2):
        expected = projection(state)[:, 8:20]
        assert (head(state) - expected).norm() < 0.03 * expected.norm()
        with torch.no_grad():
            projection.weight.neg_()
    assert Head(projection, None, 32, CPU, int8=True)(state).shape == (3, 32)


def test_the_engine_is_near_float32_and_candidates_do_not_depend_on_n(folder: Path) -> None:
    engine = NativeEngine.load(folder, "cpu", "int8")
    params = replace(GREEDY, temperature=1.0, logprobs=True, min_tokens=24)
    model = llama(tie_word_embeddings=True)
    for prompt, rows in zip(prompts(), generate(engine, prompts(), replace(params, n=4)), strict=True):
        assert engine.submit(prompt, params).result()[0].ids == rows[0].ids
        ids = rows[0].ids
        logits = model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 :, list(ALLOWED)]
        expected = [logits[k].log_softmax(-1)[ALLOWED.index(i)].item() for k, i in enumerate(ids)]
        assert np.abs(np.array(rows[0].logprobs) - expected).mean() < 0.3
    engine.close()


def test_all_layers_but_the_head_are_in_8_bits_and_none_is_trained() -> None:
    model = llama()
    quantize(model)
    kept = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    assert kept == ["lm_head"]
    assert sum(isinstance(module, Int8Linear) for module in model.modules()) == 14
    assert not any(parameter.requires_grad for parameter in model.parameters())
    with running(model) as engine:
        assert engine.submit([1, 2], GREEDY).result()[0].finish in ("stop", "length")
        model.lm_head.weight.zero_()
        model.lm_head.weight[STOP] = 1
        engine.forget()
        assert set(engine.submit([1, 2], GREEDY).result()[0].ids) <= set(ALLOWED)


def test_models_and_devices_without_are_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="no linear layers"):
        quantize(GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=1, n_head=4, vocab_size=64)))
    with pytest.raises(ConfigError, match="only CPUs"):
        quantize(llama().to("meta"))
    with pytest.raises(ConfigError, match="found 'int4'"):
        NativeEngine.load(folder, "cpu", "int4")


def test_the_best_dtype_is_8_bits_for_large_models_where_there_are_kernels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for features, large, small in (
        ({"avx512_vnni": True, "avx512_bf16": True}, "int8", "bfloat16"),
        ({"avx_vnni": True}, "int8", "float32"),
        ({"avx2": True}, "float32", "float32"),
    ):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda features=features: features)
        assert [best_dtype(count, CPU) for count in (10**9, 10**6)] == [large, small]
    assert best_dtype(10**9, torch.device("meta")) == "bfloat16"

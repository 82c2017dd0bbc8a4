"""The native engine against transformers.generate, and its loading."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LogitsProcessor,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from llasa.core import Ids, SamplingParams
from llasa.engines.base import generate
from llasa.engines.interface import widen_attention
from llasa.engines.native import NativeEngine
from llasa.engines.weights import load_model
from llasa.errors import BundleError, ConfigError, EngineError
from tests.causal import ALLOWED, GREEDY, SMALL, STOP, Scripted, llama, prompts, running


def others() -> dict[str, PreTrainedModel]:
    torch.manual_seed(2)
    width = {"vocab_size": 64, "initializer_range": 0.3}
    return {
        "gpt2": GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=4, **width)),
        "qwen2": Qwen2ForCausalLM(Qwen2Config(**SMALL)),
        "mistral-window": MistralForCausalLM(MistralConfig(**SMALL, sliding_window=7)),
        "gemma2-capped": Gemma2ForCausalLM(
            Gemma2Config(**SMALL, head_dim=8, final_logit_softcapping=2.0, sliding_window=9)
        ),
        "bloom-alibi": BloomForCausalLM(BloomConfig(hidden_size=32, n_layer=2, n_head=4, **width)),
    }


class Only(LogitsProcessor):
    """Leaves the allowed ids, and the stop id only from `min_tokens` ids on."""

    def __init__(self, params: SamplingParams, length: int) -> None:
        self.params, self.first_stop = params, length + params.min_tokens

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        masked = torch.full_like(scores, -torch.inf)
        allowed = [i for i in ALLOWED if i != STOP or input_ids.shape[1] >= self.first_stop]
        masked[:, allowed] = scores[:, allowed]
        return masked


def reference(model: PreTrainedModel, prompt: Ids, params: SamplingParams) -> tuple[Ids, list[Tensor]]:
    """Return what transformers generates, stop id included, with the scores of each step."""
    found = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        do_sample=False,
        max_new_tokens=params.max_tokens,
        eos_token_id=STOP,
        pad_token_id=0,
        logits_processor=[Only(params, len(prompt))],
        output_scores=True,
        return_dict_in_generate=True,
    )
    return found.sequences[0, len(prompt) :].tolist(), [scores[0] for scores in found.scores]


def assert_same(ids: Ids, finish: str, expected: Ids, scores: list[Tensor]) -> None:
    """Equal ids; where they part, the two best scores must have been as good as equal."""
    ours = ids + [STOP] * (finish == "stop")
    parted = next((k for k, (a, b) in enumerate(zip(ours, expected, strict=False)) if a != b), None)
    if parted is None:
        assert len(ours) == len(expected)
    else:
        best = scores[parted].topk(2).values
        assert best[0] - best[1] < 1e-4


def test_greedy_equals_transformers_alone_and_batched() -> None:
    model = llama()
    with running(model) as engine:
        alone = [engine.submit(prompt, GREEDY).result()[0] for prompt in prompts()]
        batched = [row[0] for row in generate(engine, prompts(), GREEDY)]
    for k, prompt in enumerate(prompts()):
        expected, scores = reference(model, prompt, GREEDY)
        assert_same(alone[k].ids, alone[k].finish, expected, scores)
        assert_same(batched[k].ids, batched[k].finish, expected, scores)
    assert {generation.finish for generation in alone} == {"stop", "length"}


@pytest.mark.parametrize("name", others())
def test_other_causal_models_equal_transformers(name: str) -> None:
    model, some = others()[name], prompts()[:6]
    with running(model) as engine:
        batched = [row[0] for row in generate(engine, some, GREEDY)]
        assert engine._runner.sliced == (name != "gemma2-capped")
    for generation, prompt in zip(batched, some, strict=True):
        assert_same(generation.ids, generation.finish, *reference(model, prompt, GREEDY))


def test_rows_that_join_leave_and_outgrow_the_buffer_do_not_disturb_others() -> None:
    long = replace(GREEDY, max_tokens=300, min_tokens=300)
    short = replace(GREEDY, max_tokens=5, min_tokens=5)
    with running(llama()) as engine:
        alone = engine.submit(prompts()[2], long).result()[0].ids
        request = engine.submit(prompts()[2], long)
        told = iter(request)
        for prompt in prompts():
            next(told)
            engine.submit(prompt, replace(short, n=2)).result()
        assert request.result()[0].ids == alone


def test_requests_with_different_allowed_ids_share_steps() -> None:
    low, high = (
        replace(GREEDY, allowed_token_ids=tuple(r), min_tokens=24) for r in (range(5, 30), range(30, 64))
    )
    every = replace(GREEDY, allowed_token_ids=None, min_tokens=24)
    with running(llama()) as engine:
        alone = [engine.submit(prompts()[3], params).result()[0].ids for params in (low, high, every)]
        requests = [engine.submit(prompts()[3], params) for params in (low, high, every)]
        assert [request.result()[0].ids for request in requests] == alone


def test_candidates_of_one_prompt_equal_whatever_n() -> None:
    params = replace(GREEDY, temperature=1.0, top_p=0.9, n=8)
    with running(llama()) as engine:
        most = [generation.ids for generation in engine.submit(prompts()[5], params).result()]
        for n in range(1, 8):
            found = engine.submit(prompts()[5], replace(params, n=n)).result()
            assert [generation.ids for generation in found] == most[:n]


def test_beams_continue_a_prefix_as_the_whole_run_did() -> None:
    params = replace(GREEDY, temperature=1.0, n=4, min_tokens=24)
    with running(llama()) as engine:
        for candidate, whole in enumerate(engine.submit(prompts()[4], params).result()):
            rest = replace(params, max_tokens=14, min_tokens=14)
            continued = engine.submit(prompts()[4] + whole.ids[:10], rest).result()[candidate]
            assert whole.ids[:10] + continued.ids == whole.ids


def long_prompt(length: int = 150) -> Ids:
    return np.random.default_rng(3).integers(1, 60, length).tolist()


def wide_llama() -> PreTrainedModel:
    model = llama().bfloat16()
    widen_attention(model)
    return model


@pytest.mark.parametrize("name", ["llama", "llama-bfloat16", *others()])
def test_what_was_read_before_changes_no_bit(name: str) -> None:
    model = {"llama": llama, "llama-bfloat16": wide_llama}[name]() if "llama" in name else others()[name]
    first = long_prompt()
    beams = [first, first[:100] + [7] * 60, first + [8] * 30, first[:64], first]
    params = replace(GREEDY, temperature=1.0, n=2, max_tokens=9, logprobs=True)
    expected = []
    for beam in beams:
        with running(model) as engine:
            expected.append([(g.ids, g.logprobs) for g in engine.submit(beam, params).result()])
    with running(model) as engine:
        found = [engine.submit(beam, params).result() for beam in beams]
    assert [[(g.ids, g.logprobs) for g in row] for row in found] == expected
    assert [row[1].stats["reused_tokens"] for row in found] == [0, 64, 128, 0, 149]
    assert [row[0].stats["prefill_tokens"] for row in found] == [149, 95, 51, 63, 0]


@pytest.mark.parametrize("name", ["llama", *others()])
def test_a_prompt_that_goes_on_from_another_equals_transformers(name: str) -> None:
    model = llama() if name == "llama" else others()[name]
    with running(model) as engine:
        for prompt in (long_prompt(), long_prompt() + [9] * 10):
            generation = engine.submit(prompt, GREEDY).result()[0]
            assert_same(generation.ids, generation.finish, *reference(model, prompt, GREEDY))
    assert generation.stats["reused_tokens"] == 128


def test_what_was_read_with_other_weights_is_forgotten() -> None:
    model, prompt = llama(), long_prompt(40)
    with running(model) as engine:
        ids = [engine.submit(prompt, GREEDY).result()[0].ids]
        with torch.no_grad():
            model.model.layers[0].self_attn.k_proj.weight.mul_(-1)
        ids.append(engine.submit(prompt, GREEDY).result()[0].ids)
        model.model.layers[0].self_attn.v_proj.weight.data.mul_(-1)  # leaves no trace
        assert engine.submit(prompt, GREEDY).result()[0].stats["reused_tokens"] == 39
        engine.forget()
        ids.append(engine.submit(prompt, GREEDY).result()[0].ids)
        with torch.inference_mode():
            model.model.norm.weight = nn.Parameter(model.model.norm.weight.clone())
        for _ in range(2):
            again = engine.submit(prompt, GREEDY).result()[0]
            assert (again.ids, again.stats["reused_tokens"]) == (ids[2], 0)
    assert ids[0] != ids[1] != ids[2]
    assert_same(again.ids, again.finish, *reference(model, prompt, GREEDY))


@pytest.mark.fault("S8")
def test_what_was_read_is_released_on_failure_and_on_closing() -> None:
    model = llama()
    with running(model) as engine:
        engine.submit(long_prompt(), GREEDY).result()
        assert engine._runner._prefixes.size == 149
        broken = model.model.rotary_emb.register_forward_pre_hook(lambda *_: 1 / 0)
        with pytest.raises(EngineError, match="division"):
            engine.submit(long_prompt(), GREEDY).result()
        assert engine._runner._prefixes.size == 0
        broken.remove()
        assert engine.submit(long_prompt(), GREEDY).result()[0].stats["prefill_tokens"] == 149
    assert engine._runner._prefixes.size == 0


def test_logprobs_are_of_the_allowed_ids_at_temperature_one() -> None:
    model, prompt = llama(), prompts()[3]
    params = replace(GREEDY, temperature=0.3, top_k=4, repetition_penalty=1.3, logprobs=True)
    with running(model) as engine:
        generation = engine.submit(prompt, params).result()[0]
    logits = model(torch.tensor([prompt + generation.ids])).logits[0, len(prompt) - 1 :, list(ALLOWED)]
    expected = [logits[k].log_softmax(-1)[ALLOWED.index(i)].item() for k, i in enumerate(generation.ids)]
    assert generation.logprobs == pytest.approx(expected, abs=1e-4)


def test_repetition_penalty_counts_generated_ids_only() -> None:
    with running(Scripted({i: [(30, 3.0), (31, 2.0)] for i in range(64)})) as engine:
        ids = (
            engine.submit([30], replace(GREEDY, repetition_penalty=2.0, max_tokens=3, min_tokens=3))
            .result()[0]
            .ids
        )
    assert ids == [30, 31, 30]


def test_head_follows_weights_in_training() -> None:
    model = llama()
    with running(model) as engine:
        before = engine.submit(prompts()[3], GREEDY).result()[0].ids
        with torch.no_grad():
            model.lm_head.weight.copy_(model.lm_head.weight.flip(0))
        after = engine.submit(prompts()[3], GREEDY).result()[0]
    assert before != after.ids
    assert_same(after.ids, after.finish, *reference(model, prompts()[3], GREEDY))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny")
    llama(tie_word_embeddings=True).save_pretrained(path)
    return path


def test_load_equals_the_model_in_float32(folder: Path) -> None:
    engine = NativeEngine.load(folder, device="cpu", dtype="float32")
    with running(llama(tie_word_embeddings=True)) as direct:
        assert generate(engine, prompts(), GREEDY)[3][0].ids == generate(direct, prompts(), GREEDY)[3][0].ids
    assert (engine.name, engine.max_length) == (folder.name, 512)
    engine.close()


def test_bfloat16_runs_and_stays_near(folder: Path) -> None:
    engine = NativeEngine.load(folder, device="cpu", dtype=torch.bfloat16)
    rows = generate(engine, prompts(), replace(GREEDY, n=2, logprobs=True))
    engine.close()
    model = llama(tie_word_embeddings=True)
    for prompt, (generation, twin) in zip(prompts(), rows, strict=True):
        assert generation.ids == twin.ids
        logits = model(torch.tensor([prompt + generation.ids])).logits[0, len(prompt) - 1 :, list(ALLOWED)]
        expected = [logits[k].log_softmax(-1)[ALLOWED.index(i)].item() for k, i in enumerate(generation.ids)]
        assert np.abs(np.array(generation.logprobs) - expected).mean() < 0.15


def test_misshapen_weights_are_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    content = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(content | {"intermediate_size": 40}))
    with pytest.raises(BundleError, match=r"weights do not fit, first .*mlp"):
        NativeEngine.load(tmp_path, device="cpu")
    (tmp_path / "config.json").write_text(json.dumps(content | {"num_attention_heads": "four"}))
    with pytest.raises(BundleError, match="Fetch the folder again"):
        NativeEngine.load(tmp_path, device="cpu")


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "quantization_config.*--dtype int8"),
        ({"num_attention_heads": 0}, "Fetch the folder again"),
        ({"hidden_act": "nope"}, "Fetch the folder again"),
    ],
)
def test_odd_settings_are_refused(changes: dict, found: str, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    content = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(content | changes))
    with pytest.raises(BundleError, match=found):
        load_model(tmp_path, torch.float32)


def test_a_checkpoint_does_not_choose_kernels(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    content = json.loads((folder / "config.json").read_text())
    for name in ("attn_implementation", "_attn_implementation"):
        (tmp_path / "config.json").write_text(json.dumps(content | {name: "flex_attention"}))
        assert load_model(tmp_path, torch.float32).config._attn_implementation == "sdpa"


def test_unknown_devices_and_dtypes_are_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="Choosing the device 'gpu'"):
        NativeEngine.load(folder, device="gpu")
    with pytest.raises(ConfigError, match="Choosing the dtype: found 'bf16'"):
        NativeEngine.load(folder, device="cpu", dtype="bf16")


def test_incomplete_folders_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"no config\.json"):
        NativeEngine.load(tmp_path)
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    with pytest.raises(BundleError, match="safetensors"):
        NativeEngine.load(tmp_path, device="cpu")
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-100])
    with pytest.raises(BundleError, match="Fetch the folder again"):
        NativeEngine.load(tmp_path, device="cpu")

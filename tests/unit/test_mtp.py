"""Draft modules: their passes, what verification lets through, and their files."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.stats import chisquare
from torch import Tensor
from transformers import Qwen2Config, Qwen2ForCausalLM

from llasa.core import Generation, Ids, SamplingParams
from llasa.engines.backbone import Backbone
from llasa.engines.drawing import Settings, penalise, shares
from llasa.engines.mtp import Drafts, read_drafts, write_drafts
from llasa.engines.native import NativeEngine
from llasa.engines.quantized import quantize
from llasa.engines.sampling import LoopGuard
from llasa.engines.verification import TOP_K, Verification, rule_of, verified
from llasa.errors import BundleError, ConfigError
from tests.causal import ALLOWED, GREEDY, STOP, llama, prompts, running
from tests.drafts import MARKOV, STATES, chain, long, markov, noisy, p_value
from tests.unit.test_rows import MODELS

CROWD = Verification(rows=64)


def whole(backbone: Backbone, drafts: Drafts, ids: Ids) -> Tensor:
    """Return what heads read at each id of a row that is read in one go, [S, 1 + K, D]."""
    model = backbone._model
    hidden = model.model(input_ids=torch.tensor([ids]), use_cache=False).last_hidden_state
    positions = torch.arange(len(ids))[None]
    turn, made, x = model.model.rotary_emb(hidden, positions), [hidden], hidden
    mask = torch.ones(len(ids), len(ids), dtype=torch.bool).tril()[None, None]
    for norm, linear, block in drafts.parts():
        x = block(linear(norm(x)), attention_mask=mask, position_embeddings=turn)
        made.append(x)
    return torch.stack(made, 2)[0]


@pytest.mark.parametrize("name", MODELS)
@torch.inference_mode()
def test_rows_that_keep_what_they_accept_read_what_they_would_alone(name: str) -> None:
    model = MODELS[name]()
    drafts = noisy(model)
    backbone, draw = Backbone(model, drafts=drafts), np.random.default_rng(5)
    near = {"rtol": 0.1, "atol": 0.1} if name == "wide" else {"rtol": 1e-4, "atol": 1e-4}
    held, shared, holes = list[Ids](), 0, 0
    for count in (5, 1, 6, 0, 2):
        prompt = draw.integers(1, 60, draw.integers(3, 40)).tolist()
        if count:
            backbone.add(backbone.prefill(prompt)[0], len(prompt), count)
        held += [list(prompt) for _ in range(count)]
        for ahead in (1, 3, 3, 2):
            fed = draw.integers(1, 60, (len(held), ahead)).tolist()
            found = backbone.leap(fed)
            for row, ids, states in zip(held, fed, found, strict=True):
                expected = whole(backbone, drafts, row + ids)[-ahead:]
                torch.testing.assert_close(states, expected, **near)
            kept = draw.integers(1, ahead + 1, len(held)).tolist()
            backbone.keep(kept)
            held = [row + ids[:number] for row, ids, number in zip(held, fed, kept, strict=True)]
            assert backbone.rows.positions() == [len(row) for row in held]
            shared += backbone.rows.window.places is not None
            holes += sum(backbone.rows.window.holes)
        for _ in range(min(len(held) - 1, 4)):
            row = int(draw.integers(len(held)))
            backbone.drop(row)
            held[row] = held[-1]
            held.pop()
    assert shared > 5 and holes > 50


@torch.inference_mode()
def test_rows_that_grow_past_their_buffers_keep_their_holes() -> None:
    model = llama()
    drafts = noisy(model)
    backbone, draw = Backbone(model, drafts=drafts), np.random.default_rng(1)
    backbone.add(backbone.prefill([1, 2, 3])[0], 3, 2)
    backbone.add(backbone.prefill([4])[0], 1, 1)
    held = [[1, 2, 3], [1, 2, 3], [4]]
    for step in range(100):
        fed = draw.integers(1, 60, (3, 3)).tolist()
        found = backbone.leap(fed)
        kept = [3, 1 + step % 2, 2]
        backbone.keep(kept)
        held = [row + ids[:number] for row, ids, number in zip(held, fed, kept, strict=True)]
    for row, ids, states in zip(held, fed, found, strict=True):
        before = row[: len(row) - kept[held.index(row)]]
        torch.testing.assert_close(states, whole(backbone, drafts, before + ids)[-3:], rtol=1e-4, atol=1e-4)


def drawn(model, params: SamplingParams, prompt: Ids, drafts: Drafts | None, **settings) -> list[Generation]:
    with running(model, drafts=drafts, **{"rule": CROWD} | settings) as engine:
        return engine.submit(prompt, params).result()


@pytest.mark.parametrize(
    "changes",
    [{}, {"n": 5}, {"repetition_penalty": 1.05}, {"logprobs": True}, {"min_tokens": 24}],
    ids=["plain", "rows", "penalty", "logprobs", "floor"],
)
def test_greedy_ids_are_those_of_plain_steps(changes: dict) -> None:
    params = replace(GREEDY, **{"max_tokens": 40, "min_tokens": 2} | changes)
    held = 0.0
    for prompt in prompts()[::2]:
        plain = drawn(llama(), params, prompt, None)
        found = drawn(llama(), params, prompt, noisy(llama()))
        assert [(one.ids, one.finish) for one in found] == [(one.ids, one.finish) for one in plain]
        if params.logprobs:
            assert found[0].logprobs == pytest.approx(plain[0].logprobs, abs=1e-4)
        held += sum(one.stats.get("drafts_held_1", 0.0) for one in found)
    assert held > 0


@pytest.mark.parametrize("change", [quantize, lambda model: model], ids=["int8", "bfloat16"])
def test_greedy_ids_of_other_numbers_are_nearly_the_likeliest(change) -> None:
    model = llama().bfloat16()
    drafts = noisy(model)
    change(model)
    params = replace(GREEDY, max_tokens=30, min_tokens=30)
    [found] = drawn(model, params, [1, 2, 3], drafts)
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([[1, 2, 3, *found.ids]])).logits[0, 2:-1, list(ALLOWED[:-1])]
    picked = logits.gather(-1, torch.tensor(found.ids)[:, None] - ALLOWED[0])[:, 0]
    assert float((logits.amax(-1) - picked).float().max()) < 0.5
    assert found.stats["drafts_guessed"] > 0


def sampled(rule: Verification, count: int = 250, n: int = 32, noise: float = 0.05) -> list[Generation]:
    model = markov()
    with running(model, max_length=count + 10, drafts=noisy(model, noise=noise), rule=rule) as engine:
        return engine.submit([1, STATES[0]], long(count, n, seed=4)).result()


def test_exact_draws_follow_the_distribution_and_top_k_draws_do_not() -> None:
    expected = chain(markov())
    exact, loose = sampled(CROWD), sampled(Verification(3, 64))
    assert p_value([one.ids for one in exact], expected) > 0.01
    assert p_value([one.ids for one in loose], expected) < 1e-9
    assert sum(one.stats["drafts_held_2"] for one in exact) > 300  # both modules have had their say


def test_guesses_that_are_always_right_always_hold_and_bad_ones_do_no_harm() -> None:
    model = markov()
    for number in range(2):  # what follows depends on nothing: every guess has the true distribution
        model.model.layers[number].mlp.down_proj.weight.data.zero_()
    model.model.embed_tokens.weight.data[:] = model.model.embed_tokens.weight.data[1]
    with running(model, drafts=Drafts.fresh(model.model, 2).eval(), rule=CROWD) as engine:
        [found] = engine.submit([1], long(60, 1)).result()
    assert (
        found.stats["drafts_passes"] == 21
        and found.stats["drafts_held_2"] == found.stats["drafts_guessed"] == 20
    )
    expected = chain(markov())
    assert p_value([one.ids for one in sampled(CROWD, 100, 32, noise=3.0)], expected) > 0.01


def test_ids_of_a_row_do_not_depend_on_the_others() -> None:
    model = markov()
    params = long(50, 1, seed=9)
    with running(model, drafts=noisy(model), rule=CROWD) as engine:
        alone = engine.submit([1, 20], params).result()[0].ids
        with engine.together():
            several = [engine.submit([2, 21], replace(params, seed=seed, n=3)) for seed in range(3)]
            among = engine.submit([1, 20], params)
        assert among.result()[0].ids == alone
        again = engine.submit([1, 20], replace(params, n=4)).result()
    assert again[0].ids == alone and len({tuple(one.ids) for one in again}) == 4
    assert all(len(request.result()) == 3 for request in several)


def test_a_crowd_is_not_guessed_for_and_later_rows_are() -> None:
    model = markov()
    with running(model, drafts=noisy(model), rule=Verification(rows=2)) as engine:
        crowd = engine.submit([1, 20], long(30, 3)).result()
        pair = engine.submit([1, 20], long(30, 2)).result()
    plain = drawn(markov(), long(30, 3), [1, 20], None)
    assert [one.ids for one in crowd] == [one.ids for one in plain]
    assert not any("drafts_guessed" in one.stats for one in crowd) and all(
        one.stats["drafts_guessed"] for one in pair
    )


def test_a_row_that_met_a_crowd_goes_on_without_guessing() -> None:
    model = markov()
    with running(model, max_length=4000, drafts=noisy(model), rule=Verification(rows=1)) as engine:
        first = engine.submit([1, 20], long(3000, 1))
        next(iter(first))
        engine.submit([2, 20], long(3, 2)).result()
        first.cancel()
        [met] = first.result()
        [later] = engine.submit([1, 20], long(30, 1)).result()
    assert met.stats["drafts_passes"] > met.stats.get("drafts_guessed", 0) + 2
    assert later.stats["drafts_guessed"] == later.stats["drafts_passes"] - 1


def test_steps_joined_are_the_result_when_a_loop_ends_among_guesses() -> None:
    model = markov()
    params = replace(long(300, 4), top_k=1, loop_guard=True)
    with running(
        model, drafts=noisy(model), rule=CROWD, loop_guard=LoopGuard(min_repeats=3, min_span=12, max_period=8)
    ) as engine:
        request = engine.submit([1, 20], params)
        steps, made = list(request), request.result()
    plain = drawn(
        markov(), params, [1, 20], None, loop_guard=LoopGuard(min_repeats=3, min_span=12, max_period=8)
    )
    assert [one.ids for one in made] == [one.ids for one in plain] and made[0].finish == "loop"
    for candidate, one in enumerate(made):
        told: Ids = []
        for step in steps:
            if step.candidate == candidate:
                told = told[: len(told) - step.rollback] + step.ids
        assert told == one.ids


def test_the_end_is_verified_exactly_whatever_else_is_let_through() -> None:
    ends = {"allowed_token_ids": (*STATES, STOP), "stop_token_ids": (STOP,)}
    model = markov()
    params = replace(long(60, 20), **ends)  # no end before 60 ids
    with running(model, drafts=noisy(model), rule=Verification(1000, 64)) as engine:
        assert {len(one.ids) for one in engine.submit([1, 20], params).result()} == {60}
    free = replace(params, min_tokens=0, temperature=0.7, top_k=0, top_p=1.0, seed=1)
    lengths = [len(one.ids) for one in drawn(markov(), replace(free, n=200), [1, 20], None)]
    found = [len(one.ids) for one in drawn(markov(), replace(free, n=200), [1, 20], noisy(markov()))]
    assert abs(np.mean(lengths) - np.mean(found)) < 4 * np.std(lengths) / 10 + 1


@pytest.mark.parametrize("top_k", [None, 1, 2, 4])
def test_the_end_comes_as_often_as_it_should_though_drafts_hardly_guess_it(top_k: int | None) -> None:
    count, draw = 40_000, torch.Generator().manual_seed(0)
    true = torch.tensor([0.05, 0.03, 0.02, 0.9], dtype=torch.float64).repeat(count, 2, 1)
    guessed = torch.tensor([0.5, 0.3, 0.1, 0.1], dtype=torch.float64).repeat(count, 1, 1)
    columns = torch.multinomial(guessed[:, 0], 1, generator=draw)
    stops = torch.tensor([False, False, False, True]).repeat(count, 1)
    coins, uniform = (torch.rand(count, n, generator=draw, dtype=torch.float64) for n in (1, 2))
    held, column = verified(true.log(), true, (columns, guessed), stops, coins, uniform, top_k)
    ended = torch.where(held > 0, columns[:, 0], column) == 3
    assert abs(ended.double().mean() - 0.9) < 4 * (0.9 * 0.1 / count) ** 0.5


def test_what_is_left_after_a_guess_that_fell_is_never_that_guess_when_it_was_too_likely() -> None:
    true = torch.tensor([[[0.2, 0.3, 0.5], [0.1, 0.1, 0.8]]], dtype=torch.float64)
    guessed = torch.tensor([[[0.9, 0.1, 0.0]]], dtype=torch.float64)
    stops = torch.zeros(1, 3, dtype=torch.bool)
    coin = torch.tensor([[0.5]], dtype=torch.float64)  # above 0.2 / 0.9: the guess falls
    last = set()
    for uniform in torch.linspace(0, 0.999, 50, dtype=torch.float64):
        place = torch.full((1, 2), float(uniform), dtype=torch.float64)
        held, column = verified(
            true.log(), true, (torch.tensor([[0]]), guessed), stops, coin, place, None
        )  # fmt: skip
        assert held.item() == 0
        last.add(column.item())
    assert last == {1, 2}


def test_modes_are_read_and_others_refused() -> None:
    assert rule_of("exact").top_k is None
    assert rule_of("top-k").top_k == TOP_K and rule_of("top-k=500").top_k == 500
    for how in (
        "",
        "top-k=0",
        "top-k=",
        "top-k=-3",
        "top-k=2.5",
        "top-k=²",
        "exactly",
        "exact=3",
        "top-k=" + "9" * 99,
    ):
        with pytest.raises(ConfigError, match="exact, top-k or top-k=100"):
            rule_of(how)
    with pytest.raises(ConfigError, match="'alone', with drafts"):
        NativeEngine(llama(), max_length=10, mode="alone", drafts=noisy(llama()))


def test_files_are_read_back_and_those_of_the_published_layout_too(tmp_path: Path) -> None:
    model = llama()
    drafts = noisy(model)
    write_drafts(drafts, tmp_path / "drafts")
    assert json.loads((tmp_path / "drafts" / "config.json").read_text())["modules"] == 2
    weights = load_file(tmp_path / "drafts" / "model.safetensors")
    assert {"mtp_1_block.self_attn.q_proj.weight", "mtp_2_proj.bias", "mtp_1_local_RMSNorm.weight"} <= set(
        weights
    )
    backbone = {f"llm.{name}": weight.clone() for name, weight in model.state_dict().items()}
    save_file(weights | backbone, tmp_path / "published.safetensors")
    for place in (tmp_path / "drafts", tmp_path / "published.safetensors"):
        found = read_drafts(place, model)
        assert found.count == 2 and not found.training
        assert all(torch.equal(one, found.state_dict()[name]) for name, one in drafts.state_dict().items())
    assert read_drafts(tmp_path / "drafts", llama().bfloat16()).mtp_1_proj.weight.dtype == torch.bfloat16


def test_drafts_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    model, good = llama(), noisy(llama()).state_dict()
    wrong = {
        "there is no file": None,
        r"1 weights do not fit, first mtp_1_proj.weight: expected \[32, 32\], found none": {
            name: weight for name, weight in good.items() if name != "mtp_1_proj.weight"
        },
        "first head.weight: expected none": good | {"head.weight": torch.zeros(2)},
        "first mtp_2_local_RMSNorm.weight": good | {"mtp_2_local_RMSNorm.weight": torch.ones(16)},
        "10 weights do not fit|12 weights do not fit": {k: v for k, v in good.items() if "mtp_1" not in k},
        "1 weights are not finite, first mtp_1_proj.bias": good
        | {"mtp_1_proj.bias": torch.full((32,), float("nan"))},
        "do not fit, first mtp_1_block": {f"llm.{name}": weight for name, weight in good.items()},
    }
    for number, (message, weights) in enumerate(wrong.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        if weights is not None:
            save_file(
                {name: weight.clone() for name, weight in weights.items()}, folder / "model.safetensors"
            )
        with pytest.raises(BundleError, match=message):
            read_drafts(folder, model)
    (tmp_path / "0" / "model.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(BundleError, match="Fetch them again"):
        read_drafts(tmp_path / "0", model)
    other = Qwen2ForCausalLM(
        Qwen2Config(
            hidden_size=32, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2, vocab_size=64
        )
    )
    with pytest.raises(BundleError, match="found a model of Qwen2Model"):
        NativeEngine(other, max_length=10, drafts=noisy(model))


def test_parameters_of_the_toy_leave_something_out() -> None:
    assert (chain(markov(), MARKOV) == 0).any()  # or truncation would not be tested


@torch.inference_mode()
def told(params: SamplingParams, start: int) -> dict[tuple[int, ...], float]:
    """Return how likely each row of ids is that plain sampling can draw of the toy."""
    model, allowed = markov(), list(params.allowed_token_ids or ())
    stops = torch.tensor([i in params.stop_token_ids for i in allowed])
    settings, found = Settings.of([params], torch.device("cpu")), dict[tuple[int, ...], float]()

    def go_on(ids: tuple[int, ...], chance: float) -> None:
        ended = ids[-1:] == (STOP,)
        if ended or len(ids) == params.max_tokens:
            found[ids] = found.get(ids, 0) + chance
            return
        logits = model(input_ids=torch.tensor([[(start, *ids)[-1]]])).logits[:, 0, allowed].float()
        seen = torch.tensor([[i in ids for i in allowed]])
        logits = penalise(logits, seen, settings.penalty)
        if len(ids) < params.min_tokens:
            logits = logits.masked_fill(stops, -torch.inf)
        for token_id, share in zip(allowed, shares(logits, settings)[0].tolist(), strict=True):
            if share:
                go_on((*ids, token_id), chance * share)

    go_on((), 1.0)
    return found


def test_rules_that_look_back_are_kept_exactly_among_guesses() -> None:
    params = replace(
        MARKOV, allowed_token_ids=(*STATES[:4], STOP), stop_token_ids=(STOP,), repetition_penalty=0.5,
        min_tokens=1, max_tokens=4, n=64, top_k=0, top_p=0.97,
    )  # fmt: skip
    model, expected, counts = markov(), told(params, 20), Counter[tuple[int, ...]]()
    with running(model, concurrency=64, drafts=noisy(model), rule=CROWD) as engine:
        requests = [engine.submit([1, 20], replace(params, seed=seed)) for seed in range(60)]
        for one in (row for request in requests for row in request.result()):
            counts[(*one.ids, *([STOP] if one.finish == "stop" else []))] += 1
    total = counts.total()
    assert set(counts) <= set(expected)
    often = [ids for ids, chance in expected.items() if chance * total >= 5]
    wanted = np.array([*(expected[ids] * total for ids in often), 0.0])
    found = np.array([*(counts[ids] for ids in often), 0.0])
    wanted[-1], found[-1] = total - wanted.sum(), total - found.sum()
    assert len(often) > 20 and chisquare(found, wanted).pvalue > 0.01

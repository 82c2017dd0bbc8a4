"""The reference: nothing a row computes depends on who else is in flight; and the fast ways against it."""

from dataclasses import replace

import pytest
from transformers import PreTrainedModel

from llasa.core import Generation
from llasa.engines.interface import widen_attention
from tests.causal import GREEDY, llama, prompts, running

SAMPLED = replace(GREEDY, temperature=1.0, top_p=0.95, logprobs=True, max_tokens=16)
NEAR = 1e-4  # nats by which a log-probability in float32 may depend on who shares a step


def bfloat16() -> PreTrainedModel:
    model = llama().bfloat16()
    widen_attention(model)
    return model


def told(generation: Generation) -> tuple:
    return generation.ids, generation.finish, generation.logprobs


@pytest.mark.parametrize("make", [llama, bfloat16])
def test_a_candidate_alone_equals_itself_in_company_to_the_bit(make) -> None:
    some = prompts()[1::2]
    with running(make(), mode="alone") as engine:
        alone = [told(engine.submit(p, replace(SAMPLED, first=k)).result()[0]) for p in some for k in (0, 2)]
    with running(make(), mode="alone") as engine:
        with engine.together():
            engine.submit(prompts()[0], replace(GREEDY, n=5, max_tokens=40, min_tokens=40))
            requests = [engine.submit(prompt, replace(SAMPLED, n=3)) for prompt in some]
            engine.submit(some[0], replace(SAMPLED, allowed_token_ids=(*range(20, 50), 60), top_k=5))
        found = [told(request.result()[k]) for request in requests for k in (0, 2)]
    assert found == alone


@pytest.mark.parametrize("shared", [True, False])
def test_fast_steps_equal_the_reference(shared: bool) -> None:
    greedy = replace(GREEDY, logprobs=True)
    found: dict[str, list[Generation]] = {}
    for mode in ("alone", "fast"):
        with running(llama(), mode=mode) as engine:
            assert getattr(engine._runner, "_sharing", False) == (mode == "fast")
            requests = [
                engine.submit(p, replace(params, n=5 if shared else 1))
                for p in prompts()
                for params in (greedy, SAMPLED)
            ]
            found[mode] = [one for request in requests for one in request.result()]
    for fast, alone in zip(found["fast"], found["alone"], strict=True):
        assert (fast.ids, fast.finish) == (alone.ids, alone.finish)
        assert fast.logprobs == pytest.approx(alone.logprobs, abs=NEAR)

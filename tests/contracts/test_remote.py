"""The engine contract over servers: small ones of ours by default, real ones where they are named.

LLASA_TEST_VLLM and LLASA_TEST_LLAMA_SERVER hold `http://HOST:PORT/v1#MODEL` of servers that run, in float32,
what `python -m tests.servers FOLDER` writes.
"""

import math
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from llasa.core import Ids
from llasa.engines.base import Engine, generate
from llasa.engines.remote import RemoteEngine
from tests.contracts.test_engine import PARAMS, PROMPTS, STOP, EngineContract
from tests.servers import END, VOCAB, llama_server, model, serving, vllm

SERVERS = {"vllm": "LLASA_TEST_VLLM", "llama-server": "LLASA_TEST_LLAMA_SERVER"}


class TestAsServer(EngineContract):
    positional = False

    @pytest.fixture(scope="class", params=[vllm, llama_server], ids=["vllm", "llama-server"])
    @classmethod
    def engine(cls, request: pytest.FixtureRequest) -> Iterator[Engine]:
        with serving(request.param) as served:
            engine = RemoteEngine(served.url, "tiny", vocab_size=VOCAB, concurrency=16)
            yield engine
            engine.close()


def real(server: str) -> RemoteEngine:
    """Return an engine at a real server, or skip."""
    url, _, name = os.environ.get(SERVERS[server], "").partition("#")
    if not url:
        pytest.skip(f"{SERVERS[server]} names no server")
    return RemoteEngine(url, name, vocab_size=VOCAB, concurrency=32)


@pytest.mark.slow
@pytest.mark.parametrize("engine", SERVERS, indirect=True, scope="class")
class TestReal(EngineContract):
    positional = False

    @pytest.fixture(scope="class")
    @classmethod
    def engine(cls, request: pytest.FixtureRequest) -> Iterator[Engine]:
        engine = real(request.param)
        yield engine
        engine.close()

    def test_greedy_ids_are_those_of_transformers(self, engine: Engine) -> None:
        params = replace(PARAMS, temperature=0, max_tokens=100, min_tokens=1, logprobs=True)
        for prompt, (generation,) in zip(PROMPTS, generate(engine, PROMPTS, params), strict=True):
            expected, scores = by_transformers(prompt, params.allowed_token_ids or (), 100)
            differs = next(
                (i for i, (a, b) in enumerate(zip(generation.ids, expected, strict=False)) if a != b), None
            )
            if differs is None:
                assert generation.ids == expected
            else:  # rounding decides between the two likeliest
                best = scores[differs].topk(2).values
                assert float(best[0] - best[1]) < 1e-4
            assert generation.logprobs is not None
            for i, token_id in enumerate(generation.ids[:differs]):
                assert generation.logprobs[i] == pytest.approx(float(scores[i, token_id]), abs=1e-3)

    def test_draws_follow_the_distribution(self, engine: Engine) -> None:
        """Frequencies of the first id against softmax over the allowed ids, tempered and cut."""
        allowed = tuple(range(20, 40))
        with torch.inference_mode():
            raw = model()(torch.tensor([PROMPTS[0]])).logits[0, -1, list(allowed)]
        for temperature, top_k, top_p in ((1.0, 0, 1.0), (2.0, 5, 1.0), (1.5, 0, 0.7)):
            probs = cut((raw / temperature).softmax(-1), top_k, top_p)
            params = replace(
                PARAMS, allowed_token_ids=allowed, stop_token_ids=(), temperature=temperature, top_k=top_k,
                top_p=top_p, max_tokens=1, n=500,
            )  # fmt: skip
            drawn = [generation.ids[0] for generation in engine.submit(PROMPTS[0], params).result()]
            found = torch.tensor([drawn.count(i) for i in allowed]) / 500
            assert float((found - probs).abs().max()) < 4 * math.sqrt(0.25 / 500)
            assert not found[probs == 0].any()

    def test_greedy_continuation_of_a_prefix(self, engine: Engine) -> None:
        params = replace(PARAMS, temperature=0, min_tokens=12)
        whole = engine.submit(PROMPTS[1], params).result()[0].ids
        rest = (
            engine.submit(PROMPTS[1] + whole[:5], replace(params, max_tokens=7, min_tokens=7)).result()[0].ids
        )
        assert whole[:5] + rest == whole

    def test_cancelling_frees_the_server(self, engine: Engine) -> None:
        """What comes after 16 long requests that were cancelled is not kept waiting by them."""
        params = replace(PARAMS, max_tokens=1000, min_tokens=1000)
        requests = [engine.submit(prompt, params) for prompt in PROMPTS * 4]
        for request in requests:
            next(iter(request))
            request.cancel()
        began = time.monotonic()
        assert all(request.result()[0].finish == "cancelled" for request in requests)
        engine.submit(PROMPTS[0], replace(PARAMS, max_tokens=2)).result()
        assert time.monotonic() - began < 5

    def test_sixteen_at_once(self, engine: Engine) -> None:
        params = replace(PARAMS, max_tokens=64, min_tokens=64)
        found: dict[int, Ids] = {}

        def ask(number: int) -> None:
            found[number] = engine.submit(PROMPTS[number % 4], replace(params, seed=number)).result()[0].ids

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        assert [len(found[number]) for number in range(16)] == [64] * 16


def by_transformers(prompt: Ids, allowed: tuple[int, ...], count: int) -> tuple[Ids, torch.Tensor]:
    """Return greedy ids without END, which is not the first, and log-probabilities among all ids [N, V]."""
    forbidden = [i for i in range(VOCAB) if i not in allowed]
    out = model().generate(
        torch.tensor([prompt]), do_sample=False, max_new_tokens=count, min_new_tokens=1, eos_token_id=STOP,
        suppress_tokens=forbidden, return_dict_in_generate=True, output_logits=True, pad_token_id=0,
    )  # fmt: skip
    ids = out.sequences[0, len(prompt) :].tolist()
    return [i for i in ids if i != END], torch.cat(out.logits).log_softmax(-1)


def cut(probs: torch.Tensor, top_k: int, top_p: float) -> torch.Tensor:
    """Return a distribution [A] with only its top_k likeliest, then of these the top_p nucleus."""
    order = probs.argsort(descending=True)
    kept = torch.zeros_like(probs)
    kept[order[: top_k or len(order)]] = probs[order[: top_k or len(order)]]
    kept /= kept.sum()
    nucleus = kept[order].cumsum(-1) - kept[order] < top_p
    kept[order[~nucleus]] = 0
    return kept / kept.sum()

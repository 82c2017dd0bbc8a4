"""What every engine promises, as a suite that any implementation can run.

Subclass `EngineContract`, give it an `engine` fixture whose model knows ids 0 to 49 and holds 1000 at least,
and pytest does the rest. `exact = False` leaves out what rounding may break: equality between batches.
`positional = False` leaves out that random numbers are a function of the position.
"""

import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from llasa.core import Ids, SamplingParams
from llasa.engines.base import Engine, Step, generate, stream
from llasa.engines.native import NativeEngine
from llasa.engines.verification import Verification
from llasa.errors import ConfigError, InputError
from tests.drafts import noisy

STOP = 40
PARAMS = SamplingParams(
    temperature=1.0,
    allowed_token_ids=(*range(20, 40), STOP),
    stop_token_ids=(STOP,),
    max_tokens=12,
    loop_guard=False,
)
PROMPTS = [[1, 2, 3], [4, 5, 6, 7, 8, 9, 10], [11], [12, 13, 14, 15]]


def joined(steps: list[Step], candidate: int) -> Ids:
    """Return a candidate's ids as a streamer assembles them."""
    ids: Ids = []
    for step in steps:
        if step.candidate == candidate:
            ids = ids[: len(ids) - step.rollback] + step.ids
    return ids


class EngineContract:
    """The promises of `llasa.engines.base.Engine`."""

    exact = True
    positional = True

    def test_ids_are_allowed_and_end_as_they_say(self, engine: Engine) -> None:
        for generation in generate(engine, [PROMPTS[0]], replace(PARAMS, n=8))[0]:
            assert set(generation.ids) <= set(range(20, 40))
            assert generation.finish == ("length" if len(generation.ids) == 12 else "stop")
            assert generation.logprobs is None

    def test_one_generation_for_each_candidate_of_each_prompt(self, engine: Engine) -> None:
        assert [len(row) for row in generate(engine, PROMPTS, replace(PARAMS, n=3))] == [3] * 4

    def test_batch_equals_one_by_one_in_order(self, engine: Engine) -> None:
        if not self.exact:
            pytest.skip("this engine rounds differently in different batches")
        together = [row[0].ids for row in generate(engine, PROMPTS, PARAMS)]
        assert together == [engine.submit(prompt, PARAMS).result()[0].ids for prompt in PROMPTS]

    def test_candidate_does_not_depend_on_n(self, engine: Engine) -> None:
        if not self.exact:
            pytest.skip("this engine rounds differently in different batches")
        most = [generation.ids for generation in engine.submit(PROMPTS[1], replace(PARAMS, n=8)).result()]
        for n in range(1, 8):
            assert [g.ids for g in engine.submit(PROMPTS[1], replace(PARAMS, n=n)).result()] == most[:n]

    def test_a_later_wave_goes_on_where_an_earlier_one_ended(self, engine: Engine) -> None:
        if not self.exact:
            pytest.skip("this engine rounds differently in different batches")
        whole = [generation.ids for generation in engine.submit(PROMPTS[1], replace(PARAMS, n=8)).result()]
        request = engine.submit(PROMPTS[1], replace(PARAMS, n=4, first=4))
        assert [generation.ids for generation in request.result()] == whole[4:]
        assert [joined(list(request), i) for i in range(4)] == whole[4:]

    def test_candidates_of_a_later_wave_are_cancelled_by_their_place_in_it(self, engine: Engine) -> None:
        params = replace(PARAMS, max_tokens=engine.max_length, min_tokens=engine.max_length, n=2, first=5)
        request = engine.submit(PROMPTS[0], params)
        request.cancel(0)
        request.cancel(1)
        assert [generation.finish for generation in request.result()] == ["cancelled"] * 2

    def test_candidates_differ(self, engine: Engine) -> None:
        ids = [tuple(g.ids) for g in engine.submit(PROMPTS[0], replace(PARAMS, n=8, min_tokens=12)).result()]
        assert len(set(ids)) == 8

    def test_seed_repeats_and_other_seeds_differ(self, engine: Engine) -> None:
        params = replace(PARAMS, min_tokens=12)
        once, again, other = (
            engine.submit(PROMPTS[0], replace(params, seed=seed)).result()[0].ids for seed in (7, 7, 8)
        )
        assert once == again != other

    def test_greedy_ignores_the_seed(self, engine: Engine) -> None:
        params = replace(PARAMS, temperature=0)
        assert (
            len({tuple(engine.submit(PROMPTS[0], replace(params, seed=s)).result()[0].ids) for s in (1, 2)})
            == 1
        )

    def test_stop_is_not_drawn_before_min_tokens(self, engine: Engine) -> None:
        params = replace(PARAMS, allowed_token_ids=(30, STOP), n=16, min_tokens=5)
        assert all(len(g.ids) >= 5 for g in engine.submit(PROMPTS[0], params).result())

    def test_stream_joined_equals_result(self, engine: Engine) -> None:
        params = replace(PARAMS, n=3)
        steps = list(stream(engine, PROMPTS[1], params))
        generations = engine.submit(PROMPTS[1], params).result()
        assert [joined(steps, i) for i in range(3)] == [g.ids for g in generations]
        assert [s.finish for i in range(3) for s in steps if s.candidate == i and s.finish] == [
            g.finish for g in generations
        ]

    def test_prefix_continues_as_it_would_have(self, engine: Engine) -> None:
        if not self.positional:
            pytest.skip("this engine's random numbers are not a function of the position")
        params = replace(PARAMS, min_tokens=12)
        whole = engine.submit(PROMPTS[0], params).result()[0].ids
        rest = (
            engine.submit(PROMPTS[0] + whole[:5], replace(params, max_tokens=7, min_tokens=7)).result()[0].ids
        )
        assert whole[:5] + rest == whole

    def test_logprobs_one_for_each_id(self, engine: Engine) -> None:
        generation = engine.submit(PROMPTS[0], replace(PARAMS, logprobs=True)).result()[0]
        assert generation.logprobs is not None and len(generation.logprobs) == len(generation.ids)
        assert all(value <= 0 for value in generation.logprobs)

    def test_cancel_keeps_what_was_drawn(self, engine: Engine) -> None:
        params = replace(PARAMS, max_tokens=engine.max_length, min_tokens=engine.max_length, n=2)
        request = engine.submit(PROMPTS[0], params)
        next(iter(request))
        request.cancel(1)
        request.cancel()
        generations = request.result()
        assert [g.finish for g in generations] == ["cancelled"] * 2
        assert [joined(list(request), i) for i in range(2)] == [g.ids for g in generations]

    def test_more_candidates_than_slots_wait_for_their_turn(self, engine: Engine) -> None:
        n = engine.concurrency + 3
        assert len(engine.submit(PROMPTS[0], replace(PARAMS, n=n, max_tokens=2)).result()) == n

    def test_threads_get_their_own_results(self, engine: Engine) -> None:
        expected = [engine.submit(prompt, PARAMS).result()[0].ids for prompt in PROMPTS] * 4
        found: dict[int, Ids] = {}

        def ask(number: int) -> None:
            found[number] = engine.submit(PROMPTS[number % 4], PARAMS).result()[0].ids

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert sorted(found) == list(range(16))
        assert not self.exact or [found[number] for number in range(16)] == expected

    def test_max_length_bounds_prompt_and_ids_together(self, engine: Engine) -> None:
        prompt = [1] * (engine.max_length - 3)
        params = replace(PARAMS, min_tokens=10)
        generation = engine.submit(prompt, params).result()[0]
        assert (len(generation.ids), generation.finish) == (3, "length")

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("temperature", -0.1),
            ("temperature", float("nan")),
            ("top_p", 0.0),
            ("top_p", 1.1),
            ("top_k", -1),
            ("repetition_penalty", 0.0),
            ("n", 0),
            ("first", -1),
            ("max_tokens", 0),
            ("min_tokens", 13),
            ("allowed_token_ids", ()),
            ("allowed_token_ids", (10**9,)),
            ("stop_token_ids", (-1,)),
        ],
    )
    def test_parameters_out_of_range_are_refused_by_name(
        self, engine: Engine, field: str, value: object
    ) -> None:
        with pytest.raises(ConfigError, match=field):
            engine.submit(PROMPTS[0], replace(PARAMS, **{field: value}))

    @pytest.mark.parametrize("prompt", [[], [-1], [10**9]])
    def test_unusable_prompts_are_refused(self, engine: Engine, prompt: Ids) -> None:
        with pytest.raises(InputError):
            engine.submit(prompt, PARAMS)

    def test_prompt_without_room_is_refused(self, engine: Engine) -> None:
        with pytest.raises(InputError):
            engine.submit([1] * engine.max_length, PARAMS)


def small() -> LlamaForCausalLM:
    """Return a Llama with random weights."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=48,
        vocab_size=64,
        initializer_range=0.3,
    )
    return LlamaForCausalLM(config)


class TestNativeEngine(EngineContract):
    @pytest.fixture(scope="class")
    @classmethod
    def engine(cls) -> Iterator[Engine]:
        engine = NativeEngine(small(), max_length=1000, concurrency=16)
        yield engine
        engine.close()


class TestDraftedEngine(EngineContract):
    positional = False  # a continuation guesses from another place on

    @pytest.fixture(scope="class")
    @classmethod
    def engine(cls) -> Iterator[Engine]:
        model, rule = small(), Verification(rows=16)
        engine = NativeEngine(model, max_length=1000, concurrency=16, drafts=noisy(model), rule=rule)
        yield engine
        engine.close()

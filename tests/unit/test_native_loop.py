"""The loop of the native engine: draws, slots, joins, loops, cancelling, failures."""

import threading
import time
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from llasa.core import Ids
from llasa.engines.native import NativeEngine
from llasa.engines.sampling import LoopGuard
from llasa.errors import ConfigError, EngineError
from tests.causal import GREEDY, STOP, Scripted, llama, running


class Gate(Scripted):
    """Waits to be let through each step; may be told to fail."""

    def __init__(self) -> None:
        self.open, self.blocked, self.broken = threading.Event(), threading.Event(), False
        self.open.set()
        super().__init__({i: [(20 + (i * 7 + 1) % 40, 5.0)] for i in range(64)})

    def forward(self, input_ids: Tensor, **_) -> SimpleNamespace:
        if not self.open.is_set():
            self.blocked.set()
            assert self.open.wait(60)
        if self.broken:
            raise RuntimeError("no such kernel")
        return super().forward(input_ids)


def test_draws_of_the_engine_follow_the_exact_distribution() -> None:
    choices = [(20 + k, 0.5 * k) for k in range(4)]
    params = replace(GREEDY, temperature=1.0, n=60, max_tokens=60, min_tokens=60)
    with running(Scripted({i: choices for i in range(64)})) as engine:
        drawn = [i - 20 for generation in engine.submit([1], params).result() for i in generation.ids]
    expected = torch.tensor([logit for _, logit in choices]).double().softmax(-1).numpy() * len(drawn)
    assert chisquare(np.bincount(drawn, minlength=4), expected).pvalue > 1e-3


def test_loop_is_cut_back_to_its_first_turn() -> None:
    path = [1, 20, 21, 22, 30, 31, 32, 30]
    script = {last: [(following, 5.0)] for last, following in pairwise(path)}
    params = replace(GREEDY, loop_guard=True, max_tokens=300, logprobs=True)
    with running(Scripted(script), loop_guard=LoopGuard(min_repeats=4, min_span=12, max_period=8)) as engine:
        request = engine.submit([1], params)
        steps, generation = list(request), request.result()[0]
        assert engine.submit([1], replace(params, loop_guard=False)).result()[0].finish == "length"
    assert (generation.ids, generation.finish) == ([20, 21, 22, 30, 31, 32], "loop")
    assert len(generation.logprobs or []) == 6
    told = [i for step in steps for i in step.ids]
    assert told[: len(told) - steps[-1].rollback] == generation.ids
    assert steps[-1].finish == "loop" and len(told) == 3 + 12 - 1


def test_stop_ends_a_candidate_and_is_not_among_its_ids() -> None:
    script = {1: [(20, 5.0)], 20: [(21, 5.0)], 21: [(STOP, 5.0)]}
    with running(Scripted(script)) as engine:
        generation = engine.submit([1], replace(GREEDY, min_tokens=1)).result()[0]
    assert (generation.ids, generation.finish) == ([20, 21], "stop")
    assert generation.stats["tokens"] == 2 and generation.stats["steps"] == 3
    assert generation.stats["prefill_s"] >= 0 and generation.stats["decode_s"] > 0


def test_stages_tell_where_the_time_of_a_candidate_went() -> None:
    slow = Gate()
    plain, slow.forward = slow.forward, lambda *args, **kwargs: (time.sleep(0.005), plain(*args, **kwargs))[1]
    with running(slow, concurrency=4) as engine:
        long = engine.submit([1], replace(GREEDY, max_tokens=20, min_tokens=20))
        next(iter(long))
        other = engine.submit([1, 2, 3], replace(GREEDY, max_tokens=2, min_tokens=2)).result()[0].stats
        stats = long.result()[0].stats
    parts = [stats[name] for name in ("step_s", "sample_s", "wait_s", "host_s")]
    assert sum(parts) == pytest.approx(stats["decode_s"])
    assert min(parts) >= 0 and stats["step_s"] >= 20 * 0.005 > other["step_s"] >= 2 * 0.005
    assert stats["wait_s"] >= 0.005  # a prompt was read while it waited
    assert other["wait_s"] == 0 and other["prefill_s"] >= 0.005


def test_a_mode_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"mode is 'quick'.*one of: fast, eager, alone"):
        NativeEngine(llama(), max_length=10, mode="quick")


def test_cancelled_candidate_frees_its_slot_within_a_step() -> None:
    endless = replace(GREEDY, max_tokens=10_000, min_tokens=10_000, n=2)
    model = Gate()
    with running(model, concurrency=2, max_length=20_000) as engine:
        first = engine.submit([1], endless)
        waiting = engine.submit([2], replace(GREEDY, max_tokens=3, min_tokens=3))
        next(iter(first))
        model.open.clear()
        assert model.blocked.wait(60)
        first.cancel(0)
        seen = len([step for step in first._steps if step.candidate == 0 and step.ids])
        model.open.set()
        assert len(waiting.result()[0].ids) == 3
        first.cancel()
        generations = first.result()
    assert [generation.finish for generation in generations] == ["cancelled", "cancelled"]
    assert len(generations[0].ids) <= seen + 1 < len(generations[1].ids)


def test_request_cancelled_while_waiting_is_over_at_once() -> None:
    model = Gate()
    with running(model, concurrency=1, max_length=20_000) as engine:
        busy = engine.submit([1], replace(GREEDY, max_tokens=10_000, min_tokens=10_000))
        next(iter(busy))
        model.open.clear()  # not a step more, and the slot stays taken
        waiting = engine.submit([2], replace(GREEDY, n=2))
        waiting.cancel(1)
        waiting.cancel()
        waiting.cancel()
        asker = threading.Thread(target=waiting.result, daemon=True)
        asker.start()
        asker.join(20)
        over = not asker.is_alive()
        model.open.set()
        assert over
        assert [(g.ids, g.finish) for g in waiting.result()] == [([], "cancelled")] * 2
        assert [(step.candidate, step.finish) for step in waiting] == [(0, "cancelled"), (1, "cancelled")]
        busy.cancel()
        assert busy.result()[0].finish == "cancelled"
        assert len(engine.submit([1], GREEDY).result()[0].ids) == 24
        with pytest.raises(ConfigError, match=r"\[0, 2\)"):
            waiting.cancel(2)


@pytest.mark.fault("S8")
def test_failure_reaches_everyone_and_the_engine_goes_on() -> None:
    model = Gate()
    with running(model, concurrency=2) as engine:
        model.broken = True
        requests = [engine.submit([1], replace(GREEDY, n=3)) for _ in range(3)]
        for request in requests:
            with pytest.raises(EngineError, match="no such kernel"):
                request.result()
            with pytest.raises(EngineError, match="no such kernel"):
                list(request)
        model.broken = False
        assert len(engine.submit([1], GREEDY).result()[0].ids) == 24


def test_closing_ends_those_who_wait() -> None:
    engine = NativeEngine(Gate(), max_length=20_000, concurrency=1)
    requests = [engine.submit([1], replace(GREEDY, max_tokens=10_000, min_tokens=10_000)) for _ in range(2)]
    engine.close()
    for request in requests:
        with pytest.raises(EngineError, match="closed"):
            request.result()
    with pytest.raises(EngineError, match="closed"):
        engine.submit([1], GREEDY)


def test_many_threads_at_once() -> None:
    params = replace(GREEDY, temperature=1.0, n=2, max_tokens=8, min_tokens=0)
    found: dict[int, list[Ids]] = {}
    with running(llama(), concurrency=7) as engine:
        expected = [[g.ids for g in engine.submit([1 + k], params).result()] for k in range(10)]

        def ask(k: int) -> None:
            found[k] = [g.ids for g in engine.submit([1 + k % 10], params).result()]

        threads = [threading.Thread(target=ask, args=(k,)) for k in range(30)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert found == {k: expected[k % 10] for k in range(30)}


def test_a_runner_that_cannot_even_start_afresh_lets_nobody_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Gate()
    with running(model) as engine:
        model.broken = True
        monkeypatch.setattr(engine._runner, "reset", broken)
        request = engine.submit([1], GREEDY)
        assert request._over.wait(10)
        with pytest.raises(EngineError, match="no such kernel"):
            request.result()
        engine._thread.join(10)
        with pytest.raises(EngineError, match="closed"):
            engine.submit([1], GREEDY)
        assert engine.pulse.late_s > 0  # for good: a service has to be started again


def broken() -> None:
    raise RuntimeError("the device is gone")

"""An engine that hangs: noticed, told, given up; what was asked of it fails cleanly."""

import asyncio
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("uvicorn")

from llasa.engines import pulse
from llasa.engines.pulse import Pulse
from llasa.errors import EngineError
from llasa.serve import watchdog
from llasa.serve.watchdog import MOST_FAILURES, Watchdog
from tests.causal import GREEDY, running
from tests.crowd import Ask, ask, asked
from tests.paced import started
from tests.unit.test_native_loop import Gate


@pytest.fixture
def pass_s(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Let seconds pass."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(pulse.time, "monotonic", lambda: clock.now)

    def passed(seconds: float) -> None:
        clock.now += seconds

    return passed


def test_work_is_late_against_the_slowest_of_its_kind_and_size(pass_s: Callable[[float], None]) -> None:
    own = Pulse()

    def late_s(kind: str, takes_s: float, size: int = 1) -> float:
        with own.beat(kind, size):
            pass_s(takes_s)
            return own.late_s

    assert late_s("step", 59.0) == 0.0  # never done before
    assert late_s("step", 589.0) == 0.0 and own.late_s == 0.0
    assert [late_s("prompt", 2.0, 10), late_s("prompt", 39.0, 20)] == [0.0, 0.0]
    for _ in range(2000):
        late_s("step", 0.01)
    assert late_s("step", 0.99) == 0.0
    assert late_s("step", 12.5) == pytest.approx(12.5 - 9.9)  # ten times that one


def test_what_needed_no_work_is_no_measure(pass_s: Callable[[float], None]) -> None:
    own = Pulse()
    for spared in (90, 100):
        with own.beat("prompt", 100) as known:
            pass_s(1.0)
            known.append(spared)
    with own.beat("prompt", 100):
        pass_s(99.0)  # ten times the tenth of a second that each of the ten took
        assert own.late_s == 0.0


def test_an_error_inside_is_no_measure(pass_s: Callable[[float], None]) -> None:
    own = Pulse()
    with pytest.raises(ValueError), own.beat("step"):
        pass_s(0.001)
        raise ValueError
    with own.beat("step"):
        pass_s(59.0)
        assert own.late_s == 0.0


@pytest.mark.fault("S8")
def test_a_loop_that_hangs_is_late_and_can_be_abandoned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulse, "LEAST_S", 0.05)
    model = Gate()
    with running(model, concurrency=2) as engine:
        engine.submit([1], GREEDY).result()
        assert engine.pulse.late_s == 0.0
        model.open.clear()
        requests = [engine.submit([1], GREEDY) for _ in range(3)]
        dog, began = Watchdog({"one": engine}), time.monotonic()
        while not engine.pulse.late_s:  # later where the first step was slow
            assert time.monotonic() - began < 20
            time.sleep(0.02)
        assert model.blocked.is_set() and "is late by" in dog.trouble
        engine.abandon(EngineError("Generating: it hangs. Start it again."))
        for request in requests:
            with pytest.raises(EngineError, match="hangs"):
                request.result()
        with pytest.raises(EngineError, match="closed"):
            engine.submit([1], GREEDY)
        began = time.monotonic()
        engine.close()
        assert time.monotonic() - began < 5
        model.open.set()


@pytest.mark.fault("S8")
def test_failures_in_a_row_are_told_until_a_step_is_taken() -> None:
    model = Gate()
    with running(model) as engine:
        model.broken, dog = True, Watchdog({"one": engine, "elsewhere": object()})
        for _ in range(MOST_FAILURES):
            assert not dog.trouble
            with pytest.raises(EngineError):
                engine.submit([1], GREEDY).result()
        assert dog.trouble == f"the model 'one' failed {MOST_FAILURES} times in a row"
        model.broken = False
        engine.submit([1], GREEDY).result()
        assert not dog.trouble


def test_a_service_that_was_stopped_itself_is_not_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGSTOP, or a machine that slept: afterwards a step that is under way began long ago."""
    monkeypatch.setattr(watchdog, "LOOK_S", 0.01)
    monkeypatch.setattr(watchdog, "GIVEN_UP_S", 0.2)
    given_up: list[Exception] = []
    engine = SimpleNamespace(pulse=SimpleNamespace(late_s=3600.0), abandon=given_up.append)

    async def run(engine: Any, goes_on: bool) -> None:
        watch = asyncio.create_task(Watchdog({"one": engine}).watch())
        await asyncio.sleep(0.05)
        if goes_on:
            engine.pulse.late_s = 0.0
        await asyncio.wait([watch], timeout=2.0)
        assert watch.done() == bool(given_up) != goes_on
        watch.cancel()

    asyncio.run(run(engine, goes_on=True))
    engine.pulse.late_s = 3600.0
    asyncio.run(run(engine, goes_on=False))
    assert isinstance(given_up[0], EngineError)


def serve_what_hangs(folder: str) -> None:
    """Serve a bundle as the command does, with an engine that hangs when it is asked for a second text."""
    from llasa.bundle import load_bundle
    from llasa.cli.serve import _listening, _rules, _run_speech
    from llasa.serve.speech_api import Limits
    from tests.paced import desk_of

    watchdog.GIVEN_UP_S = 2.0
    bundle: Any = load_bundle(folder)
    desk = desk_of(bundle, Limits())
    runner, asked = bundle.engine._runner, iter([False])  # a text of one segment
    begin, step = runner.add, runner.step

    def add(*given: Any) -> None:
        begin(*given)
        if next(asked, True):
            runner.step = lambda ids: threading.Event().wait()

    runner.add, runner.step = add, step
    with _listening("127.0.0.1", 0) as listener:
        _run_speech(desk, listener, _rules("127.0.0.1", [], "LLASA_KEY"), None, page=False)


@pytest.mark.fault("S8")
def test_a_service_whose_engine_hangs_says_so_and_ends(tiny_bundle: Path) -> None:
    code = f"from tests.unit.test_watchdog import serve_what_hangs as serve; serve({str(tiny_bundle)!r})"
    with started([sys.executable, "-c", code]) as (url, own):
        ready, text = Ask(path="/ready", method="GET"), Ask({"input": "the cat"})
        assert asked(url, ready).status == 200

        async def run() -> tuple[Any, float]:
            hung = asyncio.create_task(ask(url, text))
            await asyncio.sleep(0.2)
            began = time.monotonic()
            while (await ask(url, ready)).status == 200:
                await asyncio.sleep(0.02)
            noticed_s = time.monotonic() - began
            return await hung, noticed_s

        asked(url, text)
        answer, noticed_s = asyncio.run(run())
        print(f"/ready said so {noticed_s + 0.2:.2f} s after the request")
        assert noticed_s < 10.0 and answer.status == 502  # a second, if no step before took longer than 0.1 s
        assert own.wait(30) != 0

"""The one thread that does a service's work: what is joined, what fails alone, what is given up."""

import time
from concurrent.futures import Future
from threading import Event
from typing import Any

import pytest

from llasa.errors import EngineBusy
from llasa.serve.worker import Worker


def test_a_failing_batch_is_tried_piece_by_piece() -> None:
    hold = Event()

    def halves(kind: object, items: list[int]) -> list[float]:
        hold.wait(5)
        return [1 / one for one in items]

    worker = Worker(halves)
    blocked: Future[Any] = worker.submit("other", [1])
    futures = [worker.submit("it", [n]) for n in (1, 0, 2)]
    hold.set()
    assert blocked.result(5) == [1.0] and futures[0].result(5) == [1.0] and futures[2].result(5) == [0.5]
    with pytest.raises(ZeroDivisionError):
        futures[1].result(5)
    assert worker.submit("it", [4]).result(5) == [0.25]


def test_cancelled_work_frees_its_place() -> None:
    hold = Event()
    worker = Worker(lambda kind, items: [hold.wait(5)] * len(items), most_waiting=2)
    running = worker.submit(0, [1])
    while worker.waiting:
        time.sleep(0.01)
    waiting = worker.submit(1, [1, 2])
    with pytest.raises(EngineBusy):
        worker.submit(2, [1])
    waiting.cancel()
    other = worker.submit(2, [1])
    hold.set()
    assert running.result(5) == other.result(5) == [True]

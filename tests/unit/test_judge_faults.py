"""A judge's service on bad days: connections that break, replicas that hang, processes that are killed."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

from llasa.core import Candidate, Judged
from llasa.remote_judge import RemoteJudge
from tests.faults.proxy import Fault, Faults, faulty
from tests.judging import BLOCK, CODEC, ROWS, First, candidate, judging, local_judge, verdicts

BROKEN = [
    Fault("reset"), Fault("reset", after=200), Fault("half-close"), Fault("half-close", after=200),
    Fault("trickle"), Fault("garbage"), Fault("blackhole"), Fault("latency", 60.0),
]  # fmt: skip


@pytest.fixture(scope="module")
def proxy() -> Iterator[Faults]:
    """A proxy before a tiny judge; each test sets its plan."""
    with judging() as own, faulty(own, lambda n: Fault()) as between:
        yield between


@pytest.mark.fault("R10")
@pytest.mark.parametrize("fault", BROKEN, ids=lambda one: f"{one.kind}-{one.after}")
def test_a_bad_connection_ends_at_the_deadline_and_the_next_one_is_taken(proxy: Faults, fault: Fault) -> None:
    bad = proxy.connections
    proxy.plan = lambda n: fault if n == bad else Fault()
    told = RemoteJudge([proxy.url], item_deadline_s=1.5).judge(ROWS)
    assert verdicts(told) == verdicts(local_judge().judge(ROWS)) and proxy.connections == bad + 2
    proxy.plan = lambda n: fault
    began_s = time.monotonic()
    told = RemoteJudge([proxy.url], item_deadline_s=0.4).judge(ROWS)
    assert time.monotonic() - began_s < 1.4
    assert {(one.status, one.score) for one in told} == {("unjudged", None)}
    assert "no verdict in time" in told[0].reason


def test_a_long_tail_is_cut_by_asking_twice() -> None:
    # Every fifth connection needs 2 s more.
    seen = First()
    with judging(seen) as own, faulty(own, lambda n: Fault()) as proxy:
        judge = RemoteJudge([proxy.url], item_deadline_s=10)
        for n in range(10):
            judge.judge([candidate(n + 100)])
        proxy.plan = lambda n: Fault("latency", 2.0) if n % 5 == 0 else Fault()
        longest_s = 0.0
        for n in range(10):
            began_s = time.monotonic()
            assert judge.judge([candidate(n + 200)])[0].status == "scored"
            longest_s = max(longest_s, time.monotonic() - began_s)
        assert longest_s < 1.5 and proxy.connections > 20


def test_two_requests_for_the_same_are_one_piece_of_work() -> None:
    # The answer to the first connection is late, the work on it is not: the second joins it.
    seen = First(took_s=0.8)
    with judging(seen) as url:
        told = RemoteJudge([url], item_deadline_s=1.5).judge([candidate(100)])
    assert told[0].status == "scored" and len(seen.seen) == 1


@pytest.mark.fault("R9")
def test_a_dead_replica_costs_no_verdict() -> None:
    with judging() as alive, socket.create_server(("127.0.0.1", 0)) as deaf:
        gone = "http://127.0.0.1:1"
        silent = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        judge = RemoteJudge([gone, silent, alive], item_deadline_s=6, concurrency=4)
        rows = [candidate(n) for n in range(100, 164)]
        began_s = time.monotonic()
        told = judge.judge(rows)
        assert verdicts(told) == verdicts(local_judge().judge(rows))
        assert time.monotonic() - began_s < 12


@pytest.mark.fault("R10")
def test_the_step_has_a_deadline_for_all() -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        judge = RemoteJudge([url], item_deadline_s=30, step_deadline_s=0.6, concurrency=2)
        began_s = time.monotonic()
        told = judge.judge([candidate(100)] * 40)
        assert {one.status for one in told} == {"unjudged"} and time.monotonic() - began_s < 1.6


def test_the_calls_of_a_step_share_its_time_and_the_time_between_is_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        judge = RemoteJudge([url], item_deadline_s=0.6, step_deadline_s=0.9)
        with judge.step():
            took_s = []
            for _ in range(3):
                began_s = time.monotonic()
                judge.judge([candidate(100)])
                took_s.append(time.monotonic() - began_s)
                time.sleep(0.5)
        assert took_s[0] > 0.55 and 0.2 < took_s[1] < 0.55 and took_s[2] < 0.2
        began_s = time.monotonic()
        judge.judge([candidate(100)])
        assert time.monotonic() - began_s > 0.55


class Process:
    """The tiny judge as a process of its own, at one port for life."""

    def __init__(self, took_s: float) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.url, self._took_s = f"http://127.0.0.1:{self.port}", took_s

    def start(self) -> None:
        command = [sys.executable, "-m", "tests.judging", str(self.port), str(self._took_s)]
        self._running = subprocess.Popen(command, cwd=Path(__file__).parents[2])

    def ready(self) -> "Process":
        for _ in range(400):
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                return self
            except OSError:
                time.sleep(0.05)
        raise TimeoutError

    @contextmanager
    def stopped(self) -> Iterator[None]:
        os.kill(self._running.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self._running.pid, signal.SIGCONT)

    def kill(self) -> None:
        self._running.kill()
        self._running.wait()


@pytest.fixture(scope="module")
def own() -> Iterator[Process]:
    """The tiny judge in its own process; 50 ms a candidate."""
    process = Process(0.05)
    process.start()
    try:
        yield process.ready()
    finally:
        process.kill()


def judged_in_thread(judge: RemoteJudge, rows: Sequence[Candidate]) -> tuple[threading.Thread, list[Judged]]:
    told: list[Judged] = []
    thread = threading.Thread(target=lambda: told.extend(judge.judge(rows)))
    thread.start()
    return thread, told


@pytest.mark.fault("R9")
def test_a_killed_service_that_comes_back_judges_the_same_candidates(own: Process) -> None:  # R9
    rows = [candidate(n) for n in range(100, 116)]
    judge = RemoteJudge([own.url], item_deadline_s=30)
    judge.check(BLOCK, CODEC)
    with judge.step():
        thread, told = judged_in_thread(judge, rows)
        time.sleep(0.2)  # of 0.8 s of work
        own.kill()
        time.sleep(0.3)
        assert not told
        own.start()
        thread.join(30)
    assert len(told) == len(rows)
    assert verdicts(told) == verdicts(local_judge().judge(rows))


@pytest.mark.fault("R10")
def test_a_stopped_service_holds_nobody_beyond_the_deadline(own: Process) -> None:  # R10
    judge = RemoteJudge([own.url], item_deadline_s=0.7, step_deadline_s=1)
    assert judge.judge(ROWS[:1])[0].status == "scored"
    with own.stopped(), judge.step():
        began_s = time.monotonic()
        told = judge.judge([candidate(100)] * 64)
        assert time.monotonic() - began_s < 2 and {one.status for one in told} == {"unjudged"}
    later = RemoteJudge([own.url], item_deadline_s=10)
    assert later.judge(ROWS[:1])[0].status == "scored"


@pytest.mark.fault("R10")
def test_nobody_waits_for_a_stopped_replica_when_there_is_another(own: Process) -> None:
    rows = [candidate(n) for n in range(100, 140)]
    with own.stopped(), judging() as alive:
        told = RemoteJudge([own.url, alive], item_deadline_s=2).judge(rows)
    assert verdicts(told) == verdicts(local_judge().judge(rows))


@pytest.mark.fault("R9")
@pytest.mark.slow
def test_a_long_restart_under_load_loses_nothing(own: Process) -> None:  # R9, at its own figures
    rows = [candidate(100 + n) for n in range(128)]
    judge = RemoteJudge([own.ready().url], item_deadline_s=40)
    for _ in range(5):
        with judge.step():
            thread, told = judged_in_thread(judge, rows)
            time.sleep(1.0)
            own.kill()
            time.sleep(5.0)
            own.start()
            thread.join(60)
        assert verdicts(told) == verdicts(local_judge().judge(rows))

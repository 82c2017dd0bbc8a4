"""Runs that are killed or asked to stop: each goes on, and leaves what one leaves that was left alone."""

import shutil
import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.faults.left import newest_step
from tests.faults.rows import again, drawn, trials
from tests.faults.runs import STEPS, Runs, point, slow
from tests.faults.verbs import COMMANDS
from tests.faults.watch import Kind

Reached = Callable[[int, int], None]
KILL = (signal.SIGKILL,)


@pytest.mark.fault("R1")
@pytest.mark.parametrize(
    ("work", "kind", "small", "full"),
    [
        ("prepare", "any", 12, 200), ("prepare", "disk", 8, 134),
        *(slow(work, "any", 1, 10) for work in COMMANDS),
    ],
)  # fmt: skip
def test_what_is_killed_ends_the_same(
    runs: Runs, reached: Reached, work: str, kind: Kind, small: int, full: int
) -> None:
    found = Counter[str]()
    for number in (made := trials(small, full)):
        at = point(runs, work, kind, number, max(made) + 1, KILL)
        folder, ended = runs.killed(work, number, at)
        assert ended.code == -signal.SIGKILL
        for _ in range(drawn("more", number).randrange(3)):  # and again, while it goes on
            runs.start(work, folder, replace(at, at=max(1, at.at // 3)))
        found[told := runs.end(work, folder)] += 1
        assert told == "equal", f"{again(number)}: {told} after {at}"
    reached(found["equal"], len(made))


@pytest.mark.fault("R2")
@pytest.mark.parametrize(("work", "small", "full"), [("loop", 8, 150), ("sft", 2, 40), slow("grpo", 1, 10)])
def test_training_ends_with_the_same_weights(
    runs: Runs, reached: Reached, work: str, small: int, full: int
) -> None:
    found = Counter[str]()
    for number in (made := trials(small, full)):
        at = point(runs, work, "any", number, len(made), KILL)
        folder, ended = runs.killed(work, number, at)
        begun = -(-ended.calls // STEPS[work][1])  # the last of them is not taken yet, or not saved
        assert begun - newest_step(work, folder) <= 1 + 1, f"{again(number)}: {at}"
        found[told := runs.end(work, folder)] += 1
        assert told == "equal", f"{again(number)}: {told} after {at}"
    reached(found["equal"], len(made))


@pytest.mark.fault("R3")
@pytest.mark.parametrize(
    ("work", "small", "full"),
    [
        ("loop", 16, 160), slow("sft", 1, 30), slow("grpo", 1, 10),
        ("read", 2, 30), ("ab", 1, 20), ("recognizer", 1, 20), ("gguf", 2, 20), ("export", 2, 20),
        *(slow(work, 1, 16) for work in ("evaluate", "mtp", "codec", "dpo", "candidates", "voice")),
    ],
)  # fmt: skip
def test_a_kill_inside_a_save_goes_back_to_the_one_before(
    runs: Runs, reached: Reached, work: str, small: int, full: int
) -> None:
    found = Counter[str]()
    for number in (made := trials(small, full)):
        at = point(runs, work, "disk", number, max(made) + 1, KILL)
        folder, _ = runs.killed(work, number, at)
        found[told := runs.end(work, folder)] += 1
        assert told == "equal", f"{again(number)}: {told} after {at}"
    reached(found["equal"], len(made))


@pytest.mark.slow
@pytest.mark.fault("R3")
def test_the_stock_trainer_for_contrast(runs: Runs, record_property: Callable[[str, object], None]) -> None:
    found = Counter[str]()
    for number in (made := trials(4, 16)):
        folder, _ = runs.killed("stock", number, point(runs, "stock", "disk", number, max(made) + 1, KILL))
        found[runs.end("stock", folder).split(":")[0]] += 1
        shutil.rmtree(folder, ignore_errors=True)
    record_property("told", f"the stock Trainer ends equal {found['equal']}, dead {found['dead']}")
    assert sum(found.values()) == len(made)


# how a start may end: its error or exit code, and what it says then
ENDS = {
    "TERM": (
        (signal.SIGTERM,),
        {"Interrupted", 4, -signal.SIGTERM},
    ),  # that one between the parts of a command
    "INT-INT": ((signal.SIGINT, signal.SIGINT), {"Interrupted", "KeyboardInterrupt", 4, 130}),
    "USR1": ((signal.SIGUSR1,), set[object]()),
}


@pytest.mark.fault("R15")
@pytest.mark.parametrize(
    ("work", "name", "small", "full"),
    [
        ("prepare", "TERM", 3, 20), ("prepare", "INT-INT", 2, 20),
        ("loop", "TERM", 2, 20), ("loop", "INT-INT", 2, 20), ("loop", "USR1", 2, 20),
        slow("sft", "TERM", 1, 6), slow("sft", "INT-INT", 1, 6), ("sft", "USR1", 1, 6),
        ("read", "TERM", 2, 10), ("ab", "INT-INT", 2, 10),
        *(slow(work, "TERM", 1, 6) for work in ("ab", "evaluate", "mtp", "recognizer", "codec", "dpo")),
        *(slow(work, "INT-INT", 1, 6) for work in ("read", "evaluate", "gguf", "export")),
    ],
)  # fmt: skip
def test_a_signal_at_any_point(
    runs: Runs, reached: Reached, work: str, name: str, small: int, full: int
) -> None:
    (sigs, ends), good, grace_s, struck = ENDS[name], 0, [0.0], 0
    for number in (made := trials(small, full)):
        folder = runs.folder / work / f"{name}-{number}"
        ended = runs.start(work, folder, point(runs, work, "any", number, 0, sigs))
        assert (ended.error or ended.code) in ends | {0}, f"{again(number)}: {ended}"
        assert runs.end(work, folder) == "equal", f"{again(number)}: after {ended}"
        grace_s += [ended.grace_s] if ended.code else []
        struck += bool(ended.error or ended.code)
        good += 1
    assert max(grace_s) < 10, "a step and a save take less"
    assert struck or name == "USR1" or len(made) < 3  # so few may all come too late
    reached(good, len(made))

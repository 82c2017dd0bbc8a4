"""Runs that are killed: each goes on by itself, and leaves what one leaves that was left alone."""

import shutil
import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pytest

from tests.faults.left import left, newest_step
from tests.faults.rows import again, drawn, trials
from tests.faults.watch import Point
from tests.faults.zygote import Ended, Zygote

Reached = Callable[[int, int], None]
Kind = Literal["any", "disk"]
# function that begins a step, or a part of one -> parts a step has
STEPS = {"prepare": ("", 1), "loop": ("learn", 1), "sft": ("training_step", 2), "grpo": ("training_step", 2),
         "stock": ("training_step", 1)}  # fmt: skip


@dataclass
class Whole:
    """A run that was left alone. left: by it. points: it has, by kind."""

    left: dict[str, Any]
    points: dict[Kind, int]


class Runs:
    """Runs of works in folders of their own."""

    def __init__(self, zygote: Zygote, material: Path, folder: Path) -> None:
        self.zygote, self.material, self.folder = zygote, material, folder
        self._whole: dict[str, Whole] = {}

    def start(self, work: str, folder: Path, point: Point | None = None) -> Ended:
        """Run a work to its end, or to a point."""
        given = [] if work in ("loop", "stock") else [str(self.material)]
        return self.zygote.run(work, folder, point, *given)

    def whole(self, work: str) -> Whole:
        """Return what a run leaves that is left alone."""
        if work not in self._whole:
            first = self.folder / work / "whole"
            assert (ended := self.start(work, first)).code == 0, ended
            self._whole[work] = Whole(left(work, first), {})
        return self._whole[work]

    def points(self, work: str, kind: Kind) -> int:
        """Return how many points such a run has."""
        whole = self.whole(work)
        if kind not in whole.points:
            second = self.folder / work / kind
            counted = self.start(work, second, Point(0, kind, STEPS[work][0]))
            assert counted.code == 0 and left(work, second) == whole.left
            whole.points[kind] = counted.count
        return whole.points[kind]

    def killed(self, work: str, number: int, point: Point) -> tuple[Path, Ended]:
        """Run until it is killed at a point; if it is over before, sooner."""
        folder = self.folder / work / f"{point.kind}-{number}"
        while True:
            ended = self.start(work, folder, point)
            if ended.code:
                return folder, ended
            shutil.rmtree(folder)
            point = replace(point, at=max(1, point.at * 9 // 10))

    def end(self, work: str, folder: Path) -> str:
        """Go on to the end; return `equal`, and the folder is gone, or `different`, or what it died of."""
        ended = self.start(work, folder)
        if ended.code:
            return f"dead: {ended.error} {ended.said}"
        if left(work, folder) != self.whole(work).left:
            return "different"
        shutil.rmtree(folder)
        return "equal"


@pytest.fixture(scope="module")
def runs(zygote: Zygote, material: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(zygote, material, tmp_path_factory.mktemp("runs"))


def point(runs: Runs, work: str, kind: Kind, number: int, of: int, sigs: tuple[int, ...]) -> Point:
    """Return the point of a trial: drawn from all, or the middle of an even share of those of the disk."""
    total = runs.points(work, kind)
    # The stock Trainer is to have a whole checkpoint that it could go back to.
    first = total // 8 if work == "stock" else 0
    share = (drawn(work, number).random() if kind == "any" else (number + 0.5) / of) * 0.99
    return Point(first + max(1, int((total - first) * share)), kind, STEPS[work][0], sigs)


KILL = (signal.SIGKILL,)


def slow(*values: object) -> Any:
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.fault("R1")
@pytest.mark.parametrize(("kind", "small", "full"), [("any", 12, 200), ("disk", 8, 134)])
def test_preparing_ends_the_same(runs: Runs, reached: Reached, kind: Kind, small: int, full: int) -> None:
    found = Counter[str]()
    for number in (made := trials(small, full)):
        at = point(runs, "prepare", kind, number, max(made) + 1, KILL)
        folder, ended = runs.killed("prepare", number, at)
        assert ended.code == -signal.SIGKILL
        for _ in range(drawn("more", number).randrange(3)):  # and again, while it goes on
            runs.start("prepare", folder, replace(at, at=max(1, at.at // 3)))
        found[told := runs.end("prepare", folder)] += 1
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
    [("loop", 16, 160), slow("sft", 1, 30), slow("grpo", 1, 10)],
)
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
    ],
)  # fmt: skip
def test_a_signal_at_any_point(
    runs: Runs, reached: Reached, work: str, name: str, small: int, full: int
) -> None:
    (sigs, ends), good, grace_s = ENDS[name], 0, [0.0]
    for number in (made := trials(small, full)):
        folder = runs.folder / work / f"{name}-{number}"
        ended = runs.start(work, folder, point(runs, work, "any", number, 0, sigs))
        assert (ended.error or ended.code) in ends | {0}, f"{again(number)}: {ended}"
        assert runs.end(work, folder) == "equal", f"{again(number)}: after {ended}"
        grace_s += [ended.grace_s] if ended.code else []
        good += 1
    assert max(grace_s) < 10, "a step and a save take less"
    reached(good, len(made))

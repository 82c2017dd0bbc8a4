"""Runs of works in folders of their own, beside one that was left alone."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tests.faults.left import left
from tests.faults.rows import drawn
from tests.faults.watch import Kind, Point
from tests.faults.zygote import Ended, Zygote

# function that begins a step, or a part of one -> how often it is called a step; TRL's calls its parent's
STEPS = {"prepare": ("", 1), "loop": ("learn", 1), "sft": ("training_step", 2), "grpo": ("training_step", 4),
         "stock": ("training_step", 1)}  # fmt: skip
NONE = ("main", 1)  # a command: not what is written for it before


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
        return self.zygote.run(work, folder, point, *self.given(work))

    def given(self, work: str) -> list[str]:
        """Return what a work is told."""
        return [] if work in ("loop", "stock") else [str(self.material)]

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
            counted = self.start(work, second, Point(0, kind, STEPS.get(work, NONE)[0]))
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
        """Go on to the end; return `equal`, and the folder is gone, or what is not, or what it died of."""
        if work == "candidates" and left(work, folder) == self.whole(work).left:
            return "equal"  # what is done is refused to be done again
        ended = self.start(work, folder)
        if ended.code:
            return f"dead: {ended.error} {ended.said}"
        was, now = self.whole(work).left, left(work, folder)
        if was != now:
            parts = [part for part in was.keys() | now.keys() if was.get(part) != now.get(part)]
            return f"different: {', '.join(sorted(parts))}"
        shutil.rmtree(folder)
        return "equal"


def point(runs: Runs, work: str, kind: Kind, number: int, of: int, sigs: tuple[int, ...]) -> Point:
    """Return the point of a trial: drawn from all, or the middle of an even share of those of the disk."""
    total = runs.points(work, kind)
    # The stock Trainer is to have a whole checkpoint that it could go back to.
    first = total // 8 if work == "stock" else 0
    share = (drawn(work, number).random() if kind == "any" else (number + 0.5) / of) * 0.99
    return Point(first + max(1, int((total - first) * share)), kind, STEPS.get(work, NONE)[0], sigs)


def slow(*values: object) -> Any:
    """Return the parameters of a test that the small form leaves out of the default tests."""
    return pytest.param(*values, marks=pytest.mark.slow)

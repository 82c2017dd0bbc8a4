"""The folder of a training run, read as far as it goes: a run may still be going, or have been killed.

Must not know: trainers, what the numbers mean.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, cast

from llasa.errors import ConfigError

Row = Mapping[str, Any]
_SAMPLE = re.compile(r"step-(\d+)-(\d+)\.wav")


@dataclass(frozen=True)
class Sample:
    """A sound that was made while training. number: of its text."""

    step: int
    number: int
    path: Path


@dataclass(frozen=True)
class Run:
    """What a run wrote. facts: of `run.json`. done: whether its bundle is there.

    damaged: lines that are no JSON objects with a step, by file.
    """

    folder: Path
    facts: Mapping[str, Any]
    metrics: list[Row]
    rollouts: list[Row]
    panel: list[Row]
    samples: list[Sample]
    done: bool
    damaged: Mapping[str, int]

    @property
    def recipe(self) -> Mapping[str, Any]:
        """The recipe, empty if it is not known."""
        return cast(Mapping[str, Any], self.facts.get("recipe", {}))

    @property
    def step(self) -> int:
        """The last step that anything is known of."""
        return max((row["step"] for row in (*self.metrics, *self.rollouts, *self.panel)), default=0)

    def series(self, key: str) -> tuple[list[int], list[float]]:
        """Return steps and values of a metric, where it is a number."""
        found = [(row["step"], row[key]) for row in self.metrics if isinstance(row.get(key), int | float)]
        return [step for step, _ in found], [float(value) for _, value in found]


def read_run(folder: str | PathLike[str]) -> Run:
    """Return what is there of a run.

    Raises:
        ConfigError: the folder is none of `llasa train`, or cannot be read.
    """
    folder = Path(folder)
    if not any((folder / name).is_file() for name in ("run.json", "metrics.jsonl")):
        found = "there is no run.json nor metrics.jsonl" if folder.is_dir() else "there is no such folder"
        raise ConfigError(f"Reading the run '{folder}': {found}. Name the folder that 'llasa train' wrote.")
    damaged: dict[str, int] = {}
    try:
        metrics, rollouts, panel = (
            _rows(folder / f"{name}.jsonl", damaged) for name in ("metrics", "rollouts", "panel")
        )
        facts = _facts(folder / "run.json", damaged)
    except OSError as error:
        found = f"the system says: {error.strerror}"
        raise ConfigError(f"Reading the run '{folder}': {found}. Check its files.") from error
    done = (folder / "bundle" / "bundle.toml").is_file()
    return Run(folder, facts, metrics, rollouts, panel, _samples(folder / "samples"), done, damaged)


def _facts(path: Path, damaged: dict[str, int]) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
        return {"began": body.get("began"), "versions": body.get("versions", {}), **body["facts"]}
    except (ValueError, KeyError, TypeError, AttributeError):
        damaged[path.name] = 1
        return {}


def _rows(path: Path, damaged: dict[str, int]) -> list[Row]:
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    rows = [_row(line) for line in lines[:-1]]  # the last one may only have begun
    if bad := sum(row is None for row in rows):
        damaged[path.name] = bad
    return [row for row in rows if row is not None]


def _row(line: str) -> Row | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and isinstance(row.get("step"), int) else None


def _samples(folder: Path) -> list[Sample]:
    found = [(match, path) for path in folder.glob("*.wav") if (match := _SAMPLE.fullmatch(path.name))]
    samples = [Sample(int(match[1]), int(match[2]), path) for match, path in found]
    return sorted(samples, key=lambda one: (one.step, one.number))

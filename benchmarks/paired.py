"""Two ways to do the same, timed in turns: the ratio of their times with an interval.

The order alternates from round to round (AB, BA, AB, ...), so that whatever else the machine does, and
whatever a cache keeps, falls on both alike. A ratio is `b / a`: above 1, `a` is the faster.

    from paired import header, paired
    found = paired(ours, theirs, rounds=7)
    print(header()); print(found.row("decode 500"))
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Ratio:
    """How many times as long `b` takes as `a`, each round's pair divided.

    median, low, high: of wall time; low and high bound 95 % of the medians of resampled rounds.
    cpu_median, cpu_low, cpu_high: the same of processor time, all threads; truer on a shared machine.
    a_s, b_s: median wall seconds a call; a_cpu_s, b_cpu_s: median processor seconds. rounds: pairs.
    """

    median: float
    low: float
    high: float
    cpu_median: float
    cpu_low: float
    cpu_high: float
    a_s: float
    b_s: float
    a_cpu_s: float
    b_cpu_s: float
    rounds: int

    def as_dict(self) -> dict[str, float]:
        """Return the fields, for `--json`."""
        return asdict(self)

    def row(self, name: str) -> str:
        """Return a line of the table that `header` begins."""
        wall = f"{self.median:7.2f} [{self.low:.2f}, {self.high:.2f}]"
        cpu = f"{self.cpu_median:7.2f} [{self.cpu_low:.2f}, {self.cpu_high:.2f}]"
        return f"{name:32} {1e3 * self.a_s:9.1f} {1e3 * self.b_s:9.1f} {wall:>24} {cpu:>24}"


def header(a: str = "ours", b: str = "theirs") -> str:
    """Return the head of a table of `Ratio.row`; times in milliseconds of wall time."""
    return f"{'':32} {a + ' ms':>9} {b + ' ms':>9} {'ratio, wall [95 %]':>24} {'ratio, processor [95 %]':>24}"


def paired(a: Callable[[], Any], b: Callable[[], Any], rounds: int = 7, warm: int = 1) -> Ratio:
    """Return the ratio of the time of `b` to that of `a`.

    Args:
        a, b: called without arguments; what they return is dropped.
        rounds: pairs measured, 7 or more for figures that are told to others.
        warm: calls of each before, not counted.
    """
    for call in (a, b) * warm:
        call()
    took = np.array([_round(a, b, swap=bool(turn % 2)) for turn in range(rounds)])  # [rounds, a|b, wall|cpu]
    wall, cpu = interval(took[:, 1, 0] / took[:, 0, 0]), interval(took[:, 1, 1] / took[:, 0, 1])
    (a_s, a_cpu_s), (b_s, b_cpu_s) = np.median(took, 0).tolist()
    return Ratio(*wall, *cpu, a_s, b_s, a_cpu_s, b_cpu_s, rounds)


def interval(values: np.ndarray, resamples: int = 2000) -> tuple[float, float, float]:
    """Return the median and the bootstrap's 95 % interval of it."""
    draws = np.random.default_rng(0).choice(values, (resamples, len(values)))
    low, high = np.percentile(np.median(draws, 1), [2.5, 97.5])
    return float(np.median(values)), float(low), float(high)


def _round(a: Callable[[], Any], b: Callable[[], Any], swap: bool) -> list[tuple[float, float]]:
    if swap:
        second = _seconds(b)
        return [_seconds(a), second]
    return [_seconds(a), _seconds(b)]


def _seconds(call: Callable[[], Any]) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - wall, time.process_time() - cpu


def flags(description: str, rounds: int = 7) -> argparse.ArgumentParser:
    """Return a parser with what all benchmarks take: --rounds, --threads, --seed, --json."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=rounds, help="pairs a row (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and inputs (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout, no table")
    return parser


def finish(report: dict[str, Any], failed: list[str], as_json: bool) -> None:
    """Print the report as JSON if asked for, say which equality checks failed, and exit 1 if one did."""
    if as_json:
        print(json.dumps(report | {"failed": failed}))
    for one in failed:
        print(f"NOT EQUAL: {one}", file=sys.stderr)
    sys.exit(1 if failed else 0)

"""What the doctor says of a data set: plain values that a report draws and JSON can hold."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Literal, cast

import numpy as np

from llasa.core import plain

Verdict = Literal["good", "look", "bad"]
BINS = 40


@dataclass(frozen=True)
class Odd:
    """A row that a check names: where it is, and why, in one sentence."""

    id: str
    place: str
    why: str


@dataclass(frozen=True)
class Check:
    """What one check found. count: of rows it names, of `of` it looked at. rows: the worst of them.

    advice: what to do about it; empty where there is nothing to do.
    """

    name: str
    title: str
    verdict: Verdict
    count: int
    of: int
    advice: str
    rows: tuple[Odd, ...] = ()


@dataclass(frozen=True)
class Spread:
    """How a quantity is spread over the clips. counts: in the bins between `edges`, one more than they.

    quantiles: by percent, such as "50"; the bins reach from the 0.5th to the 99.5th percentile.
    """

    name: str
    title: str
    quantiles: Mapping[str, float]
    edges: tuple[float, ...]
    counts: tuple[int, ...]

    @classmethod
    def of(cls, name: str, title: str, values: np.ndarray) -> "Spread":
        """Return the spread of at least one number."""
        points = (0, 5, 25, 50, 75, 95, 100)
        found = np.percentile(values, points)
        low, high = np.percentile(values, (0.5, 99.5))
        counts, edges = np.histogram(values, BINS, (low, high if high > low else low + 1))
        quantiles = {str(point): round(float(value), 4) for point, value in zip(points, found, strict=True)}
        return cls(name, title, quantiles, tuple(edges.tolist()), tuple(counts.tolist()))


@dataclass(frozen=True)
class Findings:
    """All that was found in a data set.

    rows: looked at. clips: of them usable. reasons: how many rows `prepare` would leave out, by reason.
    hours: of usable sound. languages, splits, rates_hz: clips by name; speakers: how many are named.
    """

    path: str
    kind: str
    rows: int
    clips: int
    reasons: Mapping[str, int]
    hours: float
    speakers: int
    languages: Mapping[str, int]
    splits: Mapping[str, int]
    rates_hz: Mapping[str, int]
    checks: tuple[Check, ...]
    spreads: tuple[Spread, ...]

    @property
    def verdict(self) -> Verdict:
        """The worst of all checks."""
        found = {check.verdict for check in self.checks}
        return "bad" if "bad" in found else "look" if "look" in found else "good"

    def report(self) -> dict[str, object]:
        """Return everything as JSON can hold it."""
        return cast(dict[str, object], plain({"verdict": self.verdict, **asdict(self)}))

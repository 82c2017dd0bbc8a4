"""Where a panel stands: its measures with intervals, and which have moved too far from the start.

The rule: the lines of now and of the start are compared pair by pair; a limit trips only where the whole
interval of the change lies beyond it, so that the noise of a small panel trips nothing. Must not know:
trainers, files, how anything was said.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, Field

from llasa import config
from llasa.metrics import (
    CONFIDENCE,
    Estimate,
    bootstrap,
    error_rate,
    paired,
    trend_estimate,
)
from llasa.train.witness import Line

MEANS = ("rate", "similarity", "mos", "pitch_range", "failures")  # of what is simply averaged
MEASURES = ("wer", "rate_change", *MEANS)
_SMALLEST = 1e-6  # of a mean: no melody at all is a fall too


class LimitsBlock(BaseModel):
    """How far measures may move from the start.

    wer, failures: rise of the error rate, and of the share of lines that did not end in speech. rate: the
    mean, either way, as a share of itself. rate_change: rise of the trend of the rate from the 5th to the
    95th percentile of length. similarity, mos: fall. pitch_range: least share of the start's. confidence: of
    the interval that has to lie beyond a limit: high, for seven measures are looked at each time.
    """

    model_config = config.STRICT
    wer: float = Field(default=0.0, ge=0)
    failures: float = Field(default=0.0, ge=0)
    rate: float = Field(default=0.05, ge=0)
    rate_change: float = Field(default=0.02, ge=0)
    similarity: float = Field(default=0.02, ge=0)
    mos: float = Field(default=0.05, ge=0)
    pitch_range: float = Field(default=0.9, ge=0, le=1)
    confidence: float = Field(default=0.98, gt=0, lt=1)

    def bounds(self) -> dict[str, tuple[float, float]]:
        """Return the least and the most that each may change by."""
        return {
            "wer": (-math.inf, self.wer),
            "rate_change": (-math.inf, self.rate_change),
            "rate": (-self.rate, self.rate),
            "similarity": (-self.similarity, math.inf),
            "mos": (-self.mos, math.inf),
            "pitch_range": (self.pitch_range - 1, math.inf),
            "failures": (-math.inf, self.failures),
        }


@dataclass(frozen=True)
class Change:
    """By how much a measure moved and may: shares of `rate` and `pitch_range`, else differences."""

    found: Estimate
    least: float
    most: float

    @property
    def tripped(self) -> bool:
        """Whether all of the interval lies beyond a limit."""
        return self.found.low > self.most or self.found.high < self.least


def measured(lines: Sequence[Line], confidence: float = CONFIDENCE) -> dict[str, Estimate]:
    """Return each measure of a panel, NaN where there is none; lines without a verdict are left out."""
    known = [line for line in lines if line.status != "unjudged"]
    groups = [line.line for line in known]
    found = {name: bootstrap(_mean, _column(known, name), groups, confidence) for name in MEANS}
    found["wer"] = bootstrap(_wer, _errors(known), groups, confidence)
    found["rate_change"] = trend_estimate(
        [line.units for line in known], [line.rate for line in known], groups, confidence
    )
    return found


def changes(start: Sequence[Line], now: Sequence[Line], limits: LimitsBlock) -> dict[str, Change]:
    """Return how each measure moved from the start, over the lines that both sides have measured."""
    before = {(line.line, line.take): line for line in start if line.status != "unjudged"}
    pairs = [
        (before[line.line, line.take], line)
        for line in now
        if line.status != "unjudged" and (line.line, line.take) in before
    ]
    moved = {name: _moved(name, pairs, limits.confidence) for name in MEASURES}
    bounds = limits.bounds()
    return {name: Change(found, *bounds[name]) for name, found in moved.items() if found is not None}


def _moved(name: str, pairs: Sequence[tuple[Line, Line]], confidence: float) -> Estimate | None:
    """Return the change of one measure; None where no pair has it."""
    column = _errors if name == "wer" else _column
    key = "rate" if name == "rate_change" else name
    both = list(pairs)
    if name != "wer":  # there what was not heard counts as wrong
        both = [pair for pair in pairs if np.isfinite(_column(pair, key)).all()]
    if not both:
        return None
    groups = [line.line for line, _ in both]
    old, new = (column([pair[side] for pair in both], key) for side in (0, 1))
    if name == "rate_change":
        return trend_estimate([line.units for line, _ in both], (new / old)[:, 0], groups, confidence)
    if name in ("rate", "pitch_range"):
        return _as_share(paired(_log_mean, old, new, groups, confidence))
    return paired(_wer if name == "wer" else _mean, old, new, groups, confidence)


def _as_share(logs: Estimate) -> Estimate:
    return Estimate(*(math.expm1(one) for one in (logs.value, logs.low, logs.high)))


def _column(lines: Sequence[Line], name: str) -> np.ndarray:
    values = [line.failed if name == "failures" else getattr(line, name) for line in lines]
    return np.array(values, float)[:, None]


def _errors(lines: Sequence[Line], name: str = "wer") -> np.ndarray:
    return np.array([(line.errors, line.tokens) for line in lines], float)


def _wer(rows: np.ndarray) -> float:
    return error_rate(rows[:, 0], rows[:, 1], most=1.0)


def _mean(rows: np.ndarray) -> float:
    known = rows[np.isfinite(rows)]
    return float(known.sum() / len(known)) if len(known) else math.nan


def _log_mean(rows: np.ndarray) -> float:
    return math.log(max(_mean(rows), _SMALLEST))

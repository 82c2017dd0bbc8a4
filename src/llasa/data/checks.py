"""The doctor's checks: each sees every row once and says at the end what it found. None keeps sound.

What is kept for all rows is some numbers and ids; of rows to be shown, only the worst.
"""

import hashlib
import heapq
import unicodedata
from array import array
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from llasa.core import Audio, Clip
from llasa.data.findings import Check, Odd, Verdict
from llasa.data.sources.coded import Coded
from llasa.data.transcripts import shown

SHOWN = 50  # rows a check keeps
Z_LIMIT = 5.0
_LEAST_SCALE = 0.1  # of a logarithm: a tenth more or less is never odd


@dataclass(frozen=True)
class Seen:
    """A usable row. audio: None where the data set holds codes. digest: of its bytes."""

    row: Clip | Coded
    place: str
    audio: Audio | None = None
    digest: str = ""
    measures: Mapping[str, float] = field(default_factory=dict[str, float])

    @property
    def speaker(self) -> str:
        """Who speaks, if it is known."""
        return self.row.speaker

    @property
    def language(self) -> str:
        """What is spoken, as the data set says."""
        return self.row.language


class Examination(Protocol):
    """What a check must offer."""

    def see(self, seen: Seen) -> None:
        """Take a row into account."""
        ...

    def found(self) -> Check:
        """Return what was found in all rows."""
        ...


@dataclass(frozen=True)
class About:
    """What a check says of itself. bad: the share of rows from which it is a verdict of `bad`."""

    name: str
    title: str
    advice: str
    bad: float = 0.05


class Worst:
    """Counts rows and keeps the worst of them."""

    def __init__(self, about: About) -> None:
        self.about, self.count, self.of = about, 0, 0
        self._kept: list[tuple[float, int, Odd]] = []

    def add(self, badness: float, id: str, place: str, why: str) -> None:
        """Take a row that is to be named; the higher `badness`, the earlier it is shown."""
        self.count += 1
        # Of equals the first stay, and rows are never compared themselves.
        entry = (badness, -self.count, Odd(id, place, why))
        (heapq.heappush if len(self._kept) < SHOWN else heapq.heappushpop)(self._kept, entry)

    def check(self) -> Check:
        """Return the check with its worst rows first."""
        about, share = self.about, self.count / max(1, self.of)
        verdict: Verdict = "good" if not self.count else "bad" if share >= about.bad else "look"
        rows = tuple(odd for _, _, odd in sorted(self._kept, key=lambda entry: entry[:2], reverse=True))
        return Check(about.name, about.title, verdict, self.count, self.of, about.advice, rows)


class Each:
    """Names the rows for which `test` gives how bad it is and why."""

    def __init__(self, about: About, test: Callable[[Seen], tuple[float, str] | None]) -> None:
        self._worst, self._test = Worst(about), test

    def see(self, seen: Seen) -> None:
        """See `Examination`."""
        self._worst.of += 1
        answer = self._test(seen)
        if answer is not None:
            self._worst.add(answer[0], seen.row.id, seen.place, answer[1])

    def found(self) -> Check:
        """See `Examination`."""
        return self._worst.check()


class Repeated:
    """Names rows whose key an earlier row had."""

    def __init__(self, about: About, key: Callable[[Seen], str]) -> None:
        self._worst, self._key, self._first = Worst(about), key, dict[bytes, str]()

    def see(self, seen: Seen) -> None:
        """See `Examination`."""
        key = _short(self._key(seen))
        self._worst.of += 1
        if key in self._first:
            self._worst.add(0.0, seen.row.id, seen.place, f"as '{self._first[key]}', which came first")
        self._first.setdefault(key, seen.row.id)

    def found(self) -> Check:
        """See `Examination`."""
        return self._worst.check()


class Conflicting:
    """Names rows whose key came first with another value, such as a speaker in another split."""

    def __init__(self, about: About, key: Callable[[Seen], str], value: Callable[[Seen], str]) -> None:
        self._worst, self._key, self._value = Worst(about), key, value
        self._first = dict[bytes, str]()

    def see(self, seen: Seen) -> None:
        """See `Examination`."""
        key, value = self._key(seen), self._value(seen)
        if not key or not value:
            return
        self._worst.of += 1
        first = self._first.setdefault(_short(key), value)
        if first != value:
            why = f"'{shown(key, 60)}': first '{shown(first)}', here '{shown(value)}'"
            self._worst.add(0.0, seen.row.id, seen.place, why)

    def found(self) -> Check:
        """See `Examination`."""
        return self._worst.check()


class Unusual:
    """Names rows whose measure is far from the others' of their language: a robust z of its logarithm."""

    def __init__(self, about: About, measure: str, unit: str) -> None:
        self._worst, self._measure, self._unit = Worst(about), measure, unit
        self._rows: dict[str, list[tuple[str, str]]] = defaultdict(list)
        self._values: dict[str, array[float]] = defaultdict(lambda: array("d"))

    def see(self, seen: Seen) -> None:
        """See `Examination`."""
        value = seen.measures.get(self._measure, 0.0)
        if value > 0:
            self._rows[seen.language].append((seen.row.id, seen.place))
            self._values[seen.language].append(value)

    def found(self) -> Check:
        """See `Examination`."""
        for language, rows in self._rows.items():
            values = np.asarray(self._values[language])
            self._worst.of += len(rows)
            scores, middle = robust_z(np.log(values)), float(np.median(values))
            for index in np.flatnonzero(np.abs(scores) > Z_LIMIT):
                why = f"{values[index]:.1f} {self._unit}, half of the clips are below {middle:.1f}"
                self._worst.add(abs(float(scores[index])), *rows[index], why)
        return self._worst.check()


def robust_z(values: np.ndarray) -> np.ndarray:
    """Return how far values [N] are from their median, in standard deviations estimated by the MAD.

    Source: B. Iglewicz, D. Hoaglin (1993), modified z-score.
    """
    middle = np.median(values)
    scale = 1.4826 * float(np.median(np.abs(values - middle)))
    return (values - middle) / max(scale, _LEAST_SCALE)


def folded(text: str) -> str:
    """Return a text as file systems and people may take it for another's: case and Unicode form aside."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def _short(key: str) -> bytes:
    return hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=12).digest()

"""How inference compute is spent: strategies that draw candidates, have them judged and rank them.

Each needs only `Engine.submit` on prefixes and a `Judge`, so it runs on every engine. Candidate numbers count
on from `job.params.first`: a search repeats. Loop guard and repetition penalty see one request at a time.
Must not know: text, markers, codecs, files.
"""

import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from statistics import fmean
from typing import Protocol, TypeVar

from llasa.core import Candidate, Codes, Generation, Ids, Judged, SamplingParams, Utterance, drafts_of
from llasa.engines.base import Engine, Request
from llasa.errors import ConfigError, EngineError, ScorerError
from llasa.judge import Judge

T = TypeVar("T")
Drawing = Generator["Progress", None, T]
Beams = list[Generation]


@dataclass(frozen=True)
class Job:
    """One utterance made ready for an engine. params: `n` and `first` are the strategy's business."""

    utterance: Utterance
    prompt: Ids
    params: SamplingParams


@dataclass(frozen=True)
class Progress:
    """News of a search. total: candidates at most. best: value so far, None while there is none.

    committed: codes that are now sure to follow those of earlier news; the best candidate begins with all of
    them. Who does not listen meanwhile may pass them over.
    """

    judged: int
    total: int
    best: float | None
    committed: Codes = field(default_factory=Codes)


@dataclass(frozen=True)
class Ranking:
    """How a search ended. generate_s, judge_s: spent.

    judged: final candidates, best first: scored by value, outdone, bad, unjudged; equal ones as drawn.
    tokens: ids drawn in all, dropped beams included. stop: why no more were. order: which of those drawn each
    of `judged` was, from 0. drafts: see `core.drafts_of`. pace: of a search that commits, see
    `beams.Committed`.
    """

    judged: tuple[Judged, ...]
    tokens: int
    stop: str
    generate_s: float
    judge_s: float
    order: tuple[int, ...] = ()
    drafts: Mapping[str, float] = field(default_factory=dict[str, float])
    pace: Mapping[str, float] = field(default_factory=dict[str, float])

    @property
    def stats(self) -> dict[str, float]:
        """What drawing and judging took, in seconds and counts."""
        spent = {"tokens": self.tokens, "generate_s": self.generate_s, "judge_s": self.judge_s}
        return {**spent, **self.pace, **self.drafts}


@dataclass(frozen=True)
class Means:
    """What a search works with. codes: generated ids -> codes. codes_per_s: of the codec.

    held: codes among those committed that a listener does not hear before more come, at first and later; None
    if nobody listens meanwhile.
    clock: seconds, by which a search is in time.
    """

    engine: Engine
    judge: Judge
    codes: Callable[[Ids], Codes]
    codes_per_s: float
    held: tuple[int, int] | None = None
    clock: Callable[[], float] = time.perf_counter


class Search(Protocol):
    """A way to spend compute on one utterance."""

    def run(self, job: Job, means: Means, deadline_s: float | None = None) -> Iterator[Progress | Ranking]:
        """Yield progress and, last, the ranking.

        Progress comes whenever a candidate is drawn and whenever some were judged. Closing the iterator
        cancels what is in flight.

        Args:
            deadline_s: start nothing that would not end within so many seconds of drawing and judging, if it
                took as long as the slowest wave so far. The first wave always runs.

        Raises:
            EngineError: the engine failed. ScorerError: none was scored, because a scorer failed.
        """
        ...


@dataclass(frozen=True)
class Sample:
    """One candidate, judged."""

    def run(self, job: Job, means: Means, deadline_s: float | None = None) -> Iterator[Progress | Ranking]:
        """See `Search.run`; the deadline changes nothing."""
        return _waves(Run(job, means, deadline_s), [replace(job.params, n=1)], None)


@dataclass(frozen=True)
class BestOfN:
    """N candidates, drawn and judged together (the paper's ORM). `BestOfN(1)` is `Sample`."""

    n: int

    def __post_init__(self) -> None:
        within("BestOfN", 1, 10**6, n=self.n)

    def run(self, job: Job, means: Means, deadline_s: float | None = None) -> Iterator[Progress | Ranking]:
        """See `Search.run`; the deadline changes nothing: there is only one wave."""
        return _waves(Run(job, means, deadline_s), [replace(job.params, n=self.n)], None)


@dataclass(frozen=True)
class Adaptive:
    """Waves of candidates until one is good enough; all waves together are `BestOfN(n)`.

    n: candidates at most. target: value in [0, 1] that ends the search; None: only a deadline ends it early.

    Source: stopping rules of arXiv 2510.01394; here the target is given, not estimated.
    """

    n: int
    wave: int = 4
    target: float | None = 0.95

    def __post_init__(self) -> None:
        within("Adaptive", 1, 10**6, n=self.n, wave=self.wave)
        within("Adaptive", 0, 1, target=self.target)

    def run(self, job: Job, means: Means, deadline_s: float | None = None) -> Iterator[Progress | Ranking]:
        """See `Search.run`."""
        waves = [
            replace(job.params, first=job.params.first + start, n=min(self.wave, self.n - start))
            for start in range(0, self.n, self.wave)
        ]
        return _waves(Run(job, means, deadline_s), waves, self.target)


@dataclass(frozen=True)
class Fallback:
    """One candidate at each temperature until one is good enough; the best of those drawn wins.

    temperatures: 0 or above, in order, instead of the job's. target: value in [0, 1]; None climbs to the end.

    Source: Whisper, arXiv 2212.04356, section 4.5, which keeps the last one; its tests are the judge's here.
    """

    temperatures: tuple[float, ...] = (0.4, 0.6, 0.8, 1.0)
    target: float | None = 0.5

    def __post_init__(self) -> None:
        within("Fallback", 1, 10**6, number_of_temperatures=len(self.temperatures))
        within("Fallback", 0, 10**6, **{f"temperatures[{i}]": t for i, t in enumerate(self.temperatures)})
        within("Fallback", 0, 1, target=self.target)

    def run(self, job: Job, means: Means, deadline_s: float | None = None) -> Iterator[Progress | Ranking]:
        """See `Search.run`; a wave is one candidate."""
        waves = [
            replace(job.params, temperature=temperature, first=number, n=1)
            for number, temperature in enumerate(self.temperatures, job.params.first)
        ]
        return _waves(Run(job, means, deadline_s), waves, self.target)


def search_for(effort: int, target: float | None = None, waves: bool = False) -> Search:
    """Return the strategy that judges up to `effort` candidates, in waves of 4 if it may have to end early.

    Args:
        effort: 1 is `Sample`. target: value that is good enough. waves: there will be a deadline.

    Raises:
        ConfigError: effort is below 1, or the target is not in [0, 1].
    """
    within("a search", 1, 10**6, effort=effort)
    if effort == 1:
        return Sample()
    if target is None and not waves:
        return BestOfN(effort)
    return Adaptive(effort, min(4, effort), target)


def followed(
    news: Iterator[Progress | Ranking], told: Callable[[Progress], None] | None, streams: bool
) -> Generator[Codes, None, Ranking]:
    """Yield codes as a search commits them, and then the rest of the best; return the ranking.

    Args:
        told: is given the progress. streams: whether somebody listens meanwhile; if not, nothing is yielded,
            and nothing is either where a search commits nothing.

    Raises:
        EngineError: there was no ranking.
    """
    given = 0
    for one in news:
        if isinstance(one, Ranking):
            if given:
                yield one.judged[0].candidate.codes[given:]
            return one
        if told:
            told(one)
        if streams and one.committed:
            given += len(one.committed)
            yield one.committed
    raise EngineError("Searching: the strategy ended without a ranking. Correct the strategy.")


class Run:
    """A search under way: the one way to draw, to judge and to end, and what was spent."""

    def __init__(self, job: Job, means: Means, deadline_s: float | None) -> None:
        self.job, self.means = job, means
        self.total, self.count, self.tokens = 0, 0, 0
        self.drafts = dict[str, float]()
        self.best: float | None = None
        self.generate_s, self.judge_s, self._slowest_s = 0.0, 0.0, 0.0
        self._wave_began = self.means.clock()
        self._limit_s = math.inf if deadline_s is None else deadline_s

    @property
    def spent_s(self) -> float:
        """Seconds of drawing and judging; not those in which the caller handled what he was told."""
        return self.generate_s + self.judge_s

    def draw(self, asks: Sequence[tuple[Ids, SamplingParams]]) -> Drawing[list[Beams]]:
        """Return the generations of requests that share the engine; begins a wave."""
        self._wave_began = self.means.clock()
        requests: list[Request] = []
        try:
            for prompt, params in asks:
                requests.append(self.means.engine.submit(prompt, params))
            for step in chain.from_iterable(requests):
                self.tokens += len(step.ids)
                if step.finish is not None:
                    yield self.progress()
            results = [request.result() for request in requests]
            self.drafts = drafts_of(self.drafts, *(one.stats for one in chain.from_iterable(results)))
            return results
        finally:
            for request in requests:
                request.cancel()
            self.generate_s += self.means.clock() - self._wave_began

    def judge(self, judge: Judge, drawn: Beams, above: float | None = None) -> list[Judged]:
        """Return the verdicts of what was drawn, `above` a value only the best's is sure; ends a wave."""
        began, made = self.means.clock(), [self._candidate(one) for one in drawn]
        judged = judge.judge(made) if above is None else judge.choose(made, above)
        self.judge_s += self.means.clock() - began
        self._slowest_s = max(self._slowest_s, self.means.clock() - self._wave_began)
        return judged

    def _candidate(self, made: Generation) -> Candidate:
        mean = fmean(made.logprobs) if made.logprobs else None
        return Candidate(self.job.utterance, self.means.codes(made.ids), made.finish, mean)

    def late(self) -> bool:
        """Tell whether another wave would end after the deadline."""
        return self.spent_s + self._slowest_s > self._limit_s

    def progress(self, committed: Sequence[int] = ()) -> Progress:
        """Return how far it is, and the codes of ids that are committed with it."""
        return Progress(self.count, self.total, self.best, self.means.codes(list(committed)))

    def ranking(
        self, judged: Sequence[Judged], stop: str, pace: Mapping[str, float] | None = None
    ) -> Ranking:
        """Return how it ended; ScorerError if there is no verdict, unless all was heard already."""
        if not pace or self.means.held is None:
            need_verdict(judged)
        order = tuple(sorted(range(len(judged)), key=lambda i: place(judged[i])))
        ranked = tuple(judged[i] for i in order)
        spent = self.tokens, stop, self.generate_s, self.judge_s
        return Ranking(ranked, *spent, order, self.drafts, pace or dict[str, float]())


def _waves(run: Run, waves: Sequence[SamplingParams], target: float | None) -> Iterator[Progress | Ranking]:
    run.total = sum(params.n for params in waves)
    found, stop = list[Judged](), f"all {run.total} candidates were drawn"
    for params in waves:
        if found and run.late():
            stop = f"deadline: {len(found)} of {run.total} candidates were drawn"
            break
        (drawn,) = yield from run.draw([(run.job.prompt, params)])
        found += run.judge(run.means.judge, drawn, run.best or 0.0)
        run.count, run.best = len(found), best_of(found)
        yield run.progress()
        if len(missed(found[-max(params.n, 2) :])) > 1:  # one alone may be the fault of the candidate
            stop = f"no verdict: a scorer failed after {len(found)} of {run.total} candidates were drawn"
            break
        if target is not None and run.best is not None and run.best >= target:
            stop = f"target: a candidate reached {run.best:.3f}, {target:g} was asked"
            break
    yield run.ranking(found, stop)


def best_of(judged: Sequence[Judged]) -> float | None:
    """Return the highest value of those that were scored."""
    return max((one.score.value for one in judged if one.status == "scored" and one.score), default=None)


def place(judged: Judged) -> tuple[int, float, bool, bool]:
    """Return a key that sorts best first, and of the bad ones those with speech."""
    value, made = judged.score.value if judged.score else 0.0, judged.candidate
    status = ("scored", "outdone", "bad", "unjudged").index(judged.status)
    return status, -value, not made.codes, made.finish not in ("stop", "partial")


def missed(judged: Sequence[Judged]) -> list[str]:
    """Return why there are candidates without a verdict, if all but bad ones are."""
    known = any(one.status in ("scored", "outdone") for one in judged)
    return [] if known else [one.reason for one in judged if one.status == "unjudged"]


def need_verdict(judged: Sequence[Judged]) -> None:
    """Raise ScorerError if all but bad ones have no verdict."""
    if reasons := missed(judged):  # a bad one must not win by default
        found = f"none was scored, and {len(reasons)} got no verdict, the first for this reason: {reasons[0]}"
        raise ScorerError(f"Judging {len(judged)} candidates: {found} Mend or replace the scorer.")


def within(made: str, low: float, high: float, **numbers: float | None) -> None:
    """Raise ConfigError for a number that is out of range; None is not looked at."""
    for name, number in numbers.items():
        if number is not None and not low <= number <= high:
            raise ConfigError(f"Making {made}: {name} is {number}. Set it to one from {low:g} to {high:g}.")

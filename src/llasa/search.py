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
from llasa.errors import ConfigError, ScorerError
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
    """News of a search. total: candidates at most. best: value so far, None while there is none."""

    judged: int
    total: int
    best: float | None


@dataclass(frozen=True)
class Ranking:
    """How a search ended. generate_s, judge_s: spent.

    judged: final candidates, best first: scored by value, outdone, bad, unjudged; equal ones as drawn.
    tokens: ids drawn in all, dropped beams included. stop: why no more were. order: which of those drawn each
    of `judged` was, from 0. drafts: see `core.drafts_of`.
    """

    judged: tuple[Judged, ...]
    tokens: int
    stop: str
    generate_s: float
    judge_s: float
    order: tuple[int, ...] = ()
    drafts: Mapping[str, float] = field(default_factory=dict[str, float])

    @property
    def stats(self) -> dict[str, float]:
        """What drawing and judging took, in seconds and counts."""
        spent = {"tokens": self.tokens, "generate_s": self.generate_s, "judge_s": self.judge_s}
        return {**spent, **self.drafts}


@dataclass(frozen=True)
class Means:
    """What a search works with. codes: generated ids -> codes. codes_per_s: of the codec."""

    engine: Engine
    judge: Judge
    codes: Callable[[Ids], Codes]
    codes_per_s: float


class Search(Protocol):
    """A way to spend compute on one utterance."""

    def run(self, job: Job, means: Means, deadline_s: float | None = None) -> Iterator[Progress | Ranking]:
        """Yield progress and, last, the ranking.

        Progress comes whenever a candidate is drawn and whenever some were judged. Closing the iterator
        cancels what is in flight.

        Args:
            deadline_s: start nothing that would not end this many seconds from now, if it took as long as
                the slowest wave so far. The first wave always runs.

        Raises:
            EngineError: the engine failed. ScorerError: none was scored, because a scorer failed.
        """
        ...


@dataclass(frozen=True)
class Sample:
    """One candidate, judged."""

    def run(self, job: Job, means: Means, deadline_s: float | None = None) -> Iterator[Progress | Ranking]:
        """See `Search.run`; the deadline changes nothing."""
        return _waves(_Run(job, means, deadline_s), [replace(job.params, n=1)], None)


@dataclass(frozen=True)
class BestOfN:
    """N candidates, drawn and judged together (the paper's ORM). `BestOfN(1)` is `Sample`."""

    n: int

    def __post_init__(self) -> None:
        _within("BestOfN", 1, 10**6, n=self.n)

    def run(self, job: Job, means: Means, deadline_s: float | None = None) -> Iterator[Progress | Ranking]:
        """See `Search.run`; the deadline changes nothing: there is only one wave."""
        return _waves(_Run(job, means, deadline_s), [replace(job.params, n=self.n)], None)


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
        _within("Adaptive", 1, 10**6, n=self.n, wave=self.wave)
        _within("Adaptive", 0, 1, target=self.target)

    def run(self, job: Job, means: Means, deadline_s: float | None = None) -> Iterator[Progress | Ranking]:
        """See `Search.run`."""
        waves = [
            replace(job.params, first=job.params.first + start, n=min(self.wave, self.n - start))
            for start in range(0, self.n, self.wave)
        ]
        return _waves(_Run(job, means, deadline_s), waves, self.target)


@dataclass(frozen=True)
class Fallback:
    """One candidate at each temperature until one is good enough; the best of those drawn wins.

    temperatures: 0 or above, in order, instead of the job's. target: value in [0, 1]; None climbs to the end.

    Source: Whisper, arXiv 2212.04356, section 4.5, which keeps the last one; its tests are the judge's here.
    """

    temperatures: tuple[float, ...] = (0.4, 0.6, 0.8, 1.0)
    target: float | None = 0.5

    def __post_init__(self) -> None:
        _within("Fallback", 1, 10**6, number_of_temperatures=len(self.temperatures))
        _within("Fallback", 0, 10**6, **{f"temperatures[{i}]": t for i, t in enumerate(self.temperatures)})
        _within("Fallback", 0, 1, target=self.target)

    def run(self, job: Job, means: Means, deadline_s: float | None = None) -> Iterator[Progress | Ranking]:
        """See `Search.run`; a wave is one candidate."""
        waves = [
            replace(job.params, temperature=temperature, first=number, n=1)
            for number, temperature in enumerate(self.temperatures, job.params.first)
        ]
        return _waves(_Run(job, means, deadline_s), waves, self.target)


@dataclass(frozen=True)
class BeamSearch:
    """Keeps the best beginnings (the paper's PRM).

    Every `step_s` of speech each beam is continued `branch` times (at first width * branch are drawn) and
    `process` judges: the best `width` that go on stay. Those that end leave, as `process` may not hear that
    they ended too soon; the judge of the run judges the best `width` of each step last. until_s: then each
    live beam is completed once; None: all go on to an end. Let `process` hear loops: no engine sees them all.

    Source: Llasa, arXiv 2502.04128, section 3.4: a decision every 25 codes (0.5 s), width 16, branch 16.
    """

    width: int
    branch: int
    step_s: float = 0.5
    until_s: float | None = None
    process: Judge = field(kw_only=True)

    def __post_init__(self) -> None:
        _within("BeamSearch", 1, 10**6, width=self.width, branch=self.branch)
        _within("BeamSearch", 0.001, 10**6, step_s=self.step_s, until_s=self.until_s)
        if not self.process.partial:
            parts = [p.name for p in self.process.rubric.parts if not (p.held_out or p.scorer.partial)]
            found = f"{', '.join(map(repr, parts))} cannot judge partial audio"
            raise ConfigError(f"Making BeamSearch: {found}. Give a `process` judge without, or use BestOfN.")

    def run(self, job: Job, means: Means, deadline_s: float | None = None) -> Iterator[Progress | Ranking]:
        """See `Search.run`; a wave is one step. If none ended by the deadline, the best beam is completed."""
        return _beams(_Run(job, means, deadline_s), self, None)


@dataclass(frozen=True)
class Hybrid:
    """Beams for the beginning, best of N for the rest (the paper's partial PRM and ORM).

    first: with `until_s`. then: its n are spread evenly over the live beams; if all ended, they start anew.

    Source: Llasa, arXiv 2502.04128, section 3.4: similarity for the first 2 s, then word errors.
    """

    first: BeamSearch
    then: BestOfN

    def __post_init__(self) -> None:
        if self.first.until_s is None:
            raise ConfigError("Making Hybrid: first.until_s is None. Set it, such as to 2.0.")

    def run(self, job: Job, means: Means, deadline_s: float | None = None) -> Iterator[Progress | Ranking]:
        """See `BeamSearch.run`; leavers are candidates too. At the deadline the best beam is completed."""
        return _beams(_Run(job, means, deadline_s), self.first, self.then.n)


def search_for(effort: int, target: float | None = None, waves: bool = False) -> Search:
    """Return the strategy that judges up to `effort` candidates, in waves of 4 if it may have to end early.

    Args:
        effort: 1 is `Sample`. target: value that is good enough. waves: there will be a deadline.

    Raises:
        ConfigError: effort is below 1, or the target is not in [0, 1].
    """
    _within("a search", 1, 10**6, effort=effort)
    if effort == 1:
        return Sample()
    if target is None and not waves:
        return BestOfN(effort)
    return Adaptive(effort, min(4, effort), target)


class _Run:
    """A search under way: the one way to draw, to judge and to end, and what was spent."""

    def __init__(self, job: Job, means: Means, deadline_s: float | None) -> None:
        self.job, self.means = job, means
        self.total, self.count, self.tokens = 0, 0, 0
        self.drafts = dict[str, float]()
        self.best: float | None = None
        self.generate_s, self.judge_s, self._slowest_s = 0.0, 0.0, 0.0
        self._wave_began = time.perf_counter()
        self._end = self._wave_began + (math.inf if deadline_s is None else deadline_s)

    def draw(self, asks: Sequence[tuple[Ids, SamplingParams]]) -> Drawing[list[Beams]]:
        """Return the generations of requests that share the engine; begins a wave."""
        self._wave_began = time.perf_counter()
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
            self.generate_s += time.perf_counter() - self._wave_began

    def judge(self, judge: Judge, drawn: Beams, above: float | None = None) -> list[Judged]:
        """Return the verdicts of what was drawn, `above` a value only the best's is sure; ends a wave."""
        began, made = time.perf_counter(), [self._candidate(one) for one in drawn]
        judged = judge.judge(made) if above is None else judge.choose(made, above)
        self.judge_s += time.perf_counter() - began
        self._slowest_s = max(self._slowest_s, time.perf_counter() - self._wave_began)
        return judged

    def _candidate(self, made: Generation) -> Candidate:
        mean = fmean(made.logprobs) if made.logprobs else None
        return Candidate(self.job.utterance, self.means.codes(made.ids), made.finish, mean)

    def late(self) -> bool:
        """Tell whether another wave would end after the deadline."""
        return time.perf_counter() + self._slowest_s > self._end

    def progress(self) -> Progress:
        return Progress(self.count, self.total, self.best)

    def ranking(self, judged: Sequence[Judged], stop: str) -> Ranking:
        _need_verdict(judged)
        order = tuple(sorted(range(len(judged)), key=lambda i: place(judged[i])))
        ranked = tuple(judged[i] for i in order)
        return Ranking(ranked, self.tokens, stop, self.generate_s, self.judge_s, order, self.drafts)


def _waves(run: _Run, waves: Sequence[SamplingParams], target: float | None) -> Iterator[Progress | Ranking]:
    run.total = sum(params.n for params in waves)
    found, stop = list[Judged](), f"all {run.total} candidates were drawn"
    for params in waves:
        if found and run.late():
            stop = f"deadline: {len(found)} of {run.total} candidates were drawn"
            break
        (drawn,) = yield from run.draw([(run.job.prompt, params)])
        found += run.judge(run.means.judge, drawn, run.best or 0.0)
        run.count, run.best = len(found), _best(found)
        yield run.progress()
        if len(_missed(found[-max(params.n, 2) :])) > 1:  # one alone may be the fault of the candidate
            stop = f"no verdict: a scorer failed after {len(found)} of {run.total} candidates were drawn"
            break
        if target is not None and run.best is not None and run.best >= target:
            stop = f"target: a candidate reached {run.best:.3f}, {target:g} was asked"
            break
    yield run.ranking(found, stop)


def _beams(run: _Run, search: BeamSearch, n: int | None) -> Iterator[Progress | Ranking]:
    """Grow beams, complete those still live by n candidates in all (None: one each), judge and rank."""
    codes_per_s, longest = run.means.codes_per_s, run.job.params.max_tokens
    step = max(1, round(search.step_s * codes_per_s))
    limit = longest if search.until_s is None else min(longest, max(1, round(search.until_s * codes_per_s)))
    run.total = math.ceil(limit / step) * search.width * search.branch + (n or search.width)
    live, ended = yield from _grow(run, search, limit, step)
    length, wanted, stop = len(live[0].ids) if live else 0, n or len(live), "all beams ended"
    if live:
        stop = f"beams were completed after {length / codes_per_s:.1f} s"
    elif n:  # what is left of the last beams is their end: only a fresh start gives others
        live, stop = [Generation([], "partial")], "all beams ended and others were drawn from the start"
    if live and run.late():
        stop = f"deadline: beams were {length / codes_per_s:.1f} s long"
        wanted = 0 if n is None and any(beam.finish == "stop" for beam in ended) else 1
    used = min(wanted, len(live))
    shares = [wanted // used + (i < wanted % used) for i in range(used)]
    skip = search.width * search.branch  # with their numbers, beams that ended would end again
    completed = yield from _continued(run, live[:used], shares, longest - length, skip)
    judged = run.judge(run.means.judge, _distinct([*ended, *completed]), 0.0)
    run.count, run.best = run.count + len(completed), _best(judged)
    yield run.progress()
    yield run.ranking(judged, stop)


def _grow(run: _Run, search: BeamSearch, limit: int, step: int) -> Drawing[tuple[Beams, Beams]]:
    """Return the beams still live after `limit` codes, best first, and those that ended and may be judged."""
    live, ended = [Generation([], "partial")], list[Generation]()
    for length in range(0, limit, step):
        if not live or (length and run.late()):
            break
        shares = [search.branch if length else search.width * search.branch] * len(live)
        fresh = _distinct((yield from _continued(run, live, shares, min(step, limit - length))))
        judged = run.judge(search.process, fresh)
        if _missed(judged) and any(beam.finish == "stop" for beam in ended):
            break  # the judge of the run may know better, and there is something for it
        _need_verdict(judged)
        order = [fresh[i] for i in sorted(range(len(fresh)), key=lambda i: place(judged[i]))]
        live = [beam for beam in order if beam.finish == "partial"][: search.width]
        ended += [beam for beam in order if beam.finish != "partial"][: search.width]
        run.count, run.best = run.count + sum(shares), _best(judged)
        yield run.progress()
    return live, ended


def _continued(run: _Run, beams: Beams, shares: list[int], length: int, skip: int = 0) -> Drawing[Beams]:
    """Return `shares` continuations of each beam by at most `length` ids, without the first `skip`."""
    params, asks, first = run.job.params, list[tuple[Ids, SamplingParams]](), run.job.params.first + skip
    for beam, share in zip(beams, shares, strict=True):
        least = min(max(params.min_tokens - len(beam.ids), 0), length)
        changed = replace(params, n=share, first=first, min_tokens=least, max_tokens=length)
        asks.append((run.job.prompt + beam.ids, changed))
        first += share
    drawn = yield from run.draw(asks)
    pairs = [(beam, more) for beam, made in zip(beams, drawn, strict=True) for more in made]
    return [_joined(beam, more, length, params.max_tokens) for beam, more in pairs]


def _joined(beam: Generation, more: Generation, length: int, longest: int) -> Generation:
    ids, logprobs = beam.ids + more.ids, [*(beam.logprobs or ()), *(more.logprobs or ())]
    # An engine that had no room for the whole step has truly ended.
    paused = more.finish == "length" and len(more.ids) == length and len(ids) < longest
    return Generation(ids, "partial" if paused else more.finish, logprobs)


def _distinct(beams: Beams) -> Beams:
    """Return the beams without repeated ones."""
    return list({(tuple(beam.ids), beam.finish): beam for beam in beams}.values())


def _best(judged: Sequence[Judged]) -> float | None:
    return max((one.score.value for one in judged if one.status == "scored" and one.score), default=None)


def place(judged: Judged) -> tuple[int, float, bool, bool]:
    """Return a key that sorts best first, and of the bad ones those with speech."""
    value, made = judged.score.value if judged.score else 0.0, judged.candidate
    status = ("scored", "outdone", "bad", "unjudged").index(judged.status)
    return status, -value, not made.codes, made.finish not in ("stop", "partial")


def _missed(judged: Sequence[Judged]) -> list[str]:
    """Return why there are candidates without a verdict, if all but bad ones are."""
    known = any(one.status in ("scored", "outdone") for one in judged)
    return [] if known else [one.reason for one in judged if one.status == "unjudged"]


def _need_verdict(judged: Sequence[Judged]) -> None:
    if missed := _missed(judged):  # a bad one must not win by default
        found = f"none was scored, and {len(missed)} got no verdict, the first for this reason: {missed[0]}"
        raise ScorerError(f"Judging {len(judged)} candidates: {found} Mend or replace the scorer.")


def _within(made: str, low: float, high: float, **numbers: float | None) -> None:
    for name, number in numbers.items():
        if number is not None and not low <= number <= high:
            raise ConfigError(f"Making {made}: {name} is {number}. Set it to one from {low:g} to {high:g}.")

"""Searches that judge beginnings: beams, which grow step by step.

Must not know: text, markers, codecs, files.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from llasa.core import Generation, Ids, SamplingParams
from llasa.engines.sampling import LoopGuard, LoopWatch
from llasa.errors import ConfigError
from llasa.judge import Judge
from llasa.search import (
    Beams,
    BestOfN,
    Drawing,
    Job,
    Means,
    Progress,
    Ranking,
    Run,
    best_of,
    missed,
    need_verdict,
    place,
    within,
)

BLOCK_S, AHEAD_S = 0.8, 0.8
HEADROOM = 1.7  # a block is to be decided so much sooner than it must: it is to be decoded too
_Rated = tuple[tuple[int, float, bool, bool], Generation]  # a beam after its `search.place`
_UNJUDGED = 0, 0.0, False, False


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
        within("BeamSearch", 1, 10**6, width=self.width, branch=self.branch)
        within("BeamSearch", 0.001, 10**6, step_s=self.step_s, until_s=self.until_s)
        _judges_beginnings("BeamSearch", self.process)

    def run(self, job: Job, means: Means, deadline_s: float | None = None) -> Iterator[Progress | Ranking]:
        """See `Search.run`; a wave is one step. If none ended by the deadline, the best beam is completed."""
        return _beams(Run(job, means, deadline_s), self, None)


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
        return _beams(Run(job, means, deadline_s), self.first, self.then.n)


@dataclass(frozen=True)
class Committed:
    """Beams whose beginning is given out while they grow: a search that is heard before its end.

    Every `block_s` of speech the best `width` beams are continued, n candidates in all, and `process` ranks
    them together with those that have ended. What the best one has, but for its last `ahead_s`, is committed:
    told with the progress and never withdrawn. What disagrees with it is dropped. Let `process` hear words:
    it decides whether to end or to go on. The judge of the run ranks what has ended in agreement with all
    that was committed.

    A block that might be decided later than the one before has been played gets fewer candidates, down to
    one, which nobody judges; so do all after a deadline. pace: `blocks`, `blocks_hurried` for lack of time,
    `blocks_unsure` where none passed, and `block_s`, the slowest.
    """

    n: int
    width: int = 4
    block_s: float = BLOCK_S
    ahead_s: float = AHEAD_S
    process: Judge = field(kw_only=True)

    def __post_init__(self) -> None:
        within("Committed", 1, 10**6, n=self.n, width=self.width)
        within("Committed", 0.001, 10**6, block_s=self.block_s)
        within("Committed", 0, 10**6, ahead_s=self.ahead_s)
        _judges_beginnings("Committed", self.process)

    def run(self, job: Job, means: Means, deadline_s: float | None = None) -> Iterator[Progress | Ranking]:
        """See `Search.run`; a wave is one block. After the deadline the best beam goes on alone."""
        return _commits(Run(job, means, deadline_s), self)


def _judges_beginnings(made: str, process: Judge) -> None:
    if not process.partial:
        parts = [part.name for part in process.rubric.parts if not (part.held_out or part.scorer.partial)]
        found = f"{', '.join(map(repr, parts))} cannot judge partial audio"
        raise ConfigError(f"Making {made}: {found}. Give a `process` judge without, or use BestOfN.")


def _beams(run: Run, search: BeamSearch, n: int | None) -> Iterator[Progress | Ranking]:
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
    skip = search.width * search.branch  # with their numbers, beams that ended would end again
    completed = yield from _continued(run, live, _shares(wanted, len(live)), longest - length, skip)
    judged = run.judge(run.means.judge, _distinct([*ended, *completed]), 0.0)
    run.count, run.best = run.count + len(completed), best_of(judged)
    yield run.progress()
    yield run.ranking(judged, stop)


def _grow(run: Run, search: BeamSearch, limit: int, step: int) -> Drawing[tuple[Beams, Beams]]:
    """Return the beams still live after `limit` codes, best first, and those that ended and may be judged."""
    live, ended = [Generation([], "partial")], list[Generation]()
    for length in range(0, limit, step):
        if not live or (length and run.late()):
            break
        shares = [search.branch if length else search.width * search.branch] * len(live)
        fresh = _distinct((yield from _continued(run, live, shares, min(step, limit - length))))
        judged = run.judge(search.process, fresh)
        if missed(judged) and any(beam.finish == "stop" for beam in ended):
            break  # the judge of the run may know better, and there is something for it
        need_verdict(judged)
        order = [fresh[i] for i in sorted(range(len(fresh)), key=lambda i: place(judged[i]))]
        live = [beam for beam in order if beam.finish == "partial"][: search.width]
        ended += [beam for beam in order if beam.finish != "partial"][: search.width]
        run.count, run.best = run.count + sum(shares), best_of(judged)
        yield run.progress()
    return live, ended


def _commits(run: Run, search: Committed) -> Iterator[Progress | Ranking]:
    """Grow beams and commit what the best one began with, until none is live; judge and rank."""
    rate, longest = run.means.codes_per_s, run.job.params.max_tokens
    step, ahead = max(1, round(search.block_s * rate)), round(search.ahead_s * rate)
    run.total = math.ceil(longest / step) * search.n
    pace, fixed = _Pace(run, search.n), Ids()
    live, ended = [Generation([], "partial")], list[_Rated]()
    while live:
        length, shares = len(live[0].ids), _shares(pace.candidates(len(fixed)), len(live))
        more = yield from _continued(run, live, shares, min(step, longest - length))
        drawn = _distinct([_cut(beam, len(fixed)) for beam in more] if run.job.params.loop_guard else more)
        alone = len(drawn) == 1 and not ended  # whatever is said of it, it goes on
        fresh = [(_UNJUDGED, drawn[0])] if alone else _rated(run, search.process, drawn, bool(fixed))
        rated = sorted([*ended, *fresh], key=lambda row: row[0])
        best, told = rated[0][1], len(fixed)
        fixed = best.ids[: max(length + step - ahead, told)]
        rated = [row for row in rated if row[1].ids[: len(fixed)] == fixed]
        ended = [row for row in rated if row[1].finish != "partial"][: search.width]
        live = [beam for _, beam in rated if beam.finish == "partial"][: search.width]
        if best.finish != "partial" and best.ids == fixed:
            live = []
        if not live and len(ended) == 1:
            fixed = ended[0][1].ids
        pace.decided(sum(shares), len(fixed), sure=rated[0][0][0] == 0)
        yield run.progress(fixed[told:])
    judged = run.judge(run.means.judge, [beam for _, beam in ended], 0.0)
    run.best = best_of(judged)
    yield run.progress()
    yield run.ranking(judged, pace.stop(), pace.told)


def _cut(beam: Generation, committed: int) -> Generation:
    """Return a beam that goes round in circles as an engine that had drawn all of it would have ended it."""
    watch = LoopWatch(LoopGuard())
    for end, token_id in enumerate(beam.ids, 1):
        if turns := watch.push(token_id):
            end = max(end - turns, committed)
            return Generation(beam.ids[:end], "loop", beam.logprobs and beam.logprobs[:end])
    return beam


def _rated(run: Run, process: Judge, drawn: Beams, begun: bool) -> list[_Rated]:
    """Return beams with their place; begun: something is committed, so it goes on even if the judge fails."""
    judged = run.judge(process, drawn)
    if not begun:
        need_verdict(judged)
    run.best = best_of(judged)
    return [(place(verdict), beam) for verdict, beam in zip(judged, drawn, strict=True)]


class _Pace:
    """Whether blocks are decided while those before are played, and how many candidates the next may have."""

    def __init__(self, run: Run, n: int) -> None:
        self._run, self._n = run, n
        # took_s: the last block of so many candidates. first: codes committed when sound began, at since_s.
        self._took_s, self._spent_s, self._late = dict[int, float](), 0.0, False
        self._first, self._since_s = 0, 0.0
        self.told = {"blocks": 0.0, "blocks_hurried": 0.0, "blocks_unsure": 0.0, "block_s": 0.0}

    def candidates(self, fixed: int) -> int:
        """Return how many the next block may have, `fixed` codes being committed."""
        self._late = self._late or (bool(self._took_s) and self._run.late())
        if self._late:
            return 1
        held = self._run.means.held
        if not self._first or held is None:
            return self._n
        early, later = held
        heard_s = max(fixed - later, self._first - early) / self._run.means.codes_per_s
        left_s = heard_s / HEADROOM - (self._run.spent_s - self._since_s)
        known = sorted(self._took_s)
        takes_s = np.interp(range(2, self._n + 1), known, [self._took_s[n] for n in known])
        return 1 + int((takes_s <= left_s).sum())

    def decided(self, count: int, fixed: int, sure: bool) -> None:
        """Note a block of `count` candidates, after which `fixed` codes are committed."""
        took_s, self._spent_s = self._run.spent_s - self._spent_s, self._run.spent_s
        self._took_s[count] = took_s
        held = self._run.means.held
        if held is not None and fixed > held[0] and not self._first:
            self._first, self._since_s = fixed, self._spent_s
        self._run.count += count
        self.told["blocks"] += 1
        self.told["blocks_hurried"] += count < self._n
        self.told["blocks_unsure"] += not sure
        self.told["block_s"] = max(self.told["block_s"], took_s)

    def stop(self) -> str:
        """Return how the search ended, in words."""
        blocks, hurried, unsure = (int(self.told[f"blocks{kind}"]) for kind in ("", "_hurried", "_unsure"))
        found = f"all beams ended; committed in {blocks} blocks"
        found += f", {hurried} of them hurried" if hurried else ""
        found += f", {unsure} unsure" if unsure else ""
        return f"deadline: {found}" if self._late else found


def _shares(n: int, beams: int) -> list[int]:
    """Return how many of n continuations each of the first beams gets, as evenly as can be."""
    used = min(n, beams)
    return [n // used + (i < n % used) for i in range(used)]


def _continued(run: Run, beams: Beams, shares: list[int], length: int, skip: int = 0) -> Drawing[Beams]:
    """Return `shares` continuations of the first beams by at most `length` ids, without the first `skip`."""
    params, asks, first = run.job.params, list[tuple[Ids, SamplingParams]](), run.job.params.first + skip
    beams = beams[: len(shares)]
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

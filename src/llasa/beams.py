"""Searches that judge beginnings: beams, which grow step by step.

Must not know: text, markers, codecs, files.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from llasa.core import Generation, Ids, SamplingParams
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
        if not self.process.partial:
            parts = [p.name for p in self.process.rubric.parts if not (p.held_out or p.scorer.partial)]
            found = f"{', '.join(map(repr, parts))} cannot judge partial audio"
            raise ConfigError(f"Making BeamSearch: {found}. Give a `process` judge without, or use BestOfN.")

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
    used = min(wanted, len(live))
    shares = [wanted // used + (i < wanted % used) for i in range(used)]
    skip = search.width * search.branch  # with their numbers, beams that ended would end again
    completed = yield from _continued(run, live[:used], shares, longest - length, skip)
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


def _continued(run: Run, beams: Beams, shares: list[int], length: int, skip: int = 0) -> Drawing[Beams]:
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

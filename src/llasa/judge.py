"""The one way a candidate gets a score: search, reward and evaluation all come here.

Decodes once, runs cheap scorers before dear ones, rules candidates out on the way and combines what the parts
say. Where only the best is wanted, dear scorers are spared those that cannot be it.
Must not know: where candidates come from, what is done with the verdict.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from llasa import config
from llasa.codec.base import Codec
from llasa.core import Candidate, Codes, Judged, Score
from llasa.errors import ConfigError, ScorerError
from llasa.scorers.asked import answers
from llasa.scorers.base import CODES, SMALL_MODEL, Parts, Scorer, check_scorer, load_scorer

Combine = Literal["harmonic", "mean", "min"]
Decode = Callable[[Sequence[Candidate]], list[Candidate]]


@dataclass(frozen=True)
class Part:
    """A scorer's place in a rubric.

    weight: among the graded parts, above 0. gate: its value multiplies the result instead. held_out: it is
    reported and never steers. floor: a value below it rules the candidate out before dearer parts run.
    label: what measures call the part, for a second one of the same scorer.
    """

    scorer: Scorer
    weight: float = 1.0
    gate: bool = False
    held_out: bool = False
    floor: float | None = None
    label: str | None = None

    @property
    def name(self) -> str:
        """What measures call the part."""
        return self.label or self.scorer.name

    def measures(self, score: Score) -> dict[str, float]:
        """Return what the part measured, told apart from other parts."""
        own = {f"{self.label}.{key}" if self.label else key: value for key, value in score.measures.items()}
        return {**own, f"{self.name}.value": score.value}


@dataclass
class _Verdict:
    """What is known of a candidate so far. values: by part number."""

    candidate: Candidate
    values: dict[int, float]
    measures: dict[str, float]
    notes: list[str]
    ruled_out: str = ""
    failed: str = ""
    outdone: str = ""

    @property
    def open(self) -> bool:
        return not (self.ruled_out or self.failed or self.outdone)


class Rubric:
    """Weighs scorers: the product of the gates times the combined graded parts. Is a scorer itself.

    measures hold every part's own and `NAME.value` for each part that ran.
    """

    name: str = "rubric"

    def __init__(self, parts: Sequence[Part], combine: Combine = "harmonic") -> None:
        """Take the parts.

        Args:
            combine: of the graded parts: weighted harmonic mean (one bad part dominates), weighted mean, or
                the smallest value, weights aside.

        Raises:
            ConfigError: no part steers, two have one name, a weight or floor is out of range, a scorer lacks
                what a `Scorer` has, or a held-out recogniser steers as well.
        """
        steering = [part for part in parts if not part.held_out]
        _check(parts, steering)
        self.parts = tuple(parts)
        self.combine: Combine = combine
        self.partial = all(part.scorer.partial for part in steering)
        self.cost = max(part.scorer.cost for part in steering)

    def score(self, candidates: Sequence[Candidate]) -> list[Score]:
        """See `Scorer.score`; a candidate that was ruled out has value 0, and the note says why."""
        graded = self.grade(candidates)
        for one in graded:
            if one.score is None:
                raise ScorerError(one.reason)
        return [one.score for one in graded if one.score is not None]

    def grade(
        self,
        candidates: Sequence[Candidate],
        decode: Decode | None = None,
        held_out: bool = True,
        above: float | None = None,
    ) -> list[Judged]:
        """Return a verdict for each candidate.

        Args:
            decode: gives candidates their audio where they have none; called with those that a part is about
                to listen to. None: all have it.
            held_out: whether to run the held-out parts too.
            above: a value to reach: only the best of those that reach it must be found, and no part is run
                for a candidate that cannot be it any more. None: every part judges every candidate.
        """
        verdicts = [_Verdict(candidate, {}, {}, []) for candidate in candidates]
        order = sorted(range(len(self.parts)), key=lambda i: self.parts[i].scorer.cost)
        steering = [i for i in order if not self.parts[i].held_out]
        if above is not None:
            self._race(steering, verdicts, decode, above)
        reported = [i for i in order if self.parts[i].held_out and held_out]
        for number in reported if above is not None else [*steering, *reported]:
            self._run(number, [verdict for verdict in verdicts if verdict.open], decode)
        return [self._judged(verdict) for verdict in verdicts]

    def _race(
        self, order: Sequence[int], verdicts: Sequence[_Verdict], decode: Decode | None, above: float
    ) -> None:
        """Run parts until the best is known, a model's for the most promising first.

        Each call of a model takes twice as many as the one before, and all with the best promise: no value
        of theirs could spare them.
        """
        calls = Counter[int]()
        while waiting := self._waiting(order, verdicts, above):
            best_promise, leader = waiting[0]
            number = _first(order, leader)
            rows = [row for row in waiting if _first(order, row[1]) == number]
            size = 2 ** calls[number] if self.parts[number].scorer.cost >= SMALL_MODEL else len(rows)
            group = [one for place, (most, one) in enumerate(rows) if place < size or most == best_promise]
            self._run(number, group, decode)
            # A service that is down shall not be waited for in small groups.
            calls[number] += len(verdicts) if any(one.failed for one in group) else 1

    def _waiting(
        self, order: Sequence[int], verdicts: Sequence[_Verdict], above: float
    ) -> list[tuple[float, _Verdict]]:
        """Return who may yet be the best and the most each can reach, highest first; close the others."""
        rows = [(self.total(verdict.values), verdict) for verdict in verdicts if verdict.open]
        known = [most for most, verdict in rows if len(verdict.values) == len(order)]
        best = max([above, *known])
        waiting: list[tuple[float, _Verdict]] = []
        for most, verdict in rows:
            if missing := [self.parts[i].name for i in order if i not in verdict.values]:
                if most >= best:
                    waiting.append((most, verdict))
                else:
                    verdict.outdone = f"cannot be the best: {most:.3f} at most; not run: {', '.join(missing)}"
        return sorted(waiting, key=lambda row: -row[0])

    def _run(self, number: int, live: Sequence[_Verdict], decode: Decode | None) -> None:
        part = self.parts[number]
        if decode and part.scorer.cost > CODES:
            heard = decode([verdict.candidate for verdict in live])
            for verdict, candidate in zip(live, heard, strict=True):
                verdict.candidate = candidate
        scores = answers(part.scorer, [verdict.candidate for verdict in live])
        for verdict, score in zip(live, scores, strict=True):
            if isinstance(score, str):
                self._miss(part, verdict, score)
                continue
            verdict.values[number] = score.value
            verdict.measures |= part.measures(score)
            verdict.notes += [score.note] if score.note else []
            if part.floor is not None and not part.held_out and score.value < part.floor:
                verdict.ruled_out = f"ruled out by {part.name}: {score.value:.2f} is below {part.floor:g}"

    @staticmethod
    def _miss(part: Part, verdict: _Verdict, reason: str) -> None:
        if part.held_out:  # it never steers, not even by failing
            verdict.notes.append(reason)
        else:
            verdict.failed = reason

    def _judged(self, verdict: _Verdict) -> Judged:
        if verdict.failed:
            return Judged(verdict.candidate, None, "unjudged", verdict.failed)
        if verdict.ruled_out:
            score = Score(0.0, verdict.measures, verdict.ruled_out)
            return Judged(verdict.candidate, score, "bad", verdict.ruled_out)
        if verdict.outdone:
            score = Score(self.total(verdict.values), verdict.measures, verdict.outdone)
            return Judged(verdict.candidate, score, "outdone", verdict.outdone)
        score = Score(self.total(verdict.values), verdict.measures, " ".join(verdict.notes))
        return Judged(verdict.candidate, score)

    def total(self, values: Mapping[int, float]) -> float:
        """Return the value of a candidate from the values of its steering parts, by part number.

        Where some are not known yet: the most that it can come to, exactly, for it rises with each of them.
        """
        steering = [(values.get(i, 1.0), part) for i, part in enumerate(self.parts) if not part.held_out]
        gates = [value for value, part in steering if part.gate]
        graded = [(value, part.weight) for value, part in steering if not part.gate]
        return math.prod(gates) * (combined(graded, self.combine) if graded else 1.0)


class Judge:
    """Codec, scorer and policy: candidates in, verdicts out, same order and number."""

    def __init__(
        self,
        codec: Codec,
        scorer: Scorer,
        *,
        empty: float = 0.0,
        truncated: float = 0.0,
        cascade: bool = True,
    ) -> None:
        """Take what verdicts are made of.

        Args:
            scorer: a `Rubric`, or any scorer, which is then a rubric of one part.
            empty: declared value of a candidate without codes. truncated: of one cut by the length limit or
                by the loop guard, cancelled or pruned. In [0, 1].
            cascade: whether `choose` spares the dear parts what cannot win.
        """
        self.codec, self.empty, self.truncated, self.cascade = codec, empty, truncated, cascade
        self.rubric = scorer if isinstance(scorer, Rubric) else Rubric([Part(scorer)])
        self.partial = self.rubric.partial

    def of_beginnings(self) -> "Judge":
        """Return a judge of unfinished candidates: the same policy over those steering parts that can.

        Raises:
            ConfigError: none can.
        """
        able = [part for part in self.rubric.parts if part.scorer.partial and not part.held_out]
        if not able:
            parts = ", ".join(repr(part.name) for part in self.rubric.parts if not part.held_out)
            found = f"{parts} cannot judge partial audio"
            raise ConfigError(f"Judging beginnings: {found}. Add a part that can, or a [process] judge.")
        rubric = Rubric(able, self.rubric.combine)
        policy = {"empty": self.empty, "truncated": self.truncated}
        return Judge(self.codec, rubric, **policy, cascade=self.cascade)

    def judge(self, candidates: Sequence[Candidate], held_out: bool = False) -> list[Judged]:
        """Return one verdict a candidate, with its sound where it was decoded.

        Args:
            held_out: run the held-out parts too: for results that are reported.
        """
        return self._verdicts(candidates, held_out, None)

    def choose(self, candidates: Sequence[Candidate], above: float = 0.0) -> list[Judged]:
        """Return verdicts among which the best is the one that `judge` finds, for less.

        Parts run for the most promising first. A candidate that could not reach the best, were all other
        parts to give it 1, is `outdone`; the reason says what was not run. Without `cascade`, as `judge`.

        Args:
            above: the best value so far: those that cannot reach it are not wanted either.
        """
        return self._verdicts(candidates, False, above if self.cascade else None)

    def _verdicts(self, candidates: Sequence[Candidate], held_out: bool, above: float | None) -> list[Judged]:
        verdicts = {i: bad for i, one in enumerate(candidates) if (bad := self._unspeakable(one))}
        rest = [i for i in range(len(candidates)) if i not in verdicts]
        graded = self.rubric.grade([candidates[i] for i in rest], self.decode, held_out, above)
        verdicts |= dict(zip(rest, graded, strict=True))
        return [verdicts[i] for i in range(len(candidates))]

    def _unspeakable(self, candidate: Candidate) -> Judged | None:
        if not candidate.codes:
            return _declared(candidate, self.empty, f"no codes ({candidate.finish})")
        if candidate.finish not in ("stop", "partial"):
            return _declared(candidate, self.truncated, f"did not end by itself ({candidate.finish})")
        return None

    def decode(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Return candidates with their sound, those that have none yet decoded in one batch a voice.

        One without codes stays without sound.
        """
        silent = [candidate for candidate in candidates if candidate.audio is None and candidate.codes]
        heard: dict[int, Candidate] = {}
        for context, group in _by_voice(silent):
            sounds = self.codec.decode([candidate.codes for candidate in group], context)
            for candidate, audio in zip(group, sounds, strict=True):
                heard[id(candidate)] = replace(candidate, audio=audio)
        return [heard.get(id(candidate), candidate) for candidate in candidates]


def combined(graded: Sequence[tuple[float, float]], combine: Combine) -> float:
    """Return the weighted harmonic mean, weighted mean or minimum of (value, weight) pairs, at least one."""
    if combine == "min":
        return min(value for value, _ in graded)
    weights = sum(weight for _, weight in graded)
    if combine == "mean":
        return sum(value * weight for value, weight in graded) / weights
    if any(value == 0 for value, _ in graded):
        return 0.0
    return weights / sum(weight / value for value, weight in graded)


class PartBlock(BaseModel):
    """One [[judge.scorers]] table; further keys are the scorer's own options."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)
    name: str
    weight: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    gate: bool = False
    held_out: bool = False
    floor: Annotated[float | None, Field(ge=0, le=1)] = None
    label: str | None = None


class JudgeBlock(BaseModel):
    """A [judge] table. cascade: whether a search spares dear scorers what cannot win; see `Judge.choose`."""

    model_config = config.STRICT
    combine: Combine = "harmonic"
    empty: Annotated[float, Field(ge=0, le=1)] = 0.0
    truncated: Annotated[float, Field(ge=0, le=1)] = 0.0
    cascade: bool = True
    scorers: list[PartBlock] = Field(min_length=1)


def build_judge(block: JudgeBlock, parts: Parts) -> Judge:
    """Return the judge that a [judge] table describes.

    Raises:
        ConfigError: an unknown scorer or option, or parts that do not fit together.
        MissingExtra, BundleError: what a scorer needs is missing or damaged.
    """
    rubric = Rubric([_part(one, parts) for one in block.scorers], block.combine)
    return Judge(parts.codec, rubric, empty=block.empty, truncated=block.truncated, cascade=block.cascade)


def _part(block: PartBlock, parts: Parts) -> Part:
    options: Mapping[str, Any] = block.model_extra or {}
    scorer = load_scorer(block.name, options, parts)
    return Part(scorer, block.weight, block.gate, block.held_out, block.floor, block.label)


def _check(parts: Sequence[Part], steering: Sequence[Part]) -> None:
    doing = "Making a rubric"
    if not steering:
        raise ConfigError(f"{doing}: found no part that steers. Add a scorer that is not held out.")
    for part in parts:
        check_scorer(part.scorer, doing)
    names = [part.name for part in parts]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"{doing}: found two parts called '{twice[0]}'. Give one of them a `label`.")
    for part in parts:
        if not 0 < part.weight < math.inf:
            raise ConfigError(f"{doing}: '{part.name}' has weight {part.weight}. Use one above 0.")
        if part.floor is not None and not 0 <= part.floor <= 1:
            raise ConfigError(f"{doing}: '{part.name}' has floor {part.floor}. Use one in [0, 1].")
    deciding = {name for part in steering if (name := _heard_by(part))}
    for part in parts:
        if part.held_out and (name := _heard_by(part)) in deciding:
            found = f"'{part.name}' is held out, but its recogniser '{name}' steers too"
            raise ConfigError(f"{doing}: {found}. A held-out recogniser must be another one.")


def _first(order: Sequence[int], verdict: _Verdict) -> int:
    """Return the first part that has not judged a candidate; there is one."""
    return next(number for number in order if number not in verdict.values)


def _heard_by(part: Part) -> str | None:
    """Return the name of the recogniser a part listens with."""
    return getattr(getattr(part.scorer, "recognizer", None), "name", None)


def _declared(candidate: Candidate, value: float, reason: str) -> Judged:
    return Judged(candidate, Score(value, {}, reason), "bad", reason)


def _by_voice(candidates: Sequence[Candidate]) -> list[tuple[Codes | None, list[Candidate]]]:
    groups: dict[int, tuple[Codes | None, list[Candidate]]] = {}
    for candidate in candidates:
        voice = candidate.utterance.voice
        groups.setdefault(id(voice), (voice.codes if voice else None, []))[1].append(candidate)
    return list(groups.values())

"""The one way a candidate gets a score: search, reward and evaluation all come here.

Decodes once, runs cheap scorers before dear ones, rules candidates out on the way, combines what the parts
say and checks it. Must not know: where candidates come from, what is done with the verdict.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field

from llasa import config
from llasa.codec.base import Codec
from llasa.core import Candidate, Codes, Judged, Score
from llasa.errors import ConfigError, InputError, ScorerError
from llasa.scorers.base import CODES, Parts, Scorer, check_scorer, load_scorer

Combine = Literal["harmonic", "mean", "min"]
Decode = Callable[[Sequence[Candidate]], list[Candidate]]

PATIENCE = 2  # failures in a row after which a service is not asked for further candidates


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

    @property
    def open(self) -> bool:
        return not (self.ruled_out or self.failed)


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
        self, candidates: Sequence[Candidate], decode: Decode | None = None, held_out: bool = True
    ) -> list[Judged]:
        """Return a verdict for each candidate.

        Args:
            decode: gives candidates their audio; called once, before the first part that listens, for those
                not yet ruled out. None: they have it.
            held_out: whether to run the held-out parts too.
        """
        verdicts = [_Verdict(candidate, {}, {}, []) for candidate in candidates]
        order = sorted(
            range(len(self.parts)), key=lambda i: (self.parts[i].held_out, self.parts[i].scorer.cost)
        )
        for number in order:
            part = self.parts[number]
            if part.held_out and not held_out:
                continue
            live = [verdict for verdict in verdicts if verdict.open]
            if decode and part.scorer.cost > CODES:
                heard = decode([verdict.candidate for verdict in live])
                for verdict, candidate in zip(live, heard, strict=True):
                    verdict.candidate = candidate
                decode = None
            self._run(number, live)
        return [self._judged(verdict) for verdict in verdicts]

    def _run(self, number: int, live: Sequence[_Verdict]) -> None:
        part = self.parts[number]
        scores = _scores(part.scorer, [verdict.candidate for verdict in live])
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
        score = Score(self.total(verdict.values), verdict.measures, " ".join(verdict.notes))
        return Judged(verdict.candidate, score)

    def total(self, values: Mapping[int, float]) -> float:
        """Return the value of a candidate from the values of its steering parts, by part number."""
        gates = [values[i] for i, part in enumerate(self.parts) if part.gate and not part.held_out]
        graded = [
            (values[i], part.weight) for i, part in enumerate(self.parts) if not (part.gate or part.held_out)
        ]
        return math.prod(gates) * (combined(graded, self.combine) if graded else 1.0)


class Judge:
    """Codec, scorer and policy: candidates in, verdicts out, same order and number."""

    def __init__(self, codec: Codec, scorer: Scorer, *, empty: float = 0.0, truncated: float = 0.0) -> None:
        """Take what verdicts are made of.

        Args:
            scorer: a `Rubric`, or any scorer, which is then a rubric of one part.
            empty: declared value of a candidate without codes. truncated: of one cut by the length limit or
                by the loop guard, cancelled or pruned. In [0, 1].
        """
        self.codec, self.empty, self.truncated = codec, empty, truncated
        self.rubric = scorer if isinstance(scorer, Rubric) else Rubric([Part(scorer)])
        self.partial = self.rubric.partial

    def judge(self, candidates: Sequence[Candidate], held_out: bool = False) -> list[Judged]:
        """Return one verdict a candidate, with its sound where it was decoded.

        Args:
            held_out: run the held-out parts too: for results that are reported.
        """
        verdicts = {i: bad for i, one in enumerate(candidates) if (bad := self._unspeakable(one))}
        rest = [i for i in range(len(candidates)) if i not in verdicts]
        graded = self.rubric.grade([candidates[i] for i in rest], self.decode, held_out) if rest else []
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
    """A [judge] table."""

    model_config = config.STRICT
    combine: Combine = "harmonic"
    empty: Annotated[float, Field(ge=0, le=1)] = 0.0
    truncated: Annotated[float, Field(ge=0, le=1)] = 0.0
    scorers: list[PartBlock] = Field(min_length=1)


def build_judge(block: JudgeBlock, parts: Parts) -> Judge:
    """Return the judge that a [judge] table describes.

    Raises:
        ConfigError: an unknown scorer or option, or parts that do not fit together.
        MissingExtra, BundleError: what a scorer needs is missing or damaged.
    """
    rubric = Rubric([_part(one, parts) for one in block.scorers], block.combine)
    return Judge(parts.codec, rubric, empty=block.empty, truncated=block.truncated)


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


def _heard_by(part: Part) -> str | None:
    """Return the name of the recogniser a part listens with."""
    return getattr(getattr(part.scorer, "recognizer", None), "name", None)


def _scores(scorer: Scorer, candidates: Sequence[Candidate]) -> list[Score | str]:
    """Return a checked score for each candidate, or why there is none."""
    if not candidates:
        return []
    try:
        return _asked(scorer, candidates)
    except (InputError, ScorerError) as error:
        return [str(error)] if len(candidates) == 1 else _one_by_one(scorer, candidates)


def _one_by_one(scorer: Scorer, candidates: Sequence[Candidate]) -> list[Score | str]:
    """Judge each alone: one that cannot be judged must not cost the others their verdict.

    A service that fails twice in a row is down: the rest fails the same way without being waited for.
    """
    found: list[Score | str] = []
    failures = 0
    for candidate in candidates:
        if failures == PATIENCE:
            found.append(found[-1])
            continue
        try:
            found += _asked(scorer, [candidate])
            failures = 0
        except (InputError, ScorerError) as error:
            found.append(str(error))
            failures += isinstance(error, ScorerError)
    return found


def _asked(scorer: Scorer, candidates: Sequence[Candidate]) -> list[Score | str]:
    scores = cast(object, scorer.score(candidates))
    doing = f"Judging by '{scorer.name}'"
    if not isinstance(scores, list | tuple):
        found = f"{scores!r:.80} instead of a list of scores"
    elif len(answers := cast(Sequence[object], scores)) != len(candidates):
        found = f"{len(answers)} scores for {len(candidates)} candidates"
    else:
        return [_valid(score, doing) for score in answers]
    return [f"{doing}: found {found}. Correct the scorer."] * len(candidates)


def _valid(score: object, doing: str) -> Score | str:
    """Return a score in plain floats, or what is wrong with it."""
    if not isinstance(score, Score):
        return f"{doing}: found {score!r:.80}. A scorer gives a Score for each candidate; correct it."
    said: list[tuple[str, object]] = [("the value", score.value), *score.measures.items()]
    if wrong := [f"{key} {n!r:.80}" for key, n in said if not isinstance(n, Real) or math.isnan(n)]:
        return f"{doing}: found {wrong[0]}. A scorer gives numbers; correct it."
    if not 0 <= score.value <= 1:
        return f"{doing}: found the value {score.value}. A scorer gives values in [0, 1]; correct it."
    measures = {key: float(number) for key, number in score.measures.items()}
    return replace(score, value=float(score.value), measures=measures)


def _declared(candidate: Candidate, value: float, reason: str) -> Judged:
    return Judged(candidate, Score(value, {}, reason), "bad", reason)


def _by_voice(candidates: Sequence[Candidate]) -> list[tuple[Codes | None, list[Candidate]]]:
    groups: dict[int, tuple[Codes | None, list[Candidate]]] = {}
    for candidate in candidates:
        voice = candidate.utterance.voice
        groups.setdefault(id(voice), (voice.codes if voice else None, []))[1].append(candidate)
    return list(groups.values())

"""How a scorer is asked: what it answers is checked, and its failure costs only those it could not judge.

Must not know: any scorer, what is done with the answers.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from numbers import Real
from typing import cast

from llasa.core import Candidate, Score
from llasa.errors import InputError, ScorerError
from llasa.scorers.base import Scorer

PATIENCE = 2  # failures in a row after which a service is not asked for further candidates


def answers(scorer: Scorer, candidates: Sequence[Candidate]) -> list[Score | str]:
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
    elif len(given := cast(Sequence[object], scores)) != len(candidates):
        found = f"{len(given)} scores for {len(candidates)} candidates"
    else:
        return [_valid(score, doing) for score in given]
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

"""What TRL asks a reward function, and nothing else knows. The judge has answered during the rollout."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any

from llasa.core import Ids
from llasa.errors import ScorerError
from llasa.train.rollout import Rolled, Spent


def judge(
    prompts: Sequence[str], completion_ids: Sequence[Ids], rolled: Sequence[Rolled], spent: Sequence[Spent],
    log_metric: Callable[[str, float], None], **_: Any,
) -> list[float | None]:  # fmt: skip
    """Return the reward of each completion, None where the judge gave no verdict.

    Args:
        prompts: names of jobs. rolled: what `rollout.Roller` returned, in this order. spent: its own too,
            once for each.
        log_metric: is told the means over the candidates.

    Raises:
        ScorerError: verdicts and completions do not belong together.
    """
    if [one.ids for one in rolled] != [list(ids) for ids in completion_ids]:
        found = f"{len(rolled)} verdicts do not belong to the {len(prompts)} completions"
        raise ScorerError(f"Rewarding completions: {found}. This is an error in llasa; report it.")
    for name, values in _measures(rolled).items():
        log_metric(name, fmean(values))
    for name, value in asdict(spent[0]).items():
        log_metric(f"time/{name}", value)
    return [one.reward for one in rolled]


def _measures(rolled: Sequence[Rolled]) -> dict[str, list[float]]:
    """Return numbers by name: what became of all candidates, and each measure of those that have it."""
    found: dict[str, list[float]] = {
        "rollouts/unended": [one.judged.candidate.finish != "stop" for one in rolled],
        "rollouts/bad": [one.judged.status == "bad" for one in rolled],
        "rollouts/unjudged": [one.judged.status == "unjudged" for one in rolled],
    }
    for score in (one.judged.score for one in rolled if one.judged.score is not None):
        for name, value in score.measures.items():
            found.setdefault(f"judge/{name}", []).append(value)
    return found

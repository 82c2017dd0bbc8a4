"""The cascade: the best is the one that full judging finds, for fewer questions to dear scorers."""

from collections.abc import Sequence
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llasa.core import Candidate, Judged, Score, Utterance
from llasa.errors import ScorerError
from llasa.judge import Judge, JudgeBlock, Part, Rubric, build_judge
from llasa.scorers.base import CODES, LARGE_MODEL, SMALL_MODEL, SOUND, Parts
from llasa.search import Adaptive, BestOfN, Ranking
from llasa.text.reading import Reader
from tests.planted import (
    PlantedCodec,
    PlantedEngine,
    PlantedScorer,
    cheap_scorer,
    faults,
    oracle,
    planted_job,
    planted_means,
    truth,
)

STEPS = 4  # values are quarters: ties are common


class Digit:
    """The code at a place, in quarters, is the value; notes whom it was asked about, call by call."""

    partial = True

    def __init__(self, at: int, cost: int, fails: Sequence[int] = ()) -> None:
        self.name, self.at, self.cost, self.fails = f"digit{at}", at, cost, fails
        self.asked: list[list[Candidate]] = []

    @property
    def seen(self) -> int:
        return sum(map(len, self.asked))

    def score(self, candidates: Sequence[Candidate]) -> list[Score]:
        self.asked.append(list(candidates))
        if any(one.codes[-1] in self.fails for one in candidates):
            raise ScorerError("down")
        return [Score(one.codes[self.at] / STEPS) for one in candidates]


def candidates(*rows: Sequence[int]) -> list[Candidate]:
    """Return candidates of these digits and their own number."""
    return [Candidate(Utterance("0", "hello"), [*row, i], "stop") for i, row in enumerate(rows)]


def best(judged: Sequence[Judged]) -> tuple[int, str, float | None]:
    """Return number, status and value of the first of the best."""
    order = ("scored", "outdone", "bad", "unjudged")
    first = min(judged, key=lambda one: (order.index(one.status), -(one.score.value if one.score else 0)))
    return first.candidate.codes[-1], first.status, first.score.value if first.score else None


COSTS = st.sampled_from([CODES, SOUND, SMALL_MODEL, LARGE_MODEL])
ROWS = st.lists(st.lists(st.integers(0, STEPS), min_size=3, max_size=3), min_size=1, max_size=9)
KINDS = st.tuples(COSTS, st.booleans(), st.sampled_from([None, 0.5]), st.floats(0.1, 5))


@settings(max_examples=400, deadline=None)
@given(
    rows=ROWS,
    kinds=st.tuples(KINDS, KINDS, KINDS),
    combine=st.sampled_from(["harmonic", "mean", "min"]),
    fails=st.sets(st.integers(0, 8), max_size=1),  # two in a row would cost the others their verdict too
)
def test_the_best_is_that_of_full_judging(
    rows: list[list[int]],
    kinds: Sequence[tuple[int, bool, float | None, float]],
    combine: Literal["harmonic", "mean", "min"],
    fails: set[int],
) -> None:
    def made() -> Judge:
        parts = [
            Part(Digit(at, cost, sorted(fails) if at == 2 else ()), weight, gate, floor=floor)
            for at, (cost, gate, floor, weight) in enumerate(kinds)
        ]
        return Judge(PlantedCodec(), Rubric(parts, combine))

    full, chosen = made().judge(candidates(*rows)), made().choose(candidates(*rows))
    assert best(chosen) == best(full)
    for one, known in zip(chosen, full, strict=True):
        if one.status == "outdone":
            assert one.score and one.score.value < (best(full)[2] or 0)
            assert known.score is None or known.score.value <= one.score.value
        else:
            assert (one.status, one.score) == (known.status, known.score)


def test_dear_parts_are_spared_what_cannot_win_and_the_verdict_says_so() -> None:
    cheap, dear = Digit(0, SOUND), Digit(1, LARGE_MODEL)
    rows = candidates((1, 4), (4, 4), (2, 4), (3, 4))
    judged = Judge(PlantedCodec(), Rubric([Part(cheap), Part(dear)], "mean")).choose(rows)
    assert [one.status for one in judged] == ["outdone", "scored", "outdone", "outdone"]
    assert (cheap.seen, dear.seen) == (4, 1)
    assert judged[3].reason == "cannot be the best: 0.875 at most; not run: digit1"
    assert judged[3].score and judged[3].score.value == 0.875
    assert judged[3].score.measures == {"digit0.value": 0.75}


def test_candidates_that_no_value_could_spare_are_asked_about_at_once() -> None:
    dear = Digit(0, LARGE_MODEL)
    judged = Judge(PlantedCodec(), dear).choose(candidates(*[(i % 4,) for i in range(8)]))
    assert {one.status for one in judged} == {"scored"} and [len(asked) for asked in dear.asked] == [8]


def test_calls_of_a_model_double() -> None:
    cheap, dear = Digit(0, SOUND), Digit(1, SMALL_MODEL)
    rubric = Rubric([Part(cheap, 0.01), Part(dear)], "mean")
    rows = [(i % 5, 0) for i in range(13)]  # all are equally poor in what is dear, so none is outdone soon
    Judge(PlantedCodec(), rubric).choose(candidates(*rows))
    assert sum(map(len, dear.asked)) == 13 and len(dear.asked) <= 4


def test_what_cannot_reach_the_best_so_far_is_not_even_decoded() -> None:
    codec, rubric = PlantedCodec(), Rubric([Part(Digit(0, CODES)), Part(Digit(1, SOUND))], "mean")
    judged = Judge(codec, rubric).choose(candidates((1, 4), (3, 4), (0, 4)), above=0.7)
    assert [one.status for one in judged] == ["outdone", "scored", "outdone"] and codec.decoded == 1


def test_without_cascade_all_is_measured() -> None:
    dear = Digit(1, LARGE_MODEL)
    rubric = Rubric([Part(Digit(0, SOUND)), Part(dear)], "mean")
    judged = Judge(PlantedCodec(), rubric, cascade=False).choose(candidates((1, 4), (4, 4)), above=0.9)
    assert [one.status for one in judged] == ["scored", "scored"] and dear.seen == 2


def test_a_table_switches_it_off() -> None:
    parts = Parts(PlantedCodec(), Reader(), lambda name: pytest.fail(name))
    table = {"scorers": [{"name": "repetition"}], "cascade": False}
    assert not build_judge(JudgeBlock.model_validate(table), parts).cascade


def test_a_service_that_is_down_is_not_waited_for_in_small_groups() -> None:
    dear = Digit(1, LARGE_MODEL, fails=range(16))
    rubric = Rubric([Part(Digit(0, SOUND)), Part(dear)], "mean")
    judged = Judge(PlantedCodec(), rubric).choose(candidates(*[(i % 4, 4) for i in range(16)]))
    assert {one.status for one in judged} == {"unjudged"}
    assert len(dear.asked) <= 6  # of four with the best promise, then of the rest, each given up after two


def ended(ranking: Ranking) -> tuple[object, ...]:
    first = ranking.judged[0]
    return first.candidate.codes, first.status, first.score, len(ranking.judged), ranking.tokens, ranking.stop


@pytest.mark.parametrize("search", [BestOfN(12), Adaptive(12, 4, 0.97), Adaptive(12, 4, None)])
def test_searches_choose_the_same_on_planted_sets(search: BestOfN | Adaptive) -> None:
    jobs = [planted_job(pass_rate=0.3 + 0.02 * number, number=number) for number in range(30)]
    calls, found = list[int](), list[list[Ranking]]()
    for cascade in (False, True):
        dear = oracle(truth, noise=0.02)
        rough = PlantedScorer("rough", faults, SMALL_MODEL, 0.06)
        rubric = Rubric([Part(cheap_scorer(0.06), 0.2), Part(rough, 0.2), Part(dear, 0.6)])
        means = planted_means(PlantedEngine(), rubric, cascade)
        found.append([last for job in jobs for last in search.run(job, means) if isinstance(last, Ranking)])
        calls.append(dear.calls)
    assert [ended(one) for one in found[0]] == [ended(one) for one in found[1]]
    assert calls[1] < 0.7 * calls[0]

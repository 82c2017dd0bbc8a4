"""What every search strategy promises, as a suite that any implementation can run.

Give `strategies` a further line, and pytest does the rest.
"""

from collections.abc import Generator
from dataclasses import replace
from typing import cast

import pytest

from llasa.beams import BeamSearch, Committed, Hybrid
from llasa.core import Judged
from llasa.errors import EngineError, ScorerError
from llasa.judge import Judge
from llasa.scorers.base import Scorer
from llasa.search import Adaptive, BestOfN, Fallback, Means, Progress, Ranking, Sample, Search
from tests.planted import PlantedCodec, PlantedEngine, oracle, planted_codes, planted_job, planted_means

JOBS = [planted_job(pass_rate=0.4, number=number) for number in range(4)]


def strategies(process: Scorer) -> dict[str, Search]:
    judge = Judge(PlantedCodec(), process)
    return {
        "sample": Sample(),
        "best": BestOfN(6),
        "adaptive": Adaptive(10, 4, 0.95),
        "adaptive to the end": Adaptive(10, 4, None),
        "fallback": Fallback((0.5, 0.8, 1.0), 0.95),
        "beam": BeamSearch(3, 3, process=judge),
        "beam until": BeamSearch(3, 3, 0.3, 0.8, process=judge),
        "committed": Committed(5, 3, 0.3, 0.4, process=judge),
        "committed at once": Committed(4, 2, 0.3, 0.0, process=judge),
        "hybrid": Hybrid(BeamSearch(3, 3, until_s=0.8, process=judge), BestOfN(5)),
    }


@pytest.mark.parametrize("name", strategies(oracle()))
class TestSearch:
    """The promises of `llasa.search.Search`."""

    @pytest.fixture
    def search(self, name: str) -> Search:
        return strategies(oracle())[name]

    @pytest.fixture
    def engine(self) -> PlantedEngine:
        return PlantedEngine()

    @pytest.fixture
    def means(self, engine: PlantedEngine) -> Means:
        return planted_means(engine, oracle())

    def ranking(
        self, search: Search, means: Means, seed: int = 0, deadline_s: float | None = None
    ) -> Ranking:
        job = replace(JOBS[0], params=replace(JOBS[0].params, seed=seed))
        *_, last = search.run(job, means, deadline_s)
        assert isinstance(last, Ranking)
        return last

    def test_progress_then_one_ranking(self, search: Search, means: Means) -> None:
        for job in JOBS:
            *news, ranking = search.run(job, means)
            assert isinstance(ranking, Ranking) and ranking.judged
            told = [one for one in news if isinstance(one, Progress)]
            assert len(told) == len(news) > 0
            assert [one.judged for one in told] == sorted(one.judged for one in told)
            assert all(one.total == told[0].total >= one.judged for one in told)
            assert ranking.judged[0].score and told[-1].best == ranking.judged[0].score.value

    def test_best_first_and_equal_ones_in_order(self, search: Search, means: Means) -> None:
        def place(one: Judged) -> tuple[int, float]:
            return ("scored", "bad", "unjudged").index(one.status), -(one.score.value if one.score else 0.0)

        places = [place(one) for one in self.ranking(search, means).judged]
        assert places == sorted(places)

    def test_candidates_are_whole_and_of_this_job(self, search: Search, means: Means) -> None:
        for one in self.ranking(search, means).judged:
            assert one.candidate.utterance is JOBS[0].utterance
            assert one.candidate.finish in ("stop", "length", "loop")
            assert one.status != "scored" or one.candidate.audio is not None

    def test_verdicts_are_those_of_the_judge(self, search: Search, means: Means) -> None:
        ranking = self.ranking(search, means)
        assert [one.score for one in means.judge.judge([one.candidate for one in ranking.judged])] == [
            one.score for one in ranking.judged
        ]

    def test_seed_repeats_and_others_differ(self, search: Search, means: Means) -> None:
        once, again, other = (
            [(one.candidate.codes, one.status, one.score) for one in self.ranking(search, means, seed).judged]
            for seed in (1, 1, 2)
        )
        assert once == again != other

    def test_every_drawn_id_is_counted(self, search: Search, engine: PlantedEngine, means: Means) -> None:
        ranking = self.ranking(search, means)
        assert ranking.tokens == engine.drawn > 0
        assert ranking.generate_s > 0 and ranking.judge_s > 0

    def test_prompts_are_the_jobs_and_what_was_drawn(
        self, search: Search, engine: PlantedEngine, means: Means
    ) -> None:
        self.ranking(search, means)
        head = len(JOBS[0].prompt)
        assert all(prompt[:head] == JOBS[0].prompt for prompt, _ in engine.asked)
        assert all(min(planted_codes(prompt[head:]), default=0) >= 0 for prompt, _ in engine.asked)

    def test_a_deadline_that_has_passed_still_gives_something_whole(
        self, search: Search, engine: PlantedEngine, means: Means
    ) -> None:
        whole = self.ranking(search, means)
        hurried = self.ranking(search, means, deadline_s=0.0)
        assert hurried.judged and hurried.tokens <= whole.tokens
        assert hurried.judged[0].candidate.finish != "partial"

    def test_closing_cancels_what_is_in_flight(
        self, search: Search, engine: PlantedEngine, means: Means
    ) -> None:
        running = search.run(JOBS[0], means)
        next(running)
        asked = len(engine.asked)
        cast(Generator[object, None, None], running).close()
        assert engine.in_flight == 0 and len(engine.asked) == asked

    def test_nothing_is_left_in_flight(self, search: Search, engine: PlantedEngine, means: Means) -> None:
        self.ranking(search, means)
        assert engine.in_flight == 0

    def test_engine_failures_reach_the_caller(self, search: Search, means: Means) -> None:
        for fails_after in (0, 1):
            engine = PlantedEngine(fails_after=fails_after)
            means = planted_means(engine, oracle(lambda _: 0.0))
            if fails_after and isinstance(search, (Sample, BestOfN)):
                continue
            with pytest.raises(EngineError, match="told to fail"):
                self.ranking(search, means)
            assert engine.in_flight == 0

    def test_no_verdict_at_all_is_an_error(self, search: Search, engine: PlantedEngine) -> None:
        with pytest.raises(ScorerError, match="found the value nan"):
            self.ranking(search, planted_means(engine, oracle(lambda _: float("nan"))))

    def test_the_runs_judge_decides_whatever_led_the_search(self, name: str, means: Means) -> None:
        search = strategies(oracle(lambda _: 0.5))[name]
        ranking = self.ranking(search, means)
        values = [one.score.value for one in ranking.judged if one.score and one.status == "scored"]
        assert values and values[0] == max(values) != 0.5

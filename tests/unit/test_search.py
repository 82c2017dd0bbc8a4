"""What the strategies choose, on planted speech whose faults are known."""

import itertools
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import pytest

from llasa.beams import BeamSearch, Hybrid
from llasa.core import Candidate, Finish, Ids, Judged, SamplingParams, Score
from llasa.errors import ConfigError, InputError, ScorerError
from llasa.judge import Judge, Part, Rubric
from llasa.scorers.base import LARGE_MODEL, Scorer
from llasa.search import Adaptive, BestOfN, Fallback, Job, Progress, Ranking, Sample, Search, search_for
from tests.planted import (
    CODES_PER_S,
    FIRST_ID,
    HEAD,
    Cheats,
    PlantedCodec,
    PlantedEngine,
    cheap_scorer,
    faults,
    oracle,
    planted_job,
    planted_means,
    spoken,
    tone,
    truth,
)


def judge(scorer: Scorer | None = None) -> Judge:
    return Judge(PlantedCodec(), scorer or oracle())


def searched(
    search: Search,
    job: Job,
    scorer: Scorer | None = None,
    engine: PlantedEngine | None = None,
    deadline_s: float | None = None,
) -> Ranking:
    means = planted_means(engine or PlantedEngine(), scorer or oracle())
    *_, ranking = search.run(job, means, deadline_s)
    assert isinstance(ranking, Ranking)
    return ranking


def codes(ranking: Ranking) -> list[list[int]]:
    return [one.candidate.codes for one in ranking.judged]


def verdicts(ranking: Ranking) -> list[tuple[list[int], str, str, Score | None]]:
    """Return all that is known of the candidates but their sound."""
    return [(one.candidate.codes, one.candidate.finish, one.status, one.score) for one in ranking.judged]


def mean_truth(search: Search, cheats: Cheats, utterances: int = 30) -> float:
    rankings = [
        searched(search, planted_job(number=i), engine=PlantedEngine(cheats)) for i in range(utterances)
    ]
    return fmean(truth(ranking.judged[0].candidate) for ranking in rankings)


@pytest.mark.parametrize("first", [0, 3])
def test_best_of_one_is_sample(first: int) -> None:
    job = planted_job(pass_rate=0.3)
    job = replace(job, params=replace(job.params, first=first))
    sample, best = searched(Sample(), job), searched(BestOfN(1), job)
    assert (verdicts(sample), sample.tokens) == (verdicts(best), best.tokens)
    assert codes(sample) != codes(searched(Sample(), planted_job(pass_rate=0.3, seed=1)))


@pytest.mark.parametrize("wave", [1, 4, 7, 20])
def test_waves_without_a_target_are_best_of_n(wave: int) -> None:
    waves, best = searched(Adaptive(16, wave, None), planted_job()), searched(BestOfN(16), planted_job())
    assert (verdicts(waves), waves.tokens) == (verdicts(best), best.tokens)


def test_waves_stop_at_the_target_with_the_first_candidates_of_best_of_n() -> None:
    judged = list[int]()
    for number in range(20):
        job = planted_job(pass_rate=0.5, number=number)
        ranking = searched(Adaptive(16, 4, 1.0), job, oracle(faults))
        judged.append(len(ranking.judged))
        best = searched(BestOfN(len(ranking.judged)), job, oracle(faults))
        assert verdicts(ranking) == verdicts(best)
        best_one = ranking.judged[0].score
        assert best_one and ranking.stop.startswith("target") == (best_one.value == 1)
    assert set(judged) <= {4, 8, 12, 16} and fmean(judged) < 8


def test_ladder_climbs_until_a_rung_is_good_enough() -> None:
    engine = PlantedEngine()
    ranking = searched(Fallback((0.0, 0.5, 1.0), 1.0), planted_job(number=2), oracle(faults), engine)
    rungs = [(params.temperature, params.first, params.n) for _, params in engine.asked]
    assert rungs == [(0.0, 0, 1), (0.5, 1, 1), (1.0, 2, 1)][: len(ranking.judged)]
    engine = PlantedEngine()
    searched(Fallback(target=0.0), planted_job(), oracle(faults), engine)
    assert len(engine.asked) == 1


def test_deadline_ends_waves_that_would_not_end_in_time() -> None:
    slow = PlantedEngine(delay_s=0.05)
    ranking = searched(Adaptive(40, 4, None), planted_job(), engine=slow, deadline_s=0.18)
    assert 1 <= len(slow.asked) <= 3 and ranking.stop.startswith("deadline")
    assert len(ranking.judged) == 4 * len(slow.asked)
    once = searched(Adaptive(40, 4, None), planted_job(), deadline_s=0.0)
    assert len(once.judged) == 4
    assert len(searched(Adaptive(8, 4, None), planted_job(), deadline_s=60.0).judged) == 8


def test_deadline_makes_beams_end_early_with_something_whole() -> None:
    engine = PlantedEngine()
    ranking = searched(BeamSearch(3, 2, process=judge()), planted_job(), engine=engine, deadline_s=0.0)
    assert [params.n for _, params in engine.asked] == [6, 1]
    assert len(ranking.judged) == 1 and ranking.stop == "deadline: beams were 0.5 s long"


def test_deadline_keeps_beams_that_ended_by_themselves() -> None:
    ranked = list[Ranking]()
    for number in range(10):
        engine = PlantedEngine(Cheats(severity=0.99))
        beams = BeamSearch(4, 1, step_s=42 / CODES_PER_S, process=judge(oracle(lambda _: 0.5)))
        ranking = searched(beams, planted_job(pass_rate=0.2, number=number), engine=engine, deadline_s=0.0)
        if ranking.stop.startswith("deadline") and len(engine.asked) == 1:
            ranked.append(ranking)
    assert ranked
    assert all(any(one.candidate.finish == "stop" for one in ranking.judged) for ranking in ranked)


@pytest.mark.parametrize("search", [BestOfN(8), Adaptive(8, 3, None), Fallback(target=None)])
def test_constant_scorer_leaves_the_first_candidate_first(search: Search) -> None:
    job = planted_job(pass_rate=1.0)
    ranking = searched(search, job, oracle(lambda _: 0.5))
    assert codes(ranking)[0] == codes(searched(Sample(), job))[0]
    assert len({tuple(row) for row in codes(ranking)}) > 1


def test_more_candidates_are_better() -> None:
    means = [mean_truth(BestOfN(n), Cheats(), 60) for n in (1, 4, 16)]
    assert means[0] + 0.05 < means[1] and means[1] + 0.02 < means[2]


@pytest.mark.parametrize("cheat", ["loop", "truncate", "rush", "silence", "wrong"])
def test_every_cheat_is_passed_over(cheat: str) -> None:
    only = replace(Cheats(0, 0, 0, 0, 0), **{cheat: 1.0})
    winners = [
        searched(BestOfN(12), planted_job(number=i), engine=PlantedEngine(only)).judged[0].candidate
        for i in range(12)
    ]
    assert all(faults(winner) == 1 for winner in winners)
    assert mean_truth(Sample(), only) < mean_truth(BestOfN(12), only) - 0.05


@pytest.mark.parametrize("rate", [0.3, 0.9])
def test_planted_speech_is_as_faulty_as_asked(rate: float) -> None:
    made = [one for i in range(20) for one in spoken(PlantedEngine(), planted_job(8, rate, i), 16)]
    assert fmean(bool(one.codes) and faults(one) == 1 for one in made) == pytest.approx(rate, abs=0.08)


def test_floors_spare_the_dear_scorer_and_keep_its_choice() -> None:
    jobs = [planted_job(pass_rate=0.3 + 0.02 * number, number=number) for number in range(30)]
    calls, winners = list[int](), list[list[list[int]]]()
    for floor in (None, 0.75, 1.0):
        dear = oracle(noise=0.02)
        rubric = Rubric([Part(cheap_scorer(0.06), 0.2, floor=floor), Part(dear, 0.8)])
        means = planted_means(PlantedEngine(), rubric, cascade=False)
        found = [last for job in jobs for last in BestOfN(12).run(job, means) if isinstance(last, Ranking)]
        winners.append([codes(ranking)[0] for ranking in found])
        calls.append(dear.calls)
    assert calls[0] > calls[1] > calls[2]
    assert winners[0] == winners[1] != winners[2]


@dataclass
class Tree(PlantedEngine):
    """Draws one of three ids, by the number of the candidate alone, and stops after four."""

    def say(self, prompt: Ids, params: SamplingParams, candidate: int) -> tuple[Ids, Finish, list[float]]:
        assert params.max_tokens == 1
        if len(prompt) - HEAD == 4:
            return [], "stop", []
        return [FIRST_ID + (params.first + candidate) % 3], "length", [0.0]


def chance(candidate: Candidate) -> float:
    return zlib.crc32(bytes(candidate.codes)) / 2**32


def test_wide_beams_are_an_exhaustive_search() -> None:
    beams = BeamSearch(81, 3, step_s=1 / CODES_PER_S, process=judge(oracle(lambda _: 0.5)))
    leaves = [list(leaf) for leaf in itertools.product(range(3), repeat=4)]
    ranking = searched(beams, planted_job(), oracle(chance), Tree())
    found = sorted(leaves, key=lambda leaf: -zlib.crc32(bytes(leaf)))
    assert codes(ranking) == found


def test_narrow_beam_goes_where_the_process_judge_leads() -> None:
    beams = BeamSearch(1, 3, step_s=1 / CODES_PER_S, process=judge(oracle(lambda one: sum(one.codes) / 8)))
    assert codes(searched(beams, planted_job(), oracle(chance), Tree())) == [[2, 2, 2, 2]]


def test_one_beam_of_one_branch_is_sample() -> None:
    for number in range(10):
        job = planted_job(pass_rate=0.4, number=number)
        job = replace(job, params=replace(job.params, logprobs=True, loop_guard=False))
        beam = searched(BeamSearch(1, 1, process=judge()), job).judged[0].candidate
        sample = searched(Sample(), job).judged[0].candidate
        assert (beam.codes, beam.finish) == (sample.codes, sample.finish)
        assert beam.logprob == (pytest.approx(sample.logprob) if sample.codes else None)


def test_beams_continue_the_prefixes_that_stayed() -> None:
    engine = PlantedEngine()
    searched(BeamSearch(3, 4, process=judge()), planted_job(), engine=engine)
    step, (root, first) = round(0.5 * CODES_PER_S), engine.asked[0]
    assert (len(root), first.n, first.first, first.max_tokens) == (HEAD, 12, 0, step)
    for length, asked in itertools.groupby(engine.asked[1:], key=lambda one: len(one[0])):
        prompts, params = zip(*asked, strict=True)
        assert (length - HEAD) % step == 0 and 1 <= len(prompts) <= 3
        assert len({tuple(prompt) for prompt in prompts}) == len(prompts)
        assert [(one.n, one.first) for one in params] == [(4, 4 * i) for i in range(len(params))]
        parents = {tuple(prompt[:-step]) for prompt in prompts}
        assert parents <= {tuple(prompt) for prompt, _ in engine.asked}


def test_beams_raise_what_their_process_judge_measures() -> None:
    jobs = [planted_job(pass_rate=1.0, number=number) for number in range(10)]
    beams = BeamSearch(2, 4, process=judge(oracle(tone)))
    best = [searched(beams, job, oracle(faults)).judged[0].candidate for job in jobs]
    plain = [searched(BestOfN(2), job, oracle(faults)).judged[0].candidate for job in jobs]
    assert fmean(map(tone, best)) > fmean(map(tone, plain)) + 0.2


def test_beams_keep_within_the_limits_of_the_job() -> None:
    job = planted_job()
    job = replace(job, params=replace(job.params, min_tokens=20, max_tokens=30))
    engine = PlantedEngine()
    ranking = searched(BeamSearch(2, 2, process=judge()), job, engine=engine)
    lengths = [(len(prompt) - HEAD, params.min_tokens, params.max_tokens) for prompt, params in engine.asked]
    assert set(lengths) == {(0, 12, 12), (12, 8, 12), (24, 0, 6)}
    assert {one.candidate.finish for one in ranking.judged} == {"length", "stop"}
    lengths = {(one.candidate.finish, len(one.candidate.codes) == 30) for one in ranking.judged}
    assert ("length", True) in lengths and ("length", False) not in lengths
    assert all(len(row) >= 20 for row in codes(ranking))


def test_beams_that_loop_are_dead() -> None:
    engine = PlantedEngine(Cheats(1, 0, 0, 0, 0, severity=1.0))
    beams = BeamSearch(6, 1, step_s=60 / CODES_PER_S, process=judge(oracle(lambda _: 0.5)))
    ranking = searched(beams, planted_job(pass_rate=0.2), engine=engine)
    loops = [one.candidate.codes for one in ranking.judged if one.candidate.finish == "loop"]
    assert loops and ranking.judged[-1].status == "bad"
    assert all(len(prompt) in (HEAD, HEAD + 60) for prompt, _ in engine.asked)


@pytest.mark.parametrize("n", [2, 4, 7])
def test_hybrid_spreads_completions_over_the_beams_at_until_s(n: int) -> None:
    engine = PlantedEngine()
    first = BeamSearch(4, 4, until_s=0.7, process=judge(oracle(tone)))
    ranking = searched(Hybrid(first, BestOfN(n)), planted_job(pass_rate=1.0), engine=engine)
    grown = round(0.7 * CODES_PER_S)
    whole = [(len(p) - HEAD, a.n, a.max_tokens) for p, a in engine.asked if len(p) - HEAD == grown]
    assert {length for length, _, _ in whole} == {grown} and len(engine.asked) == 1 + 4 + len(whole)
    assert [share for _, share, _ in whole] == {2: [1, 1], 4: [1, 1, 1, 1], 7: [2, 2, 2, 1]}[n]
    assert {longest for _, _, longest in whole} == {planted_job().params.max_tokens - grown}
    assert len(ranking.judged) <= n and ranking.stop == "beams were completed after 0.7 s"


def test_beams_until_a_time_are_completed_once_each() -> None:
    engine = PlantedEngine()
    searched(BeamSearch(4, 4, until_s=0.7, process=judge()), planted_job(pass_rate=1.0), engine=engine)
    assert [params.n for _, params in engine.asked] == [16, 4, 4, 4, 4, 1, 1, 1, 1]


def test_a_scorer_that_needs_whole_audio_cannot_lead_a_beam() -> None:
    whole = oracle(partial=False)
    with pytest.raises(ConfigError, match="'oracle' cannot judge partial audio"):
        BeamSearch(2, 2, process=judge(whole))
    rubric = Rubric([Part(oracle(), label="leads"), Part(whole, held_out=True)])
    assert searched(BeamSearch(2, 2, process=judge(rubric)), planted_job()).judged


EARLY = Cheats(0, 3, 0, 0, 0)  # the only fault: it stops before the last word


def hasty(candidate: Candidate) -> float:
    """Like a judge of timbre that an early end pleases: the shorter, the better."""
    return 1 / (1 + len(candidate.codes)) + 0.2 * (candidate.finish == "stop")


@pytest.mark.parametrize("n", [None, 8])
def test_beams_that_end_early_do_not_take_over(n: int | None) -> None:
    for number in range(12):
        engine, first = PlantedEngine(EARLY), BeamSearch(3, 4, until_s=1.0, process=judge(oracle(hasty)))
        search = first if n is None else Hybrid(first, BestOfN(n))
        job = planted_job(pass_rate=0.1, number=number)
        ranking = searched(search, job, oracle(faults), engine)
        last = [params.n for prompt, params in engine.asked if params.max_tokens > 25]
        assert sum(last) == (n or len(last)) and ranking.stop == "beams were completed after 1.0 s"
        assert all(len(prompt) == HEAD + 25 for prompt, params in engine.asked if params.max_tokens > 25)
        if n:
            assert max(len(row) for row in codes(ranking)) > 25


def test_early_enders_wait_for_the_judge_of_the_run() -> None:
    engine, process = PlantedEngine(EARLY), oracle(hasty)
    final = oracle(faults)
    beams = BeamSearch(3, 4, process=judge(process))
    rankings = [searched(beams, planted_job(pass_rate=0.1, number=i), final, engine) for i in range(8)]
    assert fmean(faults(ranking.judged[0].candidate) for ranking in rankings) > 0.95
    ends = [sorted(len(row) for row in codes(ranking)) for ranking in rankings]
    assert any(row[0] < 20 < 35 < row[-1] for row in ends)
    for row in ends:  # at most `width` of each step of 12 codes
        steps = [(length - 1) // 12 for length in row]
        assert max(map(steps.count, steps)) <= 3
    assert all(ranking.stop == "all beams ended" for ranking in rankings)


@dataclass
class Endless(PlantedEngine):
    """Never stops, or always within one step once `stops_at` ids were drawn."""

    stops_at: int | None = None

    def say(self, prompt: Ids, params: SamplingParams, candidate: int) -> tuple[Ids, Finish, list[float]]:
        length, number = len(prompt) - HEAD, params.first + candidate
        if self.stops_at is not None and length >= self.stops_at and params.max_tokens < 60:
            return [FIRST_ID + number], "stop", []
        return [FIRST_ID + number] * params.max_tokens, "length", []


def test_beams_that_never_stop_end_with_the_tokens() -> None:
    engine = Endless()
    ranking = searched(BeamSearch(2, 2, process=judge(oracle(hasty))), planted_job(), engine=engine)
    assert {len(row) for row in codes(ranking)} == {planted_job().params.max_tokens} == {120}
    assert len(ranking.judged) == 2 and ranking.stop == "all beams ended"


@pytest.mark.parametrize("stops_at", [0, 12, 24])
def test_hybrid_starts_anew_if_all_beams_have_ended(stops_at: int) -> None:
    engine = Endless(stops_at=stops_at)
    hybrid = Hybrid(BeamSearch(2, 3, until_s=2.0, process=judge(oracle(hasty))), BestOfN(5))
    ranking = searched(hybrid, planted_job(), oracle(lambda _: 0.5), engine)
    prompt, params = engine.asked[-1]
    assert (prompt, params.n) == (planted_job().prompt, 5)
    assert params.first >= 6  # candidates of other numbers than the first step drew
    assert max(len(prompt) for prompt, _ in engine.asked) == HEAD + stops_at
    assert ranking.stop == "all beams ended and others were drawn from the start"
    assert {one.candidate.finish for one in ranking.judged} == {"stop", "length"}


@dataclass
class Dying:
    """Judges the first calls and fails ever after."""

    calls_left: int
    asked: int = 0
    name: str = "dying"
    partial: bool = True
    cost: int = LARGE_MODEL

    def score(self, candidates: Sequence[Candidate]) -> list[Score]:
        self.asked += 1
        if self.asked > self.calls_left:
            raise ScorerError("Scoring: no answer in 30 s. Start the service.")
        return [Score(0.5)] * len(candidates)


@pytest.mark.parametrize(("search", "waves"), [(Adaptive(40, 4, None), 1), (Fallback(target=None), 2)])
def test_a_dead_scorer_is_not_asked_again_and_again(search: Search, waves: int) -> None:
    engine = PlantedEngine(EARLY)
    with pytest.raises(ScorerError, match="no answer in 30 s"):
        searched(search, planted_job(pass_rate=0.9), Dying(0), engine)
    assert len(engine.asked) == waves


def test_a_scorer_that_dies_does_not_take_what_was_scored() -> None:
    ranking = searched(Adaptive(40, 4, None), planted_job(pass_rate=1.0), Dying(1))
    assert [one.status for one in ranking.judged] == ["scored"] * 4 + ["unjudged"] * 4
    assert ranking.stop == "no verdict: a scorer failed after 8 of 40 candidates were drawn"


def test_beams_survive_a_process_judge_that_dies_if_some_have_ended() -> None:
    job = planted_job(pass_rate=0.05)
    beams = BeamSearch(4, 4, process=judge(Dying(2)))
    engine = PlantedEngine(EARLY)
    ranking = searched(beams, job, oracle(faults), engine)
    assert min(len(row) for row in codes(ranking)) <= 24 and len(ranking.judged) > 1
    assert ranking.judged[0].status == "scored"
    with pytest.raises(ScorerError, match="no answer in 30 s"):
        searched(BeamSearch(4, 4, process=judge(Dying(1))), planted_job(pass_rate=1.0))


@dataclass
class Failing:
    """Knows no verdict of candidates with an odd (or any) number of codes."""

    always: bool = False
    name: str = "failing"
    partial: bool = True
    cost: int = LARGE_MODEL

    def score(self, candidates: Sequence[Candidate]) -> list[Score]:
        if any(self.always or len(one.codes) % 2 for one in candidates):
            raise InputError("Scoring: this one cannot be judged. Give another.")
        return [Score(truth(one)) for one in candidates]


def test_candidates_without_a_verdict_come_last_and_never_win() -> None:
    ranking = searched(Adaptive(16, 4, None), planted_job(pass_rate=0.3), Failing())
    statuses = [one.status for one in ranking.judged]
    assert statuses == sorted(statuses, key=("scored", "bad", "unjudged").index)
    assert {"scored", "unjudged"} <= set(statuses) and len(statuses) == 16
    assert all(len(one.candidate.codes) % 2 for one in ranking.judged if one.status == "unjudged")


@pytest.mark.parametrize(
    "search", [Sample(), BestOfN(3), Adaptive(8), Fallback(), BeamSearch(2, 2, process=judge(Failing(True)))]
)
def test_no_verdict_at_all_is_an_error(search: Search) -> None:
    with pytest.raises(ScorerError, match="this one cannot be judged"):
        searched(search, planted_job(), Failing(True))


def test_bad_ones_with_speech_come_before_empty_ones() -> None:
    engine = PlantedEngine(Cheats(0, 1, 0, 0, 0))
    job = planted_job(words=1, pass_rate=0.5)
    dead = replace(job, params=replace(job.params, max_tokens=3))
    assert {one.status for one in searched(BestOfN(4), dead, engine=engine).judged} == {"bad"}

    @dataclass
    class Mixed(PlantedEngine):
        def say(self, prompt: Ids, params: SamplingParams, candidate: int) -> tuple[Ids, Finish, list[float]]:
            made: list[tuple[Ids, Finish]] = [([], "stop"), ([FIRST_ID + 1], "length"), ([], "length")]
            return (*made[candidate], [])

    ranking = searched(BestOfN(3), job, engine=Mixed())
    assert [(len(one.candidate.codes), one.candidate.finish) for one in ranking.judged] == [
        (1, "length"),
        (0, "stop"),
        (0, "length"),
    ]


def test_candidates_carry_what_the_engine_knows() -> None:
    job = planted_job(pass_rate=1.0)
    assert searched(Sample(), job).judged[0].candidate.logprob is None
    told = searched(Sample(), replace(job, params=replace(job.params, logprobs=True))).judged[0].candidate
    assert told.logprob is not None and -1 < told.logprob < 0
    assert told.utterance is job.utterance and told.audio is not None and told.finish == "stop"


def test_the_dial() -> None:
    assert search_for(1) == Sample() == search_for(1, target=0.5)
    assert search_for(8) == BestOfN(8)
    assert search_for(2, target=0.9) == Adaptive(2, 2, 0.9)
    assert search_for(8, target=0.9) == Adaptive(8, 4, 0.9)
    assert search_for(8, waves=True) == Adaptive(8, 4, None)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: BestOfN(0), "n is 0"),
        (lambda: Adaptive(0), "n is 0"),
        (lambda: Adaptive(4, 0), "wave is 0"),
        (lambda: Adaptive(4, target=1.5), "target is 1.5"),
        (lambda: Fallback(()), "number_of_temperatures is 0"),
        (lambda: Fallback((0.2, float("nan"))), r"temperatures\[1\] is nan"),
        (lambda: Fallback(target=-1), "target is -1"),
        (lambda: BeamSearch(0, 1, process=judge()), "width is 0"),
        (lambda: BeamSearch(1, 0, process=judge()), "branch is 0"),
        (lambda: BeamSearch(1, 1, 0.0, process=judge()), "step_s is 0"),
        (lambda: BeamSearch(1, 1, until_s=-2.0, process=judge()), "until_s is -2"),
        (lambda: Hybrid(BeamSearch(1, 1, process=judge()), BestOfN(2)), "until_s is None"),
        (lambda: search_for(0), "effort is 0"),
    ],
)
def test_values_out_of_range_are_refused_by_name(make: type[Search], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        make()


def test_progress_tells_the_best_value_so_far() -> None:
    news = list(Adaptive(8, 4, None).run(planted_job(number=1), planted_means(PlantedEngine(), oracle())))
    told = [one for one in news if isinstance(one, Progress)]
    ranking = news[-1]
    assert isinstance(ranking, Ranking)
    best: Judged = ranking.judged[0]
    assert [one.judged for one in told] == [0] * 4 + [4] * 5 + [8]
    assert told[0].best is None and best.score and told[-1].best == best.score.value

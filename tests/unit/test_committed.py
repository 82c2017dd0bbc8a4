"""Search that is heard while it goes on: what is committed, what is dropped, and whether it is in time."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest

from llasa.beams import Committed
from llasa.bundle import load_bundle
from llasa.core import Audio, Candidate, Finish, Ids, SamplingParams, Score, Voice
from llasa.errors import ConfigError, ScorerError
from llasa.judge import Judge, Part, Rubric
from llasa.recipe import Effort
from llasa.scorers.base import Scorer
from llasa.search import BestOfN, Job, Means, Progress, Ranking, Sample
from llasa.spoken import Spoken, concatenated
from llasa.synthesizer import Synthesizer
from tests.planted import (
    CODES_PER_S,
    FIRST_ID,
    HEAD,
    Cheats,
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


def judge(scorer: Scorer | None = None) -> Judge:
    return Judge(PlantedCodec(), scorer or oracle())


def committed(
    n: int = 4, block_s: float = 0.4, ahead_s: float = 0.4, scorer: Scorer | None = None
) -> Committed:
    return Committed(n, 4, block_s, ahead_s, process=judge(scorer))


def news_of(
    search: Committed | Sample | BestOfN,
    job: Job,
    means: Means | None = None,
    deadline_s: float | None = None,
) -> tuple[list[Progress], Ranking]:
    *news, ranking = search.run(job, means or planted_means(PlantedEngine(), oracle()), deadline_s)
    assert isinstance(ranking, Ranking)
    return [one for one in news if isinstance(one, Progress)], ranking


@pytest.mark.parametrize(("block_s", "ahead_s"), [(0.4, 0.4), (0.4, 0.0), (0.2, 0.8), (0.8, 0.2)])
def test_the_winner_begins_with_all_that_was_committed(block_s: float, ahead_s: float) -> None:
    block, ahead = round(block_s * CODES_PER_S), round(ahead_s * CODES_PER_S)
    for number in range(10):
        job = planted_job(pass_rate=0.5, number=number)
        news, ranking = news_of(committed(4, block_s, ahead_s), job)
        given = list[int]()
        for one in news:
            given += one.committed
        assert len(ranking.judged[0].candidate.codes) - len(given) <= block + ahead
        for one in ranking.judged:
            assert one.candidate.codes[: len(given)] == given
        sizes = [len(one.committed) for one in news if one.committed]
        assert sizes[:-1] == [max(block - ahead, ahead and block - ahead % block) or block, *sizes[1:-1]]


def test_blocks_come_long_before_the_end_and_lag_by_the_look_ahead() -> None:
    engine = PlantedEngine()
    running = committed(4, 0.4, 0.8).run(planted_job(pass_rate=1.0), planted_means(engine, oracle()))
    drawn = list[int]()
    for one in running:
        if isinstance(one, Progress) and one.committed:
            drawn.append(engine.drawn // 4)
            assert len(one.committed) == 10 or len(drawn) > 2
    assert drawn[:2] == [30, 40]  # 10 of 30, 20 of 40
    assert engine.in_flight == 0


def test_one_candidate_is_the_sample_and_nobody_judges_it_on_the_way() -> None:
    for number in range(5):
        job = planted_job(pass_rate=0.9, number=number)
        process = oracle()
        _, alone = news_of(committed(1, scorer=process), job)
        _, sample = news_of(Sample(), job)
        assert alone.judged[0].candidate.codes == sample.judged[0].candidate.codes
        assert process.calls == 0 and alone.tokens == sample.tokens


def test_it_says_words_better_than_one_try_for_the_codes_of_n() -> None:
    jobs = [planted_job(pass_rate=0.3, number=number) for number in range(40)]
    value, codes = dict[str, float](), dict[str, float]()
    for name, search in {"one": Sample(), "best": BestOfN(6), "committed": committed(6)}.items():
        found = [news_of(search, job)[1] for job in jobs]
        value[name] = fmean(truth(one.judged[0].candidate) for one in found)
        codes[name] = fmean(one.tokens for one in found)
    assert value["committed"] > value["one"] + 0.1 and value["committed"] > value["best"] - 0.02
    assert codes["committed"] < 1.2 * codes["best"]


def test_who_stops_too_soon_loses() -> None:
    engine = PlantedEngine(Cheats(loop=0, rush=0, silence=0, wrong=0))
    jobs = [planted_job(pass_rate=0.3, number=number) for number in range(20)]
    means = planted_means(engine, oracle())
    whole = [faults(news_of(committed(6), job, means)[1].judged[0].candidate) == 1 for job in jobs]
    alone = [faults(news_of(Sample(), job, means)[1].judged[0].candidate) == 1 for job in jobs]
    assert fmean(whole) >= 0.9 > 0.6 > fmean(alone)


def test_loops_lose_and_where_all_loop_the_best_goes_on_and_it_is_told() -> None:
    engine = PlantedEngine(Cheats(severity=0.999, truncate=0, rush=0, silence=0, wrong=0))
    means = planted_means(engine, oracle())
    jobs = [planted_job(pass_rate=0.4, number=number) for number in range(20)]
    ended = [news_of(committed(6), job, means)[1].judged[0].candidate.finish for job in jobs]
    assert ended.count("stop") > 16
    strict = Rubric([Part(oracle(lambda _: 0.1), floor=0.5)])
    _, ranking = news_of(committed(2, scorer=strict), jobs[0], means)
    assert 2 < ranking.pace["blocks_unsure"] < ranking.pace["blocks"]  # two that are equal have no rival
    assert f"{ranking.pace['blocks_unsure']:.0f} unsure" in ranking.stop
    hopeless = PlantedEngine(Cheats(severity=1.0, truncate=0, rush=0, silence=0, wrong=0))
    _, ranking = news_of(
        committed(3, 2.0, 0.4), planted_job(pass_rate=1e-9), planted_means(hopeless, oracle())
    )
    assert ranking.judged[0].status == "bad" and ranking.judged[0].candidate.finish == "loop"


def test_a_loop_that_no_request_sees_whole_ends_it_and_nothing_committed_is_cut() -> None:
    class Circling(PlantedEngine):
        """Says eight codes over and over."""

        def say(self, prompt: Ids, params: SamplingParams, candidate: int) -> tuple[Ids, Finish, list[float]]:
            place = len(prompt) - HEAD
            return [FIRST_ID + (place + i) % 8 for i in range(params.max_tokens)], "length", []

    job = planted_job(words=20)
    for n in (1, 3):
        news, ranking = news_of(committed(n), job, planted_means(Circling(), oracle()))
        given = [code for one in news for code in one.committed]
        [found] = ranking.judged
        assert (found.candidate.finish, found.status) == ("loop", "bad")
        assert found.candidate.codes[: len(given)] == given and 8 <= len(found.candidate.codes) <= 70
    free = replace(job, params=replace(job.params, loop_guard=False))
    _, ranking = news_of(committed(1), free, planted_means(Circling(), oracle()))
    assert ranking.judged[0].candidate.finish == "length"


@pytest.mark.parametrize(
    ("seconds_a_code", "held", "fewest", "most"),
    [(0.001, (0, 0), 4, 4), (0.009, (0, 0), 1, 4), (0.013, (0, 0), 1, 2), (0.2, (0, 0), 1, 1)],
)
def test_a_late_block_has_fewer_candidates(
    seconds_a_code: float, held: tuple[int, int], fewest: int, most: int
) -> None:
    engine = PlantedEngine()
    clocked = replace(planted_means(engine, oracle()), held=held, clock=lambda: engine.drawn * seconds_a_code)
    _, ranking = news_of(committed(4), planted_job(pass_rate=1.0), clocked)
    counts = dict[int, int]()
    for prompt, params in engine.asked:
        counts[len(prompt)] = counts.get(len(prompt), 0) + params.n
    assert min(counts.values()) == fewest and next(iter(counts.values())) == 4
    assert max(list(counts.values())[2:]) == most
    hurried = fewest < 4
    assert (ranking.pace["blocks_hurried"] > 0) == hurried == ("hurried" in ranking.stop)
    assert ranking.pace["block_s"] == pytest.approx(40 * seconds_a_code)


def test_in_time_means_that_no_player_waits() -> None:
    engine = PlantedEngine()
    for seconds_a_code in (0.002, 0.008, 0.012, 0.02):
        clocked = {"held": (0, 0), "clock": lambda own=seconds_a_code: engine.drawn * own}
        means = replace(planted_means(engine, oracle()), **clocked)
        played_until = None
        for one in committed(8).run(planted_job(pass_rate=1.0, words=20), means):
            if isinstance(one, Progress) and one.committed:
                played_until = played_until or means.clock()
                assert means.clock() <= played_until
                played_until += len(one.committed) / CODES_PER_S


def test_after_the_deadline_the_best_goes_on_alone() -> None:
    engine = PlantedEngine()
    means = replace(planted_means(engine, oracle()), clock=lambda: engine.drawn * 0.001)
    _, ranking = news_of(committed(4), planted_job(pass_rate=1.0), means, deadline_s=0.1)
    assert [params.n for _, params in engine.asked][-1] == 1 and ranking.stop.startswith("deadline")
    assert ranking.judged[0].candidate.finish == "stop"


class Dying:
    """The oracle, which fails from a call on."""

    name, partial, cost = "dying", True, 3

    def __init__(self, calls: int) -> None:
        self.left = calls

    def score(self, candidates: Sequence[Candidate]) -> list[Score]:
        self.left -= 1
        if self.left < 0:
            raise ScorerError("Judging: the plug was pulled.")
        return oracle().score(candidates)


def test_a_judge_that_fails_does_not_end_what_is_being_heard() -> None:
    job = planted_job(pass_rate=1.0)
    _, ranking = news_of(committed(4, scorer=Dying(3)), job)
    assert ranking.judged[0].status == "scored" and ranking.pace["blocks_unsure"] > 0
    with pytest.raises(ScorerError, match="plug"):
        news_of(committed(4, scorer=Dying(0)), job)


def test_a_judge_that_fails_at_the_end_does_not_end_what_was_heard() -> None:
    job, dying = planted_job(pass_rate=1.0), Dying(3)
    news, ranking = news_of(
        committed(4, scorer=dying), job, replace(planted_means(PlantedEngine(), dying), held=(0, 0))
    )
    assert ranking.judged[0].status == "unjudged" and news


@pytest.mark.parametrize(
    ("keys", "found"),
    [
        ({"n": 0}, "n is 0"),
        ({"n": 2, "width": 0}, "width is 0"),
        ({"n": 2, "block_s": 0.0}, "block_s is 0"),
        ({"n": 2, "ahead_s": -1.0}, "ahead_s is -1"),
        (
            {"n": 2, "process": judge(oracle(partial=False))},
            "Making Committed: 'oracle' cannot judge partial",
        ),
    ],
)
def test_what_cannot_be_is_refused(keys: dict[str, int], found: str) -> None:
    with pytest.raises(ConfigError, match=found):
        Committed(**{"process": judge(), **keys})  # pyright: ignore[reportArgumentType]


def test_a_judge_of_beginnings_has_the_parts_that_can() -> None:
    whole, part = oracle(partial=False), cheap_scorer()
    held = PlantedScorer("held", lambda _: 0.0)
    rubric = Rubric([Part(whole, 2.0), Part(part, 3.0, floor=0.1), Part(held, held_out=True)], "min")
    found = Judge(PlantedCodec(), rubric, truncated=0.25, cascade=False).of_beginnings()
    assert found.partial and [(one.name, one.weight, one.floor) for one in found.rubric.parts] == [
        ("cheap", 3.0, 0.1)
    ]
    assert (found.rubric.combine, found.truncated, found.cascade) == ("min", 0.25, False)
    with pytest.raises(ConfigError, match="'oracle' cannot judge partial audio"):
        judge(whole).of_beginnings()


@pytest.fixture
def speaker(tiny_bundle: Path) -> Synthesizer:
    return Synthesizer(load_bundle(tiny_bundle))


def streaming(speaker: Synthesizer, n: int = 3) -> Effort:
    """Return an effort that prefers what is long."""
    chosen = Judge(speaker.bundle.codec, PlantedScorer("long", lambda one: len(one.codes) / 60))
    search = Committed(n, 2, 0.4, 0.2, process=chosen)
    return Effort(BestOfN(n), chosen, streaming=search)


TEXT = "The cat sat on the mat. It was happy!"
LONG: dict[str, Any] = {"min_tokens": 40, "max_tokens": 60}


def test_a_stream_is_searched_for_while_it_is_heard(speaker: Synthesizer) -> None:
    told, effort = list[Spoken](), streaming(speaker)
    sounds = speaker.stream(TEXT, seed=4, effort=effort, told=told.append, **LONG)
    first = next(sounds)
    assert len(first.samples) and not told
    sound = concatenated([first, *sounds])
    assert [one.number for one in told] == [1, 2]
    codec = speaker.bundle.codec
    for one in told:
        assert one.ranking and one.ranking.pace["blocks"] >= 3
        assert one.candidate.codes == one.ranking.judged[0].candidate.codes
        assert {"blocks", "tokens", "judge_s"} <= one.stats.keys()
        [whole] = codec.decode([one.candidate.codes], voice_codes(one))
        audio = one.candidate.audio
        assert audio and len(audio.samples) == len(whole.samples)
        assert np.square(audio.samples - whole.samples).mean() < 0.05 * np.square(whole.samples).mean()
        assert holds(sound, audio)
    assert effort.streaming is not None
    again = concatenated(speaker.stream(TEXT, seed=4, effort=effort, **LONG))
    if not any(one.ranking and one.ranking.pace["blocks_hurried"] for one in told):
        assert np.array_equal(sound.samples, again.samples)


def voice_codes(one: Spoken) -> list[int] | None:
    voice: Voice | None = one.candidate.utterance.voice
    return voice.codes if voice else None


def holds(sound: Audio, part: Audio) -> bool:
    """Tell whether the middle of a part is in a sound: its ends are faded and may be cut."""
    middle = part.samples[len(part.samples) // 3 : len(part.samples) // 3 + 400]
    windows = np.lib.stride_tricks.sliding_window_view(sound.samples, len(middle))
    return bool((windows == middle).all(1).any())


def test_who_does_not_listen_meanwhile_gets_whole_segments(speaker: Synthesizer) -> None:
    effort = streaming(speaker)
    for one in speaker.speak(TEXT, seed=4, effort=effort, max_tokens=60):
        assert one.ranking and not one.ranking.pace and len(one.ranking.judged) == 3
    committing = replace(effort, search=effort.streaming, streaming=None)
    [first, _] = speaker.speak(TEXT, seed=4, effort=committing, max_tokens=60)
    assert first.ranking and first.ranking.pace and first.candidate.audio
    [whole] = speaker.bundle.codec.decode([first.candidate.codes], voice_codes(first))
    assert np.array_equal(first.candidate.audio.samples, whole.samples)


def test_whole_segments_stream_one_by_one(speaker: Synthesizer) -> None:
    effort, told = replace(streaming(speaker), streaming=None), list[Spoken]()
    found = concatenated(speaker.stream(TEXT, seed=4, effort=effort, told=told.append, max_tokens=60))
    said = speaker.say(TEXT, seed=4, effort=effort, max_tokens=60)
    assert np.array_equal(found.samples, said.samples) and len(told) == 2


def test_who_stops_listening_stops_the_search(speaker: Synthesizer) -> None:
    sounds = speaker.stream(TEXT, seed=4, effort=streaming(speaker), max_tokens=60)
    next(sounds)
    sounds.close()  # pyright: ignore
    from llasa.engines.native import NativeEngine

    engine = speaker.bundle.engine
    assert isinstance(engine, NativeEngine)
    speaker.say("The cat.", max_tokens=20)  # nothing else is in flight: it is alone in every step
    assert not engine._rows  # pyright: ignore[reportPrivateUsage]

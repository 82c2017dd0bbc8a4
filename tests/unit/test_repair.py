"""Saying a span again, with a codec whose codes are letters: what is generated is what is heard."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest

from llasa.bundle import Bundle, load_bundle
from llasa.core import Audio, Candidate, Codes, Finish, Generation, Ids, SamplingParams, Score, Word
from llasa.engines.base import Step
from llasa.errors import ScorerError
from llasa.judge import Judge, Part, Rubric
from llasa.recipe import Effort
from llasa.recognizers.base import TextForm, Transcript
from llasa.repair import FIRST_NUMBER, MARGIN_S, Repaired, failing_spans, repair
from llasa.scorers.likelihood import ModelLikelihood
from llasa.scorers.wer import ErrorRate
from llasa.search import Ranking, Sample
from llasa.spoken import Spoken
from llasa.synthesizer import Synthesizer
from llasa.text.reading import Reader
from llasa.text.segment import segment

LETTERS = " abcdefghijklmnopqrstuvwxyz"
CODES_PER_S = 25
TEXT = "The cat sat on the mat."
SAID = "the cat sat on the mat"


def spelt(text: str) -> Codes:
    return [LETTERS.index(letter) for letter in text]


@dataclass
class Letters:
    """A codec: a code is a letter, its sound that number."""

    name: str = "letters@0"
    sample_rate: int = 16000
    codebook_size: int = 4096
    hop_length: int = 640

    def encode(self, audio: Sequence[Audio]) -> list[Codes]:
        return [[round(float(x)) for x in clip.samples[::640]] for clip in audio]

    def decode(self, codes: Sequence[Codes], context: Codes | None = None) -> list[Audio]:
        return [Audio(np.repeat(np.array(row, np.float32), 640), 16000) for row in codes]

    def code_count(self, n_samples: int) -> int:
        return n_samples // 640


@dataclass
class Speller:
    """A recogniser that reads the letters off the sound."""

    name: str = "speller"
    text_form: TextForm = "characters"
    fails: bool = False

    def transcribe(self, audio: Sequence[Audio]) -> list[Transcript]:
        if self.fails:
            raise ScorerError("Recognising: no answer.")
        return [self._read(codes) for codes in Letters().encode(audio)]

    def _read(self, codes: Codes) -> Transcript:
        text = "".join(LETTERS[code] for code in codes)
        spans = tuple((i / CODES_PER_S, (i + 1) / CODES_PER_S) for i in range(len(codes)))
        return Transcript(text, tuple(text), spans)


@dataclass
class Given:
    """A request that is over as soon as it is made."""

    generations: list[Generation]

    def __iter__(self) -> Iterator[Step]:
        return iter(())

    def cancel(self, candidate: int | None = None) -> None: ...

    def result(self) -> list[Generation]:
        return self.generations


@dataclass
class Sayer:
    """An engine that wants to say these texts, one a candidate, and goes on from the codes it is given."""

    first_id: int
    texts: Sequence[str]
    finish: Finish = "stop"
    logprob: float = -0.5
    name: str = "sayer"
    max_length: int = 4096
    concurrency: int = 8
    asked: list[tuple[Ids, SamplingParams]] = field(default_factory=list)

    def submit(self, prompt: Ids, params: SamplingParams) -> Given:
        self.asked.append((prompt, params))
        n = len([one for one in prompt if one >= self.first_id])
        texts = [self.texts[i % len(self.texts)] for i in range(params.n)]
        ids = [[self.first_id + code for code in spelt(text)[n:]] for text in texts]
        nats = [[self.logprob] * len(row) if params.logprobs else None for row in ids]
        return Given([Generation(row, self.finish, of) for row, of in zip(ids, nats, strict=True)])


class Scripted(Bundle):
    """The tiny bundle with letters for codes and no voice."""

    texts: Sequence[str]

    @cached_property
    def codec(self) -> Letters:
        return Letters()

    @cached_property
    def engine(self) -> Sayer:
        return Sayer(self.prompt.first_code_id, self.texts)


Repair = Callable[..., tuple[Repaired, Sayer, Spoken]]


@pytest.fixture
def mended(tiny_bundle: Path) -> Repair:
    """Return what becomes of a speech that said `said`, when the engine would now say `texts`."""
    plain = load_bundle(tiny_bundle)

    def run(
        said: str,
        *texts: str,
        text: str = TEXT,
        n: int = 2,
        speller: Speller | None = None,
        logprob: float | None = None,
    ):
        bundle = Scripted(plain.folder, plain.manifest.model_copy(update={"default_voice": None}))
        object.__setattr__(bundle, "texts", texts)
        synthesizer = Synthesizer(bundle)
        listener = Speller()
        likely = [] if logprob is None else [Part(ModelLikelihood())]
        judge = Judge(bundle.codec, Rubric([Part(ErrorRate(listener, Reader())), *likely]))
        job = synthesizer.job(text)
        [first] = judge.judge([Candidate(job.utterance, spelt(said), "stop", logprob)])
        ranking = Ranking((first,), len(said), "all 1 candidates were drawn", 0.0, 0.0)
        spoken = Spoken(segment(text)[0], first.candidate, ranking=ranking)
        if speller:
            judge = Judge(bundle.codec, Rubric([Part(ErrorRate(speller, Reader()))]))
        return repair(synthesizer, spoken, Effort(Sample(), judge), n), bundle.engine, spoken

    return run


def heard(spoken: Spoken) -> str:
    return "".join(LETTERS[code] for code in spoken.candidate.codes)


def test_a_wrong_word_is_said_again_to_the_end(mended: Repair):
    done, _, old = mended("the dog sat on the hen", "the dog sat on the hen", SAID)
    assert heard(done.spoken) == SAID and done.spoken.candidate.audio is not None
    [attempt] = [one for one in done.attempts if one.kept]
    assert attempt.before == old.ranking.judged[0].score.value and attempt.after == 1.0
    ranking = done.spoken.ranking
    assert ranking.judged[0].candidate == done.spoken.candidate and "was said again" in ranking.stop
    assert len(ranking.judged) == 1 + attempt.tries and ranking.tokens > old.ranking.tokens
    assert done.to_json()["attempts"][0]["span"] == attempt.span


def test_the_old_speech_is_kept_around_the_span(mended: Repair):
    said = "the dog sat on the mat"
    done, engine, _ = mended(said, "the cat hat in a hut")
    assert heard(done.spoken) == SAID
    [attempt] = done.attempts
    assert (attempt.span, attempt.kept, attempt.tries) == ("cat", True, 4)
    assert attempt.start_s == pytest.approx(4 / CODES_PER_S - 0.02, abs=0.021)
    prompt, params = engine.asked[0]
    kept = [one - engine.first_id for one in prompt if one >= engine.first_id]
    assert kept == spelt(said)[: len(kept)] and 0 < len(kept) <= (attempt.start_s - MARGIN_S) * CODES_PER_S
    assert (params.n, params.first) == (2, FIRST_NUMBER)
    assert params.min_tokens == max(0, 5 - len(kept)) and params.max_tokens > 0


def test_nothing_better_changes_nothing(mended: Repair):
    done, engine, old = mended("the dog sat on the mat", "the dog sat on the mat", "the hen sat on the mat")
    assert done.spoken.candidate is old.candidate
    assert [(one.kept, one.span) for one in done.attempts] == [(False, "cat")]
    assert len(engine.asked) == 1


def test_what_a_rejected_repair_cost_is_counted(mended: Repair):
    done, _, old = mended("the dog sat on the mat", "the dog sat on the mat", "the hen sat on the mat")
    [attempt] = done.attempts
    before, after = old.ranking, done.spoken.ranking
    assert attempt.tokens > 0 and after.tokens == before.tokens + attempt.tokens
    assert len(after.judged) == len(before.judged) + attempt.tries
    assert after.judged[0] is before.judged[0] and after.stop.endswith("'cat' was said again")
    assert done.spoken.stats["tokens"] == after.tokens and after.generate_s > before.generate_s


def test_log_probabilities_are_carried_over(mended: Repair):
    done, engine, old = mended("the dog sat on the mat", "the cat hat in a hut", logprob=-0.1)
    [attempt] = done.attempts
    assert attempt.kept and heard(done.spoken) == SAID
    [(prompt, params)] = engine.asked
    kept = len([one for one in prompt if one >= engine.first_id])
    spliced = done.spoken.candidate
    assert params.logprobs and spliced.logprob is not None and -0.5 < spliced.logprob < old.candidate.logprob
    [whole] = {
        one.candidate.logprob
        for one in done.spoken.ranking.judged
        if one.candidate.codes == spelt("the cat hat in a hut")
    }
    assert whole == pytest.approx((-0.1 * kept - 0.5 * (20 - kept)) / 20)
    assert all(one.status == "scored" for one in done.spoken.ranking.judged)
    plain, engine, _ = mended("the dog sat on the mat", "the cat hat in a hut")
    assert plain.spoken.candidate.logprob is None and not engine.asked[0][1].logprobs


def test_an_equal_value_is_not_preferred(mended: Repair):
    done, _, old = mended("the dog sat on the mat", "the pig sat on the mat")
    assert done.spoken.candidate is old.candidate and done.attempts[0].before == done.attempts[0].after


def test_the_worst_span_comes_first_and_all_are_tried(mended: Repair):
    text = "The cat sat on the enormous mat."
    right = "the cat sat on the enormous mat"
    done, engine, _ = mended("the dog sat on the xxxxxxxx mat", right, text=text, n=1)
    assert done.attempts[0].span == "enormous" and heard(done.spoken) == right
    assert [one.kept for one in done.attempts] == [True, True]
    assert [params.first for _, params in engine.asked] == [FIRST_NUMBER, FIRST_NUMBER + 1]


def test_a_missing_end_is_added(mended: Repair):
    done, _, _ = mended("the cat sat on", SAID)
    assert heard(done.spoken) == SAID
    [attempt] = done.attempts
    assert attempt.span == "the mat" and attempt.end_s is None


def test_an_added_word_is_taken_out(mended: Repair):
    done, _, _ = mended("the cat zebra sat on the mat", "the cat sat on a hut")
    assert heard(done.spoken) == SAID and done.attempts[0].span == "[zebra]"


def test_what_cannot_be_repaired_comes_back(mended: Repair, tiny_bundle: Path):
    done, engine, old = mended(SAID, SAID)
    assert done.spoken is old and done.attempts == () and done.note == "Every word was heard."
    assert engine.asked == []
    failed, _, old = mended("the dog sat on the mat", SAID, speller=Speller(fails=True))
    assert failed.spoken is old and failed.note == "Recognising: no answer."
    silent, _, old = mended("the", "")
    assert silent.spoken.candidate is old.candidate


class Flat:
    """A scorer that does not listen."""

    name, partial, cost = "flat", True, 0

    def score(self, candidates: Sequence[Candidate]) -> list[Score]:
        return [Score(0.5)] * len(candidates)


def test_without_a_recogniser_or_a_ranking_nothing_is_tried(mended: Repair, tiny_bundle: Path):
    _, _, old = mended("the dog sat on the mat", SAID)
    synthesizer = Synthesizer(load_bundle(tiny_bundle))
    deaf = repair(synthesizer, old, Effort(Sample(), Judge(Letters(), Flat())))
    assert deaf.spoken is old and "no recogniser steers" in deaf.note
    listening = Effort(Sample(), Judge(Letters(), ErrorRate(Speller(), Reader())))
    for unjudged in (
        replace(old, ranking=None),
        replace(old, candidate=replace(old.candidate, codes=[], audio=None)),
    ):
        assert "no judged speech" in repair(synthesizer, unjudged, listening).note


def word(text: str, start: int, status: str, times: tuple[float, float] | None, heard: str = "") -> Word:
    return Word(text, start, start + len(text), heard or text, status, *(times or (None, None)))  # type: ignore[arg-type]


def test_failing_spans():
    words = (
        word("one", 0, "missed", None),
        word("two", 4, "said", (0.5, 0.9)),
        word("three", 8, "missed", None),
        word("", 13, "added", (1.2, 1.4), "tree"),
        word("four", 14, "said", (1.5, 1.9)),
        word("five", 19, "changed", (2.0, 2.4)),
    )
    spans = [(one.text, one.start, one.end, one.start_s, one.end_s) for one in failing_spans(words)]
    assert spans == [
        ("one", 0, 3, 0.0, 0.5),
        ("three [tree]", 7, 13, 0.9, 1.5),
        ("five", 18, 23, 2.0, None),
    ]
    assert [one.size for one in failing_spans(words)] == [3, 9, 4]
    timeless = tuple(replace(one, start_s=None, end_s=None) for one in words)
    assert [one.text for one in failing_spans(timeless)] == []

"""Likelihoods of the text: what recognisers are asked, and what their answers are worth."""

import math
from collections.abc import Sequence

import numpy as np
import pytest

from llasa.core import Audio, Candidate, Utterance
from llasa.errors import ConfigError, InputError, ScorerError
from llasa.recognizers.base import TextForm, Transcript
from llasa.recognizers.ctc import CtcRecognizer
from llasa.scorers.likelihood import Likelihood, ModelLikelihood
from llasa.text.phones import Phonemizer
from llasa.text.reading import Reader

READER = Reader(Phonemizer({"the": "DH AH", "a": "AH", "cat": "K AE T", "nine": "N AY N"}, None))
SOUND = Audio(np.sin(np.arange(16000) / 9).astype(np.float32), 16000)


class Deaf:
    name = "deaf@0"
    text_form: TextForm = "written"

    def transcribe(self, audio: Sequence[Audio]) -> list[Transcript]:
        return [Transcript("") for _ in audio]


class Sure(Deaf):
    """Finds every text as likely as it was told, and keeps what it was asked."""

    def __init__(self, *answers: float, text_form: TextForm = "written") -> None:
        self.answers = answers
        self.text_form: TextForm = text_form
        self.asked: list[str] = []

    def log_likelihood(self, audio: Sequence[Audio], texts: Sequence[str]) -> list[float]:
        self.asked += texts
        return list(self.answers)


def candidate(
    text: str = "The cat, 9!", logprob: float | None = None, audio: Audio | None = SOUND
) -> Candidate:
    return Candidate(Utterance("7", text), [1], "stop", logprob, audio)


@pytest.mark.parametrize(
    "form, asked",
    [("phones", "DH AH | K AE T | N AY N"), ("characters", "the cat nine"), ("written", "The cat, 9!")],
)
def test_each_recogniser_is_asked_in_its_own_form(form: TextForm, asked: str) -> None:
    recognizer = Sure(-1.0, text_form=form)
    Likelihood(recognizer, READER).score([candidate()])
    assert recognizer.asked == [asked]


def test_the_less_likely_the_less_it_is_worth_down_to_nothing() -> None:
    scores = Likelihood(Sure(0.0, -0.5, -2.0, -math.inf), READER, scale=0.5).score([candidate()] * 4)
    assert [score.value for score in scores] == pytest.approx([1, math.exp(-1), math.exp(-4), 0])
    assert [score.measures.get("nll") for score in scores] == [0, 0.5, 2.0, None]  # JSON knows no infinity
    assert "does not fit" in scores[-1].note


def test_a_real_recogniser_agrees_and_cannot_fit_a_long_text_into_a_short_clip() -> None:
    recognizer = CtcRecognizer.random(seed=2)
    long = candidate("the cat " * 60)
    fits, overlong = Likelihood(recognizer, READER).score([candidate(), long])
    expected = recognizer.log_likelihood([SOUND], ["DH AH | K AE T | N AY N"])[0]
    assert fits.measures["nll"] == pytest.approx(-expected, rel=1e-4)
    assert 0 < fits.value < 1 and overlong.value == 0


def test_no_number_is_no_verdict() -> None:
    for nats in (math.nan, math.inf):
        with pytest.raises(ScorerError, match="no number"):
            Likelihood(Sure(nats), READER).score([candidate()])
    with pytest.raises(ScorerError, match="no number"):
        ModelLikelihood().score([candidate(logprob=math.nan)])


def test_what_cannot_work_is_refused_when_it_is_made() -> None:
    with pytest.raises(ConfigError, match=r"deaf@0.*cannot tell"):
        Likelihood(Deaf(), READER)
    with pytest.raises(ConfigError, match="no pronouncing lexicon"):
        Likelihood(Sure(text_form="phones"), Reader())


def test_a_candidate_without_sound_is_named() -> None:
    with pytest.raises(InputError, match=r"'7'.*no audio"):
        Likelihood(Sure(-1.0), READER).score([candidate(audio=None)])


def test_the_language_model_says_how_likely_its_codes_are() -> None:
    scores = ModelLikelihood(scale=2.0).score([candidate(logprob=0.0), candidate(logprob=-2.0)])
    assert [score.value for score in scores] == pytest.approx([1, math.exp(-1)])
    assert scores[1].measures == {"logprob": -2.0}
    with pytest.raises(InputError, match="logprobs=true"):
        ModelLikelihood().score([candidate()])

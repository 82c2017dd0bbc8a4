"""Which words of a text are in a sound."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest

from llasa.core import Audio, Candidate, Utterance
from llasa.errors import ConfigError, ScorerError
from llasa.recognizers.base import TextForm, Transcript
from llasa.recognizers.ctc import CtcRecognizer
from llasa.scorers.coverage import Coverage
from llasa.text.phones import Phonemizer
from llasa.text.reading import Reader
from tests.conftest import clip

LEXICON = {"the": "DH AH", "a": "AH", "cat": "K AE T", "sat": "S AE T", "oh": "OW", "red": "R EH D"}
READER = Reader(Phonemizer(LEXICON, None))
TEXT = "The cat sat."
SOUND = Audio(np.zeros(8, np.float32), 16000)


class Listener:
    """Finds a text the likelier the more of its words are among those heard, and the fewer others."""

    name = "listener@0"

    def __init__(self, heard: str, text_form: TextForm = "phones", tight: bool = False) -> None:
        self.heard, self.tight = heard, tight
        self.text_form: TextForm = text_form

    def transcribe(self, audio: Sequence[Audio]) -> list[Transcript]:
        return [Transcript(self.heard) for _ in audio]

    def log_likelihood(self, audio: Sequence[Audio], texts: Sequence[str]) -> list[float]:
        return [self._nats(text) for text in texts]

    def _nats(self, text: str) -> float:
        mark = " | " if self.text_form == "phones" else " "
        words, heard = set(text.split(mark)), set(self.heard.split(mark))
        wrong = sum(len(word.split()) for word in words ^ heard)
        size = len(text.split()) if self.text_form == "phones" else len(text)
        return -float("inf") if self.tight else -3.0 * wrong / size


def score(heard: str, text: str = TEXT, **options):
    said = Candidate(Utterance("1", text), [1, 2], "stop", audio=SOUND)
    return Coverage(Listener(heard, **options), READER).score([said])[0]


def test_all_words_are_there() -> None:
    found = score("DH AH | K AE T | S AE T")
    assert found.value == 1 and found.measures["coverage"] == 1 and found.measures["heard_ratio"] == 1
    assert found.measures["last_fit"] > 0 and not found.note


def test_a_missing_word_is_named_and_costs_its_share() -> None:
    found = score("DH AH | S AE T")
    assert found.value == found.measures["coverage"] == pytest.approx(2 / 3)
    assert found.measures["worst_fit"] < 0 < found.measures["last_fit"] and found.note == "not there: cat"


def test_a_missing_end_costs_more() -> None:
    found = score("DH AH | K AE T")
    assert found.value == pytest.approx(1 / 3) and found.measures["last_fit"] < 0


def test_what_is_said_again_costs_more_each_time() -> None:
    values = [score(" | ".join(["DH AH | K AE T | S AE T"] * times)).value for times in (1, 2, 3, 6)]
    assert all(0 < after < before for before, after in pairwise(values))


def test_a_text_that_does_not_fit_is_worth_nothing() -> None:
    found = score("DH AH", tight=True)
    assert found.value == 0 and "does not fit" in found.note
    assert set(found.measures) == {"coverage", "heard_ratio"}


def test_characters_are_asked_for_as_words() -> None:
    assert score("the cat sat", text_form="characters").value == 1
    assert score("the cat", text_form="characters").measures["last_fit"] < 0


def test_a_text_of_one_word() -> None:
    assert score("K AE T", "Cat.").value == 1
    assert score("S EH D", "Cat.").value == 0


def test_a_text_of_one_sound_is_there_if_it_was_heard() -> None:
    assert score("OW", "Oh!").value == 1 and score("AH | OW", "Oh!").value < 1
    assert score("AH", "Oh!").value == score("", "Oh!").value == 0


def test_a_recogniser_that_cannot_tell_is_refused() -> None:
    with pytest.raises(ConfigError, match="hears phones or characters"):
        Coverage(Listener("the", text_form="written"), READER)

    class Deaf:
        name = "deaf@0"
        text_form: TextForm = "phones"

        def transcribe(self, audio: Sequence[Audio]) -> list[Transcript]:
            return [Transcript("") for _ in audio]

    with pytest.raises(ConfigError, match=r"deaf@0.*cannot tell"):
        Coverage(Deaf(), READER)


@pytest.mark.parametrize("answers", [[float("nan")] * 4, [-1.0, -1.0, float("nan"), -1.0], [0.5] * 4, [-1.0]])
def test_a_recogniser_that_fails_gives_no_verdict(answers: list[float]) -> None:
    listener = Listener("DH AH | K AE T")
    listener.log_likelihood = lambda audio, texts: answers
    with pytest.raises(ScorerError, match=r"listener@0.*Correct"):
        Coverage(listener, READER).score([Candidate(Utterance("1", TEXT), [1], "stop", audio=SOUND)])


def test_a_missing_word_does_not_take_its_neighbours_along() -> None:
    """Alone, each word of three seems to be in the way; with "cat" out of the text, the others fit."""
    nats = {"the cat sat": -30, "the sat": -2, "the cat": -20, "cat sat": -25, "the": -12, "sat": -12}
    listener = Listener("the sat", "characters")
    listener.log_likelihood = lambda audio, texts: [nats[text] / len(text) for text in texts]
    said = Candidate(Utterance("1", TEXT), [1], "stop", audio=SOUND)
    [found] = Coverage(listener, READER).score([said])
    assert found.note == "not there: cat" and found.value == pytest.approx(2 / 3)
    assert found.measures["worst_fit"] < 0 < found.measures["last_fit"]


def test_too_few_transcripts_give_no_verdict() -> None:
    listener = Listener("DH AH | K AE T")
    listener.transcribe = lambda audio: []
    with pytest.raises(ScorerError, match="0 answers to 1"):
        Coverage(listener, READER).score([Candidate(Utterance("1", TEXT), [1], "stop", audio=SOUND)])


@pytest.mark.parametrize("form", ["phones", "characters"])
def test_a_real_recogniser_gives_each_candidate_what_it_gets_alone(form: TextForm) -> None:
    scorer = Coverage(CtcRecognizer.random(seed=1, text_form=form), READER)
    some = [
        Candidate(Utterance(str(n), text), [1], "stop", audio=clip(0.5 + n / 4))
        for n, text in enumerate(("The cat sat.", "A red cat.", "Sat."))
    ]
    together = scorer.score(some)
    for one, found in zip(some, together, strict=True):
        [alone] = Coverage(CtcRecognizer.random(seed=1, text_form=form), READER).score([one])
        assert found.value == pytest.approx(alone.value, abs=1e-5)
        assert found.measures == pytest.approx(alone.measures, abs=1e-3)

"""What every recogniser must keep, run over each recogniser of the package.

To check your own: `from tests.contracts.test_recognizer import *`, then define a fixture `recognizer`.
"""

from collections.abc import Callable

import numpy as np
import pytest

from llasa.audio import resample
from llasa.core import Audio
from llasa.errors import InputError
from llasa.recognizers.base import Recognizer
from llasa.recognizers.ctc import CtcRecognizer

FACTORIES: dict[str, Callable[[], Recognizer]] = {
    "ctc-phones": lambda: CtcRecognizer.random(seed=0, text_form="phones"),
    "ctc-characters": lambda: CtcRecognizer.random(seed=1, text_form="characters"),
}
TEXTS = {"phones": ["DH AH | K AE T .", "HH AY", "S IH T"], "characters": ["the cat.", "hi", "sit"]}


@pytest.fixture(scope="module", params=FACTORIES.values(), ids=list(FACTORIES))
def recognizer(request: pytest.FixtureRequest) -> Recognizer:
    return request.param()


def clip(n_samples: int, seed: int = 0, sample_rate: int = 16000) -> Audio:
    """Return gliding tones in noise."""
    rng = np.random.default_rng(seed)
    t = np.arange(n_samples) / sample_rate
    sound = 0.3 * np.sin(2 * np.pi * t * (150 + 100 * seed + 300 * t)) + 0.05 * rng.standard_normal(n_samples)
    return Audio(sound.astype(np.float32), sample_rate)


def ragged_clips() -> list[Audio]:
    return [clip(n, seed) for seed, n in enumerate((16000, 9001, 24007))]


def silence(seconds: float) -> Audio:
    return Audio(np.zeros(int(16000 * seconds), np.float32), 16000)


def test_the_name_has_a_kind_and_a_hash(recognizer: Recognizer) -> None:
    assert recognizer.name.count("@") == 1
    assert recognizer.text_form in TEXTS


def test_transcribing_a_batch_equals_one_by_one_in_order(recognizer: Recognizer) -> None:
    clips = ragged_clips()
    together = recognizer.transcribe(clips)
    assert [t.text for t in recognizer.transcribe(clips[::-1])] == [t.text for t in together[::-1]]
    for one, many in zip((recognizer.transcribe([c])[0] for c in clips), together, strict=True):
        assert (one.text, one.tokens, one.spans) == (many.text, many.tokens, many.spans)
        np.testing.assert_allclose(one.logprobs, many.logprobs, atol=1e-4)


def test_scoring_a_batch_equals_one_by_one_in_order(recognizer: Recognizer) -> None:
    clips, texts = ragged_clips(), TEXTS[recognizer.text_form]
    alone = [recognizer.log_likelihood([c], [t])[0] for c, t in zip(clips, texts, strict=True)]
    np.testing.assert_allclose(recognizer.log_likelihood(clips, texts), alone, atol=1e-4)
    assert all(score <= 0 for score in alone)


def test_nothing_in_nothing_out(recognizer: Recognizer) -> None:
    assert recognizer.transcribe([]) == []
    assert recognizer.log_likelihood([], []) == []


def test_token_details_go_together(recognizer: Recognizer) -> None:
    for sound, heard in zip(ragged_clips(), recognizer.transcribe(ragged_clips()), strict=True):
        assert len(heard.tokens) == len(heard.spans) == len(heard.logprobs)
        times = [time for span in heard.spans for time in span]
        assert times == sorted(times)
        assert not times or (times[0] >= 0 and times[-1] <= sound.duration_s + 0.1)
        assert all(logprob <= 0 for logprob in heard.logprobs)


def test_silence_gives_few_tokens(recognizer: Recognizer) -> None:
    (heard,) = recognizer.transcribe([silence(3.0)])
    assert len(heard.tokens) <= 15


def test_the_shortest_clip_is_heard(recognizer: Recognizer) -> None:
    (heard,) = recognizer.transcribe([clip(1)])
    assert len(heard.tokens) <= 1


@pytest.mark.parametrize("sample_rate", [8000, 24000, 44100])
def test_clips_at_another_rate_are_resampled(recognizer: Recognizer, sample_rate: int) -> None:
    other = clip(sample_rate, sample_rate=sample_rate)
    fitted = resample(other, 16000)
    assert recognizer.transcribe([other]) == recognizer.transcribe([fitted])
    text = TEXTS[recognizer.text_form][0]
    assert recognizer.log_likelihood([other], [text]) == recognizer.log_likelihood([fitted], [text])


@pytest.mark.parametrize(
    "samples", [np.zeros(0), np.zeros((2, 1000)), np.array([0.1, np.nan]), np.array([np.inf])], ids=str
)
def test_damaged_clips_are_refused(recognizer: Recognizer, samples: np.ndarray) -> None:
    bad = Audio(samples.astype(np.float32), 16000)
    with pytest.raises(InputError):
        recognizer.transcribe([clip(1000), bad])
    with pytest.raises(InputError):
        recognizer.log_likelihood([bad], [TEXTS[recognizer.text_form][0]])


@pytest.mark.parametrize("text", ["", "...", "5 %"])
def test_texts_without_tokens_or_with_unknown_ones_are_refused(recognizer: Recognizer, text: str) -> None:
    with pytest.raises(InputError):
        recognizer.log_likelihood([clip(16000)], [text])


def test_clips_and_texts_must_be_as_many(recognizer: Recognizer) -> None:
    with pytest.raises(InputError, match="1 clips and 0 texts"):
        recognizer.log_likelihood([clip(16000)], [])


def test_a_text_that_cannot_fit_scores_minus_infinity(recognizer: Recognizer) -> None:
    text = (" " if recognizer.text_form == "phones" else "").join(TEXTS[recognizer.text_form][2].split() * 20)
    assert recognizer.log_likelihood([clip(1600)], [text]) == [-np.inf]

"""What every recogniser must keep, run over each recogniser of the package.

To check your own: `from tests.contracts.test_recognizer import *`, then define the fixtures `recognizer` and
`another`, a second one of the same that has heard nothing yet.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from llasa.audio import resample
from llasa.core import Audio
from llasa.errors import InputError
from llasa.recognizers.base import Recognizer, SupportsLikelihood
from llasa.recognizers.ctc import CtcRecognizer
from llasa.recognizers.endpoint import EndpointRecognizer
from llasa.recognizers.pocketsphinx import PocketsphinxRecognizer
from tests.unit.test_endpoint import count_samples, serving
from tests.unit.test_faster_whisper import save_faster_whisper
from tests.unit.test_whisper import save_tiny_whisper


def whisper(folder: Path) -> Iterator[Recognizer]:
    from llasa.recognizers.whisper import WhisperRecognizer

    yield WhisperRecognizer.load(save_tiny_whisper(folder, chunk_s=3), "cpu")


def faster_whisper(folder: Path) -> Iterator[Recognizer]:
    from llasa.recognizers.faster_whisper import FasterWhisperRecognizer

    yield FasterWhisperRecognizer.load(save_faster_whisper(folder), "cpu")


def endpoint(folder: Path) -> Iterator[Recognizer]:
    with serving(count_samples) as served:
        yield EndpointRecognizer(served.url, "counter")


FACTORIES: dict[str, Callable[[Path], Iterator[Recognizer]]] = {
    "ctc-phones": lambda folder: iter([CtcRecognizer.random(seed=0, text_form="phones")]),
    "ctc-characters": lambda folder: iter([CtcRecognizer.random(seed=1, text_form="characters")]),
    "whisper": whisper,
    "faster-whisper": faster_whisper,
    "pocketsphinx": lambda folder: iter([PocketsphinxRecognizer()]),
    "endpoint": endpoint,
}
TEXTS = {
    "phones": ["DH AH | K AE T .", "HH AY", "S IH T"],
    "characters": ["the cat.", "hi", "sit"],
    "written": ["The cat, 12.", "Hi!", "Sit."],
}
NO_TEXTS = {"phones": ["", "...", "5 %"], "characters": ["", "...", "5 %"], "written": ["", " \n"]}


@pytest.fixture(scope="module", params=FACTORIES)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def recognizer(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recognizer]:
    yield from FACTORIES[kind](tmp_path_factory.mktemp("recognizer"))


@pytest.fixture(scope="module")
def another(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recognizer]:
    yield from FACTORIES[kind](tmp_path_factory.mktemp("another"))


@pytest.fixture
def likelihood(recognizer: Recognizer) -> SupportsLikelihood:
    if not isinstance(recognizer, SupportsLikelihood):
        pytest.skip("gives no likelihoods")
    return recognizer


def clip(n_samples: int, seed: int = 0, sample_rate: int = 16000) -> Audio:
    """Return gliding tones in noise."""
    rng = np.random.default_rng(seed)
    t = np.arange(n_samples) / sample_rate
    sound = 0.3 * np.sin(2 * np.pi * t * (150 + 100 * seed + 300 * t)) + 0.05 * rng.standard_normal(n_samples)
    return Audio(sound.astype(np.float32), sample_rate)


def ragged_clips(seed: int = 0) -> list[Audio]:
    return [clip(n, seed + i) for i, n in enumerate((12000, 5001, 16007))]


def silence(seconds: float) -> Audio:
    return Audio(np.zeros(int(16000 * seconds), np.float32), 16000)


def test_the_name_has_a_kind_and_a_hash(recognizer: Recognizer) -> None:
    assert recognizer.name.count("@") == 1
    assert recognizer.text_form in TEXTS


def test_transcribing_a_batch_equals_one_by_one_in_order(recognizer: Recognizer, another: Recognizer) -> None:
    clips = ragged_clips()
    together = recognizer.transcribe(clips)
    assert [t.text for t in recognizer.transcribe(clips[::-1])] == [t.text for t in together[::-1]]
    for one, many in zip((another.transcribe([c])[0] for c in clips), together, strict=True):
        assert (one.text, one.tokens, one.spans) == (many.text, many.tokens, many.spans)
        np.testing.assert_allclose(one.logprobs, many.logprobs, atol=1e-4)


def test_scoring_a_batch_equals_one_by_one_in_order(
    likelihood: SupportsLikelihood, another: SupportsLikelihood
) -> None:
    clips, texts = ragged_clips(4), TEXTS[likelihood.text_form]
    together = likelihood.log_likelihood(clips, texts)
    alone = [another.log_likelihood([c], [t])[0] for c, t in zip(clips, texts, strict=True)]
    np.testing.assert_allclose(together, alone, atol=1e-4)
    assert all(score <= 0 for score in alone)


def test_nothing_in_nothing_out(recognizer: Recognizer) -> None:
    assert recognizer.transcribe([]) == []
    if isinstance(recognizer, SupportsLikelihood):
        assert recognizer.log_likelihood([], []) == []


def test_token_details_go_together(recognizer: Recognizer) -> None:
    for sound, heard in zip(ragged_clips(), recognizer.transcribe(ragged_clips()), strict=True):
        assert len(heard.spans) in (0, len(heard.tokens)) and len(heard.logprobs) in (0, len(heard.tokens))
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
    if isinstance(recognizer, SupportsLikelihood):
        text = TEXTS[recognizer.text_form][0]
        assert recognizer.log_likelihood([other], [text]) == recognizer.log_likelihood([fitted], [text])


@pytest.mark.parametrize(
    "samples", [np.zeros(0), np.zeros((2, 1000)), np.array([0.1, np.nan]), np.array([np.inf])], ids=str
)
def test_damaged_clips_are_refused(recognizer: Recognizer, samples: np.ndarray) -> None:
    bad = Audio(samples.astype(np.float32), 16000)
    with pytest.raises(InputError):
        recognizer.transcribe([clip(1000), bad])
    if isinstance(recognizer, SupportsLikelihood):
        with pytest.raises(InputError):
            recognizer.log_likelihood([bad], [TEXTS[recognizer.text_form][0]])


def test_texts_without_tokens_or_with_unknown_ones_are_refused(likelihood: SupportsLikelihood) -> None:
    for text in NO_TEXTS[likelihood.text_form]:
        with pytest.raises(InputError):
            likelihood.log_likelihood([clip(16000)], [text])


def test_clips_and_texts_must_be_as_many(likelihood: SupportsLikelihood) -> None:
    with pytest.raises(InputError, match="1 clips and 0 texts"):
        likelihood.log_likelihood([clip(16000)], [])


def test_a_text_that_cannot_fit_scores_minus_infinity(likelihood: SupportsLikelihood) -> None:
    text = (" " if likelihood.text_form == "phones" else "").join(TEXTS[likelihood.text_form][2].split() * 20)
    assert likelihood.log_likelihood([clip(1600)], [text]) == [-np.inf]

"""The features of the semantic encoder: those of transformers' own extractors, without torchaudio."""

import numpy as np
import pytest
import torch
from transformers import NeuCodecModel, Xcodec2Model

from llasa.codec.fbank import log_mel, stacked_features
from llasa.codec.xcodec2 import Xcodec2Codec
from tests.contracts.test_codec import tiny_neucodec, tiny_xcodec2
from tests.golden.codec_features import FILE, sounds

SOUNDS = sounds()
REFERENCE = np.load(FILE)
MODELS = {"xcodec2": tiny_xcodec2, "neucodec": tiny_neucodec}


@pytest.fixture(scope="module", params=MODELS)
def codec(request: pytest.FixtureRequest) -> Xcodec2Codec:
    model: Xcodec2Model | NeuCodecModel = MODELS[request.param]()
    return Xcodec2Codec(model, f"{request.param}@random")


@pytest.mark.parametrize("name", SOUNDS)
def test_features_equal_the_reference(codec: Xcodec2Codec, name: str) -> None:
    key = f"{codec.name.split('@')[0]} {name}"
    wave, features = codec.inputs(torch.from_numpy(SOUNDS[name]))
    if key not in REFERENCE:
        assert codec.name.startswith("neucodec") and len(features) == 0
        return
    assert len(wave) == REFERENCE[f"{key}, samples"]
    np.testing.assert_array_equal(wave[: len(SOUNDS[name])], SOUNDS[name])
    # One row is two frames; where they are nearly alike, normalising magnifies the last bit. So it does for a
    # chirp, which sounds in one band: the others hold what rounding leaves, and processors round differently.
    largest = 0.3 if name == "chirp" else 1e-4 if len(features) > 1 else 1e-2
    np.testing.assert_allclose(features, REFERENCE[key], atol=largest, rtol=0)
    assert np.abs(np.asarray(features) - REFERENCE[key]).mean() < largest / 30


def test_the_reference_is_whole() -> None:
    assert len(REFERENCE) == 2 * (2 * len(SOUNDS) - 2)
    assert max(np.abs(REFERENCE[key]).max() for key in REFERENCE if "samples" not in key) > 2


@pytest.mark.parametrize(
    "n_samples, n_frames, n_pairs", [(399, 0, 0), (400, 1, 0), (559, 1, 0), (560, 2, 1), (16_000, 98, 49)]
)
def test_only_whole_frames_count(n_samples: int, n_frames: int, n_pairs: int) -> None:
    wave = torch.randn(n_samples)
    assert stacked_features(wave).shape == (n_pairs, 160)
    if n_frames:
        assert log_mel(wave).shape == (n_frames, 80)


def test_loudness_shifts_the_logarithm_and_is_normalised_away() -> None:
    wave = 0.1 * torch.randn(8000, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(log_mel(2 * wave), log_mel(wave) + 2 * np.log(2), atol=1e-3, rtol=0)
    torch.testing.assert_close(stacked_features(2 * wave), stacked_features(wave), atol=1e-3, rtol=0)


def test_a_tone_sounds_in_its_band() -> None:
    tone = 0.5 * torch.sin(2 * torch.pi * 1000 * torch.arange(16_000) / 16_000)
    edges = 1127 * np.log1p(np.array([20, 1000, 8000]) / 700)
    expected = (edges[1] - edges[0]) / ((edges[2] - edges[0]) / 81) - 1
    assert abs(int(log_mel(tone).mean(0).argmax()) - expected) <= 1

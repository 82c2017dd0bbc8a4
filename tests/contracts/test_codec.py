"""What every codec must keep, run over each codec of the package.

To check your own: `from tests.contracts.test_codec import *`, then define a fixture `codec` that returns it.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from transformers import NeuCodecConfig, NeuCodecModel, Wav2Vec2BertConfig, Xcodec2Config, Xcodec2Model

from llasa.audio import resample
from llasa.codec.base import Codec
from llasa.codec.compact import CompactCodec
from llasa.codec.xcodec2 import Xcodec2Codec
from llasa.core import Audio, Codes
from llasa.errors import InputError


def tiny_xcodec2(width: int = 64) -> Xcodec2Model:
    """Return a random X-Codec2 of 0.6 M parameters whose codes are diverse."""
    return _tiny(Xcodec2Model, Xcodec2Config, width)


def tiny_neucodec(width: int = 64) -> NeuCodecModel:
    """Return a random NeuCodec of 0.6 M parameters whose codes are diverse."""
    return _tiny(NeuCodecModel, NeuCodecConfig, width)


def _tiny(model_class: type, config_class: type, width: int) -> Any:
    semantic = Wav2Vec2BertConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        output_hidden_size=32,
    )
    config = config_class(
        hidden_size=width, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4, head_dim=16, encoder_hidden_size=4, quantization_dim=width + 32,
        semantic_model_config=semantic,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = model_class(config).eval()
    # Random latents lie so close together that all fall into one code.
    model.quantizer.project_in.weight.data.mul_(3000)
    return model


FACTORIES: dict[str, Callable[[], Codec]] = {
    "xcodec2": lambda: Xcodec2Codec(tiny_xcodec2(), "xcodec2@random", torch.float32),
    "neucodec": lambda: Xcodec2Codec(tiny_neucodec(), "neucodec@random", torch.float32),
    "compact": lambda: CompactCodec.random(seed=0),
}


@pytest.fixture(scope="module", params=FACTORIES.values(), ids=list(FACTORIES))
def codec(request: pytest.FixtureRequest) -> Codec:
    return request.param()


def clip(codec: Codec, n_samples: int, seed: int = 0) -> Audio:
    """Return gliding tones in noise, at the codec's rate."""
    rng = np.random.default_rng(seed)
    t = np.arange(n_samples) / codec.sample_rate
    sound = 0.3 * np.sin(2 * np.pi * t * (150 + 100 * seed + 300 * t)) + 0.05 * rng.standard_normal(n_samples)
    return Audio(sound.astype(np.float32), codec.sample_rate)


def codes(codec: Codec, n_codes: int, seed: int = 0) -> Codes:
    return np.random.default_rng(seed).integers(0, codec.codebook_size, n_codes).tolist()


def ragged_clips(codec: Codec) -> list[Audio]:
    lengths = (9 * codec.hop_length + 7, codec.hop_length, 25 * codec.hop_length, 9 * codec.hop_length + 7)
    return [clip(codec, n, seed) for seed, n in enumerate(lengths)]


def ragged_codes(codec: Codec) -> list[Codes]:
    return [codes(codec, n, seed) for seed, n in enumerate((9, 1, 30, 9))]


def test_properties_are_sound(codec: Codec) -> None:
    assert codec.name.count("@") == 1
    assert codec.sample_rate > 0 and codec.hop_length > 0 and codec.codebook_size > 1


def test_encoding_a_batch_equals_one_by_one_in_order(codec: Codec) -> None:
    clips = ragged_clips(codec)
    assert codec.encode(clips) == [codec.encode([one])[0] for one in clips]
    assert codec.encode(clips[::-1]) == codec.encode(clips)[::-1]


def test_decoding_a_batch_equals_one_by_one_in_order(codec: Codec) -> None:
    rows = ragged_codes(codec)
    for sound, row in zip(codec.decode(rows), rows, strict=True):
        np.testing.assert_allclose(sound.samples, codec.decode([row])[0].samples, atol=1e-5)


def test_nothing_in_nothing_out(codec: Codec) -> None:
    assert codec.encode([]) == []
    assert codec.decode([]) == []
    assert len(codec.decode([[]])[0].samples) == 0


def test_codes_are_plain_ints_of_the_codebook(codec: Codec) -> None:
    (row,) = codec.encode([clip(codec, codec.sample_rate)])
    assert all(type(code) is int and 0 <= code < codec.codebook_size for code in row)
    assert len(set(row)) > 1  # else the other tests here would show little


@pytest.mark.parametrize("hops, extra", [(0, 1), (1, -1), (1, 0), (1, 1), (2, 0), (7, 13), (20, 0), (20, -1)])
def test_the_length_law_is_exact(codec: Codec, hops: int, extra: int) -> None:
    n_samples = hops * codec.hop_length + extra
    (row,) = codec.encode([clip(codec, n_samples)])
    assert len(row) == codec.code_count(n_samples)
    assert abs(len(row) * codec.hop_length - n_samples) <= codec.hop_length


def test_decoding_gives_hop_length_samples_a_code(codec: Codec) -> None:
    for row in ragged_codes(codec):
        (sound,) = codec.decode([row])
        assert sound.samples.shape == (len(row) * codec.hop_length,)
        assert sound.samples.dtype == np.float32 and sound.sample_rate == codec.sample_rate
        assert np.isfinite(sound.samples).all() and np.abs(sound.samples).max() <= 1


def test_context_is_decoded_before_each_row_and_cut_off(codec: Codec) -> None:
    rows, context = [*ragged_codes(codec), []], codes(codec, 12, seed=9)
    for sound, row in zip(codec.decode(rows, context=context), rows, strict=True):
        assert len(sound.samples) == len(row) * codec.hop_length
        whole = codec.decode([context + row])[0].samples
        np.testing.assert_allclose(sound.samples, whole[len(context) * codec.hop_length :], atol=1e-5)


def test_empty_context_is_no_context(codec: Codec) -> None:
    row = codes(codec, 5)
    np.testing.assert_array_equal(codec.decode([row], context=[])[0].samples, codec.decode([row])[0].samples)


@pytest.mark.parametrize("above", [False, True])
def test_codes_outside_the_codebook_are_refused(codec: Codec, above: bool) -> None:
    bad = [0, codec.codebook_size if above else -1]
    with pytest.raises(InputError, match=str(bad[1])):
        codec.decode([[0, 1], bad])
    with pytest.raises(InputError, match=str(bad[1])):
        codec.decode([[0, 1]], context=bad)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_finite_are_refused(codec: Codec, value: float) -> None:
    good = clip(codec, 1000)
    bad = Audio(np.append(good.samples, np.float32(value)), codec.sample_rate)
    with pytest.raises(InputError):
        codec.encode([good, bad])


@pytest.mark.parametrize("shape", [(0,), (2, 1000)])
def test_empty_or_many_channelled_clips_are_refused(codec: Codec, shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError):
        codec.encode([clip(codec, 1000), Audio(np.zeros(shape, np.float32), codec.sample_rate)])


@pytest.mark.parametrize("ratio", [0.5, 1.5, 2.75625])
def test_clips_at_another_rate_are_resampled(codec: Codec, ratio: float) -> None:
    other = Audio(clip(codec, 9000).samples, int(codec.sample_rate * ratio))
    fitted = resample(other, getattr(codec, "input_rate", codec.sample_rate))
    (row,) = codec.encode([other])
    assert row == codec.encode([fitted])[0]
    assert abs(len(row) - codec.code_count(len(resample(other, codec.sample_rate).samples))) <= 1


def test_silence_has_codes(codec: Codec) -> None:
    n_samples = 10 * codec.hop_length
    (row,) = codec.encode([Audio(np.zeros(n_samples, np.float32), codec.sample_rate)])
    assert len(row) == codec.code_count(n_samples)

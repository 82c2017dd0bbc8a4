"""X-Codec2 at speed: bfloat16 near float32, batches that change nothing, filters as matrices, 16 layers."""

from typing import Any

import numpy as np
import pytest
import torch
from transformers import Wav2Vec2BertConfig, Wav2Vec2BertModel, Xcodec2Config, Xcodec2Model

from llasa.codec import xcodec2_encoder
from llasa.codec.xcodec2 import Xcodec2Codec
from llasa.codec.xcodec2_acoustic import Acoustic, Smooth
from llasa.codec.xcodec2_decoder import GroupNorm
from llasa.codec.xcodec2_semantic import Semantic
from llasa.core import Audio
from llasa.device import fastest_dtype
from tests.contracts.test_codec import clip, codes, tiny_neucodec, tiny_xcodec2


@pytest.fixture(scope="module")
def model() -> Xcodec2Model:
    return tiny_xcodec2()


def snr_db(found: list[Audio], wanted: list[Audio]) -> float:
    one, two = (np.concatenate([sound.samples for sound in sounds]) for sounds in (found, wanted))
    return float(10 * np.log10(np.square(two).sum() / np.square(one - two).sum()))


def test_decoding_takes_the_faster_dtype_and_encoding_float32(model: Xcodec2Model) -> None:
    codec = Xcodec2Codec(model, "xcodec2@random")
    assert codec.decode_dtype == fastest_dtype(torch.device("cpu"))
    assert codec.encode_dtype == torch.float32


@pytest.mark.parametrize("make", [tiny_xcodec2, tiny_neucodec])
def test_sound_in_bfloat16_is_near_that_in_float32(make: Any) -> None:
    native = make()
    wide, narrow = (Xcodec2Codec(native, "a@b", dtype) for dtype in (torch.float32, torch.bfloat16))
    rows, voice = [codes(wide, n, n) for n in (9, 30, 28, 1)], codes(wide, 12, 99)
    assert 30 < snr_db(narrow.decode(rows, voice), wide.decode(rows, voice)) < 80
    alone = [narrow.decode([row], voice)[0] for row in rows]
    assert snr_db(narrow.decode(rows, voice), alone) > 40


def test_codes_in_bfloat16_are_mostly_those_in_float32(model: Xcodec2Model) -> None:
    wide, narrow = (Xcodec2Codec(model, "a@b", encode_dtype=x) for x in (torch.float32, torch.bfloat16))
    (one,), (two,) = (codec.encode([clip(wide, 16_000)]) for codec in (wide, narrow))
    levels = np.array([one, two])[..., None] // 4 ** np.arange(8) % 4
    assert np.abs(levels[0] - levels[1]).mean() < 0.5 < np.abs(levels[0] - levels[1, ::-1]).mean()


def test_a_row_near_a_threshold_is_encoded_again_alone(model: Xcodec2Model, monkeypatch: Any) -> None:
    codec = Xcodec2Codec(model, "a@b")
    clips = [clip(codec, 3200, seed) for seed in range(3)]
    wanted, runs = codec.encode(clips), []
    latents = codec._encoder._latents
    monkeypatch.setattr(codec._encoder, "_latents", lambda *rows: runs.append(len(rows[0])) or latents(*rows))
    monkeypatch.setattr(xcodec2_encoder, "_NOISE", 1.0)
    assert codec.encode(clips) == wanted
    assert runs == [3, 1, 1, 1]
    runs.clear()
    monkeypatch.setattr(xcodec2_encoder, "_NOISE", 0.0)
    codec.encode(clips)
    assert runs == [3]


@torch.inference_mode()
@pytest.mark.parametrize("length", [1, 2, 31, 32, 33, 35, 64, 67, 640, 40_001])
def test_a_smooth_activation_is_the_native_one(model: Xcodec2Model, length: int) -> None:
    native = tiny_xcodec2().acoustic_encoder.block[1].res_unit1.snake1
    generator = torch.Generator().manual_seed(0)
    for weight in (native.act.alpha, native.act.beta):
        weight.copy_(0.5 * torch.randn(weight.shape, generator=generator))
    x = 2 * torch.randn(len(native.act.alpha), length, generator=generator)
    torch.testing.assert_close(Smooth(native, torch.float32)(x), native(x[None])[0], atol=1e-5, rtol=1e-4)


@torch.inference_mode()
def test_both_encoders_say_what_the_native_ones_say(model: Xcodec2Model) -> None:
    wave, features = Xcodec2Codec(model, "a@b").inputs(torch.randn(5000))
    heard = model.acoustic_encoder(wave[None, None])[0].mT
    torch.testing.assert_close(Acoustic(model.acoustic_encoder, torch.float32)(wave), heard)
    said = model.semantic_adapter(model.semantic_encoder(features[None]).last_hidden_state.mT).mT
    torch.testing.assert_close(
        Semantic(model, torch.float32)(features[None], None), said, atol=1e-5, rtol=1e-4
    )


@torch.inference_mode()
def test_padding_is_not_heard_by_the_semantic_encoder(model: Xcodec2Model) -> None:
    semantic, features, mask = Semantic(model, torch.float32), torch.randn(2, 30, 160), torch.ones(2, 30)
    mask[1, 20:] = 0
    alone = semantic(features[1:, :20], None)
    torch.testing.assert_close(semantic(features, mask)[1:, :20], alone, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(semantic(features, None)[1:, :20], alone, atol=1e-3)


@torch.inference_mode()
def test_a_group_norm_counts_real_frames_only() -> None:
    native = torch.nn.GroupNorm(32, 64, eps=1e-6)
    native.weight.copy_(torch.randn(64))
    x, mask = 1 + 3 * torch.randn(2, 10, 64), torch.ones(2, 10, 1)
    mask[1, 6:] = 0
    found = GroupNorm(native)(x, mask)
    for row, count in ((0, 10), (1, 6)):
        wanted = torch.nn.functional.silu(native(x[row : row + 1, :count].mT)).mT
        torch.testing.assert_close(found[row, :count], wanted[0], atol=1e-5, rtol=1e-4)
    assert not found[1, 6:].any()


def test_the_semantic_encoder_has_the_16_layers_that_are_used() -> None:
    """Also where the published model has 24."""
    with torch.device("meta"):
        full = Xcodec2Model(Xcodec2Config())
    assert len(full.semantic_encoder.encoder.layers) == 16


@torch.inference_mode()
def test_layers_behind_the_last_one_used_change_nothing() -> None:
    sizes: dict[str, Any] = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}
    long, short = (Wav2Vec2BertModel(Wav2Vec2BertConfig(num_hidden_layers=n, **sizes)).eval() for n in (3, 2))
    missing = short.load_state_dict(long.state_dict(), strict=False)
    assert not missing.missing_keys and all("layers.2." in key for key in missing.unexpected_keys)
    features = torch.randn(1, 20, 160)
    states = long(features, output_hidden_states=True).hidden_states
    torch.testing.assert_close(states[2], short(features).last_hidden_state)

"""The compact network: its layout changes no value; decoding in bfloat16 and in batches changes little."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import llasa
from llasa.codec import compact
from llasa.codec.compact import CompactCodec
from llasa.codec.compact_network import CompactModel, along, apart

STARTER = Path(llasa.__file__).parent / "assets" / "starter" / "codec"


@pytest.fixture(scope="module")
def model() -> CompactModel:
    return CompactCodec.random(seed=3).model


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv1d(6, 6, 7, padding=3, groups=6),
        nn.Conv1d(6, 8, 3, padding=1),
        nn.Conv1d(6, 8, 4, stride=2, padding=1),
    ],
)
def test_a_convolution_over_rows_is_the_one_over_channels_with_its_gradients(conv: nn.Conv1d) -> None:
    x = torch.randn(2, 10, 6)
    found, wanted = along(conv, x), conv(x.mT).mT
    torch.testing.assert_close(found, wanted)
    assert found.is_contiguous()
    pairs = zip(
        *(torch.autograd.grad(y.square().sum(), list(conv.parameters())) for y in (found, wanted)),
        strict=True,
    )
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_a_transposed_convolution_over_rows_is_the_one_over_channels() -> None:
    conv, x = nn.ConvTranspose1d(6, 5, 4, stride=2, padding=1), torch.randn(2, 10, 6)
    torch.testing.assert_close(apart(conv, x), conv(x.mT).mT)


@torch.inference_mode()
@pytest.mark.parametrize("skip", [0, 1, 8, 20, 30])
def test_what_is_skipped_is_all_that_changes(model: CompactModel, skip: int) -> None:
    codes = torch.randint(0, model.config.codebook_size, (2, 30))
    whole, part = model.samples(codes, None), model.samples(codes, None, skip)
    assert part.shape == (2, (30 - skip) * model.config.hop_length)
    torch.testing.assert_close(part, whole[:, skip * model.config.hop_length :], atol=1e-5, rtol=1e-4)


@torch.inference_mode()
def test_the_vocoder_reads_no_frame_beyond_its_view(model: CompactModel) -> None:
    """Of 50 codes, 40 are skipped; it hears the frames of 10 and its view."""
    heard = []
    hook = model.vocoder.register_forward_pre_hook(lambda _, given: heard.append(given[0].shape[-1]))
    model.samples(torch.zeros(1, 50, dtype=torch.long), None, 40)
    hook.remove()
    assert heard == [10 * model.config.frames_per_code + model.config.vocoder_view]


@torch.inference_mode()
def test_a_mask_of_ones_is_no_mask(model: CompactModel) -> None:
    codes = torch.randint(0, model.config.codebook_size, (2, 12))
    torch.testing.assert_close(model.samples(codes, torch.ones(2, 1, 12)), model.samples(codes, None))


def codec_of(model: CompactModel, dtype: torch.dtype) -> CompactCodec:
    codec = CompactCodec(model)
    codec._decode_dtype = dtype
    return codec


@pytest.mark.parametrize("dtype, least_db", [(torch.float32, 80.0), (torch.bfloat16, 20.0)])
def test_the_starters_sound_stays_within_its_dtype(dtype: torch.dtype, least_db: float) -> None:
    """Against one row at a time in float32, on random codes; rows of several batches, behind a voice."""
    model = CompactCodec.load(STARTER).model
    draw = np.random.default_rng(0)
    rows = [draw.integers(0, 4096, length).tolist() for length in (12, 3, 14, 25)]
    voice = draw.integers(0, 4096, 10).tolist()
    plain = codec_of(model, torch.float32)
    wanted = [plain.decode([voice + row])[0].samples[10 * 640 :] for row in rows]
    found = [one.samples for one in codec_of(model, dtype).decode(rows, voice)]
    error = sum(float(np.square(a - b).sum()) for a, b in zip(found, wanted, strict=True))
    power = sum(float(np.square(b).sum()) for b in wanted)
    assert [len(one) for one in found] == [len(row) * 640 for row in rows]
    assert 10 * np.log10(power / error) > least_db


def test_many_rows_are_decoded_in_batches_that_fit_the_cache(model: CompactModel, monkeypatch) -> None:
    codec, seen = codec_of(model, torch.float32), []
    whole = [one.samples for one in codec.decode([[1, 2, 3]] * 7)]
    monkeypatch.setattr(compact, "_AT_ONCE", 6)
    hook = model.decoder.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    split = [one.samples for one in codec.decode([[1, 2, 3]] * 7)]
    hook.remove()
    assert seen == [2, 2, 2, 1]
    for one, other in zip(split, whole, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)

"""A streaming decoder says the same however codes come, looks ahead as far as it says, and no further."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llasa.codec.base import STREAMING, SupportsStreaming
from llasa.codec.compact import CompactCodec, write
from llasa.codec.compact_network import CompactConfig
from llasa.core import Codes
from llasa.errors import BundleError, InputError
from llasa.stream import behind, decode_stream

AHEADS = ((0, 0), (1, 2), (3, 5), (4, 4))


def streaming(
    folder: Path, ahead: tuple[int, int], dtype: torch.dtype = torch.float32, **sizes
) -> CompactCodec:
    """Return an untrained codec with a streaming decoder beside its own, as it lies in a folder."""
    config = replace(CompactCodec.random().model.config, **sizes)
    whole = CompactCodec.random(0, config)
    whole.save(folder)
    write(CompactCodec.random(1, config).model.causal(ahead), folder / STREAMING, ("decoder", "vocoder"))
    codec = CompactCodec.load(folder)
    assert codec.causal is not None
    codec.causal._decode_dtype = dtype
    return codec


@pytest.fixture(scope="module")
def codecs(tmp_path_factory) -> dict:
    made = {}
    for ahead in AHEADS:
        for dtype in (torch.float32, torch.bfloat16):
            made[ahead, dtype] = streaming(tmp_path_factory.mktemp("codec"), ahead, dtype)
    wide = {"strides": (4, 2), "vocoder_n_fft": 400}
    made["wide"] = streaming(tmp_path_factory.mktemp("codec"), (2, 3), **wide)
    return made


def pieces_of(
    codec: CompactCodec, codes: Codes, cuts: list[int], context: Codes | None = None
) -> list[np.ndarray]:
    edges = [0, *sorted(cut % (len(codes) + 1) for cut in cuts), len(codes)]
    chunks = [codes[a:b] for a, b in pairwise(edges)]
    return [piece.samples for piece in decode_stream(codec, chunks, context)]


def joined(pieces: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.zeros(0, np.float32), *pieces])


def snr_db(found: np.ndarray, wanted: np.ndarray) -> float:
    error = np.square(found - wanted, dtype=np.float64).sum()
    return float(10 * np.log10(np.square(wanted, dtype=np.float64).sum() / max(error, 1e-30)))


CODES = st.lists(st.integers(0, 63), min_size=1, max_size=40)
CUTS = st.lists(st.integers(0, 60), max_size=12)


@settings(max_examples=25, deadline=None)
@given(
    codes=CODES, cuts=CUTS, context=st.lists(st.integers(0, 63), max_size=30), ahead=st.sampled_from(AHEADS)
)
def test_chunked_is_whole(codecs, codes, cuts, context, ahead):
    for dtype, least_db in ((torch.float32, 90.0), (torch.bfloat16, 25.0)):
        codec = codecs[ahead, dtype]
        found = joined(pieces_of(codec, codes, cuts, context))
        [whole] = codec.causal.decode([codes], context or None)
        assert len(found) == len(codes) * codec.hop_length
        assert snr_db(found, whole.samples) > least_db


def test_chunked_is_whole_with_other_strides_and_windows(codecs):
    codec, codes = codecs["wide"], [n * 7 % 64 for n in range(30)]
    [whole] = codec.causal.decode([codes])
    assert snr_db(joined(pieces_of(codec, codes, [1, 2, 5, 6, 20])), whole.samples) > 90


def test_rows_of_a_batch_are_what_they_are_alone(codecs):
    causal = codecs[(1, 2), torch.float32].causal
    rows = [[n * k % 64 for n in range(24 - k)] for k in (1, 3, 4)]
    for together, row in zip(causal.decode(rows), rows, strict=True):
        assert snr_db(together.samples, causal.decode([row])[0].samples) > 90


@pytest.mark.parametrize("ahead", AHEADS)
def test_a_code_beyond_the_look_ahead_changes_nothing_before(codecs, ahead):
    codec = codecs[ahead, torch.float32]
    config, place = codec.causal.model.config, 20
    one, other = [5] * 30, [5] * place + [60] * 10
    a, b = (codec.causal.decode([codes])[0].samples for codes in (one, other))
    first = int(np.flatnonzero(np.abs(a - b) > 1e-6)[0])
    assert place * codec.hop_length - config.look_ahead <= first
    assert first < (place + 1) * codec.hop_length - config.look_ahead  # and it does look that far
    assert behind(codec) == -(-config.look_ahead // codec.hop_length)


def test_sound_is_out_as_soon_as_the_look_ahead_is_in(codecs):
    codec = codecs[(3, 5), torch.float32]
    stream, given_out = codec.streaming(), 0
    for n in range(1, 20):
        given_out += len(stream.push([n]).samples)
        assert given_out == max(0, n * codec.hop_length - codec.causal.model.config.look_ahead)
    assert given_out + len(stream.close().samples) == 19 * codec.hop_length


def test_streams_do_not_know_of_each_other(codecs):
    codec, codes = codecs[(1, 2), torch.float32], [n * 5 % 64 for n in range(20)]
    one, other = codec.streaming(), codec.streaming([1, 2, 3])
    parts = []
    for code in codes:
        parts.append(one.push([code]).samples)
        other.push([63 - code])
    assert snr_db(joined([*parts, one.close().samples]), codec.causal.decode([codes])[0].samples) > 90


def test_nothing_in_is_nothing_out_and_a_strange_code_is_told(codecs):
    codec = codecs[(1, 2), torch.float32]
    assert isinstance(codec, SupportsStreaming)
    assert list(decode_stream(codec, [])) == [] and list(decode_stream(codec, [[], []], [1, 2])) == []
    with pytest.raises(InputError, match="code 64 at position 1"):
        list(decode_stream(codec, [[1, 64]]))
    with pytest.raises(InputError, match="code -1"):
        decode_stream(codec, [[1]], [-1])


def test_a_codec_without_a_streaming_decoder_is_decoded_in_windows():
    codec = CompactCodec.random()
    assert codec.streaming() is None and behind(codec) == 0
    assert (
        sum(len(piece.samples) for piece in decode_stream(codec, [[1] * 9, [2] * 9])) == 18 * codec.hop_length
    )


def test_only_a_stream_loads_the_streaming_decoder(tmp_path):
    streaming(tmp_path, (1, 2))
    (tmp_path / STREAMING / "vocoder.safetensors").write_bytes(b"damaged")
    codec = CompactCodec.load(tmp_path)
    assert len(codec.decode([[1, 2, 3]])[0].samples) == 3 * codec.hop_length
    with pytest.raises(BundleError, match="streaming"):
        codec.streaming()


def test_a_streaming_decoder_of_another_codec_is_refused(tmp_path):
    whole = CompactCodec.random()
    whole.save(tmp_path)
    other = replace(whole.model.config, levels=(4, 4, 5), ahead=(1, 1))
    write(CompactCodec.random(0, other).model, tmp_path / STREAMING, ("decoder", "vocoder"))
    with pytest.raises(BundleError, match="llasa train codec"):
        CompactCodec.load(tmp_path).streaming()
    write(whole.model, tmp_path / STREAMING, ("decoder", "vocoder"))  # not causal
    with pytest.raises(BundleError, match="ahead None"):
        CompactCodec.load(tmp_path).streaming()


def test_a_look_ahead_beyond_what_layers_see_is_no_network():
    config: CompactConfig = CompactCodec.random().model.config
    for ahead in (
        (5, 0),
        (0, 99),
        (-1, 0),
    ):  # one layer of three codes at the rate of codes, and an embedding
        with pytest.raises(ValueError, match="ahead"):
            CompactCodec.random(0, replace(config, ahead=ahead))


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_a_convolution_that_turns_back_says_the_same_where_nothing_changes(ahead):
    config = CompactCodec.random().model.config
    whole = CompactCodec.random(3).model
    made = whole.causal((1, ahead))
    steady = torch.linspace(-1, 1, config.n_mels).expand(1, 20, -1).contiguous()
    a, b = (model.vocoder.embed.beside(steady, None, None)[1][:, 8:12] for model in (whole, made))
    torch.testing.assert_close(a, b)
    changes = torch.randn(1, 20, config.n_mels, generator=torch.manual_seed(0))
    a, b = (model.vocoder.embed.beside(changes, None, None)[1][:, 8:12] for model in (whole, made))
    assert torch.allclose(a, b, atol=1e-5) == (ahead == 3)  # half of a convolution of seven


def test_a_frame_becomes_frames_of_the_same_kind_where_nothing_changes():
    whole = CompactCodec.random(3).model
    steady = torch.linspace(-1, 1, 16).expand(1, 9, -1).contiguous()
    a, b = (
        model.decoder.ups[0].beside(steady, None, None)[:, 6:12] for model in (whole, whole.causal((1, 1)))
    )
    torch.testing.assert_close(a, b)

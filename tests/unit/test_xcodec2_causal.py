"""X-Codec2's streaming decoder: the same in pieces as at once, and what comes is seen as far as it says."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llasa.codec.base import STREAMING
from llasa.codec.xcodec2 import Xcodec2Codec
from llasa.codec.xcodec2_causal import CausalDecoder, Reach, load, made_causal
from llasa.core import Codes
from llasa.errors import BundleError
from llasa.stream import behind, decode_stream
from tests.contracts.test_codec import tiny_neucodec, tiny_xcodec2

REACHES = (Reach(0, 1), Reach(3, 5), Reach(2, 250))
KINDS = {"xcodec2": tiny_xcodec2, "neucodec": tiny_neucodec}


@pytest.fixture(scope="module")
def codecs(tmp_path_factory) -> dict:
    made = {}
    for kind, make in KINDS.items():
        native = make(256)  # a norm over groups of two channels would blow rounding up
        for reach in REACHES:
            folder: Path = tmp_path_factory.mktemp("codec") / STREAMING
            made_causal(native.acoustic_decoder, reach).save(folder)
            for dtype in (torch.float32, torch.bfloat16):
                made[kind, reach, dtype] = Xcodec2Codec(native, f"{kind}@random", dtype, causal=folder)
    return made


def in_pieces(codec: Xcodec2Codec, codes: Codes, cuts: list[int], context: Codes | None = None) -> np.ndarray:
    edges = [0, *sorted(cut % (len(codes) + 1) for cut in cuts), len(codes)]
    pieces = decode_stream(codec, [codes[a:b] for a, b in pairwise(edges)], context)
    return np.concatenate([np.zeros(0, np.float32), *(piece.samples for piece in pieces)])


def snr_db(found: np.ndarray, wanted: np.ndarray) -> float:
    error = np.square(found - wanted, dtype=np.float64).sum()
    return float(10 * np.log10(np.square(wanted, dtype=np.float64).sum() / max(error, 1e-30)))


ROWS = st.lists(st.integers(0, 65_535), min_size=1, max_size=30)


@settings(max_examples=25, deadline=None)
@given(
    codes=ROWS,
    cuts=st.lists(st.integers(0, 60), max_size=8),
    context=st.lists(st.integers(0, 65_535), max_size=12),
    kind=st.sampled_from(list(KINDS)),
    reach=st.sampled_from(REACHES),
)
def test_chunked_is_whole(codecs, codes, cuts, context, kind, reach):
    for dtype, least_db in ((torch.float32, 80.0), (torch.bfloat16, 25.0)):
        codec = codecs[kind, reach, dtype]
        found = in_pieces(codec, codes, cuts, context)
        [whole] = codec.causal.decode([codes], context or None)
        assert len(found) == len(codes) * codec.hop_length
        assert snr_db(found, whole.samples) > least_db


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reach", REACHES)
def test_a_code_beyond_the_look_ahead_changes_nothing_before(codecs, kind, reach):
    codec, place = codecs[kind, reach, torch.float32], 20
    one = [n * 997 % 65_536 for n in range(30)]
    other = one[:place] + [n * 991 % 65_536 for n in range(1, 11)]
    a, b = (codec.causal.decode([codes])[0].samples for codes in (one, other))
    first = int(np.flatnonzero(np.abs(a - b) > 1e-6)[0])
    trim = (codec.model.acoustic_decoder.head.n_fft - codec.hop_length) // 2
    look_ahead = reach.ahead * codec.hop_length + trim
    assert place * codec.hop_length - look_ahead <= first
    assert first < (place + 1) * codec.hop_length - look_ahead  # and it does look that far
    assert behind(codec) == -(-look_ahead // codec.hop_length)


def test_attention_forgets_what_left_its_window(codecs):
    """Nothing reaches further than the windows of all layers and the taps of all convolutions."""
    codec = codecs["xcodec2", Reach(3, 5), torch.float32]
    one = [n * 997 % 65_536 for n in range(60)]
    a, b = (codec.causal.decode([codes])[0].samples for codes in (one, [7, *one[1:]]))
    # The first convolution looks back 3, two layers 4 each, eight convolutions 2 each, the window of sound 2.
    last = 3 + 2 * 4 + 8 * 2 + 2
    changed = np.flatnonzero(np.abs(a - b) > 1e-6)
    assert 10 * codec.hop_length < changed[-1] < (last + 1) * codec.hop_length


def test_the_whole_decoder_stays_and_is_where_training_begins(codecs):
    native = tiny_xcodec2()
    before = {name: value.clone() for name, value in native.acoustic_decoder.state_dict().items()}
    made = made_causal(native.acoustic_decoder, Reach(3))
    assert all(
        torch.equal(before[name], value) for name, value in native.acoustic_decoder.state_dict().items()
    )
    assert torch.equal(made.native.embed.weight, native.acoustic_decoder.embed.weight)  # it saw three already
    assert torch.equal(made.native.layers[0].mlp.fc1.weight, native.acoustic_decoder.layers[0].mlp.fc1.weight)


def test_a_damaged_or_strange_folder_is_told(tmp_path):
    native = tiny_xcodec2().acoustic_decoder
    made_causal(native, Reach(1, 9)).save(tmp_path)
    assert isinstance(load(tmp_path, native), CausalDecoder) and load(tmp_path, native).reach == Reach(1, 9)
    for text in ('{"ahead": 4}', '{"ahead": 1, "window": 0}', '{"depth": 1}', "nothing"):
        (tmp_path / "config.json").write_text(text, encoding="utf-8")
        with pytest.raises(BundleError, match="llasa train codec"):
            load(tmp_path, native)
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    (tmp_path / "model.safetensors").write_bytes(b"0" * 30)
    with pytest.raises(BundleError, match="llasa train codec"):
        load(tmp_path, native)

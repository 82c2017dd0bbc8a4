"""Streamed decoding equals the whole one in length and, within a bound, in sound; seams do not click."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llasa.core import Audio, Codes
from llasa.errors import ConfigError, InputError
from llasa.stream import decode_stream


class SmearCodec:
    """Each code is a short tone, smeared over its neighbours on both sides, so that no chunk stands alone.

    The smearing is an exponential decay over `reach` codes: what lies beyond still matters, a little.
    """

    name = "smear@1"
    sample_rate = 16_000
    codebook_size = 64
    hop_length = 160

    def __init__(self, reach: float = 1.0) -> None:
        self.calls: list[int] = []
        distance = np.arange(-60, 61) / max(reach, 1e-9)
        self.kernel = np.exp(-np.abs(distance)) / np.exp(-np.abs(distance)).sum()

    def encode(self, audio: list[Audio]) -> list[Codes]:
        return [[0] * self.code_count(len(clip.samples)) for clip in audio]

    def code_count(self, n_samples: int) -> int:
        return n_samples // self.hop_length

    def decode(self, codes: list[Codes], context: Codes | None = None) -> list[Audio]:
        start = len(context or [])
        return [
            Audio(self._sound([*(context or []), *row])[start * self.hop_length :], 16_000) for row in codes
        ]

    def _sound(self, codes: Codes) -> np.ndarray:
        if codes and not 0 <= min(codes) <= max(codes) < self.codebook_size:
            raise InputError("a code outside the codebook")
        self.calls.append(len(codes))
        if not codes:
            return np.zeros(0, np.float32)
        padded = np.pad(np.array(codes, np.float64), 60, mode="edge")
        level = np.convolve(padded, self.kernel, mode="valid") / self.codebook_size
        t = np.arange(self.hop_length) / 16_000
        return (level[:, None] * np.sin(2 * np.pi * 400 * t)).reshape(-1).astype(np.float32)


def joined(pieces) -> np.ndarray:
    return np.concatenate([np.zeros(0, np.float32), *(piece.samples for piece in pieces)])


def chunked(codes: Codes, cuts: list[int]) -> list[Codes]:
    edges = [0, *sorted(cut % (len(codes) + 1) for cut in cuts), len(codes)]
    return [codes[start:end] for start, end in pairwise(edges)]


codes_of = st.lists(st.integers(0, 63), max_size=120)
cuts_of = st.lists(st.integers(0, 1000), max_size=12)


@settings(max_examples=60, deadline=None)
@given(codes_of, cuts_of, st.lists(st.integers(0, 63), max_size=20), st.integers(0, 30), st.integers(0, 8))
def test_length_is_exact_for_any_chunking(codes, cuts, context, left, look_ahead):
    pieces = decode_stream(SmearCodec(), chunked(codes, cuts), context, left=left, look_ahead=look_ahead)
    assert len(joined(pieces)) == len(codes) * SmearCodec.hop_length


@settings(max_examples=60, deadline=None)
@given(codes_of, cuts_of, st.lists(st.integers(0, 63), max_size=20), st.integers(1, 6))
def test_sound_and_seams_are_close_to_the_whole_decode(codes, cuts, context, step):
    """With 12 codes of view on both sides, e^-12 of the neighbourhood is missing."""
    codec = SmearCodec()
    whole = codec.decode([codes], context)[0].samples
    pieces = decode_stream(codec, chunked(codes, cuts), context, left=12, look_ahead=12, step=step)
    streamed = joined(pieces)
    assert np.abs(streamed - whole).max(initial=0) < 1e-4
    steps, whole_steps = np.abs(np.diff(streamed)), np.abs(np.diff(whole))
    assert steps.max(initial=0) <= whole_steps.max(initial=0) + 1e-4


@settings(max_examples=30, deadline=None)
@given(
    codes_of,
    st.lists(st.integers(0, 63), max_size=150),
    st.integers(0, 30),
    st.integers(0, 30),
    st.integers(1, 30),
)
def test_one_chunk_is_the_whole_decode_exactly(codes, context, left, look_ahead, step):
    pieces = decode_stream(SmearCodec(), [codes], context, left=left, look_ahead=look_ahead, step=step)
    np.testing.assert_array_equal(joined(pieces), SmearCodec().decode([codes], context)[0].samples)


def test_more_view_means_less_error():
    codes = np.random.default_rng(0).integers(0, 64, 200).tolist()
    whole = SmearCodec(4).decode([codes])[0].samples
    errors = []
    for view in (0, 2, 5, 10, 20, 40):
        pieces = decode_stream(SmearCodec(4), chunked(codes, [50, 90, 91, 140]), left=view, look_ahead=view)
        errors.append(np.abs(joined(pieces) - whole).max())
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-4 < 0.05 < errors[0]


class StepCodec(SmearCodec):
    """Answers each decode with another constant, so that seams are all there is to hear."""

    def _sound(self, codes: Codes) -> np.ndarray:
        self.calls.append(len(codes))
        return np.full(len(codes) * self.hop_length, len(self.calls) % 2, np.float32)


def test_seams_are_crossfaded():
    """A jump of 1 becomes a ramp of 5 ms, which is 80 samples."""
    pieces = decode_stream(StepCodec(), [[1] * 20] * 4, look_ahead=5)
    assert np.abs(np.diff(joined(pieces))).max() == pytest.approx(1 / 81, abs=1e-5)
    hard = decode_stream(StepCodec(), [[1] * 20] * 4, look_ahead=5, fade_s=0)
    assert np.abs(np.diff(joined(hard))).max() == 1


def test_audio_comes_as_soon_as_the_look_ahead_allows():
    sent = []

    def chunks():
        for _ in range(6):
            sent.append(10)
            yield [1] * 10

    pieces = decode_stream(SmearCodec(), chunks(), look_ahead=15)
    assert len(next(pieces).samples) == 5 * 160
    assert len(sent) == 2
    assert [len(piece.samples) // 160 for piece in pieces] == [10, 10, 10, 10, 15]


def test_the_first_piece_need_not_wait_for_as_much():
    pieces = decode_stream(SmearCodec(), [[1] * 10] * 6, look_ahead=15, first_look_ahead=5)
    assert [len(piece.samples) // 160 for piece in pieces] == [5, 10, 10, 10, 10, 15]


def test_the_work_is_bounded():
    """After the first, each decode sees left + step + look-ahead codes, however long the stream."""
    codec = SmearCodec()
    list(decode_stream(codec, [[1]] * 300, [2] * 50, left=20, look_ahead=5, step=10))
    assert codec.calls[0] == 50 + 15
    assert set(codec.calls[1:-1]) == {20 + 10 + 5}
    assert codec.calls[-1] <= 20 + 10 + 5
    assert len(codec.calls) == 30


def test_nothing_comes_of_no_codes():
    assert list(decode_stream(SmearCodec(), [])) == []
    assert list(decode_stream(SmearCodec(), [[], []], [1, 2])) == []


def test_the_input_is_left_as_it_was():
    chunks, context = [[1, 2], [3] * 30, []], [4, 5]
    list(decode_stream(SmearCodec(), chunks, context))
    assert (chunks, context) == ([[1, 2], [3] * 30, []], [4, 5])


BAD = [{"left": -1}, {"look_ahead": -1}, {"first_look_ahead": -1}, {"step": 0}, {"fade_s": -0.1}]


@pytest.mark.parametrize("bad", BAD)
def test_bad_settings_are_refused_at_the_call(bad):
    with pytest.raises(ConfigError, match="Decoding a stream: found"):
        decode_stream(SmearCodec(), [], **bad)


def test_codes_outside_the_codebook_are_the_codecs_error():
    with pytest.raises(InputError):
        list(decode_stream(SmearCodec(), [[64]]))


# join


def flat(n: int, level: float = 0.5, rate: int = 16_000) -> Audio:
    return Audio(np.full(n, level, np.float32), rate)

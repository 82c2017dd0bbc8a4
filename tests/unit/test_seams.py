"""Segments to one sound: pieces give what wholes give, ends are cut and faded, pauses stand between."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llasa.core import Audio
from llasa.errors import ConfigError, InputError
from llasa.seams import Ends, join, kept

RATE = 16_000


def flat(n: int, level: float = 0.5, rate: int = 16_000) -> Audio:
    return Audio(np.full(n, level, np.float32), rate)


def joined(pieces) -> np.ndarray:
    return np.concatenate([piece.samples for piece in pieces])


def test_join_puts_pauses_between_and_fades_the_ends():
    parts = [flat(1600), flat(800)]
    sound = joined(join([[part] for part in parts], [0.1, 9.0]))
    assert len(sound) == 1600 + 1600 + 800
    assert sound[0] == sound[1599] == sound[3200] == sound[-1] == 0
    assert np.abs(np.diff(sound)).max() <= 0.5 / 79 + 1e-6
    assert (sound[100:1500] == 0.5).all()
    assert not sound[1600:3200].any()
    assert (parts[0].samples == 0.5).all()


def test_join_takes_parts_as_they_come_and_any_lengths():
    pulled = []

    def parts():
        for n in (1600, 0, 1, 3):
            pulled.append(n)
            yield [flat(n)]

    pieces = join(parts(), iter([0, 0.01, 0]))
    first = next(pieces)
    assert pulled == [1600]
    assert len(first.samples) + len(joined(pieces)) == 1600 + 0 + 0 + 160 + 1 + 3
    assert list(join([], [])) == []


def test_join_cuts_long_silence_at_the_ends():
    gap = np.zeros(8000, np.float32)
    part = Audio(np.concatenate([gap, flat(16_000).samples, gap]), RATE)
    assert len(joined(join([[part]], [], max_silence_s=0.2))) == 16_000 + 2 * 3200
    assert len(joined(join([[part]], []))) == 32_000
    assert len(joined(join([[flat(8000, 0.0)]], [], max_silence_s=0.2))) == 3200


def test_join_refuses_other_rates_and_missing_pauses():
    with pytest.raises(InputError, match="8000 Hz after 16000 Hz"):
        list(join([[flat(10)], [flat(10, rate=8000)]], [0]))
    for pauses in ([], [-1]):
        with pytest.raises(ConfigError, match="pause of"):
            list(join([[flat(10)], [flat(10)]], pauses))


@given(
    levels=st.lists(
        st.tuples(st.integers(1, 900), st.sampled_from([0.0, 0.001, 0.1])), min_size=1, max_size=8
    ),
    cuts=st.lists(st.integers(0, 4000), max_size=8),
    keep_s=st.sampled_from([None, 0.0, 0.02, 0.1]),
)
def test_pieces_give_what_the_whole_gives(levels, cuts, keep_s):
    draw = np.random.default_rng(0)
    whole = np.concatenate([level * draw.uniform(-1, 1, n) for n, level in levels]).astype(np.float32)
    expected = joined(join([[Audio(whole, RATE)]], [], max_silence_s=keep_s))
    pieces = [Audio(piece, RATE) for piece in np.split(whole, sorted(min(cut, len(whole)) for cut in cuts))]
    assert np.array_equal(joined(join([pieces], [], max_silence_s=keep_s)), expected)
    start, end = kept(Audio(whole, RATE), keep_s) if keep_s is not None else (0, len(whole))
    assert len(expected) == end - start
    inner = slice(start + 80, end - 80)
    assert np.array_equal(expected[80 : len(expected) - 80], whole[inner] if end - start > 160 else [])


def test_sound_is_given_as_soon_as_it_is_loud():
    ends = Ends(RATE, 0.1, 0.005)
    assert not len(ends.push(np.zeros(4000, np.float32)))
    assert len(ends.push(np.full(1600, 0.1, np.float32))) == 1600 + 1600 - 80
    assert not len(ends.push(np.zeros(1600, np.float32)))
    assert len(ends.close()) == 80 + 1600

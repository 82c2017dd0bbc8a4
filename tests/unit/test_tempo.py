"""Tempo changes the length of a sound and not its pitch, in pieces as in a whole."""

import numpy as np
import pytest

from llasa.audio.tempo import Tempo
from llasa.core import Audio
from llasa.errors import ConfigError

RATE = 16_000
TONE = (0.3 * np.sin(2 * np.pi * 220 * np.arange(2 * RATE) / RATE)).astype(np.float32)


def changed(speed: float, *pieces: np.ndarray) -> np.ndarray:
    tempo = Tempo(speed, RATE)
    made = [tempo.push(Audio(piece, RATE)).samples for piece in pieces]
    return np.concatenate([*made, tempo.close().samples])


@pytest.mark.parametrize("speed", [0.25, 0.4, 0.8, 1.5, 4.0])
def test_the_length_changes_and_the_pitch_does_not(speed: float) -> None:
    found = changed(speed, TONE)
    assert len(found) == pytest.approx(len(TONE) / speed, rel=0.05)
    spectrum = np.abs(np.fft.rfft(found * np.hanning(len(found))))
    assert np.fft.rfftfreq(len(found), 1 / RATE)[spectrum.argmax()] == pytest.approx(220, abs=4)


def test_pieces_give_what_the_whole_gives() -> None:
    assert np.array_equal(changed(1.3, *np.array_split(TONE, 7)), changed(1.3, TONE))


def test_nothing_gives_nothing_and_a_wild_speed_is_refused() -> None:
    assert len(changed(2.0)) == len(changed(2.0, TONE[:0])) == 0
    with pytest.raises(ConfigError, match="5"):
        Tempo(5, RATE)

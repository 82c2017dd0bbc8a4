"""Pitch: known tones and glides, what has none, and its speed."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llasa.core import Audio
from llasa.pitch import HOP_S, track


def voiced(f0_hz: np.ndarray | float, seconds: float, rate: int = 16000) -> Audio:
    """Return a buzz of a given frequency over time."""
    n = round(seconds * rate)
    phase = 2 * np.pi * np.cumsum(np.broadcast_to(f0_hz, n)) / rate
    return Audio((0.1 * sum(np.sin(k * phase) / k for k in range(1, 9))).astype(np.float32), rate)


def off_st(found: np.ndarray, wanted: np.ndarray | float) -> float:
    return float(np.abs(12 * np.log2(found / wanted)).max())


@settings(max_examples=25, deadline=None)
@given(hz=st.floats(70, 450), rate=st.sampled_from([8000, 16000, 24000, 44100]), gain=st.floats(0.01, 1))
def test_a_steady_tone_is_found_everywhere_at_any_rate_and_level(hz: float, rate: int, gain: float) -> None:
    audio = voiced(hz, 0.6, rate)
    found = track(Audio(audio.samples * np.float32(gain), rate))
    assert len(found.f0_hz) == 60
    assert (found.f0_hz > 0).mean() > 0.9
    assert off_st(found.voiced_hz[2:-2], hz) < 0.3


def test_a_glide_is_followed() -> None:
    rate, seconds = 16000, 1.5
    f0 = np.geomspace(110, 220, round(rate * seconds))
    found = track(voiced(f0, seconds))
    middle = np.arange(5, len(found.f0_hz) - 5)
    wanted = f0[(middle * HOP_S * rate).astype(int)]
    assert (found.f0_hz[middle] > 0).all()
    assert off_st(found.f0_hz[middle], wanted) < 0.5


def test_noise_and_silence_have_no_pitch() -> None:
    noise = np.random.default_rng(0).normal(scale=0.1, size=32000).astype(np.float32)
    assert not track(Audio(noise, 16000)).f0_hz.any()
    assert not track(Audio(np.zeros(32000, np.float32), 16000)).f0_hz.any()


def test_rough_sound_is_less_certain_and_voiced_only_if_asked_for() -> None:
    clean, noise = voiced(120, 1.0), np.random.default_rng(0).normal(size=16000).astype(np.float32)
    certain = [
        track(Audio(clean.samples + level * noise, 16000)).certainty.mean() for level in (0, 0.02, 0.06)
    ]
    assert certain[0] > 0.95
    assert certain[0] > certain[1] > certain[2]
    rough = Audio(clean.samples + np.float32(0.12) * noise, 16000)
    assert len(track(rough, 0.8).voiced_hz) > len(track(rough).voiced_hz)


def test_pauses_between_voiced_stretches_are_unvoiced() -> None:
    buzz, rest = voiced(120, 0.4).samples, np.zeros(4800, np.float32)
    found = track(Audio(np.concatenate([buzz, rest, buzz]), 16000)).f0_hz
    assert found[10:35].all()
    assert not found[45:65].any()
    assert found[75:100].all()


@pytest.mark.parametrize("n", [0, 1, 100, 400])
def test_very_short_sounds(n: int) -> None:
    found = track(Audio(np.full(n, 0.1, np.float32), 16000))
    assert len(found.f0_hz) == round(n / 160)
    assert np.isfinite(found.f0_hz).all()


def test_three_seconds_take_less_than_15_ms_of_cpu() -> None:
    audio, took_s = voiced(120, 3.0), []
    for _ in range(12):
        began = time.process_time()
        track(audio)
        took_s.append(time.process_time() - began)
    assert min(took_s) < 0.015

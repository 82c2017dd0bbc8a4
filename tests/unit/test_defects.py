"""Planted defects: each does what it says, by measuring."""

import math
from functools import cache
from itertools import pairwise

import numpy as np
import pytest

from llasa.core import Audio
from llasa.defects import DEFECTS
from llasa.errors import ConfigError, InputError
from llasa.pitch import track
from tests.conftest import clip


@cache
def sung() -> Audio:
    """Return three seconds of a buzzing voice that glides between 100 and 180 Hz, with pauses."""
    rate = 16000
    time = np.arange(3 * rate) / rate
    f0 = 140 + 40 * np.sin(2 * np.pi * 0.7 * time)
    phase = 2 * np.pi * np.cumsum(f0) / rate
    voice = sum(np.cos(k * phase) / k for k in range(1, 12))
    envelope = np.clip(np.sin(2 * np.pi * 1.5 * time) + 0.6, 0, 1)
    return Audio((0.1 * envelope * voice).astype(np.float32), rate)


def rms(audio: Audio) -> float:
    return float(np.sqrt(np.mean(np.square(audio.samples, dtype=np.float64))))


@pytest.mark.parametrize("name", DEFECTS)
def test_any_severity_gives_sound_in_range_and_again_the_same(name: str) -> None:
    defect, other = DEFECTS[name], clip(1.0)
    assert defect(sung(), defect.neutral) is sung()
    for severity in (defect.severities[0], defect.severities[-1]):
        made = defect(sung(), severity, 3, other)
        assert made.sample_rate == 16000
        assert made.samples.dtype == np.float32
        assert np.isfinite(made.samples).all()
        assert np.abs(made.samples).max() <= 1
        assert not np.array_equal(made.samples, sung().samples)
        assert np.array_equal(made.samples, defect(sung(), severity, 3, other).samples)


@pytest.mark.parametrize("name", DEFECTS)
@pytest.mark.parametrize("n", [2, 7, 400])
def test_very_short_sounds_are_spoilt_too(name: str, n: int) -> None:
    made = DEFECTS[name](Audio(sung().samples[4000 : 4000 + n], 16000), DEFECTS[name].severities[-1])
    assert len(made.samples)
    assert np.isfinite(made.samples).all()


@pytest.mark.parametrize(
    ("name", "severity", "seconds"),
    [
        ("faster", 1.1, 3 / 1.1),
        ("faster", 1.6, 3 / 1.6),
        ("cut", 0.4, 1.8),
        ("paused", 2, 5),
        ("spliced", 0.8, 3.8),
        ("monotone", 1, 3),
        ("muffled", 800, 3),
        ("noisy", 0, 3),
        ("emptied", 1, 3),
    ],
)
def test_length(name: str, severity: float, seconds: float) -> None:
    assert DEFECTS[name](sung(), severity, 0, clip()).duration_s == pytest.approx(seconds, abs=0.001)


@pytest.mark.parametrize("severity", [1.2, 1.6])
def test_faster_keeps_pitch_and_loudness(severity: float) -> None:
    made = DEFECTS["faster"](sung(), severity)
    assert rms(made) == pytest.approx(rms(sung()), rel=0.1)
    for share in (10, 50, 90):
        assert np.percentile(track(made).voiced_hz, share) == pytest.approx(
            np.percentile(track(sung()).voiced_hz, share), rel=0.06
        )


def test_cut_keeps_the_beginning() -> None:
    made = DEFECTS["cut"](sung(), 0.2)
    assert np.array_equal(made.samples, sung().samples[: len(made.samples)])


def test_each_repetition_adds_the_same_phrase() -> None:
    lengths = [len(DEFECTS["repeated"](sung(), times).samples) for times in (2, 3, 6, 12)]
    phrase = lengths[0] - len(sung().samples)
    assert 0.2 < phrase / len(sung().samples) < 0.5
    assert np.diff(lengths).tolist() == [phrase, 3 * phrase, 6 * phrase]


def test_pause_is_silent() -> None:
    made = DEFECTS["paused"](sung(), 1.0).samples
    runs = np.flatnonzero(np.diff(np.pad(made == 0, 1).astype(int))).reshape(-1, 2)
    assert np.diff(runs).max() >= 16000


def test_splice_holds_the_other_sound() -> None:
    other = clip(2.0, seed=5)
    made = DEFECTS["spliced"](sung(), 1.0, 0, other).samples
    inside = other.samples[10000:20000]
    found = np.lib.stride_tricks.sliding_window_view(made[16000:40000], 100)
    assert (np.abs(found - inside[:100]).max(axis=1) < 1e-6).any()


def test_monotone_narrows_the_pitch_step_by_step() -> None:
    spread = []
    for severity in (0, *DEFECTS["monotone"].severities):
        made = DEFECTS["monotone"](sung(), severity)
        assert rms(made) == pytest.approx(rms(sung()), rel=0.15)
        spread.append(np.subtract(*np.percentile(np.log(track(made).voiced_hz), (90, 10))))
    assert all(a > b for a, b in pairwise(spread))
    assert spread[-1] < 0.25 * spread[0]


def test_monotone_leaves_what_has_no_pitch() -> None:
    noise = Audio(np.random.default_rng(0).normal(size=8000).astype(np.float32) * 0.1, 16000)
    assert len(DEFECTS["monotone"](noise, 1.0).samples) == 8000


def test_muffled_halves_the_power_at_its_frequency_and_takes_what_is_above() -> None:
    white = Audio(np.random.default_rng(0).normal(size=32000).astype(np.float32) * 0.1, 16000)
    ratio = np.abs(np.fft.rfft(DEFECTS["muffled"](white, 2000).samples)) / np.abs(np.fft.rfft(white.samples))
    at = np.fft.rfftfreq(32000, 1 / 16000)
    assert np.median(ratio[at < 1500]) == pytest.approx(1, abs=0.02)
    assert np.median(ratio[np.abs(at - 2000) < 20]) == pytest.approx(math.sqrt(0.5), abs=0.05)
    assert np.median(ratio[at > 4000]) < 0.01


def test_more_clicks_hold_the_fewer() -> None:
    few, many = (DEFECTS["clicking"](sung(), n, 4).samples != sung().samples for n in (3, 30))
    assert few.sum() == 9
    assert 85 <= many.sum() <= 90
    assert many[few].all()


@pytest.mark.parametrize("snr_db", [20, 5, 0])
def test_noise_has_the_level_asked_for(snr_db: float) -> None:
    noise = DEFECTS["noisy"](sung(), snr_db).samples - sung().samples
    assert 20 * np.log10(rms(sung()) / np.sqrt(np.mean(noise**2))) == pytest.approx(snr_db, abs=0.3)


def test_emptied_is_silent() -> None:
    assert not DEFECTS["emptied"](sung(), 1).samples.any()


@pytest.mark.parametrize(
    ("name", "severity"), [("faster", 0.5), ("cut", -1), ("noisy", math.nan), ("paused", -2)]
)
def test_a_severity_that_is_no_defect_is_refused(name: str, severity: float) -> None:
    with pytest.raises(ConfigError, match="is no defect"):
        DEFECTS[name](sung(), severity)


def test_sounds_that_cannot_be_used_are_refused() -> None:
    with pytest.raises(InputError, match="empty or not finite"):
        DEFECTS["cut"](Audio(np.zeros(0, np.float32), 16000), 0.1)
    with pytest.raises(InputError, match="8000 Hz, not 16000 Hz"):
        DEFECTS["spliced"](sung(), 0.5, 0, clip(sample_rate=8000))

"""The fundamental frequency of speech over time. Needs numpy only; knows no voice, no text, no codec.

Shapes: T samples, F frames, W samples of the integration window, L lags.
"""

from dataclasses import dataclass

import numpy as np

from llasa.core import Audio

HOP_S = 0.01
LOW_HZ, HIGH_HZ = 60.0, 500.0
_RATE_HZ = 8_000  # enough for the harmonics that matter; half the work
_SMOOTHED_S = 0.001  # a moving average this long leaves the lowest harmonics, which even a noisy codec keeps
_WINDOW_S = 0.03
VOICED = 0.45  # aperiodicity of the worst frame still called voiced
_DIP = 0.15  # of a lag taken at once
_FLOOR_DB = -40.0  # frames quieter than this, relative to the loud ones, are never voiced
_SHORTEST = 5  # frames of a voiced stretch
_MEDIAN = 5  # frames; slips of one or two frames at its edges vanish


@dataclass(frozen=True)
class Pitch:
    """F0 over time; frame i stands for the sound around `i * hop_s` seconds.

    f0_hz: float64 [F], Hz, 0 where unvoiced. certainty: float64 [F], from 0, unvoiced, to 1, wholly periodic.
    """

    f0_hz: np.ndarray
    certainty: np.ndarray
    hop_s: float

    @property
    def voiced_hz(self) -> np.ndarray:
        """The voiced frames alone, Hz."""
        return self.f0_hz[self.f0_hz > 0]


def track(audio: Audio, voiced: float = VOICED) -> Pitch:
    """Return the fundamental frequency of speech, every 10 ms, from 60 to 500 Hz.

    It is found twice, the second time near the speaker's own range, which rids it of most octave errors.

    Args:
        audio: one speaker, any rate from 8 kHz on, any length.
        voiced: aperiodicity, 0 to 1, from which on a frame is unvoiced; more takes in creaky voice and slips.

    Source: YIN, A. de Cheveigné and H. Kawahara (2002), equations 6 to 8, without its last step; the range
    of the second pass after C. De Looze and D. Hirst, *Detecting changes in key and range* (2008).
    """
    n_frames = round(audio.duration_s / HOP_S)
    if not n_frames or not audio.samples.any():
        return Pitch(np.zeros(n_frames), np.zeros(n_frames), HOP_S)
    samples, rate = _reduced(audio)
    aperiodicity, level_db = _aperiodicity(samples, rate, n_frames)
    loud = level_db > np.percentile(level_db, 95) + _FLOOR_DB
    certainty, f0 = _chosen(aperiodicity, rate, LOW_HZ, HIGH_HZ, loud, voiced)
    if (f0 > 0).any():
        low, high = np.percentile(f0[f0 > 0], (25, 75)) * (0.75, 1.8)
        low, high = max(low, LOW_HZ), min(high, HIGH_HZ)
        certainty, f0 = _chosen(aperiodicity, rate, low, high, loud, voiced)
    smooth = _smoothed(_long_stretches(f0))
    return Pitch(smooth, np.where(smooth > 0, certainty, 0.0), HOP_S)


def _reduced(audio: Audio) -> tuple[np.ndarray, float]:
    """Return the sound at 8 kHz or a little more, smoothed."""
    step = max(audio.sample_rate // _RATE_HZ, 1)
    rate = audio.sample_rate / step
    whole = audio.samples[: len(audio.samples) // step * step]
    coarse = whole.reshape(-1, step).mean(axis=1, dtype=np.float32)
    width = max(round(_SMOOTHED_S * rate), 1)
    smooth = np.convolve(coarse, np.full(width, 1 / width, np.float32))
    return smooth[width // 2 : width // 2 + len(coarse)], rate


def _aperiodicity(samples: np.ndarray, rate: float, n_frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the cumulative mean normalised difference [F, L] of lags 0 to L - 1, and levels [F], dB."""
    window, lags = round(_WINDOW_S * rate), int(rate / LOW_HZ) + 2
    span = window + lags
    size = -(-span // 60) * 60  # quick to transform
    starts = np.round(np.arange(n_frames) * HOP_S * rate).astype(int)
    padded = np.pad(samples, (span // 2, span))
    frames = np.lib.stride_tricks.sliding_window_view(padded, span)[starts]
    head, whole = np.fft.rfft(frames[:, :window], size), np.fft.rfft(frames, size)
    products = np.fft.irfft(head.conj() * whole, size)[:, :lags]
    total = np.pad(np.cumsum(np.square(padded, dtype=np.float64)), (1, 0))
    places = starts[:, None] + np.arange(lags)
    energy = (total[places + window] - total[places]).astype(np.float32)
    difference = np.maximum(energy[:, :1] + energy - 2 * products, 0)
    mean = np.cumsum(difference, axis=1) / np.arange(1, lags + 1, dtype=np.float32)
    return difference / np.maximum(mean, 1e-9), 10 * np.log10(energy[:, 0] / window + 1e-12)


def _chosen(
    aperiodicity: np.ndarray, rate: float, low: float, high: float, loud: np.ndarray, worst: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return certainty and F0 [F] from the first deep dip, or else the deepest, between two frequencies."""
    first, last = max(int(rate / high), 2), min(int(np.ceil(rate / low)), aperiodicity.shape[1] - 2)
    inside = aperiodicity[:, first : last + 1]
    before, after = aperiodicity[:, first - 1 : last], aperiodicity[:, first + 1 : last + 2]
    dips = (inside <= before) & (inside < after)
    deep = dips & (inside < _DIP)
    deepest = np.where(dips, inside, np.inf).argmin(axis=1)
    place = np.where(deep.any(axis=1), deep.argmax(axis=1), deepest)
    rows = np.arange(len(inside))
    left, here, right = before[rows, place], inside[rows, place], after[rows, place]
    bend = left - 2 * here + right
    shift = np.where(bend > 0, (left - right) / np.maximum(2 * bend, 1e-12), 0).clip(-0.5, 0.5)
    voiced = loud & dips[rows, place] & (here < worst)
    return 1 - here / worst, np.where(voiced, rate / (first + place + shift), 0.0)


def _long_stretches(f0: np.ndarray) -> np.ndarray:
    """Silence voiced stretches too short to be speech."""
    edges = np.flatnonzero(np.diff(np.pad(f0 > 0, 1).astype(int)))
    kept = f0.copy()
    for start, end in edges.reshape(-1, 2):
        if end - start < _SHORTEST:
            kept[start:end] = 0
    return kept


def _smoothed(f0: np.ndarray) -> np.ndarray:
    """Replace each voiced frame by the median of the voiced ones around it."""
    known = np.pad(np.where(f0 > 0, f0, np.nan), _MEDIAN // 2, constant_values=np.nan)
    around = np.lib.stride_tricks.sliding_window_view(known, _MEDIAN)
    voiced = f0 > 0
    smooth = np.zeros_like(f0)
    smooth[voiced] = np.nanmedian(around[voiced], axis=1)
    return smooth

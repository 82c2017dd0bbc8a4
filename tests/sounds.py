"""Sounds that tests of audio make."""

import numpy as np

from llasa.core import Audio

RATE = 16_000


def speechlike(duration_s: float = 1.0, rate: int = RATE, level: float = 0.3) -> Audio:
    """A voiced buzz with syllables: broad enough to align by correlation."""
    t = np.arange(round(duration_s * rate)) / rate
    pitch = 120 + 30 * np.sin(2 * np.pi * 1.3 * t)
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    buzz = sum(np.sin(k * phase) / k for k in range(1, 12))
    samples = level * 0.5 * buzz * (0.6 + 0.4 * np.sin(2 * np.pi * 4 * t))
    return Audio(samples.astype(np.float32), rate)


def similarity(one: np.ndarray, other: np.ndarray, max_shift: int = 3000) -> float:
    """The highest correlation over all shifts that a codec's delay can make."""
    n = min(len(one), len(other))
    spectrum = np.fft.rfft(one[:n], 2 * n) * np.conj(np.fft.rfft(other[:n], 2 * n))
    products = np.fft.irfft(spectrum)
    near = np.r_[products[:max_shift], products[-max_shift:]]
    return float(near.max() / (np.linalg.norm(one[:n]) * np.linalg.norm(other[:n])))

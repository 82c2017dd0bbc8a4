"""A sound as drawings: the outline of its wave, and its spectrogram. Must not know: pages, colours.

Shapes: T samples, C columns.
"""

import io
from itertools import pairwise

import numpy as np

from llasa.core import Audio

COLUMNS = 640
WINDOW = 512
ROWS, TOP_HZ = 112, 8000.0
QUIET_DB, LOUD_DB = -85.0, -25.0


def outline(audio: Audio, columns: int = COLUMNS, height: int = 100) -> str:
    """Return the outline of a wave as the path of an SVG `columns` wide, its loudest place `height` high."""
    edges = np.linspace(0, len(audio.samples), columns + 1).astype(int)
    parts = [audio.samples[start : max(end, start + 1)] for start, end in pairwise(edges)]
    peaks = np.array([_peak(part) for part in parts])
    half = np.maximum(peaks / max(float(peaks.max()), 1e-6) * 0.48, 0.006) * height
    above = [f"{x} {height / 2 - y:.1f}" for x, y in enumerate(half)]
    below = [f"{x} {height / 2 + y:.1f}" for x, y in enumerate(half)]
    return "M" + "L".join([*above, *reversed(below)]) + "Z"


def _peak(samples: np.ndarray) -> float:
    return float(np.abs(samples).max()) if len(samples) else 0.0


def spectrogram(audio: Audio) -> bytes:
    """Return a PNG [ROWS, C] whose opacity is loudness, low tones below, evenly spaced to the ear."""
    from PIL import Image

    columns = min(COLUMNS, max(1, len(audio.samples) // 64))
    centres = np.linspace(0, max(len(audio.samples) - 1, 0), columns).astype(int)
    padded = np.pad(audio.samples, (WINDOW // 2, WINDOW))
    frames = np.stack([padded[at : at + WINDOW] for at in centres]) * np.hanning(WINDOW)
    power = np.abs(np.fft.rfft(frames)) ** 2 / (WINDOW / 4) ** 2
    heights = _even_to_the_ear(min(TOP_HZ, audio.sample_rate / 2)) * WINDOW / audio.sample_rate
    low = np.minimum(heights.astype(int), power.shape[1] - 2)
    share = heights - low
    rows = power[:, low] * (1 - share) + power[:, low + 1] * share
    loud = (10 * np.log10(rows + 1e-12) - QUIET_DB) / (LOUD_DB - QUIET_DB)
    alpha = (np.clip(loud, 0, 1) ** 1.3 * 255).astype(np.uint8).T[::-1]
    file = io.BytesIO()
    Image.fromarray(np.dstack([np.zeros_like(alpha), alpha]), "LA").save(file, "PNG", optimize=True)
    return file.getvalue()


def _even_to_the_ear(top_hz: float) -> np.ndarray:
    """Return frequencies, Hz [ROWS], equally far apart in mel.

    Source: D. O'Shaughnessy, *Speech Communication: Human and Machine* (1987), p. 150.
    """
    most = 2595 * np.log10(1 + top_hz / 700)
    return 700 * (10 ** (np.linspace(0, most, ROWS) / 2595) - 1)

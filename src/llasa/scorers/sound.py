"""Checks that are arithmetic on samples: silence, clipping and clicks, noise, timbre.

Limits come from 60 candidates of the starter at temperature 0.4 (three voices) and are named beside them.
Must not know: recognisers, neural networks, other scorers. Shapes: T samples, F frames, K frequencies.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from llasa.audio import SILENCE_PEAK, resample
from llasa.codec.base import Codec
from llasa.core import Audio, Candidate, Score
from llasa.errors import InputError
from llasa.scorers.base import SOUND
from llasa.scorers.sounds import PerVoice, recorded, sound_of
from llasa.text.marks import inner_marks

_HOP_S, _WINDOW_S = 0.01, 0.032

# Seconds allowed at the ends and between words; natural gaps: 0.16 s at most without a mark, 0.36 s at one.
_LEAD_S, _TAIL_S, _GAP_S, _GAP_AT_MARK_S, _SHARE = 0.3, 0.5, 0.4, 0.7, 0.35
# Natural tails are 0.06 s and longer: one shorter than this was cut off, at worst worth this much silence.
_CUT_OFF_S, _CUT_OFF = 0.05, 0.2
_SILENT_DB = -35.0  # relative to the loud frames
_SHORTEST_SOUND = 5  # frames: a click in a pause does not end it


def _frames(samples: np.ndarray, rate: int) -> np.ndarray:
    """Return frames every 10 ms, [F, W], at least one; frame i is around `i * 10` ms."""
    hop, width = round(_HOP_S * rate), round(_WINDOW_S * rate)
    padded = np.pad(np.asarray(samples, np.float32), (width // 2, width - width // 2 - 1))
    return np.lib.stride_tricks.sliding_window_view(padded, width)[::hop]


def _spectra(audio: Audio) -> np.ndarray:
    """Return the power of each frequency in each frame, [F, K]."""
    frames = _frames(audio.samples, audio.sample_rate)
    return np.square(np.abs(np.fft.rfft(frames * np.hanning(frames.shape[1]).astype(np.float32))))


def _loudest(level_db: np.ndarray) -> float:
    """Return the level that a tenth of a second reaches; a share of all would sink in a long silence."""
    return float(np.sort(level_db)[-min(10, len(level_db))])


class Silence:
    """Looks for silence where there should be speech.

    value: 1 / (1 + seconds of silence beyond what is allowed): 0.3 s before, 0.5 s after, 0.4 s between words
    or 0.7 s at a punctuation mark, and 35 % of the time between the first sound and the last. An end without
    a tail, which was cut off, counts like up to 0.2 s; the value is 0 when all is silent. measures: `lead_s`,
    `tail_s`, `gap_s` (the longest inside), `silence_share` (inside), `silence_s` (too many). The tail of an
    unfinished candidate counts for nothing.
    """

    name = "silence"
    partial = True
    cost = SOUND

    def score(self, candidates: Sequence[Candidate]) -> list[Score]:
        """See `Scorer.score`."""
        return [self._score(candidate) for candidate in candidates]

    def _score(self, candidate: Candidate) -> Score:
        audio = sound_of(candidate)
        sounds = _sounding(audio)
        unfinished = candidate.finish == "partial"
        if not len(sounds):
            lead_s = audio.duration_s
            value = 1 / (1 + max(0.0, lead_s - _LEAD_S)) if unfinished else 0.0
            return Score(value, {"lead_s": lead_s, "silence_share": 1.0}, "All of it is silent.")
        lead_s = sounds[0, 0] * _HOP_S
        tail_s = 0.0 if unfinished else max(0.0, audio.duration_s - sounds[-1, 1] * _HOP_S)
        gaps_s = np.sort((sounds[1:, 0] - sounds[:-1, 1]) * _HOP_S)[::-1]
        allowed_s = np.where(
            np.arange(len(gaps_s)) < inner_marks(candidate.utterance.text), _GAP_AT_MARK_S, _GAP_S
        )
        inside_s = (sounds[-1, 1] - sounds[0, 0]) * _HOP_S
        share = float(gaps_s.sum() / inside_s)
        extra_s = max(0.0, lead_s - _LEAD_S) + max(0.0, tail_s - _TAIL_S)
        extra_s += max(np.maximum(gaps_s - allowed_s, 0).sum(), (share - _SHARE) * inside_s)
        gap_s = float(gaps_s.max(initial=0))
        measures = {"lead_s": lead_s, "tail_s": tail_s, "gap_s": gap_s, "silence_share": share}
        cut_off = 0.0 if unfinished else _CUT_OFF * max(0.0, 1 - tail_s / _CUT_OFF_S)
        return Score(float(1 / (1 + extra_s + cut_off)), {**measures, "silence_s": float(extra_s)})


def _sounding(audio: Audio) -> np.ndarray:
    """Return the first and last frame (exclusive) of each stretch of sound, [stretches, 2]."""
    if np.abs(audio.samples).max() < SILENCE_PEAK:
        return np.zeros((0, 2), int)
    level_db = 10 * np.log10(np.square(_frames(audio.samples, audio.sample_rate)).mean(1) + 1e-12)
    loud = level_db > _loudest(level_db) + _SILENT_DB
    stretches = np.flatnonzero(np.diff(np.pad(loud, 1).astype(int))).reshape(-1, 2)
    long_enough = stretches[:, 1] - stretches[:, 0] >= _SHORTEST_SOUND
    return stretches[long_enough]


_CLICK_RATIO = 12.0  # natural speech reached 5, a diphone voice with hard joins 13
_CLICK_REACH_S, _CLICK_WIDTH_S = 0.01, 0.002
_CLICKS_PER_S, _CLIPPED_SHARE = 5.0, 0.005  # where the value is one half


class Clipping:
    """Looks for flat tops and clicks.

    value: 1 / ((1 + clicks a second / 5) (1 + clipped share / 0.5 %)). measures: `clicks_per_s`, samples that
    stick out of their surroundings; `clipped_share`, of samples at full scale or in a flat top.
    """

    name = "clipping"
    partial = True
    cost = SOUND

    def score(self, candidates: Sequence[Candidate]) -> list[Score]:
        """See `Scorer.score`."""
        return [self._score(sound_of(candidate)) for candidate in candidates]

    def _score(self, audio: Audio) -> Score:
        samples = np.asarray(audio.samples, np.float64)
        clicks, clipped = _clicks(samples, audio.sample_rate) / audio.duration_s, _clipped(samples)
        value = 1 / ((1 + clicks / _CLICKS_PER_S) * (1 + clipped / _CLIPPED_SHARE))
        return Score(value, {"clicks_per_s": clicks, "clipped_share": clipped})


def _clicks(samples: np.ndarray, rate: int) -> int:
    """Return how often the second difference stands far above its level around, leaving itself out."""
    if len(samples) < 3:
        return 0
    bend, reach = np.square(np.diff(samples, 2)), round(_CLICK_REACH_S * rate)
    total = np.cumsum(np.pad(bend, (reach + 1, reach)))
    around = total[2 * reach + 1 :] - total[: -2 * reach - 1]
    near = np.convolve(bend, np.ones(7), "same")[: len(bend)]
    level = np.maximum(around - near, 0) / (2 * reach - 6)
    places = np.flatnonzero(np.sqrt(bend) > _CLICK_RATIO * (np.sqrt(level) + SILENCE_PEAK))
    return int((np.diff(places, prepend=-rate) > _CLICK_WIDTH_S * rate).sum())


def _clipped(samples: np.ndarray) -> float:
    """Return the share of samples at full scale, or in three equal ones at the peak."""
    size = np.abs(samples)
    top = (size >= 0.98 * size.max()) & (size > 0.1)
    same = np.concatenate(([False], np.abs(np.diff(samples)) < 2**-15, [False])) & np.pad(top, (0, 1))
    flat = same[:-1] & same[1:]
    return float((flat | (size >= 0.999)).mean())


_QUIET_PERCENT = 10
_QUIET_SHARE = 0.105  # of its mean power is the tenth percentile of noise (exponential distribution)
_HALF_DB = 10.0


class Noise:
    """Estimates the noise under the speech.

    Noise is what each frequency keeps in its quietest frames, so a pause is not needed. value:
    1 / (1 + 10^((10 - snr) / 10)): 1/2 at 10 dB. measures: `snr_db`; white noise of 0 to 20 dB measured 0 to
    3 dB too low, clean speech of the starter 27 to 48.
    """

    name = "noise"
    partial = True
    cost = SOUND

    def score(self, candidates: Sequence[Candidate]) -> list[Score]:
        """See `Scorer.score`."""
        return [self._score(sound_of(candidate)) for candidate in candidates]

    def _score(self, audio: Audio) -> Score:
        power = _spectra(audio)
        whole = float(power.mean())
        if np.abs(audio.samples).max() < SILENCE_PEAK:
            return Score(0.0, {"snr_db": 0.0}, "All of it is silent.")
        noise = float(np.percentile(power, _QUIET_PERCENT, axis=0).mean()) / _QUIET_SHARE
        snr_db = float(10 * np.log10(max(whole / max(noise, 1e-9 * whole) - 1, 1e-2)))
        return Score(1 / (1 + 10 ** ((_HALF_DB - snr_db) / 10)), {"snr_db": snr_db})


_BANDS, _COEFFICIENTS, _LOWEST_HZ = 32, 16, 60.0
# Bands as quiet as the floor still tell a muffled voice: -60 dB hid what a low-pass at 4 kHz took from one of
# the starter's, and clean speech varies no more with this.
_LOUD_DB, _FLOOR_DB = -25.0, -80.0
_HALF_DISTANCE = (
    0.8  # a voice against itself: 0.3 in the middle; against another: 0.5 at least, 1.4 in the middle
)
_PRIOR_FRAMES = 30  # few words do not show a whole voice


class _Timbre(NamedTuple):
    """Mean and variance of cepstral coefficients [16] over `frames` loud frames, in dB."""

    mean: np.ndarray
    variance: np.ndarray
    frames: int


class Timbre:
    """Compares the spectra of loud frames with those of the voice's recording, or of its codes decoded.

    value: 1 / (1 + (distance / 0.8)^2), with the Bhattacharyya distance between two Gaussians over cepstra.
    measures: `timbre_distance`.

    Source: S. B. Davis and P. Mermelstein, *Comparison of parametric representations* (1980), for cepstra.
    """

    name = "timbre"
    partial = True
    cost = SOUND

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self._own = PerVoice(lambda voice: self._timbre(recorded(voice, codec)))

    def score(self, candidates: Sequence[Candidate]) -> list[Score]:
        """See `Scorer.score`; a candidate without a voice is refused."""
        return [self._score(candidate) for candidate in candidates]

    def _score(self, candidate: Candidate) -> Score:
        voice = candidate.utterance.voice
        if voice is None:
            found = f"utterance '{candidate.utterance.id}' has no voice"
            raise InputError(f"Comparing timbre: {found}. Speak with one, or leave this scorer out.")
        own = self._timbre(sound_of(candidate))
        distance = _distance(own, self._own(voice))
        return Score(1 / (1 + (distance / _HALF_DISTANCE) ** 2), {"timbre_distance": distance})

    def _timbre(self, audio: Audio) -> _Timbre:
        sound = resample(audio, self._codec.sample_rate)
        power, bank = _spectra(sound), _mel_bank(self._codec.sample_rate)
        level_db = 10 * np.log10(power.sum(1) + 1e-12)
        loud = power[level_db > _loudest(level_db) + _LOUD_DB]
        bands_db = 10 * np.log10(loud @ bank.T + 1e-12)
        cepstra = np.maximum(bands_db, bands_db.max() + _FLOOR_DB) @ _cosines().T
        return _Timbre(cepstra.mean(0), cepstra.var(0) + 1, len(cepstra))


def _distance(own: _Timbre, voice: _Timbre) -> float:
    """Return the Bhattacharyya distance, with `own` drawn towards the voice when it has few frames."""
    weight = own.frames / (own.frames + _PRIOR_FRAMES)
    shift = weight * (own.mean - voice.mean)
    variance = weight * own.variance + (1 - weight) * voice.variance
    middle = (variance + voice.variance) / 2
    spread = np.log(middle / np.sqrt(variance * voice.variance))
    return float((shift**2 / middle / 8 + spread / 2).sum())


@lru_cache(maxsize=8)
def _mel_bank(rate: int) -> np.ndarray:
    """Return triangles on the mel scale, [32, K]."""
    width = round(_WINDOW_S * rate)
    first, last = (2595 * np.log10(1 + hz / 700) for hz in (_LOWEST_HZ, rate / 2))
    mels = np.linspace(first, last, _BANDS + 2)
    low, middle, high = (700 * (10 ** (mels[i : i + _BANDS] / 2595) - 1)[:, None] for i in range(3))
    at = np.fft.rfftfreq(width, 1 / rate)
    return np.maximum(0, np.minimum((at - low) / (middle - low), (high - at) / (high - middle)))


@lru_cache(maxsize=1)
def _cosines() -> np.ndarray:
    """Return the discrete cosine transform without its first row, [16, 32]: level does not count."""
    rows, columns = np.arange(1, _COEFFICIENTS + 1)[:, None], np.arange(_BANDS) + 0.5
    return np.cos(np.pi * rows * columns / _BANDS) * np.sqrt(2 / _BANDS)

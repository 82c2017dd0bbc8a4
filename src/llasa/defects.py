"""Planted defects: how speech goes wrong or cheats a judge, each as mild or as bad as asked for.

They show what a judge notices. Must not know: scorers, codecs, texts. Shapes: T samples, M pitch marks.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from llasa.core import Audio
from llasa.errors import ConfigError, InputError
from llasa.pitch import track

Plant = Callable[[Audio, float, int, Audio], np.ndarray]

_WINDOW_S = 0.03  # of overlap-add: two periods of a low voice
_FADE_S = 0.005  # at the ends of pieces that are put together
_CLICK = 0.5
_FILTER_ORDER = 8
_VOICED = 0.6  # aperiodicity: a creaky voice, too, is to be flattened throughout


@dataclass(frozen=True)
class Defect:
    """One way of going wrong.

    plant: (sound, severity, seed, other sound) -> samples. neutral: the severity that changes nothing.
    severities: from mild to hopeless. unit: of a severity.
    """

    plant: Plant
    neutral: float
    severities: tuple[float, ...]
    unit: str

    def __call__(self, audio: Audio, severity: float, seed: int = 0, other: Audio | None = None) -> Audio:
        """Return the sound with the defect; the input itself at the neutral severity.

        Args:
            seed: where there is chance in it; the same seed gives the same sound, and more of a defect
                holds the less.
            other: what `spliced` pastes in, of the same rate; the sound itself if None.

        Returns:
            Samples in [-1, 1] at the same rate.

        Raises:
            ConfigError: the severity lies on the wrong side of the neutral one, or is not a number.
            InputError: the sound is empty or not finite, or the other one has another rate.
        """
        if severity == self.neutral:
            return audio
        if not (severity < self.neutral) == (self.severities[0] < self.neutral) or np.isnan(severity):
            raise ConfigError(
                f"Planting a defect: {severity:g} {self.unit} is no defect, {self.neutral:g} is as it was. "
                f"Use one like {', '.join(f'{one:g}' for one in self.severities)}."
            )
        for sound in (audio, other or audio):
            if not len(sound.samples) or not np.isfinite(sound.samples).all():
                raise InputError("Planting a defect: the sound is empty or not finite. Give a spoken one.")
            if sound.sample_rate != audio.sample_rate:
                found = f"the other sound is at {sound.sample_rate} Hz, not {audio.sample_rate} Hz"
                raise InputError(f"Planting a defect: {found}. Resample it.")
        samples = self.plant(audio, severity, seed, other or audio)
        return Audio(np.clip(samples, -1, 1).astype(np.float32), audio.sample_rate)


def faster(audio: Audio, severity: float, seed: int, other: Audio) -> np.ndarray:
    """Return speech at `severity` times its speed, the pitch kept.

    Source: W. Verhelst and M. Roelands, *An overlap-add technique based on waveform similarity (WSOLA) for
    high quality time-scale modification of speech* (1993).
    """
    half = round(_WINDOW_S * audio.sample_rate / 2)
    reach, window = half // 2, np.hanning(2 * half + 1)[:-1]
    length = max(1, round(len(audio.samples) / severity))
    samples = np.pad(audio.samples, (half + reach, 4 * half))
    out, place = np.zeros(length + 3 * half), reach
    for start in range(0, length + half, half):
        wanted = reach + min(round(start * severity), len(audio.samples))
        if start:
            place = _alike(samples, place + half, wanted, half)
        out[start : start + 2 * half] += window * samples[place : place + 2 * half]
    return out[half : half + length]


def _alike(samples: np.ndarray, natural: int, wanted: int, half: int) -> int:
    """Return the place near `wanted` that sounds most like `natural`, where the sound would have gone on."""
    low = wanted - half // 2
    target = samples[natural : natural + 2 * half]
    region = samples[low : wanted + half // 2 + 2 * half]
    energy = np.convolve(region**2, np.ones(len(target)), "valid")
    return low + int(np.argmax(np.correlate(region, target, "valid") / np.sqrt(energy + 1e-9)))


def cut(audio: Audio, severity: float, seed: int, other: Audio) -> np.ndarray:
    """Return the sound without its last part. severity: share of it, 0 to 1."""
    return audio.samples[: max(1, round(len(audio.samples) * (1 - severity)))]


def repeated(audio: Audio, severity: float, seed: int, other: Audio) -> np.ndarray:
    """Return speech with its middle third said `severity` times in all."""
    start, end = _quiet(audio, 1 / 3), _quiet(audio, 2 / 3)
    phrase = audio.samples[start:end]
    return _joined([audio.samples[:end], *[phrase] * (round(severity) - 1), audio.samples[end:]], audio)


def paused(audio: Audio, severity: float, seed: int, other: Audio) -> np.ndarray:
    """Return speech with `severity` seconds of silence put into its middle."""
    middle = _quiet(audio, 1 / 2)
    gap = np.zeros(round(severity * audio.sample_rate))
    return _joined([audio.samples[:middle], gap, audio.samples[middle:]], audio)


def spliced(audio: Audio, severity: float, seed: int, other: Audio) -> np.ndarray:
    """Return speech into whose middle the `severity` seconds from the middle of another sound are pasted."""
    middle, length = _quiet(audio, 1 / 2), round(severity * audio.sample_rate)
    start = max(0, (len(other.samples) - length) // 2)
    return _joined(
        [audio.samples[:middle], other.samples[start : start + length], audio.samples[middle:]], audio
    )


def _quiet(audio: Audio, share: float) -> int:
    """Return the quietest place near a share of the sound: there a cut is heard least."""
    reach, width = len(audio.samples) // 10, max(1, round(2 * _FADE_S * audio.sample_rate))
    low = min(max(0, round(share * len(audio.samples)) - reach), len(audio.samples) - 1)
    energy = np.convolve(audio.samples[low : low + 2 * reach + width] ** 2, np.ones(width), "valid")
    return min(low + int(np.argmin(energy)) + width // 2, len(audio.samples))


def _joined(pieces: Sequence[np.ndarray], audio: Audio) -> np.ndarray:
    """Return pieces end to end, faded where they meet."""
    fade = np.linspace(0, 1, round(_FADE_S * audio.sample_rate))
    parts = [np.array(piece, np.float64) for piece in pieces]
    for before, after in pairwise(parts):
        n = min(len(before), len(fade))
        before[len(before) - n :] *= fade[::-1][len(fade) - n :]
        after[: len(fade)] *= fade[: len(after)]
    return np.concatenate(parts)


def monotone(audio: Audio, severity: float, seed: int, other: Audio) -> np.ndarray:
    """Return speech with its pitch drawn towards its middle. severity: share of the way, 0 to 1.

    Source: TD-PSOLA, E. Moulines and F. Charpentier, *Pitch-synchronous waveform processing techniques for
    text-to-speech synthesis using diphones* (1990).
    """
    pitch, rate = track(audio, _VOICED), audio.sample_rate
    if not len(pitch.voiced_hz):
        return audio.samples
    f0 = pitch.f0_hz
    wanted = np.where(f0 > 0, np.median(pitch.voiced_hz) ** severity * f0 ** (1 - severity), 0)
    frame = rate * pitch.hop_s
    marks, periods = _marks(audio, f0, frame)
    out, weight = np.zeros(len(audio.samples)), np.full(len(audio.samples), 1e-3)
    place = 0.0
    while place < len(out):
        nearest = int(np.argmin(np.abs(marks - place)))
        _add_grain(audio.samples, marks[nearest], periods[nearest], round(place), out, weight)
        target = float(wanted[min(round(marks[nearest] / frame), len(wanted) - 1)])
        place += rate / target if target else float(periods[nearest])
    return out / weight


def _marks(audio: Audio, f0: np.ndarray, frame: float) -> tuple[np.ndarray, np.ndarray]:
    """Return pitch marks [M] and the period at each [M], in samples; where there is no voice, every 5 ms."""
    samples, plain = audio.samples, round(0.005 * audio.sample_rate)
    sign = 1 if abs(samples.max()) >= abs(samples.min()) else -1
    marks, periods, place, voiced = [], [], 0, False
    while place < len(samples):
        here = f0[min(round(place / frame), len(f0) - 1)]
        period = round(audio.sample_rate / here) if here else plain
        if here:  # to the peak: the first one anywhere in a period, later ones near where they are due
            reach = period // 5 if voiced else period // 2
            low = max(place - reach, marks[-1] + 1 if marks else 0)
            place = low + int(np.argmax(sign * samples[low : place + reach + 1]))
        marks.append(place)
        periods.append(period)
        place, voiced = place + period, bool(here)
    return np.array(marks), np.array(periods)


def _add_grain(
    samples: np.ndarray, mark: int, period: int, place: int, out: np.ndarray, weight: np.ndarray
) -> None:
    before = min(period, mark, place)
    after = min(period, len(samples) - mark, len(out) - place)
    window = np.hanning(2 * period + 1)[period - before : period + after]
    out[place - before : place + after] += window * samples[mark - before : mark + after]
    weight[place - before : place + after] += window


def muffled(audio: Audio, severity: float, seed: int, other: Audio) -> np.ndarray:
    """Return the sound low-passed. severity: the frequency of half power, Hz."""
    frequencies = np.fft.rfftfreq(len(audio.samples), 1 / audio.sample_rate)
    gain = 1 / np.sqrt(1 + (frequencies / severity) ** (2 * _FILTER_ORDER))
    return np.fft.irfft(np.fft.rfft(audio.samples) * gain, len(audio.samples))


def clicking(audio: Audio, severity: float, seed: int, other: Audio) -> np.ndarray:
    """Return the sound with `severity` clicks a second, of one sample each."""
    rng, samples = np.random.default_rng(seed), audio.samples.copy()
    places = rng.random(max(1, round(severity * audio.duration_s)))
    samples[(places * len(samples)).astype(int)] = _CLICK
    return samples


def noisy(audio: Audio, severity: float, seed: int, other: Audio) -> np.ndarray:
    """Return the sound with white noise. severity: signal-to-noise ratio, dB."""
    level = np.sqrt(np.mean(np.square(audio.samples, dtype=np.float64))) * 10 ** (-severity / 20)
    return audio.samples + level * np.random.default_rng(seed).normal(size=len(audio.samples))


def emptied(audio: Audio, severity: float, seed: int, other: Audio) -> np.ndarray:
    """Return nothing but silence, as long as the sound."""
    return np.zeros_like(audio.samples)


DEFECTS: dict[str, Defect] = {
    "faster": Defect(faster, 1, (1.1, 1.2, 1.35, 1.6), "times the speed"),
    "cut": Defect(cut, 0, (0.05, 0.1, 0.2, 0.4), "of the sound"),
    "repeated": Defect(repeated, 1, (2, 3, 6, 12), "times"),
    "paused": Defect(paused, 0, (0.5, 1, 2, 5), "s"),
    "spliced": Defect(spliced, 0, (0.4, 0.8, 1.5, 3), "s"),
    "monotone": Defect(monotone, 0, (0.25, 0.5, 0.75, 1), "of the way"),
    "muffled": Defect(muffled, np.inf, (4000, 2500, 1500, 800), "Hz"),
    "clicking": Defect(clicking, 0, (1, 3, 10, 30), "a second"),
    "noisy": Defect(noisy, np.inf, (25, 20, 15, 10, 5, 0), "dB"),
    "emptied": Defect(emptied, 0, (1,), ""),
}

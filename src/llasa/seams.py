"""Segments, whole or in pieces as they come, to one long sound without clicks.

Pieces give the very sound that wholes give, so nothing here looks ahead further than a fade. Knows no codec,
text or voice. Shapes: T samples.
"""

from collections.abc import Iterable, Iterator

import numpy as np

from llasa.core import Audio
from llasa.errors import ConfigError, InputError

# Frames of 10 ms quieter than this, of full scale, are silence at an end. Speech at -23 LUFS, as voices are
# kept, has its loudest ones at about -15 dB.
QUIET_DB = -55.0
_FRAMES_PER_S = 100


class Ends:
    """One sound that comes in pieces: cuts long silence at its ends, and fades them in and out.

    keep_s: silence left at each end at most, seconds; all of it if None.
    """

    def __init__(self, sample_rate: int, keep_s: float | None, fade_s: float) -> None:
        self._frame = max(sample_rate // _FRAMES_PER_S, 1)
        self._keep = None if keep_s is None else round(keep_s * sample_rate)
        self._fade = round(fade_s * sample_rate)
        self._held = np.zeros(0, np.float32)
        # Of what is held: how much was listened to, and where the last loud frame ends, None before one.
        self._heard, self._end = 0, None if self._keep is not None else 0
        self._given = 0

    def push(self, samples: np.ndarray) -> np.ndarray:
        """Take samples [T] and return those that are sure to stay."""
        self._held = np.concatenate([self._held, samples])
        self._listen()
        if self._end is None:  # of silence before the first sound, only so much may be kept
            surplus = max(self._heard - (self._keep or 0), 0)
            self._held, self._heard = self._held[surplus:], self._heard - surplus
            return self._held[:0]
        return self._give(self._end - self._fade)

    def close(self) -> np.ndarray:
        """Return the rest, faded out."""
        if self._end is None:
            end = len(self._held)
            self._held = self._held[max(end - (self._keep or 0), 0) :]
        elif self._keep is not None:
            self._held = self._held[: self._end + self._keep]
        rest = self._give(len(self._held))
        length = min(self._fade, (self._given + 1) // 2, len(rest))
        rest[len(rest) - length :] *= np.arange(length, dtype=np.float32)[::-1] / max(length, 1)
        return rest

    def _listen(self) -> None:
        """Find where sound begins and, as yet, ends."""
        if self._keep is None:
            self._end = len(self._held)
            return
        loud = np.flatnonzero(_loud(self._held[self._heard :], self._frame))
        if len(loud) and self._end is None:
            first = self._heard + int(loud[0]) * self._frame
            cut = max(first - self._keep, 0)
            self._held, self._heard = self._held[cut:], self._heard - cut
        if len(loud):
            self._end = self._heard + (int(loud[-1]) + 1) * self._frame
        self._heard += (len(self._held) - self._heard) // self._frame * self._frame

    def _give(self, count: int) -> np.ndarray:
        """Hand out the first ones held, faded in."""
        count = max(count, 0)
        given, self._held = self._held[:count].copy(), self._held[count:]
        self._heard -= count
        self._end = None if self._end is None else self._end - count
        rising = max(min(self._fade - self._given, count), 0)
        places = np.arange(self._given, self._given + rising, dtype=np.float32)
        given[:rising] *= places / max(self._fade, 1)
        self._given += count
        return given


def kept(audio: Audio, keep_s: float) -> tuple[int, int]:
    """Return [start, end), samples, of what `Ends` keeps of a sound."""
    frame, keep = max(audio.sample_rate // _FRAMES_PER_S, 1), round(keep_s * audio.sample_rate)
    loud = np.flatnonzero(_loud(audio.samples, frame))
    length = len(audio.samples)
    if not len(loud):
        return max(length - keep, 0), length
    return max(int(loud[0]) * frame - keep, 0), min((int(loud[-1]) + 1) * frame + keep, length)


def _loud(samples: np.ndarray, frame: int) -> np.ndarray:
    """Return whether each whole frame is sound, [T // frame]."""
    frames = samples[: len(samples) // frame * frame].reshape(-1, frame)
    return np.square(frames, dtype=np.float64).mean(axis=1) >= 10 ** (QUIET_DB / 10)


def join(
    parts: Iterable[Iterable[Audio]],
    pauses_s: Iterable[float],
    fade_s: float = 0.005,
    max_silence_s: float | None = None,
) -> Iterator[Audio]:
    """Yield the sounds of segments and the pauses between them, each part faded in and out.

    Args:
        parts: sounds of one rate, each in one piece or more; taken as they come.
        pauses_s: silence after each part, seconds; the one behind the last part is not used.
        fade_s: length of the fades, seconds.
        max_silence_s: silence longer than this at the ends of a part is cut down to it, seconds.

    Raises:
        ConfigError: a pause is missing or below 0.
        InputError: parts of different rates.
    """
    pauses, rate = iter(pauses_s), 0
    for part in parts:
        ends = None
        for piece in part:
            if rate and piece.sample_rate != rate:
                found = f"found {piece.sample_rate} Hz after {rate} Hz"
                raise InputError(f"Joining segments: {found}. Resample them to one rate.")
            if ends is None and rate:
                yield _silence(next(pauses, None), rate)
            rate = piece.sample_rate
            ends = ends or Ends(rate, max_silence_s, fade_s)
            if len(given := ends.push(piece.samples)):
                yield Audio(given, rate)
        if ends is not None:
            yield Audio(ends.close(), rate)


def _silence(pause_s: float | None, sample_rate: int) -> Audio:
    if pause_s is None or pause_s < 0:
        raise ConfigError(f"Joining segments: found a pause of {pause_s}. Give 0 s or more for each gap.")
    return Audio(np.zeros(round(pause_s * sample_rate), np.float32), sample_rate)

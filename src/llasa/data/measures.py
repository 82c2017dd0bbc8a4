"""Numbers about one clip: how long, how loud, how much of it is speech, how fast it is spoken."""

import numpy as np

from llasa.audio import sounding
from llasa.core import Audio
from llasa.data.sounds import clipped

TITLES = {
    "duration_s": "Duration, s",
    "letters_per_s": "Letters a second of sound",
    "level_db": "Level of speech, dBFS",
    "quiet": "Share of frames 40 dB below the loudest",
    "ends_s": "Longer silence at an end, s",
}
_QUIET_DB = -40.0
_SILENT_DB = -100.0


def measure(audio: Audio, text: str) -> dict[str, float]:
    """Return what `TITLES` names and `clipped`, a share; letters_per_s only if there are letters."""
    start, end = sounding(audio, keep_s=0.0)
    rate = audio.sample_rate
    spoken_s = (end - start) / rate
    letters = sum(map(str.isalnum, text))
    return {
        "duration_s": audio.duration_s,
        "level_db": _level_db(audio.samples[start:end]),
        "quiet": _quiet(audio),
        "ends_s": max(start, len(audio.samples) - end) / rate,
        "clipped": clipped(audio),
        **({"letters_per_s": letters / spoken_s} if letters and spoken_s > 0 else {}),
    }


def _level_db(samples: np.ndarray) -> float:
    power = float(np.square(samples, dtype=np.float64).mean()) if len(samples) else 0.0
    return max(_SILENT_DB, 10 * float(np.log10(max(power, 1e-30))))


def _quiet(audio: Audio) -> float:
    frame = max(audio.sample_rate // 50, 1)
    frames = audio.samples[: len(audio.samples) // frame * frame].reshape(-1, frame)
    if not len(frames):
        return 0.0
    power = np.square(frames, dtype=np.float64).mean(axis=1)
    return float((power < power.max() * 10 ** (_QUIET_DB / 10)).mean())

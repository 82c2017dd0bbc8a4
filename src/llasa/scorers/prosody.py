"""How something is said: melody, loudness, pauses, rate. Judged as lively speech, or against a wanted style.

Must not know: recognisers, what is said beyond the length of the text, other scorers.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from llasa import config, pitch
from llasa.codec.base import Codec
from llasa.core import Audio, Candidate, Score, Voice
from llasa.errors import ConfigError
from llasa.scorers.base import SOUND
from llasa.scorers.sounds import PerVoice, decoded, sound_of
from llasa.text.reading import Reader, tokens_of

_QUIET_DB, _SILENT_DB = -30.0, -60.0  # a frame is silent this far below the loud ones, or below full scale
_PAUSE_S = 0.15  # shorter silences are the closures of consonants


def measure(audio: Audio) -> dict[str, float]:
    """Return the prosody of speech.

    Returns:
        `f0_median_hz`; `f0_range_st`, from the 10th to the 90th percentile of frames weighed by how certain
        their pitch is, and `f0_sd_st`, semitones; all 0 where nothing is voiced. `level_db` of voiced frames,
        relative to full scale, and their spread `level_sd_db`. `pauses`, how many of 0.15 s and more lie
        inside; `pause_share` of the time from the first sound to the last; `pause_longest_s`. `voiced_share`
        of what is no pause; `speech_s` of it.
    """
    found = pitch.track(audio)
    levels_db = _levels(audio, len(found.f0_hz), found.hop_s)
    floor = max(float(np.percentile(levels_db, 95)) + _QUIET_DB, _SILENT_DB) if len(levels_db) else 0.0
    voiced = found.f0_hz > 0
    timing = _timing(levels_db > floor, found.hop_s)
    share = min(voiced.sum() * found.hop_s / timing["speech_s"], 1.0) if timing["speech_s"] else 0.0
    return _melody(found) | _energy(levels_db[voiced]) | timing | {"voiced_share": float(share)}


def _levels(audio: Audio, n_frames: int, hop_s: float) -> np.ndarray:
    """Return the level of each frame of one hop, dB relative to full scale."""
    size = round(hop_s * audio.sample_rate)
    padded = np.pad(audio.samples, (0, max(n_frames * size - len(audio.samples), 0)))[: n_frames * size]
    power = np.square(padded.reshape(n_frames, size), dtype=np.float64).mean(axis=1)
    return 10 * np.log10(power + 1e-12)


def _melody(found: pitch.Pitch) -> dict[str, float]:
    voiced_hz = found.voiced_hz
    if not len(voiced_hz):
        return {"f0_median_hz": 0.0, "f0_range_st": 0.0, "f0_sd_st": 0.0}
    median = np.median(voiced_hz)
    tones = 12 * np.log2(voiced_hz / median)
    # In a creaky voice octaves are mistaken for each other, but not with certainty.
    low, high = np.percentile(
        tones, (10, 90), weights=found.certainty[found.f0_hz > 0], method="inverted_cdf"
    )
    return {"f0_median_hz": float(median), "f0_range_st": float(high - low), "f0_sd_st": float(tones.std())}


def _energy(levels_db: np.ndarray) -> dict[str, float]:
    if not len(levels_db):
        return {"level_db": -120.0, "level_sd_db": 0.0}
    power = np.mean(10 ** (levels_db / 10))
    return {"level_db": float(10 * np.log10(power)), "level_sd_db": float(levels_db.std())}


def _timing(loud: np.ndarray, hop_s: float) -> dict[str, float]:
    places = np.flatnonzero(loud)
    gaps_s = (np.diff(places) - 1) * hop_s
    pauses_s = gaps_s[gaps_s >= _PAUSE_S]
    whole_s = (places[-1] - places[0] + 1) * hop_s if len(places) else 0.0
    return {
        "pauses": float(len(pauses_s)),
        "pause_share": float(pauses_s.sum() / whole_s) if whole_s else 0.0,
        "pause_longest_s": float(pauses_s.max(initial=0)),
        "speech_s": float(whole_s - pauses_s.sum()),
    }


@dataclass(frozen=True)
class _Manner:
    """How someone speaks. The defaults stand for read English of nobody in particular.

    pitch_hz: between men's usual 120 and women's 200. range_st: of a short sentence. letters_per_s: without
    spaces and pauses, at 180 words a minute.
    """

    pitch_hz: float = 155.0
    range_st: float = 4.5
    level_db: float = -22.0
    level_sd_db: float = 7.0
    pause_share: float = 0.05
    letters_per_s: float = 15.0


_TYPICAL = _Manner()
_PRIOR_S = 0.5  # the typical range counts as much as this many voiced seconds of a voice's own
_HALF = 0.5  # share of the voice's own liveliness that is worth 1/2
_WILD = 3.0  # times the voice's own range, from where it is no longer lively but broken
_MELODY = 0.8  # weight of pitch against loudness


@dataclass(frozen=True)
class Axis:
    """One thing a style can ask for.

    words: names of numbers. low, high: the numbers allowed. scale: the miss that halves the value, about two
    just noticeable differences: a log ratio, or dB. in_db: numbers are dB above the voice's own, else ratios.

    Source: H. Quené, *On the just noticeable difference for tempo in speech* (2007): 5 %; J. 't Hart,
    *Differential sensitivity to pitch distance* (1981): 1.5 to 3 semitones.
    """

    words: Mapping[str, float]
    low: float
    high: float
    scale: float
    in_db: bool = field(default=False)

    def number(self, value: object, doing: str) -> float:
        """Return a wanted word or number as a number.

        Raises:
            ConfigError: it is neither; says which there are.
        """
        if isinstance(value, str) and value in self.words:
            return self.words[value]
        if isinstance(value, int | float) and not isinstance(value, bool) and self.low <= value <= self.high:
            return float(value)
        unit = "dB above the voice's own" if self.in_db else "times the voice's own"
        raise ConfigError(
            f"{doing}: found {value!r}. Use {', '.join(self.words)}, or a number from {self.low:g} to "
            f"{self.high:g} ({unit})."
        )

    def closeness(self, reached: float, wanted: float) -> float:
        """Return 1 where what was wanted is reached, 1/2 one scale away; it falls on without end."""
        if not self.in_db and reached <= 0:
            return 0.0
        miss = reached - wanted if self.in_db else math.log(reached / wanted)
        return 1 / (1 + (miss / self.scale) ** 2)


AXES = {
    "rate": Axis({"slow": 0.85, "normal": 1.0, "fast": 1.15}, 0.5, 2.0, 0.1),
    "pitch": Axis({"low": 0.9, "normal": 1.0, "high": 1.12}, 0.5, 2.0, 0.12),
    "pitch_range": Axis({"narrow": 0.65, "normal": 1.0, "wide": 1.5}, 0.2, 4.0, 0.3),
    "energy": Axis({"low": -4.0, "normal": 0.0, "high": 4.0}, -12.0, 12.0, 2.0, in_db=True),
    "pauses": Axis({"few": 0.6, "normal": 1.0, "many": 1.8}, 0.3, 4.0, 0.4),
}
_PAUSE_EXTRA = 0.05  # added to shares of pauses before they are compared: short texts have none


def numbers(targets: Mapping[str, object]) -> dict[str, float]:
    """Return the targets of a style as numbers: ratios to the voice's own, or dB above it.

    Raises:
        ConfigError: an unknown axis, word, or number out of range.
    """
    doing = "Reading a style"
    for key in targets:
        if key not in AXES:
            raise ConfigError(f"{doing}: {config.unknown(key, list(AXES))}")
    return {key: AXES[key].number(value, f"{doing}: {key}") for key, value in targets.items()}


class Prosody:
    """Judges how something is said, against the manner of the voice or a typical one.

    Without targets: is it as lively as the voice? value: 4/5 for the range of pitch and 1/5 for the spread of
    loudness, each x^2 / (x^2 + 1/4) of its ratio x to the voice's own. More than the voice's is better still,
    up to three times its range. With targets (then called `style`): the geometric mean of how close each is;
    measures `AXIS.reached` and `AXIS.wanted` are ratios to the voice's own, for energy dB above it.
    measures hold what `measure` gives, too. The manner of a voice is that of its decoded codes; its range is
    drawn towards a typical one, the more the shorter it is.
    """

    partial = False
    cost = SOUND

    def __init__(
        self, codec: Codec, reader: Reader, targets: Mapping[str, float | str] | None = None
    ) -> None:
        """Take what to steer by, such as `{"rate": 1.1, "pitch_range": "wide"}`; see `AXES`.

        Raises:
            ConfigError: an unknown target, word, or number out of range.
        """
        self.targets = numbers(targets or {})
        self.name = "style" if self.targets else "prosody"
        self._codec, self._reader = codec, reader
        self._manner = PerVoice(self._listen)

    def score(self, candidates: Sequence[Candidate]) -> list[Score]:
        """See `Scorer.score`."""
        return [self._score(candidate) for candidate in candidates]

    def _score(self, candidate: Candidate) -> Score:
        voice = candidate.utterance.voice
        own, found = self._manner(voice) if voice else _TYPICAL, measure(sound_of(candidate))
        if not self.targets:
            return Score(_liveliness(found, own), found)
        language = candidate.utterance.language
        letters = len(tokens_of(self._reader(candidate.utterance.text, "characters", language)))
        reached = _reached(found, letters, own)
        close = [AXES[axis].closeness(reached[axis], wanted) for axis, wanted in self.targets.items()]
        for axis, wanted in self.targets.items():
            found |= {f"{axis}.reached": reached[axis], f"{axis}.wanted": wanted}
        return Score(math.prod(close) ** (1 / len(close)), found)

    def _listen(self, voice: Voice) -> _Manner:
        found = measure(decoded(voice, self._codec))
        if not found["f0_range_st"]:
            return _TYPICAL
        voiced_s = found["voiced_share"] * found["speech_s"]
        logs = voiced_s * math.log(found["f0_range_st"]) + _PRIOR_S * math.log(_TYPICAL.range_st)
        letters = len(tokens_of(self._reader(voice.text, "characters")))
        return _Manner(
            found["f0_median_hz"],
            math.exp(logs / (voiced_s + _PRIOR_S)),
            found["level_db"],
            max(found["level_sd_db"], 1.0),
            found["pause_share"],
            letters / found["speech_s"],
        )


def _liveliness(found: Mapping[str, float], own: _Manner) -> float:
    melody, energy = found["f0_range_st"] / own.range_st, found["level_sd_db"] / own.level_sd_db
    tame = min(1.0, _WILD / melody) ** 2 if melody else 1.0
    return _MELODY * tame * _saturating(melody) + (1 - _MELODY) * _saturating(energy)


def _saturating(ratio: float) -> float:
    return ratio**2 / (ratio**2 + _HALF**2)


def _reached(found: Mapping[str, float], letters: int, own: _Manner) -> dict[str, float]:
    """Return where a candidate lies on each axis; 0 for a ratio that silence does not have."""
    rate = letters / found["speech_s"] if found["speech_s"] else 0.0
    return {
        "rate": rate / own.letters_per_s,
        "pitch": found["f0_median_hz"] / own.pitch_hz,
        "pitch_range": found["f0_range_st"] / own.range_st,
        "energy": found["level_db"] - own.level_db,
        "pauses": (found["pause_share"] + _PAUSE_EXTRA) / (own.pause_share + _PAUSE_EXTRA),
    }

"""Prosody: what is measured, liveliness against the voice, and styles."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest

from llasa.core import Audio, Candidate, Codes, Utterance, Voice
from llasa.defects import DEFECTS
from llasa.errors import ConfigError, InputError
from llasa.scorers.base import Parts, load_scorer
from llasa.scorers.prosody import AXES, Prosody, measure
from llasa.text.reading import Reader
from llasa.voice import load as load_voice
from tests.conftest import STARTER

RATE = 16000
TEXT = "the cat sat on the mat again"


def spoken(
    range_st: float = 6.0, pitch_hz: float = 120.0, syllables: int = 10, syllable_s: float = 0.2,
    level: float = 0.1, pauses: int = 0, swing: float = 0.8,
) -> Audio:  # fmt: skip
    """Return syllables whose pitch swings over a range and whose loudness swings too, with pauses between."""
    n = round(syllables * syllable_s * RATE)
    time = np.linspace(0, 1, n)
    f0 = pitch_hz * 2 ** (range_st / 24 * np.sin(2 * np.pi * 2 * time))
    phase = 2 * np.pi * np.cumsum(f0) / RATE
    envelope = 1 - swing * np.cos(np.pi * syllables * time) ** 2
    buzz = level * envelope * sum(np.sin(k * phase) / k for k in range(1, 9))
    pieces = np.array_split(buzz, pauses + 1)
    gap = np.zeros(round(0.3 * RATE))
    joined = [part for piece in pieces for part in (piece, gap)][:-1]
    return Audio(np.concatenate(joined).astype(np.float32), RATE)


@dataclass
class OneSound:
    """A codec whose codes all decode to one sound; counts how often."""

    audio: Audio
    decoded: int = 0
    name: str = "one@0"
    sample_rate: int = RATE
    codebook_size: int = 8
    hop_length: int = 640

    def encode(self, audio: Sequence[Audio]) -> list[Codes]:
        return [[0] for _ in audio]

    def decode(self, codes: Sequence[Codes], context: Codes | None = None) -> list[Audio]:
        self.decoded += len(codes)
        return [self.audio for _ in codes]

    def code_count(self, n_samples: int) -> int:
        return n_samples // self.hop_length


@dataclass
class Case:
    """A voice that speaks like `spoken()`, and candidates of it."""

    codec: OneSound = field(default_factory=lambda: OneSound(spoken()))
    voice: Voice = field(default_factory=lambda: Voice("ada", TEXT, [1, 2], "one@0"))

    def candidate(self, audio: Audio | None, voiced: bool = True) -> Candidate:
        return Candidate(Utterance("0", TEXT, self.voice if voiced else None), [1], "stop", None, audio)

    def value(self, audio: Audio, voiced: bool = True, **targets: float | str) -> float:
        scorer = Prosody(self.codec, Reader(), targets)
        return scorer.score([self.candidate(audio, voiced)])[0].value


def test_measures_have_the_values_that_were_put_in() -> None:
    found = measure(spoken(range_st=8, pitch_hz=130, pauses=2))
    assert found["f0_median_hz"] == pytest.approx(130, rel=0.05)
    assert found["f0_range_st"] == pytest.approx(8, abs=1)
    assert found["pauses"] == 2
    assert found["pause_longest_s"] == pytest.approx(0.3, abs=0.06)
    assert found["pause_share"] == pytest.approx(0.6 / 2.6, abs=0.05)
    assert found["speech_s"] == pytest.approx(2.0, abs=0.1)
    assert found["voiced_share"] > 0.9


def test_level_is_in_db() -> None:
    quiet, loud = measure(spoken(level=0.05)), measure(spoken(level=0.1))
    assert loud["level_db"] - quiet["level_db"] == pytest.approx(6.02, abs=0.1)
    assert loud["level_sd_db"] == pytest.approx(quiet["level_sd_db"], abs=0.1)


def test_no_sound_at_all_cannot_be_judged() -> None:
    nothing = Audio(np.zeros(0, np.float32), RATE)
    assert all(np.isfinite(value) for value in measure(nothing).values())
    with pytest.raises(InputError, match="no audio"):
        Case().value(nothing)


@pytest.mark.parametrize("n", [1, 300, 32000])
def test_silence_is_worth_nothing_and_harms_nothing(n: int) -> None:
    silence = Audio(np.zeros(n, np.float32), RATE)
    assert all(np.isfinite(value) for value in measure(silence).values())
    assert Case().value(silence) == 0
    assert 0 <= Case().value(silence, rate="fast", pauses="few") < 0.5


@pytest.mark.parametrize("voiced", [True, False])
def test_the_flatter_the_worse(voiced: bool) -> None:
    values = [Case().value(spoken(range_st=range_st), voiced) for range_st in (12, 6, 4.5, 3, 1.5, 0)]
    assert values == sorted(values, reverse=True)
    assert len(set(values)) == len(values)
    assert values[1] - values[-1] > 0.4


def test_a_rough_stretch_of_another_pitch_does_not_widen_the_range() -> None:
    steady, rough = spoken(range_st=0, syllables=14), spoken(range_st=0, pitch_hz=190, syllables=2).samples
    hoarse = rough + np.random.default_rng(0).normal(scale=0.1, size=len(rough))
    found = measure(Audio(np.concatenate([steady.samples, hoarse]).astype(np.float32), RATE))
    assert found["f0_sd_st"] > 1
    assert found["f0_range_st"] < 1


def test_evenly_loud_speech_is_worse() -> None:
    values = [Case().value(spoken(swing=swing)) for swing in (0.8, 0.5, 0.2)]
    assert values == sorted(values, reverse=True)
    assert values[0] > values[-1]


def test_wild_pitch_is_worse_than_lively_pitch() -> None:
    assert Case().value(spoken(range_st=30, pitch_hz=200)) < Case().value(spoken(range_st=12, pitch_hz=200))


@pytest.mark.parametrize("name", ["rufus", "angus", "kalle"])
def test_flattened_recordings_are_ordered(name: str) -> None:
    voice = load_voice(STARTER / "voices" / f"{name}.safetensors")
    assert voice.reference is not None
    case = Case(OneSound(voice.reference), voice)
    values = [case.value(DEFECTS["monotone"](voice.reference, share)) for share in (0, 0.25, 0.5, 0.75, 1)]
    assert values == sorted(values, reverse=True)
    assert all(values[i] - values[i + 1] > 0.02 for i in range(4))


def test_the_voice_is_decoded_once() -> None:
    case = Case()
    scorer = Prosody(case.codec, Reader())
    scorer.score([case.candidate(spoken()), case.candidate(spoken())])
    scorer.score([case.candidate(spoken())])
    assert case.codec.decoded == 1


def test_scored_together_as_alone() -> None:
    case = Case()
    scorer = Prosody(case.codec, Reader(), {"rate": 1.1})
    candidates = [case.candidate(spoken(range_st=r)) for r in (2, 8)]
    assert scorer.score(candidates) == [scorer.score([one])[0] for one in candidates]


STEERED = {
    "rate": [spoken(syllable_s=s) for s in (0.2, 0.19, 0.18, 0.17)],
    "pitch": [spoken(pitch_hz=hz) for hz in (120, 124, 128, 132)],
    "pitch_range": [spoken(range_st=r) for r in (6, 7, 8, 9)],
    "energy": [spoken(level=level) for level in (0.1, 0.115, 0.13, 0.15)],
    "pauses": [spoken(pauses=n, syllables=30) for n in (0, 1)],
}
WORDS = {"rate": "fast", "pitch": "high", "pitch_range": "wide", "energy": "high", "pauses": "many"}


@pytest.mark.parametrize("axis", list(STEERED))
def test_the_nearer_a_style_the_better(axis: str) -> None:
    values = [Case().value(audio, **{axis: WORDS[axis]}) for audio in STEERED[axis]]
    assert values == sorted(values)
    assert values[-1] > values[0]


def test_a_style_that_is_reached_is_worth_one_and_overshooting_costs() -> None:
    case = Case()
    reached, missed, over = (
        case.value(spoken(syllable_s=0.2 / ratio), rate=1.15) for ratio in (1.15, 1, 1.4)
    )
    assert reached > 0.95
    assert 0.2 < missed < 0.5  # 14 % off, a scale of 10 %
    assert over < missed


def test_a_style_tells_what_was_wanted_and_reached() -> None:
    case = Case()
    scorer = Prosody(case.codec, Reader(), {"rate": "slow", "energy": "high"})
    measures = scorer.score([case.candidate(spoken(level=0.2))])[0].measures
    assert scorer.name == "style"
    assert measures["rate.wanted"] == AXES["rate"].words["slow"]
    assert measures["rate.reached"] == pytest.approx(1.0, abs=0.03)
    assert measures["energy.wanted"] == 4
    assert measures["energy.reached"] == pytest.approx(6, abs=0.3)


def test_two_targets_must_both_be_met() -> None:
    wide_and_fast = spoken(range_st=9, syllable_s=0.2 / 1.15)
    wide = spoken(range_st=9)
    assert Case().value(wide_and_fast, rate="fast", pitch_range="wide") > Case().value(
        wide, rate="fast", pitch_range="wide"
    )


def test_a_recipe_makes_it() -> None:
    parts = Parts(OneSound(spoken()), Reader(), lambda name: None)  # type: ignore[arg-type,return-value]
    assert load_scorer("prosody", {}, parts).name == "prosody"
    style = load_scorer("prosody", {"targets": {"rate": 1, "pitch_range": "wide"}}, parts)
    assert isinstance(style, Prosody)
    assert style.targets == {"rate": 1.0, "pitch_range": 1.5}
    with pytest.raises(ConfigError, match=r"unknown key 'rat'.*'rate'"):
        load_scorer("prosody", {"targets": {"rat": 1}}, parts)
    with pytest.raises(ConfigError, match=r"energy: found 40.*-12 to 12 \(dB"):
        load_scorer("prosody", {"targets": {"energy": 40}}, parts)


def test_no_sound_is_an_error() -> None:
    with pytest.raises(InputError, match="no audio"):
        Prosody(OneSound(spoken()), Reader()).score([Case().candidate(None)])

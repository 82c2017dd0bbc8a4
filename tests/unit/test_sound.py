"""Checks on sound: silence, clipping, noise, timbre. Every value falls with each step of its defect."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from llasa.audio import resample
from llasa.core import Audio, Candidate, Codes, Finish, Score, Utterance, Voice
from llasa.defects import DEFECTS
from llasa.errors import InputError
from llasa.scorers.base import Scorer
from llasa.scorers.sound import Clipping, Noise, Silence, Timbre
from tests.conftest import clip

RATE = 16000
VOICE = Voice("ada", "the cat", [1, 2, 3], "buzz@0")


def spoken(seconds: float = 2.0, seed: int = 0, edges_s: float = 0.2) -> Audio:
    """Return a buzz whose timbre moves in syllables, with very quiet edges."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * RATE)) / RATE
    out = np.zeros(len(time))
    for k in range(1, 36):
        weight = np.exp(-k / 12) * (1 + 0.8 * np.sin(2 * np.pi * 3 * time + k + seed))
        out += weight * np.sin(2 * np.pi * 120 * k * time + k)
    out *= 0.03 * np.clip(1.3 * np.abs(np.sin(2 * np.pi * 2.3 * time)) - 0.3, 0, 1)
    edge = np.zeros(round(edges_s * RATE))
    samples = np.concatenate((edge, out, edge))
    return Audio((samples + 1e-5 * rng.normal(size=len(samples))).astype(np.float32), RATE)


class Buzz:
    """A codec that decodes anything to one sound, and counts how often."""

    name, sample_rate, codebook_size, hop_length = "buzz@0", RATE, 64, 640

    def __init__(self) -> None:
        self.decoded = 0

    def encode(self, audio: Sequence[Audio]) -> list[Codes]:
        raise NotImplementedError

    def decode(self, codes: Sequence[Codes], context: Codes | None = None) -> list[Audio]:
        self.decoded += 1
        return [spoken(seed=3) for _ in codes]

    def code_count(self, n_samples: int) -> int:
        return -(-n_samples // 640)


def scored(
    scorer: Scorer, sounds: Sequence[Audio | None], text: str = "the cat sat", finish: Finish = "stop"
) -> list[Score]:
    return scorer.score([Candidate(Utterance("0", text, VOICE), [1], finish, audio=a) for a in sounds])


def values(scorer: Scorer, sounds: Sequence[Audio | None]) -> list[float]:
    return [score.value for score in scored(scorer, sounds)]


def falls(row: Sequence[float]) -> bool:
    return all(a > b for a, b in pairwise(row))


@pytest.mark.parametrize("scorer", [Silence(), Clipping(), Noise(), Timbre(Buzz())])
def test_good_speech_is_worth_nearly_all_and_batches_change_nothing(scorer: Scorer) -> None:
    sounds = [spoken(seed=1), DEFECTS["noisy"](spoken(), 5)]
    assert values(scorer, sounds)[0] > 0.9
    assert values(scorer, sounds) == [values(scorer, [sound])[0] for sound in sounds]


@pytest.mark.parametrize(
    ("scorer", "defect"),
    [
        (Silence(), "paused"),
        (Clipping(), "clicking"),
        (Noise(), "noisy"),
        (Timbre(Buzz()), "noisy"),
        (Timbre(Buzz()), "muffled"),
    ],
)
def test_value_falls_with_every_step_of_a_defect(scorer: Scorer, defect: str) -> None:
    planted = [DEFECTS[defect](spoken(), severity) for severity in DEFECTS[defect].severities]
    row = values(scorer, [spoken(), *planted])
    assert falls(row)
    assert row[-1] > 0


def padded(before_s: float, after_s: float) -> Audio:
    parts = (np.zeros(round(before_s * RATE)), spoken(edges_s=0).samples, np.zeros(round(after_s * RATE)))
    return Audio(np.concatenate(parts).astype(np.float32), RATE)


def test_edges_are_free_up_to_the_allowance_and_then_cost() -> None:
    free, lead, tail, more = scored(
        Silence(), [padded(0.2, 0.4), padded(1.3, 0.1), padded(0, 1.5), padded(0, 6.5)]
    )
    assert free.value == 1
    assert lead.value == pytest.approx(0.5, abs=0.03)
    assert lead.measures["lead_s"] == pytest.approx(1.3, abs=0.05)
    assert tail.value == pytest.approx(0.5, abs=0.03)
    assert tail.measures["tail_s"] == pytest.approx(1.5, abs=0.05)
    assert more.value < 0.2


def test_the_tail_of_an_unfinished_candidate_is_not_judged() -> None:
    finished, unfinished = (scored(Silence(), [padded(0, 3)], finish=f)[0].value for f in ("stop", "partial"))
    assert finished < 0.35
    assert unfinished == 1


def test_an_end_without_a_tail_was_cut_off() -> None:
    free, short, none = values(Silence(), [padded(0, 0.1), padded(0, 0.04), padded(0, 0.02)])
    assert 1 == free > short > none > 0.8
    assert scored(Silence(), [padded(0, 0.02)], finish="partial")[0].value == 1


def test_a_word_before_a_long_hang_up_is_found() -> None:
    score = scored(Silence(), [Audio(np.append(spoken(0.6).samples, np.zeros(20 * RATE, np.float32)), RATE)])[
        0
    ]
    assert score.measures["tail_s"] > 19
    assert 0 < score.value < 0.06


def test_a_mark_allows_a_longer_pause() -> None:
    sound = DEFECTS["paused"](spoken(), 0.65)
    without, with_mark = (
        scored(Silence(), [sound], text=t)[0].value for t in ("the cat sat", "the cat, it sat")
    )
    assert without < 0.85
    assert with_mark == 1


def test_nothing_but_silence_is_worth_nothing() -> None:
    empty = Audio(np.zeros(RATE, np.float32), RATE)
    assert values(Silence(), [empty]) == [0]
    assert values(Noise(), [empty]) == [0]
    assert scored(Silence(), [empty], finish="partial")[0].value == pytest.approx(1 / 1.7)


def test_a_click_does_not_end_a_pause() -> None:
    sound = DEFECTS["paused"](spoken(edges_s=0), 2.0)
    clicked = sound.samples.copy()
    clicked[len(clicked) // 2] = 0.5
    quiet, disturbed = scored(Silence(), [sound, Audio(clicked, RATE)])
    assert disturbed.measures["gap_s"] == pytest.approx(quiet.measures["gap_s"], abs=0.02)


def test_clicks_are_counted() -> None:
    score = scored(Clipping(), [DEFECTS["clicking"](spoken(3.6), 5)])[0]
    assert score.measures["clicks_per_s"] == pytest.approx(5, abs=0.8)
    assert score.value == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("level", [1.0, 0.3])
def test_flat_tops_cost_at_any_level(level: float) -> None:
    loud = spoken().samples / np.abs(spoken().samples).max()
    row = scored(Clipping(), [Audio(level * np.clip(g * loud, -1, 1), RATE) for g in (0.99, 1.5, 3, 10)])
    assert row[0].value > 0.9
    assert falls([score.value for score in row])
    assert row[-1].measures["clipped_share"] > 0.05


@pytest.mark.parametrize("snr_db", [15, 10, 5])
def test_noise_is_measured_in_db(snr_db: float) -> None:
    score = scored(Noise(), [DEFECTS["noisy"](spoken(), snr_db)])[0]
    assert score.measures["snr_db"] == pytest.approx(snr_db, abs=3)


def test_noise_and_timbre_do_not_depend_on_the_level() -> None:
    quiet = Audio(spoken(seed=1).samples * 0.3, RATE)
    assert values(Noise(), [quiet]) == pytest.approx(values(Noise(), [spoken(seed=1)]), abs=0.01)
    codec = Buzz()
    assert values(Timbre(codec), [quiet]) == pytest.approx(values(Timbre(codec), [spoken(seed=1)]), abs=0.05)


def test_timbre_decodes_a_voice_once_and_prefers_its_recording() -> None:
    codec = Buzz()
    scorer = Timbre(codec)
    assert scored(scorer, [spoken(), spoken()])[0].value > 0.9
    scored(scorer, [spoken()])
    assert codec.decoded == 1
    recorded = replace(VOICE, name="bob", reference=resample(clip(), 22050))
    own = Candidate(Utterance("0", "the cat", recorded), [1], "stop", audio=clip(seed=2))
    assert scorer.score([own])[0].value > 0.9
    assert scorer.score([replace(own, audio=spoken())])[0].value < 0.5
    assert codec.decoded == 1


def test_timbre_tells_recordings_of_one_name_and_text_apart() -> None:
    codec = Buzz()
    scorer = Timbre(codec)
    scored(scorer, [spoken()])
    again = replace(VOICE, reference=clip())
    own = Candidate(Utterance("0", "the cat", again), [1], "stop", audio=spoken())
    assert scorer.score([own]) == Timbre(codec).score([own])


def test_timbre_remembers_no_more_voices_than_it_may() -> None:
    codec = Buzz()
    scorer = Timbre(codec)
    voices = [replace(VOICE, name=str(number)) for number in range(65)]
    for voice in (*voices, voices[0]):
        scorer.score([Candidate(Utterance("0", "the cat", voice), [1], "stop", audio=spoken(0.2))])
    assert codec.decoded == 66  # the first was dropped for the last


def test_timbre_needs_a_voice() -> None:
    with pytest.raises(InputError, match="has no voice"):
        Timbre(Buzz()).score([Candidate(Utterance("0", "the cat"), [1], "stop", audio=spoken())])


@pytest.mark.parametrize("scorer", [Silence(), Clipping(), Noise(), Timbre(Buzz())])
def test_what_has_no_sound_cannot_be_judged(scorer: Scorer) -> None:
    for sound in (None, Audio(np.zeros(0, np.float32), RATE), Audio(np.full(9, np.nan, np.float32), RATE)):
        with pytest.raises(InputError, match="Decode its codes first"):
            scored(scorer, [sound])


@pytest.mark.parametrize("scorer", [Silence(), Clipping(), Noise(), Timbre(Buzz())])
@pytest.mark.parametrize("n", [1, 5, 300])
def test_very_short_sounds_get_a_value(scorer: Scorer, n: int) -> None:
    value = values(scorer, [Audio(spoken().samples[4000 : 4000 + n], RATE)])[0]
    assert 0 <= value <= 1

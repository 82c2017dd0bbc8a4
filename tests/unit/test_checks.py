"""Checks on codes: repetition, a missing end, duration."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llasa.core import Audio, Candidate, Codes, Finish, Utterance, Voice
from llasa.errors import InputError
from llasa.scorers.checks import BEST, Duration, Ending, Repetition, expectation
from llasa.text.marks import inner_marks
from llasa.text.phones import Phonemizer
from llasa.text.reading import Reader
from tests.conftest import STARTER

TEXT = "The old man sat by the river and watched the boats."


@dataclass
class Rates:
    """A codec of which only the rates matter: 25 codes a second."""

    name: str = "rates@0"
    sample_rate: int = 16000
    codebook_size: int = 4096
    hop_length: int = 640

    def encode(self, audio: list[Audio]) -> list[Codes]:
        raise NotImplementedError

    def decode(self, codes: list[Codes], context: Codes | None = None) -> list[Audio]:
        raise NotImplementedError

    def code_count(self, n_samples: int) -> int:
        raise NotImplementedError


@pytest.fixture(scope="module")
def reader() -> Reader:
    return Reader(Phonemizer.load(STARTER / "phones"))


def speech(n: int, seed: int = 0) -> Codes:
    """Return codes as various as those of speech."""
    return np.random.default_rng(seed).integers(0, 400, n).tolist()


def candidate(
    codes: Codes, finish: Finish = "stop", text: str = TEXT, voice: Voice | None = None
) -> Candidate:
    return Candidate(Utterance("0", text, voice), codes, finish)


def looping(period: int, n: int) -> Codes:
    return speech(30) + (speech(period, 1) * (n // period + 1))[:n] + speech(30, 2)


@given(period=st.integers(2, 32), n=st.integers(60, 150), seed=st.integers(0, 5))
@settings(deadline=None, max_examples=40)
def test_cycles_of_every_period_are_found_and_measured(period: int, n: int, seed: int) -> None:
    turns = list(range(1000, 1000 + period)) * (n // period + 1)
    score = Repetition(Rates()).score([candidate(speech(30, seed) + turns[:n] + speech(30, seed + 9))])[0]
    assert score.measures["cycle_period"] == period
    assert score.measures["cycle_s"] == pytest.approx((n - period) / 25)
    assert score.value < 0.55


def test_a_longer_loop_is_worse_and_never_nought() -> None:
    scorer = Repetition(Rates())
    values = [s.value for s in scorer.score([candidate(looping(7, n)) for n in (0, 25, 50, 100, 400, 1600)])]
    assert values[0] == 1
    assert all(a > b > 0 for a, b in pairwise(values))


def test_a_pause_is_no_loop_but_a_long_silence_is() -> None:
    pause, long, longer = (candidate(speech(30) + [5] * n + speech(30, 2)) for n in (25, 75, 300))
    scores = Repetition(Rates()).score([pause, long, longer])
    assert scores[0].value > 0.9
    assert scores[0].measures["still_s"] == pytest.approx(24 / 25)
    assert scores[0].measures["cycle_s"] < 0.1
    assert scores[0].value > scores[1].value > scores[2].value > 0


def test_few_different_codes_are_noticed_without_a_cycle() -> None:
    poor = np.random.default_rng(0).integers(0, 8, 100).tolist()
    score = Repetition(Rates()).score([candidate(poor)])[0]
    assert score.measures["distinct_ratio"] <= 8 / 50
    assert score.value < 0.5


@pytest.mark.parametrize("n", [1, 2, 5])
def test_very_short_candidates_pass(n: int) -> None:
    assert Repetition(Rates()).score([candidate(speech(n), "partial")])[0].value == 1


def test_judging_leaves_the_codes_as_they_were() -> None:
    codes = speech(10) + [5] * 60
    Repetition(Rates()).score([candidate(codes)])
    assert codes == speech(10) + [5] * 60


@pytest.mark.parametrize(
    ("finish", "value"), [("stop", 1), ("partial", 1), ("length", 0.2), ("loop", 0.2), ("cancelled", 0.2)]
)
def test_what_did_not_end_is_worth_little(finish: Finish, value: float) -> None:
    score = Ending(unended=0.2).score([candidate(speech(9), finish)])[0]
    assert (score.value, score.measures["ended"]) == (value, float(value == 1))
    assert (finish in score.note) == (value < 1)


def test_the_right_length_is_worth_most_and_both_sides_fall_without_end(reader: Reader) -> None:
    scorer = Duration(Rates(), reader)
    right = 1.1 * BEST * expectation(reader, TEXT, "en")[2]
    for factors in ((1, 1.1, 1.6, 3, 6, 12), (1, 0.95, 0.9, 0.85, 0.6, 0.3, 0.1)):
        codes = [speech(round(right * factor * 25)) for factor in factors]
        values = [score.value for score in scorer.score([candidate(row) for row in codes])]
        assert values[0] > 0.98
        assert all(a > b > 0 for a, b in pairwise(values))


def test_measures_are_seconds_ratio_and_rate(reader: Reader) -> None:
    score = Duration(Rates(), reader).score([candidate(speech(100), text="Boats.")])[0]
    assert score.measures["duration_s"] == 4
    assert score.measures["ratio"] == pytest.approx(4 / score.measures["expected_s"])
    assert score.measures["phones_per_s"] == pytest.approx(4 / 4)


def test_the_tempo_of_the_voice_is_expected(reader: Reader) -> None:
    average = expectation(reader, TEXT, "en")[2]
    slow = Voice("slow", TEXT, speech(round(average * 1.5 * 25)), "rates@0")
    plain, adapted = Duration(Rates(), reader).score(
        [candidate(speech(80)), candidate(speech(80), voice=slow)]
    )
    change = adapted.measures["expected_s"] / plain.measures["expected_s"]
    assert 1.25 < change < 1.5


def test_a_short_voice_tells_less_of_its_tempo(reader: Reader) -> None:
    change = []
    for text in ("No.", TEXT):
        twice = Voice("slow", text, speech(round(expectation(reader, text, "en")[2] * 2 * 25)), "rates@0")
        change.append(
            Duration(Rates(), reader).score([candidate(speech(80), voice=twice)])[0].measures["ratio"]
        )
    assert change[0] > change[1]


def test_a_pause_in_the_text_takes_time(reader: Reader) -> None:
    without = expectation(reader, "we stayed inside and they left", "en")[2]
    assert expectation(reader, "we stayed inside, and they left.", "en")[2] == pytest.approx(without + 0.31)


@pytest.mark.parametrize(
    ("text", "marks"),
    [
        ("No.", 0),
        ("Yes, no.", 1),
        ('"Go," he said. "Now!"', 2),
        ("3.5 and 1,000", 0),
        ("你好\uff0c世界。", 1),
    ],
)
def test_marks_between_words(text: str, marks: int) -> None:
    assert inner_marks(text) == marks


def test_other_languages_are_counted_in_letters_or_signs(reader: Reader) -> None:
    assert expectation(reader, "Guten Morgen", "de")[:2] == ("letters", 11)
    unit, signs, seconds = expectation(reader, "早上好朋友", "zh")
    assert (unit, signs) == ("letters", 5)
    assert seconds > 5 * 0.15
    assert expectation(Reader(), TEXT, "en")[0] == "letters"


def test_letters_and_phones_expect_about_the_same(reader: Reader) -> None:
    by_letters = expectation(Reader(), TEXT, "en")[2]
    assert by_letters == pytest.approx(expectation(reader, TEXT, "en")[2], rel=0.2)


def test_a_text_with_nothing_to_say_is_refused(reader: Reader) -> None:
    with pytest.raises(InputError, match="nothing that can be said"):
        Duration(Rates(), reader).score([candidate(speech(9), text="...")])

"""Codes shared with the voice's recording."""

import numpy as np
import pytest

from llasa.codec.compact import CompactCodec
from llasa.core import Candidate, Codes, Utterance, Voice
from llasa.scorers.base import load_scorer
from llasa.scorers.copied import Copied, longest_shared

CODEC = CompactCodec.random()
PER_S = CODEC.sample_rate / CODEC.hop_length


def speech(n: int, seed: int) -> Codes:
    """Return even codes, none equal to the one before."""
    return (2 * np.cumsum(np.random.default_rng(seed).integers(1, 31, n)) % 64).tolist()


VOICE = Voice("ada", "the cat sat", speech(80, 0), CODEC.name)
NEW = [code + 1 for code in speech(60, 1)]  # odd ones, which the voice has none of


def score(codes: Codes, voice: Voice | None = VOICE, **options):
    return Copied(CODEC, **options).score([Candidate(Utterance("1", "a cat", voice), codes, "stop")])[0]


@pytest.mark.parametrize(
    "one, other, longest",
    [
        ([1, 2, 3, 4], [9, 2, 3, 9], 2),
        ([1, 2, 3], [3, 2, 1], 1),
        ([1, 2], [3, 4], 0),
        ([5, 5, 5, 5, 6], [5, 6], 2),
        ([7] * 50, [7] * 50, 1),
        ([], [1], 0),
        ([1], [], 0),
    ],
)
def test_the_longest_shared_run(one: Codes, other: Codes, longest: int) -> None:
    assert longest_shared(one, other) == longest_shared(other, one) == longest


def test_more_of_the_prompt_is_worth_less() -> None:
    values = []
    for n in (0, round(0.4 * PER_S), round(1.0 * PER_S), round(1.5 * PER_S), 70):
        found = score(NEW[:30] + VOICE.codes[5 : 5 + n] + NEW[30:])
        assert found.measures["copied_s"] == pytest.approx(n / PER_S)
        values.append(found.value)
    assert values[:2] == [1, 1]
    assert values[2] == pytest.approx(0.5, abs=0.05) and 1 > values[2] > values[3] > values[4] > 0


def test_without_a_voice_there_is_nothing_to_copy() -> None:
    assert score(VOICE.codes, None).value == 1


def test_how_much_may_be_copied_is_an_option() -> None:
    codes = VOICE.codes[: round(1.0 * PER_S)]
    assert score(codes, allowed_s=2.0).value == 1 > score(codes).value


def test_recipes_know_it_by_name() -> None:
    class Parts:
        codec = CODEC

    scorer = load_scorer("copied", {"allowed_s": 1.0}, Parts())  # pyright: ignore[reportArgumentType]
    assert (scorer.name, scorer.partial, scorer.cost) == ("copied", True, 0)

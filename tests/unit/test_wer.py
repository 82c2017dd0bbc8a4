"""Error rates: which heard token answers which word, and what a candidate is worth."""

# ruff: noqa: RUF001 (signs of other languages)

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llasa.codec.compact import CompactCodec
from llasa.core import Audio, Candidate, Utterance
from llasa.errors import ConfigError, InputError, ScorerError
from llasa.recognizers.base import TextForm, Transcript
from llasa.scorers.base import Parts, load_scorer
from llasa.scorers.wer import ErrorRate, Match, compare, is_missed, is_said, spoken_part, worst_stretch
from llasa.text.phones import Phonemizer
from llasa.text.reading import Reader, ReadWord, tokens_of

LEXICON = {
    "the": "DH AH",
    "a": "AH",
    "cat": "K AE T",
    "sat": "S AE T",
    "on": "AA N",
    "red": "R EH D",
    "mat": "M AE T",
}
READER = Reader(Phonemizer(LEXICON, None))
TEXT = "The cat sat on the red mat."
SILENCE = Audio(np.zeros(8, np.float32), 16000)


class Told:
    """A recogniser that hears what it was told, clip by clip."""

    name = "told@0"

    def __init__(self, *heard: str, text_form: TextForm = "written") -> None:
        self.heard = heard
        self.text_form: TextForm = text_form

    def transcribe(self, audio: Sequence[Audio]) -> list[Transcript]:
        return [Transcript(text) for text in self.heard[: len(audio)]]


def candidate(text: str = TEXT, finish="stop", language: str = "en") -> Candidate:
    return Candidate(Utterance("1", text, language=language), [1, 2], finish, audio=SILENCE)


def score(heard: str, text: str = TEXT, finish="stop", form: TextForm = "written", **options):
    scorer = ErrorRate(Told(heard, text_form=form), READER, **options)
    return scorer.score([candidate(text, finish)])[0]


def phones(text: str) -> str:
    return " | ".join(" ".join(word.tokens) for word in READER(text, "phones"))


def split(tokens: str) -> list[str]:
    return tokens.split()


def words(text: str) -> tuple[ReadWord, ...]:
    return READER(text, "words")


def test_every_word_is_answered_by_the_tokens_heard_for_it() -> None:
    found = compare(READER("the cat red", "phones"), split("DH AH K AE P T S UW R EH T"))
    assert found.matches == (Match(0, 0, 2), Match(1, 2, 6), Match(1, 8, 11))
    assert found.added == ((6, 8),)
    assert found.errors == 4


def test_what_is_left_out_and_added_between_words_is_told_apart() -> None:
    found = compare(words("the cat sat on a mat"), split("well the sat on a very red mat yes"))
    assert [match.errors for match in found.matches] == [0, 1, 0, 0, 0, 0]
    assert found.matches[1] == Match(1, 2, 2)
    assert found.added == ((0, 1), (5, 7), (8, 9))
    assert found.errors == 5


@pytest.mark.parametrize(
    "heard, errors, missed, added",
    [
        ("the cat sat on the red mat", 0, 0, 0),
        ("The cat sat on the, red Mat!", 0, 0, 0),
        ("the cat sat on red mat", 1, 1, 0),
        ("the bat sat on the red mat", 1, 0, 0),
        ("the cat cat sat on the red mat", 1, 0, 1),
        ("", 7, 7, 0),
        ("...", 7, 7, 0),
    ],
)
def test_words_are_counted(heard: str, errors: int, missed: int, added: int) -> None:
    measures = score(heard).measures
    assert measures["wer"] == pytest.approx(errors / 7)
    assert (measures["words"], measures["missed_words"], measures["added_words"]) == (7, missed, added)


def test_saying_it_again_and_again_gets_worse_and_worse() -> None:
    values = [score(" ".join([TEXT] * times)).value for times in range(1, 9)]
    assert values[0] == 1
    assert all(0 < after < before for before, after in pairwise(values))
    assert score(f"{TEXT} {TEXT} {TEXT}").measures["wer"] == pytest.approx(2)


def test_a_slip_of_the_recogniser_costs_less_than_a_lost_word() -> None:
    slip = score(phones(TEXT).replace("R EH D", "R IH D"), form="phones")
    lost = score(phones("the cat sat on the mat"), form="phones")
    assert slip.measures["per"] == pytest.approx(1 / 18)
    assert slip.measures["missed_words"] == 0
    assert slip.value > 0.75 > 0.6 > lost.value
    assert lost.measures["missed_words"] == 1


def test_an_error_in_one_place_shows_however_long_the_text_is() -> None:
    text = " ".join(["the cat sat on a mat"] * 4)
    once = score(text.replace("sat", "red", 1), text).measures
    spread = score(text.replace("cat", "red", 3), text).measures
    assert once["worst_words"] == pytest.approx(2 / 3) == pytest.approx(spread["worst_words"])
    gone = score(text.replace("the cat sat ", "", 1), text).measures
    assert gone["worst_words"] == 0
    assert worst_stretch(words("cat"), [Match(0, 0, 1)]) == 1


def test_an_unfinished_candidate_is_compared_with_the_beginning_that_fits() -> None:
    assert score("the cat sat", finish="partial").value == 1
    assert score("the cat sat").value < 0.2
    assert score("the red sat", finish="partial").measures["wer"] == pytest.approx(1 / 3)
    assert score("on the red mat", finish="partial").measures["wer"] > 0.2
    assert score("", finish="partial").measures["wer"] == 1
    looping = score("the the the the", finish="partial")
    assert looping.measures["wer"] == pytest.approx(3 / 4)


def test_the_beginning_may_end_inside_a_word() -> None:
    part = spoken_part(READER("the cat sat", "phones"), split("DH AH K AE"))
    assert [(word.text, word.tokens) for word in part] == [("the", ("DH", "AH")), ("cat", ("K", "AE"))]


def test_the_unit_follows_the_recogniser_unless_it_is_chosen() -> None:
    assert set(score("the cat", form="characters").measures) >= {"cer"}
    assert score(phones("the mat"), "the cat", form="phones").measures["per"] == pytest.approx(1 / 5)
    assert score("a cat", "the cat", unit="phones").measures["per"] == pytest.approx(1 / 5)
    assert score("a cat", "the cat", form="characters", unit="words").measures["wer"] == pytest.approx(1 / 2)


def test_other_languages_go_by_signs() -> None:
    scorer = ErrorRate(Told("你号世界"), READER)
    found = scorer.score([candidate("你好，世界。", language="zh")])[0]
    assert found.measures["wer"] == pytest.approx(1 / 4)


def test_what_cannot_work_is_refused_when_it_is_made() -> None:
    with pytest.raises(ConfigError, match="hears phones"):
        ErrorRate(Told(text_form="phones"), READER, unit="words")
    with pytest.raises(ConfigError, match="no pronouncing lexicon"):
        ErrorRate(Told(text_form="phones"), Reader())


def test_options_of_a_recipe_are_checked() -> None:
    parts = Parts(codec=CompactCodec.random(0), reader=READER, recognizer=lambda name: Told(name))
    path = "llasa.scorers.wer:ErrorRate"
    made = load_scorer(path, {"recognizer": "mat", "unit": "characters", "name": "cer", "scale": 1}, parts)
    assert made.name == "cer" and made.score([candidate("mat")])[0].measures["cer"] == 0
    for wrong in ({"scale": 0.0}, {"unit": "syllables"}, {"recogniser": "mat"}):
        with pytest.raises(ConfigError):
            load_scorer(path, wrong, parts)


def test_a_candidate_that_cannot_be_judged_is_named() -> None:
    scorer = ErrorRate(Told("the"), READER)
    with pytest.raises(InputError, match=r"'1'.*no audio"):
        scorer.score([replace(candidate(), audio=None)])
    with pytest.raises(InputError, match="nothing that can be said"):
        scorer.score([candidate("...")])


def test_each_is_scored_as_if_alone() -> None:
    heard = ("the cat", TEXT, "", "the mat sat on the red mat")
    together = ErrorRate(Told(*heard), READER).score([candidate()] * 4)
    assert together == [score(text) for text in heard]


SOME_WORDS = st.lists(st.sampled_from(sorted(LEXICON)), min_size=1, max_size=6).map(" ".join)


@settings(max_examples=60, deadline=None)
@given(SOME_WORDS, SOME_WORDS)
def test_places_of_heard_tokens_never_cross(text: str, other: str) -> None:
    said, heard = READER(text, "phones"), tokens_of(READER(other, "phones"))
    found = compare(said, heard)
    places = sorted([(m.start, m.end) for m in found.matches if m.start < m.end] + list(found.added))
    assert [place for span in places for place in range(*span)] == sorted(
        {place for span in places for place in range(*span)}
    )
    assert [m.start for m in found.matches] == sorted(m.start for m in found.matches)
    inner = sum(match.errors for match in found.matches)
    assert found.errors == inner + sum(end - start for start, end in found.added)
    assert all(
        is_said(w, m, "phones") for w, m in zip(said, compare(said, tokens_of(said)).matches, strict=True)
    )
    assert not any(
        is_said(w, m, "phones") and is_missed(w, m, "phones")
        for w, m in zip(said, found.matches, strict=True)
    )


@settings(max_examples=60, deadline=None)
@given(SOME_WORDS, st.integers(0, 20))
def test_every_beginning_of_the_right_words_is_perfect(text: str, count: int) -> None:
    whole = text.split()
    heard = whole[: 1 + count % len(whole)]
    assert score(" ".join(heard), text, finish="partial").value == 1


@pytest.mark.parametrize("heard", [[], [None], ["hello"]])
def test_what_is_no_transcript_is_no_verdict(heard: list[object], monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told("hello")
    monkeypatch.setattr(told, "transcribe", lambda audio: heard)
    with pytest.raises(ScorerError, match="Give a Transcript"):
        ErrorRate(told, Reader()).score([candidate("hello")])


def test_the_tanh_of_the_grpo_papers() -> None:
    heard = "the cat sat on the red"  # one word of seven
    found = score(heard, shape="tanh", scale=1 / 3)
    assert found.value == pytest.approx(1 - np.tanh(3 / 7)) and found.measures["wer"] == pytest.approx(1 / 7)
    assert score(heard, scale=1 / 3).value == pytest.approx(np.exp(-3 / 7))
    assert score(TEXT, shape="tanh").value == 1
    assert 0 <= score(" ".join([TEXT] * 40), shape="tanh").value < 1e-6


def test_another_shape_is_refused() -> None:
    parts = Parts(CompactCodec.random(), READER, lambda name: Told(""))
    with pytest.raises(ConfigError, match="shape"):
        load_scorer("wer", {"shape": "square"}, parts)

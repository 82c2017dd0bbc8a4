"""Transcripts that hang."""

from collections.abc import Sequence

import numpy as np
import pytest

from llasa.core import Audio, Candidate, Utterance
from llasa.recognizers.base import TextForm, Transcript
from llasa.scorers.hangup import HangUp

SOUND = Audio(np.zeros(8, np.float32), 16000)


class Told:
    name = "told@0"

    def __init__(self, heard: str, text_form: TextForm) -> None:
        self.heard = heard
        self.text_form: TextForm = text_form

    def transcribe(self, audio: Sequence[Audio]) -> list[Transcript]:
        return [Transcript(self.heard) for _ in audio]


@pytest.mark.parametrize(
    "heard, form, held, value",
    [
        ("the cat", "written", 1, 1),
        ("ähhhhh", "written", 5, 1),
        ("ähhhhhh", "written", 6, 0),
        ("the ------ cat", "written", 6, 0),
        ("a cat a cat a cat a cat a cat a cat a cat", "written", 1, 1),
        ("DH AH | K AE T", "phones", 1, 1),
        ("DH " + "AH " * 6 + "| K", "phones", 6, 0),
        ("AH | AH | AH | AH | AH | AH", "phones", 6, 0),
        ("", "written", 0, 1),
    ],
)
def test_six_of_one_sign_in_a_row_hang(heard: str, form: TextForm, held: int, value: int) -> None:
    found = HangUp(Told(heard, form)).score([Candidate(Utterance("1", "a cat"), [1], "stop", audio=SOUND)])
    assert (found[0].value, found[0].measures) == (value, {"held": held})

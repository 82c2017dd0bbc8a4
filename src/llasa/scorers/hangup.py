"""Does the transcript hang: the same character again and again, as in a vowel held for too long.

Must not know: the text, other scorers, any recogniser.
"""

import re
from collections.abc import Sequence
from itertools import groupby

from llasa.core import Candidate, Score
from llasa.recognizers.base import Recognizer, Transcript
from llasa.scorers.base import SMALL_MODEL, Cost
from llasa.scorers.sounds import sound_of
from llasa.text.phones import WORD_BREAK

LONGEST = 6


class HangUp:
    """Flags a transcript in which one character, or phone, stands six times in a row: value 0, else 1.

    For word errors "aaaaaah" is one wrong word. It misses loops of several codes, and those that a recogniser
    folds away: `repetition` and `coverage` see these. measures: `held`, the longest such run.

    Source: S. Bodza, blog_projects, 00_GRPO_LLaSa, the hang-up reward; phones are ours.
    """

    name: str = "hangup"
    partial: bool = True

    def __init__(self, recognizer: Recognizer, cost: Cost = SMALL_MODEL) -> None:
        self.recognizer = recognizer
        self.cost = cost

    def score(self, candidates: Sequence[Candidate]) -> list[Score]:
        """See `Scorer.score`."""
        heard = self.recognizer.transcribe([sound_of(candidate) for candidate in candidates])
        return [self._score(one) for one in heard]

    def _score(self, transcript: Transcript) -> Score:
        phones = self.recognizer.text_form == "phones"
        signs = re.findall(rf"[^\s{re.escape(WORD_BREAK)}]+" if phones else r"(?s).", transcript.text)
        held = max((len(list(run)) for _, run in groupby(signs)), default=0)
        return Score(float(held < LONGEST), {"held": float(held)}, f"heard: {transcript.text}")

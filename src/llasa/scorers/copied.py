"""Does a candidate copy its prompt: the longest run of codes that the voice's recording has as well.

Must not know: sound, recognisers, other scorers. Shapes: N codes of the candidate, M of the voice.
"""

from collections.abc import Sequence

import numpy as np

from llasa.codec.base import Codec
from llasa.core import Candidate, Codes, Score
from llasa.scorers.base import CODES, Scale


class Copied:
    """Looks for a stretch of codes taken from the voice's recording, which wins by any likeness to it.

    value: 1 up to `allowed_s`, then falling by half for each `allowed_s` more; 1 without a voice, where there
    is nothing to copy. measures: `copied_s`. A code that stands still, such as silence, counts once.
    """

    name = "copied"
    partial = True
    cost = CODES

    def __init__(self, codec: Codec, allowed_s: Scale = 0.5) -> None:
        self._seconds_per_code = codec.hop_length / codec.sample_rate
        self._allowed_s = allowed_s

    def score(self, candidates: Sequence[Candidate]) -> list[Score]:
        """See `Scorer.score`."""
        return [self._score(candidate) for candidate in candidates]

    def _score(self, candidate: Candidate) -> Score:
        voice = candidate.utterance.voice
        length = longest_shared(candidate.codes, voice.codes) if voice else 0
        copied_s = length * self._seconds_per_code
        return Score(0.5 ** max(0.0, copied_s / self._allowed_s - 1), {"copied_s": copied_s})


def longest_shared(codes: Codes, other: Codes) -> int:
    """Return the length of the longest run of codes, repeats of one counted once, that both have."""
    rows, columns = _steps(codes), _steps(other)
    runs, longest = np.zeros(len(columns) + 1, np.int64), 0
    for code in rows:
        runs[1:] = np.where(columns == code, runs[:-1] + 1, 0)
        longest = max(longest, int(runs.max()))
    return longest


def _steps(codes: Codes) -> np.ndarray:
    """Return codes without those that equal the one before."""
    row = np.asarray(codes, np.int64)
    return row[np.diff(row, prepend=-1) != 0]

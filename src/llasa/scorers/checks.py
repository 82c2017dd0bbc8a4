"""Cheap checks on codes alone, before anything is decoded: repetition, a missing end, duration.

Must not know: sound, recognisers, other scorers.
"""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Annotated

import numpy as np
from pydantic import Field

from llasa.codec.base import Codec
from llasa.core import Candidate, Codes, Score, Voice
from llasa.scorers.base import CODES, Scale
from llasa.text.marks import inner_marks
from llasa.text.reading import Reader

# 2,700 utterances of eleven synthetic voices (recipes/artifacts/codes, every eighth): no cycle is longer than
# 0.2 s, and the poorest two seconds of any hold 0.74 distinct codes a code. Standing still may be a pause,
# which sound tells better: it is allowed for longer, and the ratio leaves room for a pause of a second.
CYCLE_S, STILL_S, DISTINCT, WINDOW_S = 0.3, 1.0, 0.5, 2.0
LONGEST_PERIOD = 32

# `recipes/starter/durations.py` prints these, from 5,400 such utterances: seconds of an average speaker. The
# log ratio of true to expected has a spread of 0.11 (0.12 by letters); with the tempo of the voice read off
# one other utterance, 0.073 (0.105).
PHONE_S = {
    "AA": 0.113, "AE": 0.107, "AH": 0.063, "AO": 0.101, "AW": 0.141, "AY": 0.147, "B": 0.048, "CH": 0.116,
    "D": 0.038, "DH": 0.033, "EH": 0.096, "ER": 0.098, "EY": 0.136, "F": 0.081, "G": 0.065, "HH": 0.049,
    "IH": 0.062, "IY": 0.115, "JH": 0.069, "K": 0.067, "L": 0.062, "M": 0.053, "N": 0.044, "NG": 0.059,
    "OW": 0.136, "OY": 0.167, "P": 0.076, "R": 0.036, "S": 0.095, "SH": 0.108, "T": 0.049, "TH": 0.092,
    "UH": 0.062, "UW": 0.094, "V": 0.040, "W": 0.037, "Y": 0.052, "Z": 0.078, "ZH": 0.083,
}  # fmt: skip
WORD_S, PAUSE_S, START_S = 0.009, 0.31, 0.46
LETTER_S = 0.06
# Signs of Chinese and Japanese are about syllables. Source: F. Pellegrino et al., *A cross-language
# perspective on speech information rate* (2011), Mandarin: 5.18 syllables a second.
SIGN_S, SIGN_LANGUAGES = 1 / 5.18, {"zh", "yue", "cmn", "wuu", "ja"}
# A speaker's tempo read off his recording counts as much as this many seconds of the average speaker.
PRIOR_S = 1.0
# The ends of a voice's recording are trimmed, those of what is generated are not.
TRIMMED_S = 0.12


class Repetition:
    """Tells whether codes go round in circles of up to 32 codes, stand still, or are too few different ones.

    value: 1 for natural speech, 1/2 where 0.5 s too many repeat, and falling with each further turn.
    measures: `cycle_s`, the longest stretch in which each code is the one a period of 2 to 32 before;
    `cycle_period` of it, codes; `still_s`, the longest stretch of one code; `distinct_ratio`, distinct codes
    a code in the poorest two seconds.
    """

    name = "repetition"
    partial = True
    cost = CODES

    def __init__(self, codec: Codec) -> None:
        self._codes_per_s = codec.sample_rate / codec.hop_length

    def score(self, candidates: Sequence[Candidate]) -> list[Score]:
        """See `Scorer.score`."""
        return [self._score(candidate.codes) for candidate in candidates]

    def _score(self, codes: Codes) -> Score:
        rate, row = self._codes_per_s, np.array(codes)
        still = _stretches(row, 1)
        # Codes that stand still for long repeat at every period: count them once, here.
        for start, end in still[still[:, 1] - still[:, 0] > CYCLE_S * rate]:
            row[start:end] = -np.arange(1, end - start + 1)
        length, period = longest_cycle(row)
        cycle_s, still_s = length / rate, float((still[:, 1] - still[:, 0]).max(initial=0) / rate)
        distinct = poorest(codes, round(WINDOW_S * rate))
        extra_s = max(cycle_s - CYCLE_S, still_s - STILL_S, 0.0)
        value = min(1.0, distinct / DISTINCT) / (1 + extra_s / 0.5)
        found = {"cycle_s": cycle_s, "cycle_period": period, "still_s": still_s, "distinct_ratio": distinct}
        return Score(value, found)


def longest_cycle(codes: np.ndarray) -> tuple[int, int]:
    """Return how many codes in a row equal the one a period of 2 to 32 before, and the period; or (0, 0)."""
    best = (0, 0)
    for period in range(2, LONGEST_PERIOD + 1):
        found = _stretches(codes, period)
        length = int((found[:, 1] - found[:, 0]).max(initial=0))
        best = (length, period) if length > best[0] else best
    return best


def _stretches(codes: np.ndarray, period: int) -> np.ndarray:
    """Return start and end of each stretch of codes that equal the one a period before, [stretches, 2]."""
    same = np.pad((codes[period:] == codes[:-period]).astype(np.int8), 1)
    return np.flatnonzero(np.diff(same)).reshape(-1, 2) + period


def poorest(codes: Codes, width: int) -> float:
    """Return the least number of distinct codes in a window, as a share of the window, in (0, 1]."""
    width = min(width, len(codes))
    starts = range(len(codes) - width + 1)
    return min((len(set(codes[i : i + width])) / width for i in starts), default=1.0) if width else 1.0


class Ending:
    """Tells whether a candidate ended by itself: no end marker, a loop or a cut means words are missing.

    For use alone. A `Judge` gives such candidates its declared value (`truncated`) and asks no scorer, so in
    a [judge] table this one always says 1. measures: `ended`, 1 or 0. An unfinished candidate (`partial`)
    passes.
    """

    name = "ending"
    partial = True
    cost = CODES

    def __init__(self, unended: Annotated[float, Field(ge=0, le=1)] = 0.1) -> None:
        """Take the value of a candidate that did not end; above 0 the other parts still order such ones."""
        self._unended = unended

    def score(self, candidates: Sequence[Candidate]) -> list[Score]:
        """See `Scorer.score`."""
        return [self._score(candidate) for candidate in candidates]

    def _score(self, candidate: Candidate) -> Score:
        if candidate.finish in ("stop", "partial"):
            return Score(1.0, {"ended": 1.0})
        return Score(self._unended, {"ended": 0.0}, f"It did not end by itself ({candidate.finish}).")


# Recognisers hear speech at 1.1 to 1.2 times its speed no worse, and quick speech is how rewards are cheated.
# So no plateau hides a tenth less: within what is natural, quicker is always worse. The starter's own lies at
# 0.95 to 1.25 of what is expected.
BEST = 1.08
RUSH = 1.5
_LEAST = 0.146  # of slow + quick, so that the best length is worth 1


class Duration:
    """Compares how long a candidate is with how long its text takes in its voice.

    The tempo of the voice is read off its own text and codes, pulled towards the average speaker when they
    are short. value: 1.146 / (1 + max(x, 0)^4 + exp(-1.5 (1 + x))), x = log(ratio / 1.08) / tolerance: it
    rises with the length to 1 at 1.2 times what is expected and falls beyond, still at twelve times; it is
    about 1/2 where x is -1 or 1. measures: `duration_s`, `expected_s`, `ratio`, and the speaking rate:
    `phones_per_s`, or `letters_per_s` where there are no phones.
    """

    name = "duration"
    partial = False
    cost = CODES

    def __init__(self, codec: Codec, reader: Reader, tolerance: Scale = 0.25) -> None:
        self._seconds_per_code = codec.hop_length / codec.sample_rate
        self._reader = reader
        self._tolerance = tolerance

    def score(self, candidates: Sequence[Candidate]) -> list[Score]:
        """See `Scorer.score`."""
        return [self._score(candidate) for candidate in candidates]

    def _score(self, candidate: Candidate) -> Score:
        said, duration = candidate.utterance, len(candidate.codes) * self._seconds_per_code
        unit, units, average = expectation(self._reader, said.text, said.language)
        expected = average * self._tempo(said.voice, said.language)
        off = np.log(max(duration, self._seconds_per_code) / (BEST * expected)) / self._tolerance
        measures = {"duration_s": duration, "expected_s": expected, "ratio": duration / expected}
        rate = units / max(duration, self._seconds_per_code)
        slow, quick = max(off, 0.0) ** 4, np.exp(-RUSH * (1 + off))
        return Score(float((1 + _LEAST) / (1 + slow + quick)), {**measures, f"{unit}_per_s": rate})

    def _tempo(self, voice: Voice | None, language: str) -> float:
        if voice is None or not voice.text or not voice.codes:
            return 1.0
        average = expectation(self._reader, voice.text, language)[2] - TRIMMED_S
        ratio = len(voice.codes) * self._seconds_per_code / average
        return float(ratio ** (average / (average + PRIOR_S)))


def expectation(reader: Reader, text: str, language: str) -> tuple[str, int, float]:
    """Return "phones" or "letters", how many of them a text has, and the seconds it takes an average speaker.

    Raises:
        InputError: nothing in the text can be said.
    """
    code = re.split("[-_]", language.lower())[0]
    if reader.phonemizer is not None and code == "en":
        words = reader(text, "phones", language)
        phones = Counter(phone for word in words for phone in word.tokens)
        seconds = sum(PHONE_S[phone] * count for phone, count in phones.items())
        pauses = WORD_S * len(words) + PAUSE_S * inner_marks(text) + START_S
        return "phones", phones.total(), seconds + pauses
    letters = sum(len(word.tokens) for word in reader(text, "characters", language))
    each = SIGN_S if code in SIGN_LANGUAGES else LETTER_S
    return "letters", letters, each * letters + PAUSE_S * inner_marks(text) + START_S

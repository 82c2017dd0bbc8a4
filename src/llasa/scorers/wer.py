"""Error rates: how much of a text was not heard, word by word. Must not know: other scorers, any recogniser.

The comparing normaliser is `text.reading`; its version goes into reports.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from rapidfuzz.distance import Levenshtein

from llasa.core import Candidate, Score
from llasa.errors import ScorerError
from llasa.recognizers.base import Recognizer, TextForm, Transcript
from llasa.scorers.base import SMALL_MODEL, Cost, Scale
from llasa.scorers.sounds import sound_of
from llasa.text.reading import Reader, ReadWord, Unit, tokens_of

Shape = Literal["exp", "tanh"]

UNITS: dict[TextForm, Unit] = {"phones": "phones", "characters": "characters", "written": "words"}
RATES: dict[Unit, str] = {"phones": "per", "characters": "cer", "words": "wer"}

# A small recogniser errs in one sound of six where nothing is wrong, so a word of phones or characters
# counts as said while a third differs, and fewer than three loose tokens make no added word.
TOLERANCE: dict[Unit, float] = {"phones": 1 / 3, "characters": 1 / 3, "words": 0.0}
SHORTEST_ADDED: dict[Unit, int] = {"phones": 3, "characters": 3, "words": 1}


@dataclass(frozen=True)
class Match:
    """What answers a word. errors: tokens changed, missing or put in. start, end: the tokens heard for it."""

    errors: int
    start: int
    end: int


@dataclass(frozen=True)
class Comparison:
    """A text and what was heard, side by side.

    matches: one a word, in order. added: [start, end) of tokens heard between words. errors: of all tokens.
    """

    matches: tuple[Match, ...]
    added: tuple[tuple[int, int], ...]
    errors: int


def compare(words: Sequence[ReadWord], tokens: Sequence[str]) -> Comparison:
    """Return which heard tokens answer each word, with the fewest changes in all.

    Source: V. Levenshtein (1966); the alignment is rapidfuzz's.
    """
    owners = [number for number, word in enumerate(words) for _ in word.tokens]
    errors, places = [0] * len(words), [list[int]() for _ in words]
    added: list[tuple[int, int]] = []
    total = 0
    for edit in Levenshtein.opcodes(tokens_of(words), tokens):
        heard = range(edit.dest_start, edit.dest_end)
        wrong = edit.tag != "equal"
        total += wrong * max(edit.src_end - edit.src_start, len(heard))
        if edit.tag == "insert" and not _inside(owners, edit.src_start):
            added.append((edit.dest_start, edit.dest_end))
            continue
        wanted = owners[edit.src_start : edit.src_end] or [owners[edit.src_start]] * len(heard)
        for number in wanted:
            errors[number] += wrong
        for number, place in zip(wanted, heard, strict=False):  # nothing is heard for what was left out
            places[number].append(place)
    return Comparison(_matches(errors, places), tuple(added), total)


def _inside(owners: Sequence[int], at: int) -> bool:
    return 0 < at < len(owners) and owners[at - 1] == owners[at]


def _matches(errors: Sequence[int], places: Sequence[list[int]]) -> tuple[Match, ...]:
    matches, at = list[Match](), 0
    for count, found in zip(errors, places, strict=True):
        start, end = (found[0], found[-1] + 1) if found else (at, at)
        matches.append(Match(count, start, end))
        at = end
    return tuple(matches)


def is_said(word: ReadWord, match: Match, unit: Unit) -> bool:
    """Return whether a word was heard, but for what the recogniser may have got wrong itself."""
    return match.errors <= TOLERANCE[unit] * len(word.tokens)


def is_missed(word: ReadWord, match: Match, unit: Unit) -> bool:
    """Return whether hardly anything was heard in place of a word."""
    return not is_said(word, match, unit) and match.end - match.start <= TOLERANCE[unit] * len(word.tokens)


def spoken_part(words: Sequence[ReadWord], tokens: Sequence[str]) -> tuple[ReadWord, ...]:
    """Return the beginning of a text that fits best to the tokens heard so far; the last word may be cut."""
    whole = tokens_of(words)
    counts = range(1, len(whole) + 1)
    length = min(counts, key=lambda count: Levenshtein.distance(whole[:count], tokens), default=0)
    part, room = list[ReadWord](), length
    for word in words:
        if room > 0:
            part.append(replace(word, tokens=word.tokens[:room]))
        room -= len(word.tokens)
    return tuple(part)


def worst_stretch(words: Sequence[ReadWord], matches: Sequence[Match], width: int = 3) -> float:
    """Return the share of tokens that are right in the worst `width` neighbouring words, in [0, 1]."""
    rows = list(zip(words, matches, strict=True))
    stretches = [rows[i : i + width] for i in range(max(1, len(rows) - width + 1))]
    return min(max(0.0, 1 - _rate(part)) for part in stretches)


def _rate(part: Sequence[tuple[ReadWord, Match]]) -> float:
    return sum(match.errors for _, match in part) / max(1, sum(len(word.tokens) for word, _ in part))


class ErrorRate:
    """Scores by the share of a text's tokens that were changed, left out or added.

    An unfinished candidate is compared with that beginning of the text which fits best, and its rate is of
    the tokens heard. Nothing heard is a rate of 1; repetitions make it larger. The worst stretch is measured
    but not weighed: among attempts of one model that chose no better.
    """

    partial: bool = True

    def __init__(
        self,
        recognizer: Recognizer,
        reader: Reader,
        unit: Unit | None = None,
        scale: Scale = 0.25,
        cost: Cost = SMALL_MODEL,
        name: str = "wer",
        shape: Shape = "exp",
    ) -> None:
        """Take what listens and what reads.

        Args:
            unit: what is counted; None: phones, characters or words as the recogniser hears them.
            scale: the rate that is worth 1/e: value = exp(-rate / scale).
            cost: `scorers.base.LARGE_MODEL` for a recogniser that is large or far away.
            shape: `tanh`: value = 1 - tanh(rate / scale); at a scale of 1/3 that of arXiv 2509.18798. A few
                errors cost the same, many hardly differ.

        Raises:
            ConfigError: the recogniser does not hear such units, or the reader cannot read them.
        """
        self.recognizer = recognizer
        self.reader = reader
        self.unit: Unit = unit or UNITS[recognizer.text_form]
        self.scale = scale
        self.cost = cost
        self.name = name
        self.shape: Shape = shape
        reader.heard("", recognizer.text_form, self.unit)
        reader("a", self.unit)

    def score(self, candidates: Sequence[Candidate]) -> list[Score]:
        """See `Scorer.score`. measures: the rate as `per`, `cer` or `wer`; `worst_words`, the share right in
        the worst three neighbouring words; `words`, `missed_words` and `added_words`.
        """
        heard = self.recognizer.transcribe([sound_of(candidate) for candidate in candidates])
        kinds = {type(one).__name__ for one in heard if not isinstance(one, Transcript)}
        if kinds or len(heard) != len(candidates):
            found = f"{min(kinds)}s" if kinds else f"{len(heard)} transcripts for {len(candidates)} clips"
            raise ScorerError(
                f"Listening with '{self.recognizer.name}': found {found}. Give a Transcript for each clip."
            )
        return [self._score(*pair) for pair in zip(candidates, heard, strict=True)]

    def _score(self, candidate: Candidate, transcript: Transcript) -> Score:
        said = candidate.utterance
        words = self.reader(said.text, self.unit, said.language)
        heard = self.reader.heard(transcript.text, self.recognizer.text_form, self.unit, said.language)
        tokens = tokens_of(heard)
        unfinished = candidate.finish == "partial"
        words = spoken_part(words, tokens) if unfinished else words
        found = compare(words, tokens)
        rate = found.errors / max(1, len(tokens if unfinished else tokens_of(words))) if tokens else 1.0
        measures = {RATES[self.unit]: rate, **self._words(words, found)}
        return Score(_worth(rate / self.scale, self.shape), measures, f"heard: {transcript.text}")

    def _words(self, words: Sequence[ReadWord], found: Comparison) -> dict[str, float]:
        missed = sum(is_missed(*pair, self.unit) for pair in zip(words, found.matches, strict=True))
        runs = [end - start for start, end in found.added]
        added = sum(run for run in runs if run >= SHORTEST_ADDED[self.unit])
        return {
            "worst_words": worst_stretch(words, found.matches),
            "words": float(len(words)),
            "missed_words": float(missed),
            "added_words": added * len(words) / max(1, len(tokens_of(words))),
        }


def _worth(scaled: float, shape: Shape) -> float:
    return 1 - math.tanh(scaled) if shape == "tanh" else math.exp(-scaled)

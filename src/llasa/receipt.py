"""The receipt of a result: what was asked for, what was heard, word by word, and how it was found.

Must not know: engines, prompts, command lines.
"""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version

from llasa.align import align, heard_text
from llasa.core import Candidate, Word
from llasa.judge import Judge
from llasa.recognizers.base import Recognizer
from llasa.scorers.base import Parts
from llasa.scorers.wer import ErrorRate
from llasa.search import Ranking
from llasa.text.reading import VERSION

PACKAGES = ("llasa", "torch", "transformers", "numpy")


@dataclass(frozen=True)
class SegmentReceipt:
    """What became of one segment.

    text: as given. heard: by the recogniser that steered. words: with their places in the whole text, and
    times in the segment's sound. second_heard: by the held-out recogniser, None without one. value: the
    judge's, None if unjudged. measures: of all parts, held-out ones too, in natural units. judged, ruled_out,
    unjudged: candidates. stop: why the search ended. tokens: ids drawn.
    """

    text: str
    heard: str
    words: tuple[Word, ...]
    second_heard: str | None
    status: str
    reason: str
    value: float | None
    measures: Mapping[str, float]
    note: str
    finish: str
    judged: int
    ruled_out: int
    unjudged: int
    stop: str
    tokens: int


@dataclass(frozen=True)
class Receipt:
    """What became of a text. recognizer: who heard it. held_out: who heard it without a say in the search."""

    text: str
    segments: tuple[SegmentReceipt, ...]
    recognizer: str | None
    held_out: str | None
    normaliser: str
    codec: str
    versions: Mapping[str, str]

    @property
    def missed(self) -> tuple[Word, ...]:
        """The words that were not heard as they stand in the text."""
        return tuple(word for part in self.segments for word in part.words if word.status != "said")

    def to_json(self) -> dict[str, object]:
        """Return plain values for JSON."""
        return asdict(self)


def receipt_of(text: str, found: Sequence[tuple[int, Ranking]], judge: Judge, parts: Parts) -> Receipt:
    """Return the receipt of a text.

    Args:
        text: as given.
        found: for each segment, where it starts in the text and how its search ended.
        judge: who judged them; its held-out parts now speak too.

    Raises:
        ScorerError: a recogniser failed.
    """
    steering, held_out = _recognizers(judge)
    segments = tuple(_segment(start, ranking, judge, parts, steering, held_out) for start, ranking in found)
    first, second = (one.name if one else None for one in (steering, held_out))
    versions = {name: version(name) for name in PACKAGES} | {"python": platform.python_version()}
    return Receipt(text, segments, first, second, VERSION, parts.codec.name, versions)


def _recognizers(judge: Judge) -> tuple[Recognizer | None, Recognizer | None]:
    heard = [(p.held_out, p.scorer.recognizer) for p in judge.rubric.parts if isinstance(p.scorer, ErrorRate)]
    first, second = ([one for held, one in heard if held is wanted] for wanted in (False, True))
    return (first or [None])[0], (second or [None])[0]


def _segment(
    start: int,
    ranking: Ranking,
    judge: Judge,
    parts: Parts,
    steering: Recognizer | None,
    second: Recognizer | None,
) -> SegmentReceipt:
    best = ranking.judged[0]
    told = judge.judge([best.candidate], held_out=True)[0]
    words = _words(told.candidate, steering, parts)
    statuses = [one.status for one in ranking.judged]
    return SegmentReceipt(
        best.candidate.utterance.text,
        heard_text(words),
        tuple(replace(word, start=word.start + start, end=word.end + start) for word in words),
        heard_text(_words(told.candidate, second, parts)) if second else None,
        told.status,
        told.reason,
        told.score.value if told.score else None,
        told.score.measures if told.score else {},
        told.score.note if told.score else "",
        best.candidate.finish,
        len(statuses),
        statuses.count("bad"),
        statuses.count("unjudged"),
        ranking.stop,
        ranking.tokens,
    )


def _words(candidate: Candidate, recognizer: Recognizer | None, parts: Parts) -> tuple[Word, ...]:
    if recognizer is None or candidate.audio is None:
        return ()
    transcript = recognizer.transcribe([candidate.audio])[0]
    utterance = candidate.utterance
    return align(utterance.text, transcript, parts.reader, recognizer.text_form, utterance.language)

"""The receipt of a result: what was asked for, what was heard, word by word, and how it was found.

Must not know: engines, prompts, command lines.
"""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version

from llasa.align import align, heard_text
from llasa.core import Candidate, Judged, Word, drafts_of, plain
from llasa.errors import ScorerError
from llasa.judge import Judge
from llasa.recognizers.base import Recognizer, Transcript
from llasa.scorers.base import Parts
from llasa.scorers.wer import ErrorRate
from llasa.spoken import Spoken, shifts
from llasa.text.reading import VERSION

PACKAGES = ("llasa", "torch", "transformers", "numpy")


@dataclass(frozen=True)
class Tried:
    """A candidate's verdict, as the search had it: see `Judged`. measures: of the parts that ran."""

    status: str
    reason: str
    value: float | None
    measures: Mapping[str, float]


@dataclass(frozen=True)
class SegmentReceipt:
    """What became of one segment.

    text: as given. heard: by the recogniser that steered. words: with their places in the whole text, and
    times in the whole sound. second_heard, second_value: by the held-out recogniser, None without one or if
    it failed. status, reason, value: the judge's; value None if unjudged. measures: of all parts, held-out
    ones too, in natural units. note: what scorers remarked. finish: how it ended. drawn, ruled_out, unjudged:
    candidates; outdone: those that could not win and so were not judged by all parts. stop: why the search
    ended. tokens: ids drawn. drafts: how their guesses went, see `core.drafts_of`. tried: what was searched
    among, in the order it was drawn. pace: where it was heard meanwhile, see `beams.Committed`.
    """

    text: str
    heard: str
    words: tuple[Word, ...]
    second_heard: str | None
    second_value: float | None
    status: str
    reason: str
    value: float | None
    measures: Mapping[str, float]
    note: str
    finish: str
    drawn: int
    ruled_out: int
    unjudged: int
    outdone: int
    stop: str
    tokens: int
    drafts: Mapping[str, float]
    tried: tuple[Tried, ...] = ()
    pace: Mapping[str, float] = field(default_factory=dict[str, float])


@dataclass(frozen=True)
class Receipt:
    """What became of a text.

    made: how to make it again: bundle, codec, voice, seed, sampling, search and judge. recognizer: who heard
    it. held_out: who heard it without a say in the search. normaliser: version of what compares words.
    """

    text: str
    segments: tuple[SegmentReceipt, ...]
    made: Mapping[str, object]
    recognizer: str | None
    held_out: str | None
    normaliser: str
    versions: Mapping[str, str]

    @property
    def missed(self) -> tuple[Word, ...]:
        """The words that were not heard as they stand in the text."""
        return tuple(word for part in self.segments for word in part.words if word.status != "said")

    def to_json(self) -> dict[str, object]:
        """Return plain values for JSON; a number that is not finite becomes None."""
        return {key: plain(value) for key, value in asdict(self).items()}


def receipt_of(
    text: str, spoken: Sequence[Spoken], judge: Judge, parts: Parts, made: Mapping[str, object]
) -> Receipt:
    """Return the receipt of a text.

    A recogniser that fails now costs what it would have said, and a note tells so.

    Args:
        text: as given.
        spoken: its segments, searched for.
        judge: who judged them; its held-out parts now speak too.
        made: see `Receipt`.
    """
    steering, held_out = witness(judge, False), witness(judge, True)
    segments = tuple(
        _segment(one, shift_s, judge, parts, steering, held_out)
        for one, shift_s in zip(spoken, shifts(spoken), strict=True)
    )
    first, second = (one.recognizer.name if one else None for one in (steering, held_out))
    versions = {name: version(name) for name in PACKAGES} | {"python": platform.python_version()}
    return Receipt(text, segments, made, first, second, VERSION, versions)


@dataclass(frozen=True)
class Witness:
    """A recogniser of a judge, and what measures call its part."""

    recognizer: Recognizer
    part: str


def witness(judge: Judge, held_out: bool) -> Witness | None:
    """Return the first recogniser that counts errors, of the parts that steer or of those held out."""
    for part in judge.rubric.parts:
        if part.held_out is held_out and isinstance(part.scorer, ErrorRate):
            return Witness(part.scorer.recognizer, part.name)
    return None


def _segment(
    one: Spoken,
    shift_s: float,
    judge: Judge,
    parts: Parts,
    steering: Witness | None,
    second: Witness | None,
) -> SegmentReceipt:
    told = judge.judge([one.candidate], held_out=True)[0]
    words, trouble = heard_words(one.candidate, steering, parts)
    others, more = heard_words(one.candidate, second, parts)
    statuses = [judged.status for judged in one.ranking.judged] if one.ranking else []
    notes = [told.score.note if told.score else "", trouble, more]
    measures: Mapping[str, float] = told.score.measures if told.score else dict[str, float]()
    return SegmentReceipt(
        text=one.segment.text,
        heard=heard_text(words),
        words=tuple(_placed(word, one.segment.start, shift_s) for word in words),
        second_heard=heard_text(others) if second and not more else None,
        second_value=measures.get(f"{second.part}.value") if second else None,
        status=told.status,
        reason=told.reason,
        value=told.score.value if told.score else None,
        measures=measures,
        note=" ".join(dict.fromkeys(note for note in notes if note)),
        finish=one.candidate.finish,
        drawn=len(statuses) or 1,
        ruled_out=statuses.count("bad"),
        unjudged=statuses.count("unjudged"),
        outdone=statuses.count("outdone"),
        stop=one.ranking.stop if one.ranking else "",
        tokens=one.ranking.tokens if one.ranking else len(one.candidate.codes),
        drafts=drafts_of(one.stats),
        tried=tuple(_tried(judged) for _, judged in as_drawn(one)),
        pace=one.ranking.pace if one.ranking else dict[str, float](),
    )


def as_drawn(one: Spoken) -> list[tuple[int, Judged]]:
    """Return what was tried for a segment, in the order it was drawn, each with its rank from 0."""
    ranks = list(enumerate(one.ranking.judged)) if one.ranking else []
    order = one.ranking.order if one.ranking else ()
    return [ranks[i] for i in sorted(range(len(ranks)), key=lambda i: order[i])] if order else ranks


def _tried(judged: Judged) -> Tried:
    score = judged.score
    none: Mapping[str, float] = dict[str, float]()
    return Tried(
        judged.status, judged.reason, score.value if score else None, score.measures if score else none
    )


def _placed(word: Word, start: int, shift_s: float) -> Word:
    """Return a word of a segment with its place in the whole text and in the whole sound."""
    times = [
        None if at_s is None else max(0.0, round(at_s + shift_s, 3)) for at_s in (word.start_s, word.end_s)
    ]
    return replace(word, start=word.start + start, end=word.end + start, start_s=times[0], end_s=times[1])


def heard_words(candidate: Candidate, listener: Witness | None, parts: Parts) -> tuple[tuple[Word, ...], str]:
    """Return what became of each word, all missed if there is no sound, and what went wrong in hearing it.

    Places and times are those in the candidate's own text and sound.
    """
    if listener is None:
        return (), ""
    said, recognizer = candidate.utterance, listener.recognizer
    try:
        heard = recognizer.transcribe([candidate.audio])[0] if candidate.audio else Transcript("")
    except ScorerError as error:
        return (), str(error)
    return align(said.text, heard, parts.reader, recognizer.text_form, said.language), ""

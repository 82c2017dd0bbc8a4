"""Heard words -> words of the original text: what became of each, and when.

Joins a text, a transcript and the comparison of `scorers.wer`. Must not know: who heard it, or what for.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from llasa.core import Word
from llasa.recognizers.base import TextForm, Transcript
from llasa.scorers.wer import SHORTEST_ADDED, UNITS, Match, compare, is_missed, is_said
from llasa.text.phones import WORD_BREAK
from llasa.text.reading import Reader, ReadWord, Unit

REACH_S = 0.1  # a CTC peak stands somewhere inside its sound, which is hardly longer than this to either side

Span = tuple[float, float]


@dataclass(frozen=True)
class _Token:
    """A token that was heard. word: number of the heard word it belongs to. start, end: in the transcript."""

    text: str
    word: int
    start: int
    end: int
    span: Span | None


def align(
    text: str, transcript: Transcript, reader: Reader, form: TextForm, language: str = "en"
) -> tuple[Word, ...]:
    """Return the words of a text in order, as they were heard, and between them words that were added.

    A word of which the recogniser hears phones or characters counts as said while at most a third of them
    differ: the recogniser itself errs in 15 to 19 of a hundred.

    Args:
        text: as people write it; what is read as several words but written as one, such as "1999", is one.
        form: of the transcript.

    Returns:
        Words with places in `text` that never go back, and times where the transcript has spans. `heard` of a
        word that was said is the word itself, without its marks.

    Raises:
        InputError, ConfigError: as `Reader.__call__`.
    """
    unit = UNITS[form]
    words = _as_written(reader(text, unit, language))
    heard = tuple(_heard(transcript, reader, form, unit, language))
    spans = _widened([token.span for token in heard]) if unit != "words" else [t.span for t in heard]
    tokens = [replace(token, span=span) for token, span in zip(heard, spans, strict=True)]
    found = compare(words, [token.text for token in tokens])
    line = _Line(text, transcript, reader, unit, tokens)
    return tuple(line.words(words, found.matches, found.added))


def heard_text(words: Sequence[Word]) -> str:
    """Return what was heard, as one line."""
    return " ".join(word.heard for word in words if word.heard)


@dataclass(frozen=True)
class _Line:
    """What the words of one text are made from."""

    text: str
    transcript: Transcript
    reader: Reader
    unit: Unit
    tokens: Sequence[_Token]

    def words(
        self, words: Sequence[ReadWord], matches: Sequence[Match], added: Sequence[tuple[int, int]]
    ) -> Iterator[Word]:
        extra = [run for run in added if run[1] - run[0] >= SHORTEST_ADDED[self.unit]]
        place = 0
        for word, match in zip(words, matches, strict=True):
            while extra and extra[0][1] <= match.start:
                yield self._added(place, *extra.pop(0))
            yield self._word(word, match)
            place = word.end
        yield from (self._added(place, *run) for run in extra)

    def _word(self, word: ReadWord, match: Match) -> Word:
        text = self.text[word.start : word.end]
        if is_said(word, match, self.unit):
            return Word(text, word.start, word.end, text, "said", *self._times(match.start, match.end))
        if is_missed(word, match, self.unit):
            return Word(text, word.start, word.end, "", "missed")
        heard = self._readable(match.start, match.end)
        return Word(text, word.start, word.end, heard, "changed", *self._times(match.start, match.end))

    def _added(self, place: int, start: int, end: int) -> Word:
        return Word("", place, place, self._readable(start, end), "added", *self._times(start, end))

    def _times(self, start: int, end: int) -> tuple[float | None, float | None]:
        spans = [token.span for token in self.tokens[start:end] if token.span]
        return (round(spans[0][0], 3), round(spans[-1][1], 3)) if spans else (None, None)

    def _readable(self, start: int, end: int) -> str:
        part = self.tokens[start:end]
        if self.unit != "phones":
            return self.transcript.text[part[0].start : part[-1].end]
        groups = (" ".join(t.text for t in group) for _, group in groupby(part, lambda token: token.word))
        return " ".join(self._spelt(phones) for phones in groups)

    def _spelt(self, phones: str) -> str:
        known = self.reader.phonemizer.word_of(phones) if self.reader.phonemizer else None
        return known or f"/{phones}/"


def _as_written(words: Sequence[ReadWord]) -> list[ReadWord]:
    """Join words that come from the same place of the text."""
    joined = list[ReadWord]()
    for word in words:
        if joined and word.start < joined[-1].end:
            last = joined.pop()
            word = ReadWord(
                f"{last.text} {word.text}",
                last.tokens + word.tokens,
                min(last.start, word.start),
                max(last.end, word.end),
            )
        joined.append(word)
    return joined


def _heard(
    transcript: Transcript, reader: Reader, form: TextForm, unit: Unit, language: str
) -> Iterator[_Token]:
    times = _times_by_character(transcript)
    for number, word in enumerate(reader.heard(transcript.text, form, unit, language)):
        at = word.start
        for token in word.tokens:
            found = transcript.text.find(token, at, word.end)
            start, end = (found, found + len(token)) if found >= 0 else (word.start, word.end)
            at = end if found >= 0 else at
            spans = [span for span in times[start:end] if span]
            yield _Token(token, number, start, end, (spans[0][0], spans[-1][1]) if spans else None)


def _times_by_character(transcript: Transcript) -> list[Span | None]:
    times: list[Span | None] = [None] * len(transcript.text)
    at = 0
    for token, span in zip(transcript.tokens, transcript.spans, strict=False):  # spans may be unknown
        bare = token.strip().strip(WORD_BREAK)
        found = transcript.text.find(bare, at) if bare else -1
        if found >= 0:
            at = found + len(bare)
            times[found:at] = [span] * len(bare)
    return times


def _widened(spans: Sequence[Span | None]) -> list[Span | None]:
    """Let each span reach to the middle between it and its neighbours, `REACH_S` at most."""
    wide = list(spans)
    for i, span in enumerate(spans):
        if span:
            before, after = spans[i - 1] if i else None, spans[i + 1] if i + 1 < len(spans) else None
            start = max(span[0] - REACH_S, (before[1] + span[0]) / 2 if before else 0.0)
            end = min(span[1] + REACH_S, (span[1] + after[0]) / 2) if after else span[1] + REACH_S
            wide[i] = (start, end)
    return wide

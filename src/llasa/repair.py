"""Another try at the words of a segment that went wrong: the rest of its speech is kept.

Must not know: command lines, files, how the segment was searched for.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from statistics import fmean

from llasa.align import align
from llasa.core import Candidate, Codes, Generation, Judged, Word
from llasa.engines.base import generate
from llasa.errors import ScorerError
from llasa.judge import Judge
from llasa.receipt import witness
from llasa.recipe import Effort
from llasa.recognizers.base import Recognizer
from llasa.search import Job, Ranking, place
from llasa.spoken import Spoken
from llasa.synthesizer import Synthesizer

FIRST_NUMBER = 1 << 16  # candidates from here on are beyond those of any search
MARGIN_S = 0.08  # before the span: a sound begins before its word is heard to begin
MOST_SPANS = 3  # tried a segment


@dataclass(frozen=True)
class Attempt:
    """One span said again.

    span: its words, as in the text. start_s, end_s: in the old speech, end_s None at its end. tries:
    candidates judged. tokens: ids drawn. before, after: values of the old and the best new one, None:
    unjudged. kept: whether the new one is preferred.
    """

    span: str
    start_s: float
    end_s: float | None
    tries: int
    tokens: int
    before: float | None
    after: float | None
    kept: bool


@dataclass(frozen=True)
class Repaired:
    """How a repair ended. spoken: the segment, new if an attempt was kept. note: why nothing was tried."""

    spoken: Spoken
    attempts: tuple[Attempt, ...] = ()
    note: str = ""

    def to_json(self) -> dict[str, object]:
        """Return plain values for JSON, without the speech."""
        return {"attempts": [asdict(one) for one in self.attempts], "note": self.note}


@dataclass(frozen=True)
class Span:
    """Neighbouring words that went wrong.

    start, end: in the text, from the end of the word before. start_s, end_s: in the sound; end_s None if no
    word follows. size: letters, which tells how bad it is.
    """

    text: str
    start: int
    end: int
    start_s: float
    end_s: float | None
    size: int


def repair(
    synthesizer: Synthesizer,
    spoken: Spoken,
    effort: Effort,
    n: int = 8,
    seed: int = 0,
    **sampling: object,
) -> Repaired:
    """Return a segment with its failing spans said again, wherever the judge prefers that.

    The speech before a span is kept and continued `n` times; each continuation is a candidate, and so is its
    beginning joined to the old speech after the span, if the span is heard right in it. The worst span comes
    first. A segment that cannot be repaired comes back as it was, but its ranking counts what was tried.
    A deadline of the effort is for the search alone: a repair has none.

    Args:
        spoken: what a search with `effort` gave.
        n: continuations a span.
        seed: any integer.
        sampling: as given to `Synthesizer.speak`.

    Raises:
        EngineError: the language model failed.
    """
    listener = witness(effort.judge, held_out=False)
    if spoken.ranking is None or spoken.candidate.audio is None or listener is None:
        found = "no recogniser steers the judge" if listener is None else "there is no judged speech"
        return Repaired(spoken, note=f"Not repaired: {found}.")
    if effort.temperature is not None:
        sampling = {"temperature": effort.temperature} | sampling
    utterance = spoken.candidate.utterance
    job = synthesizer.job(utterance.text, utterance.voice, seed, utterance.language, **sampling)
    surgery = _Surgery(synthesizer, effort.judge, listener.recognizer, job, n)
    attempts, tried, note = list[Attempt](), set[tuple[int, int]](), ""
    try:
        for number in range(MOST_SPANS):
            left = [span for span in surgery.spans(spoken.candidate) if (span.start, span.end) not in tried]
            if not left:
                break
            tried.add((left[0].start, left[0].end))
            spoken, attempt = surgery.attempt(spoken, left[0], FIRST_NUMBER + number * n)
            attempts.append(attempt)
    except ScorerError as error:
        note = str(error)
    return Repaired(spoken, tuple(attempts), note or ("" if attempts else "Every word was heard."))


@dataclass(frozen=True)
class _Surgery:
    """What repairs of one segment work with."""

    synthesizer: Synthesizer
    judge: Judge
    recognizer: Recognizer
    job: Job
    n: int

    @property
    def codes_per_s(self) -> float:
        return self.synthesizer.means(self.judge).codes_per_s

    def words(self, candidate: Candidate) -> tuple[Word, ...]:
        """Return what is heard of the text in a candidate's sound."""
        if candidate.audio is None:
            return ()
        [transcript] = self.recognizer.transcribe([candidate.audio])
        text, reader = self.job.utterance.text, self.synthesizer.bundle.reader
        return align(text, transcript, reader, self.recognizer.text_form, self.job.utterance.language)

    def spans(self, candidate: Candidate) -> list[Span]:
        """Return the spans that went wrong, worst first."""
        return sorted(failing_spans(self.words(candidate)), key=lambda span: -span.size)

    def attempt(self, spoken: Spoken, span: Span, first: int) -> tuple[Spoken, Attempt]:
        """Return the segment with a span said again, or as it was, and what happened."""
        ranking = spoken.ranking
        assert ranking is not None  # `repair` has looked
        began = time.perf_counter()
        made, tokens = self._continued(spoken.candidate, span, first)
        whole = self.judge.decode([one for one in made if one.codes])
        spliced = [self._spliced(spoken.candidate, one, span) for one in whole]
        candidates = [*whole, *self.judge.decode([one for one in spliced if one and one.codes])]
        drawn_s, began = time.perf_counter() - began, time.perf_counter()
        fresh = self.judge.judge(candidates)
        values = _value(ranking.judged[0]), _value(min(fresh, key=place, default=None))
        judge_s = time.perf_counter() - began
        spent = _spent(ranking, fresh, tokens, drawn_s, judge_s, f"{span.text!r} was said again")
        kept = spent.judged[0] is not ranking.judged[0]
        candidate = spent.judged[0].candidate if kept else spoken.candidate
        attempt = Attempt(span.text, span.start_s, span.end_s, len(fresh), tokens, *values, kept)
        return replace(spoken, candidate=candidate, ranking=spent, stats=spent.stats), attempt

    def _continued(self, old: Candidate, span: Span, first: int) -> tuple[list[Candidate], int]:
        """Return candidates that begin like the old one up to a span, and the ids drawn."""
        prompt, params = self.synthesizer.bundle.prompt, self.job.params
        kept = old.codes[: max(0, math.floor((span.start_s - MARGIN_S) * self.codes_per_s))]
        room = params.max_tokens - len(kept)
        if room < 1:
            return [], 0
        least = min(max(params.min_tokens - len(kept), 0), room)
        known = params.logprobs or old.logprob is not None
        asked = replace(params, n=self.n, first=first, min_tokens=least, max_tokens=room, logprobs=known)
        [made] = generate(self.synthesizer.bundle.engine, [self.job.prompt + prompt.ids(kept)], asked)
        drawn = [
            Candidate(old.utterance, kept + prompt.codes(one.ids), one.finish, _whole(old, kept, one))
            for one in made
        ]
        return drawn, sum(len(one.ids) for one in made)

    def _spliced(self, old: Candidate, new: Candidate, span: Span) -> Candidate | None:
        """Return the new speech up to the end of a span and the old from there; None if it is not right."""
        words = self.words(new)
        inside = [word for word in words if span.start <= word.start and word.end <= span.end]
        ends = [word.end_s for word in words if word.end <= span.end and word.end_s is not None]
        if span.end_s is None or not ends or any(word.status != "said" for word in inside):
            return None
        cut, rest = round(max(ends) * self.codes_per_s), round(span.end_s * self.codes_per_s)
        begun, ended = new.codes[:cut], old.codes[rest:]
        logprob = _mean((len(begun), new.logprob), (len(ended), old.logprob))
        return Candidate(old.utterance, begun + ended, old.finish, logprob)


def failing_spans(words: Sequence[Word]) -> list[Span]:
    """Return the runs of words that were not said, in order, those whose place in the sound is known."""
    spans = list[Span]()
    for wrong, group in groupby(range(len(words)), key=lambda i: words[i].status != "said"):
        numbers = list(group)
        run = words[numbers[0] : numbers[-1] + 1]
        before = words[numbers[0] - 1] if numbers[0] else None
        after = words[numbers[-1] + 1] if numbers[-1] + 1 < len(words) else None
        start_s = run[0].start_s
        if start_s is None:
            start_s = before.end_s if before else 0.0
        end_s = after.start_s if after else None
        if not wrong or start_s is None or (after and end_s is None):
            continue
        text = " ".join(word.text or f"[{word.heard}]" for word in run)
        size = sum(len(word.text or word.heard) for word in run)
        spans.append(Span(text, before.end if before else 0, run[-1].end, start_s, end_s, size))
    return spans


def _spent(
    ranking: Ranking, fresh: Sequence[Judged], tokens: int, drawn_s: float, judge_s: float, news: str
) -> Ranking:
    """Return a ranking with more candidates and what they cost."""
    return replace(
        ranking,
        # Sorting is stable: the old one stays first unless a new one is strictly better.
        judged=tuple(sorted([*ranking.judged, *fresh], key=place)),
        tokens=ranking.tokens + tokens,
        stop=f"{ranking.stop}; {news}",
        generate_s=ranking.generate_s + drawn_s,
        judge_s=ranking.judge_s + judge_s,
    )


def _whole(old: Candidate, kept: Codes, made: Generation) -> float | None:
    """Return the mean log-probability of codes that were kept and what continues them."""
    new = fmean(made.logprobs) if made.logprobs else None
    return _mean((len(kept), old.logprob), (len(made.ids), new))


def _mean(*stretches: tuple[int, float | None]) -> float | None:
    """Return the mean in nats a code of stretches of so many codes; None if one's is not known.

    Of a candidate its mean alone is known, so that stands for each stretch of it.
    """
    counts = [n for n, _ in stretches if n]
    known = [mean for n, mean in stretches if n and mean is not None]
    return fmean(known, counts) if known and len(known) == len(counts) else None


def _value(judged: Judged | None) -> float | None:
    return judged.score.value if judged and judged.score else None

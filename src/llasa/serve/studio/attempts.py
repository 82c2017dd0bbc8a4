"""What a search tried, to be looked at side by side: each candidate, what was heard of it, and why one won.

Must not know: pages, routes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from llasa.core import Candidate, Judged
from llasa.judge import Judge, Part
from llasa.receipt import Witness, as_drawn, heard_words, witness
from llasa.scorers.base import Parts
from llasa.serve.studio.words import Mark, error_rate, marks
from llasa.spoken import Spoken

NAMES = {
    "wer": "Words", "nll": "Clearness", "duration": "Length", "silence": "Silence", "clipping": "Clipping",
    "noise": "Noise", "timbre": "Timbre", "prosody": "Melody", "repetition": "Repetition",
    "similarity": "Likeness to the voice", "naturalness": "Naturalness",
}  # fmt: skip
# Of a part, the measure that says most to people; the first that it has is taken.
NATURAL: Mapping[str, Sequence[tuple[str, str]]] = {
    "wer": (("per", "{:.0%} of sounds wrong"), ("cer", "{:.0%} of letters wrong"), ("wer", "{:.0%} wrong")),
    "nll": (("nll", "{:.2f} nats"),),
    "duration": (("duration_s", "{:.1f} s"),),
    "silence": (("silence_s", "{:.1f} s too much"),),
    "clipping": (("clipped_share", "{:.1%} clipped"),),
    "noise": (("snr_db", "{:.0f} dB over noise"),),
    "timbre": (("timbre_distance", "{:.2f} away"),),
    "prosody": (("f0_range_st", "{:.1f} semitones"),),
    "repetition": (("distinct_ratio", "{:.0%} distinct"),),
}


@dataclass(frozen=True)
class Graded:
    """What one part of the judge said. name: for people. natural: in natural units, perhaps empty."""

    name: str
    value: float
    natural: str


@dataclass(frozen=True)
class Attempt:
    """A candidate of a segment.

    number: as drawn, from 1. candidate: without its sound, which its codes give again. value: None if it got
    no verdict. graded: by the parts that ran. marks: its text as it was heard, empty if nobody listened.
    errors: per word.
    """

    number: int
    candidate: Candidate
    status: str
    reason: str
    value: float | None
    graded: tuple[Graded, ...]
    marks: tuple[Mark, ...]
    errors: float | None
    won: bool


@dataclass(frozen=True)
class Best:
    """The best after `count` candidates. own: value of the last one alone. errors: per word, of the best."""

    count: int
    value: float | None
    own: float | None
    errors: float | None


def attempts(spoken: Spoken, judge: Judge, parts: Parts) -> list[Attempt]:
    """Return what was tried for a segment, as it was drawn; nothing if it was not searched for.

    Args:
        judge: who judged: its first recogniser tells what was heard. parts: of the bundle.
    """
    listener, rows = witness(judge, False), as_drawn(spoken)
    return [
        _attempt(number, judged, rank == 0, judge, listener, parts)
        for number, (rank, judged) in enumerate(rows, 1)
    ]


def _attempt(
    number: int, judged: Judged, won: bool, judge: Judge, listener: Witness | None, parts: Parts
) -> Attempt:
    made, score = judged.candidate, judged.score
    words, _ = heard_words(made, listener, parts) if made.audio else ((), "")
    measures = score.measures if score else {}
    return Attempt(
        number, replace(made, audio=None), judged.status, judged.reason, score.value if score else None,
        _graded(judge.rubric.parts, measures), tuple(marks(made.utterance.text, words)) if words else (),
        error_rate(words), won,
    )  # fmt: skip


def _graded(parts: Sequence[Part], measures: Mapping[str, float]) -> tuple[Graded, ...]:
    ran = [part for part in parts if f"{part.name}.value" in measures]
    return tuple(
        Graded(NAMES.get(part.name, part.name), measures[f"{part.name}.value"], _natural(part.name, measures))
        for part in ran
    )


def _natural(name: str, measures: Mapping[str, float]) -> str:
    found = (form.format(measures[key]) for key, form in NATURAL.get(name, ()) if key in measures)
    return next(found, "")


def why(tried: Sequence[Attempt]) -> str:
    """Return in a sentence or two which of the candidates of a segment won and why."""
    won = next(one for one in tried if one.won)
    others = [one for one in tried if not one.won and one.status == "scored"]
    if won.status != "scored":
        return f"Candidate {won.number} is spoken, though no candidate passed: {won.reason}."
    if not others:
        rest = "it was the only one" if len(tried) == 1 else f"the other {len(tried) - 1} were ruled out"
        return f"Candidate {won.number} won with {won.value:.2f}: {rest}."
    second = max(others, key=lambda one: one.value or 0.0)
    values = [one.value or 0.0 for one in (won, second)]
    first, next_one = (f"{value:.{2 if values[0] - values[1] >= 0.01 else 4}f}" for value in values)
    told = f"Candidate {won.number} won with {first}; next is candidate {second.number} with {next_one}."
    ahead, behind = _apart(won, second)
    told += f" It is ahead most in {ahead}." if ahead else ""
    return told + (f" The other is better in {behind}." if behind else "")


def _apart(won: Attempt, second: Attempt) -> tuple[str, str]:
    """Return where the winner is most ahead, and where most behind; empty if nowhere."""
    theirs = {one.name: one.value for one in second.graded}
    rows = [(one.value - theirs[one.name], one.name, one.value) for one in won.graded if one.name in theirs]
    clear = [row for row in rows if abs(row[0]) >= 0.005]
    ahead, behind = ([row for row in clear if (row[0] > 0) is side] for side in (True, False))
    told = [
        f"{name.lower()} ({value:.2f} against {value - by:.2f})"
        for by, name, value in (max(ahead, default=(0.0, "", 0.0)), min(behind, default=(0.0, "", 0.0)))
    ]
    return told[0] if ahead else "", told[1] if behind else ""


def best_after(tried: Sequence[Sequence[Attempt]]) -> list[Best]:
    """Return the best after 1, 2, ... candidates, the mean over segments.

    A segment whose search ended earlier keeps its best. Until a candidate was scored there is no value.
    """
    lines = [_line(segment) for segment in tried if segment]
    counts = range(1, max(map(len, lines), default=0) + 1)
    return [_mean(count, [line[min(count, len(line)) - 1] for line in lines]) for count in counts]


def _line(segment: Sequence[Attempt]) -> list[Best]:
    found, best = list[Best](), None
    for one in segment:
        scored = one.status == "scored" and one.value is not None
        if scored and (best is None or (one.value or 0) > (best.value or 0)):
            best = one
        own = one.value if scored else None
        found.append(Best(one.number, best.value if best else None, own, best.errors if best else None))
    return found


def _mean(count: int, rows: Sequence[Best]) -> Best:
    def mean(values: list[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return sum(known) / len(known) if len(known) == len(values) else None

    own = mean([row.own for row in rows]) if all(row.count == count for row in rows) else None
    return Best(count, mean([row.value for row in rows]), own, mean([row.errors for row in rows]))

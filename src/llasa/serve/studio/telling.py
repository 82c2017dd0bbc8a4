"""Takes -> pieces of the page, through `take.html.jinja`. All that people wrote is escaped.

Must not know: routes, how a take is made.
"""

import base64
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from llasa.audio import FORMATS
from llasa.core import Word
from llasa.data.report import template_of
from llasa.serve.studio.attempts import Attempt, Best, best_after, why
from llasa.serve.studio.sketch import COLUMNS, outline, spectrogram
from llasa.serve.studio.takes import Take
from llasa.serve.studio.words import Mark, error_rate, marks

WIDTH, HEIGHT, LEFT, BELOW = 320, 150, 34, 24  # of a plot, and of the room for its labels
COMPARED = ("Made in", "Words wrong", "Judge's value")
FEW = 8  # candidates of which all scores stand open


@dataclass(frozen=True)
class Plot:
    """A line over the number of candidates. line: an SVG path. dots: x, y. across, up: place and label."""

    title: str
    line: str
    dots: tuple[tuple[float, float], ...]
    across: tuple[tuple[float, str], ...]
    up: tuple[tuple[float, str], ...]
    words: str


def status(take: Take | None) -> str:
    """Return what happens now, or what went wrong."""
    return _part("status", take=take)


def refused(message: str) -> str:
    """Return an error."""
    return _part("refused", message=message)


def player(take: Take, live: bool = False) -> str:
    """Return the player of a take, which begins by itself to play the sound as it comes if it is `live`."""
    return _part("player", take=take, title=title(take), live=live)


def result(take: Take, others: Sequence[Take] = ()) -> str:
    """Return what there is to see of a take that is said, and of others that say the same text."""
    if take.sound is None:
        return ""
    words = [word for part in take.parts for word in part.words]
    return _part(
        "result",
        take=take,
        columns=COLUMNS,
        outline=outline(take.sound),
        spectrogram=base64.b64encode(spectrogram(take.sound)).decode(),
        marks=marks(take.asked.input, words),
        counts=_counts(words),
        facts=_facts(take, words),
        formats=FORMATS,
        told=[
            (part, _telling_first(tried), why(tried) if tried else "") for part, tried in _by_segment(take)
        ],
        few=FEW,
        plots=plots(best_after(take.tried)),
        otherwise_said=[_otherwise(one) for one in (take, *others)] if others else [],
    )


def title(take: Take) -> str:
    """Return a take's name in the history."""
    text = " ".join(take.asked.input.split())
    return text if len(text) <= 60 else f"{text[:57]}…"


def facts(take: Take) -> str:
    """Return how a take was made, in a few words."""
    by = [
        take.asked.model,
        take.voice or "own voice",
        f"effort {take.asked.effort}",
        f"seed {take.asked.seed}",
    ]
    length = [f"{take.sound.duration_s:.1f} s"] if take.sound else []
    return " · ".join([*by, *length])


def _otherwise(take: Take) -> tuple[Take, str, list[Mark], list[tuple[str, str]]]:
    words = [word for part in take.parts for word in part.words]
    heard = marks(take.asked.input, words) if words else []
    return take, facts(take), heard, [fact for fact in _facts(take, words) if fact[0] in COMPARED]


def plots(best: Sequence[Best]) -> list[Plot]:
    """Return how value and word errors of the best change with the number of candidates; of one, nothing."""
    if len(best) < 2:
        return []
    values = [(one.count, one.value) for one in best if one.value is not None]
    own = [(one.count, one.own) for one in best if one.own is not None]
    errors = [(one.count, 100 * one.errors) for one in best if one.errors is not None]
    found = [_plot("Value of the best", len(best), values, own, "{:.2f}")] if values else []
    return found + ([_plot("Words wrong in the best, %", len(best), errors, [], "{:.0f}")] if errors else [])


def _plot(
    name: str, most: int, rows: Sequence[tuple[int, float]], own: Sequence[tuple[int, float]], form: str
) -> Plot:
    every = [value for _, value in (*rows, *own)]
    low, high = (min(every), max(every)) if own else (0.0, max(max(every), 10.0))
    room = max((high - low) * 0.12, 0.01)
    marks = list({form.format(value): value for value in (low, (low + high) / 2, high)}.items())
    low, high = low - room, high + room

    def x(count: float) -> float:
        return round(LEFT + (count - 1) / (most - 1) * (WIDTH - LEFT - 24), 1)

    def y(value: float) -> float:
        return round(8 + (high - value) / (high - low) * (HEIGHT - BELOW - 8), 1)

    steps = (
        f"M{x(rows[0][0])} {y(rows[0][1])}" + "".join(f"H{x(n)}V{y(value)}" for n, value in rows[1:]) + "h10"
    )
    every_th = max(1, -(-most // 8))
    across = tuple((x(n), str(n)) for n in range(1, most + 1) if (n - 1) % every_th == 0)
    up = tuple((y(value), label) for label, value in marks)
    words = "; ".join(f"{n}: {form.format(value)}" for n, value in rows)
    return Plot(name, steps, tuple((x(n), y(value)) for n, value in own), across, up, words)


def _by_segment(take: Take) -> list[tuple[Any, list[Any]]]:
    tried = take.tried or [[] for _ in take.parts]
    return list(zip(take.parts, tried, strict=True))


def _telling_first(tried: Sequence[Attempt]) -> list[Attempt]:
    """Return the same with the scores first in which candidates differ most."""
    values = defaultdict[str, list[float]](list)
    for one in tried:
        for part in one.graded:
            values[part.name].append(part.value)
    spread = {name: max(some) - min(some) for name, some in values.items()}
    return [
        replace(one, graded=tuple(sorted(one.graded, key=lambda part: -spread[part.name]))) for one in tried
    ]


def _counts(words: Sequence[Word]) -> dict[str, int]:
    return {kind: sum(word.status == kind for word in words) for kind in ("missed", "changed", "added")}


def _facts(take: Take, words: Sequence[Word]) -> list[tuple[str, str]]:
    assert take.sound is not None  # who calls has seen to that
    rate = error_rate(words)
    found = [("Length", f"{take.sound.duration_s:.1f} s"), ("Made in", f"{take.spent_s:.1f} s")]
    found += [("First sound", f"{take.first_s:.2f} s")] if take.first_s is not None else []
    found += [("Words wrong", f"{rate:.0%}")] if rate is not None else []
    values = [part.value for part in take.parts if part.value is not None]
    found += [("Judge's value", f"{sum(values) / len(values):.2f}")] if values else []
    drawn = sum(len(part.tried) for part in take.parts)
    return [*found, ("Candidates", str(drawn))] if drawn else found


@cache
def _template() -> Any:
    return template_of(Path(__file__).with_name("take.html.jinja")).module


def _part(name: str, **values: object) -> str:
    return str(getattr(_template(), name)(**values))

"""The measures of an evaluation: what of each row they are worked out from, and how.

A failure is never left out: its error rate is 1, and of likeness and opinion, where there is no sound to
measure, it has the worst value there is. Must not know: pages, models.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from llasa.evaluate.results import Evaluation, Row
from llasa.metrics import Statistic
from llasa.metrics import trend as trend_of

Cells = Callable[[Row], Sequence[float]]


@dataclass(frozen=True)
class Column:
    """A measure of many rows.

    title, group: what pages call it and where it stands. about: one sentence. better: -1 if less is, 1 if
    more is, 0 if neither. form: of a number. cells: what of a row it is worked out from, NaN where that was
    not measured. statistic: of cells [S, K], all measured.
    """

    key: str
    title: str
    group: str
    about: str
    better: int
    form: str
    cells: Cells
    statistic: Statistic

    def shown(self, value: float) -> str:
        """Return a value as people read it."""
        return self.form.format(value)


def _value(row: Row, key: str) -> float:
    found = row["measures"].get(key)
    return math.nan if found is None else float(found)


def measured(key: str) -> Cells:
    """Return what reads a measure of a row."""
    return lambda row: (_value(row, key),)


def declared(key: str, worst: float, rows: Sequence[Row]) -> Cells:
    """Return what reads a measure of a row; a failure without it has the worst value.

    Args:
        rows: all there are: of a system that never has the measure, failures do not have it either.
    """
    having = {(row["set"], row["system"]) for row in rows if key in row["measures"]}

    def cells(row: Row) -> tuple[float]:
        value, owner = _value(row, key), (row["set"], row["system"])
        return (worst if row["failure"] and math.isnan(value) and owner in having else value,)

    return cells


def rate(name: str) -> Cells:
    """Return what reads an error rate of a row; that of a failure is 1, whatever was heard of it.

    A row of a run that did not have this recogniser has no rate, failed or not.
    """

    def cells(row: Row) -> tuple[float]:
        listened = f"tokens.{name}" in row["measures"]
        return (1.0 if row["failure"] and listened else _value(row, name),)

    return cells


def errors(name: str) -> Cells:
    """Return what reads errors and tokens of a row; all tokens of a failure are errors."""

    def cells(row: Row) -> tuple[float, float]:
        tokens, share = _value(row, f"tokens.{name}"), rate(name)(row)[0]
        return share * tokens, tokens if math.isfinite(share) else math.nan

    return cells


def _own(key: str) -> Cells:
    return lambda row: (math.nan if row[key] is None else float(row[key]),)


def _mean(cells: np.ndarray) -> float:
    return float(cells.mean())


def _ratio(cells: np.ndarray) -> float:
    total = cells[:, 1].sum()
    return float(cells[:, 0].sum() / total) if total > 0 else math.nan


def trend(cells: np.ndarray) -> float:
    """Return by what share rates change with length; see `metrics.trend`."""
    return trend_of(cells[:, 0], cells[:, 1])


RATES = {"wer": "WER", "cer": "CER", "per": "phone errors"}


def columns(found: Evaluation) -> list[Column]:
    """Return the measures that rows of an evaluation have, the one that counts first."""
    known = {key for row in found.rows for key in row["measures"]}
    some = [
        *_heard(found.listeners, known),
        _failures(),
        *_sounding(found.rows, known),
        *_manner(known),
        *_speed(found),
    ]
    return [column for column in some if any(np.isfinite(column.cells(row)).all() for row in found.rows)]


def _heard(listeners: Sequence[str], known: set[str]) -> list[Column]:
    found = list[Column]()
    for one in listeners:
        for kind, title in RATES.items():
            key, called = f"{kind}:{one}", f"{title}, {one}"
            if f"tokens.{key}" in known:
                about = f"{title}, heard by {one}: mean of the utterances; a failure counts as 1."
                found.append(_word(key, called, about, rate(key)))
                about = f"{title}, heard by {one}: all errors over all that was to be said."
                found.append(_word(f"corpus.{key}", f"{called}, corpus", about, errors(key), _ratio))
        about = f"As Seed-TTS-eval's tool counts what {one} heard: what has no sound is left out."
        found.append(_word(f"seed:{one}", f"Seed-TTS-eval WER, {one}", about, measured(f"seed:{one}")))
        about = f"How unlikely {one} finds the text, nats a token, where the text fits into the sound."
        found.append(_word(f"nll:{one}", f"NLL, {one}", about, measured(f"nll:{one}"), form="{:.2f}"))
    return found


def _word(
    key: str, title: str, about: str, cells: Cells, statistic: Statistic = _mean, form: str = "{:.1%}"
) -> Column:
    return Column(key, title, "Words", about, -1, form, cells, statistic)


def _failures() -> Column:
    def failed(row: Row) -> tuple[float]:
        return (float(bool(row["failure"])),)

    about = "Utterances without an end, in a loop, without sound, or refused by a server."
    return Column("failures", "failures", "Words", about, -1, "{:.1%}", failed, _mean)


# key of a measure -> title, worst value, form, about; more is better
_SOUND = {
    "sim_o": ("SIM-o", 0.0, "{:.3f}", "Likeness to the voice's recording, cosine of speaker embeddings."),
    "sim_r": ("SIM-r", 0.0, "{:.3f}", "Likeness to that recording after the codec."),
    "emotion": ("emotion similarity", 0.0, "{:.3f}", "Cosine of an emotion model's outputs."),
    "mos": ("predicted MOS", 1.0, "{:.2f}", "Opinion from 1 to 5 that a model predicts."),
}  # fmt: skip


def _sounding(rows: Sequence[Row], known: set[str]) -> list[Column]:
    found = [
        Column(key, title, "Sound", about, 1, form, declared(key, worst, rows), _mean)
        for key, (title, worst, form, about) in _SOUND.items()
    ]
    for key in sorted(key for key in known if key.endswith(".value")):
        name = key.removesuffix(".value")
        if not (name == "naturalness" and "mos" in known):
            about = f"What the scorer {name} says, from 0 to 1."
            found.append(Column(key, name, "Sound", about, 1, "{:.3f}", declared(key, 0.0, rows), _mean))
    return found


def _manner(known: set[str]) -> list[Column]:
    def along(row: Row) -> tuple[float, float]:
        return _value(row, "units"), _value(row, "rate")

    about = "By what share the rate changes from short texts to long ones; near 0 is as it should be."
    slope = Column("rate_change", "rate, long against short", "Manner", about, 0, "{:+.1%}", along, trend)
    told = {
        "rate": ("rate", "{:.1f}", "Phones or letters a second of speech, pauses left out."),
        "f0_range_st": ("pitch range", "{:.1f}", "Semitones from the 10th to the 90th percentile."),
        "pause_share": ("pauses", "{:.1%}", "Share of the time in pauses of 0.15 s and more."),
    }  # fmt: skip
    plain_ones = [
        Column(key, title, "Manner", about, 0, form, measured(key), _mean)
        for key, (title, form, about) in told.items()
    ]
    return [plain_ones[0], slope, *plain_ones[1:]]


def _speed(found: Evaluation) -> list[Column]:
    def spent(row: Row) -> tuple[float, float]:
        return _own("total_s")(row)[0], row["duration_s"] or math.nan  # speed is of what has sound

    prices = {
        name: block for name, block in zip(_names(found), found.facts["recipe"]["systems"], strict=True)
    }

    def cost(row: Row) -> tuple[float, float]:
        block = prices[row["system"]]
        if (price := block.get("price_per_hour")) is not None:
            return spent(row)[0] * price, spent(row)[1]
        price = block.get("price_per_million")
        return (math.nan if price is None else len(row["text"]) * price / 1e6 * 3600), spent(row)[1]

    about, first = "Seconds of waiting a second of speech.", "Seconds until the first sound."
    price, drawn = "Of an hour of speech, at the price given.", "Codes drawn, those of losers too."
    return [
        Column("rtf", "real-time factor", "Speed", about, -1, "{:.3f}", spent, _ratio),
        Column("first_s", "first sound", "Speed", first, -1, "{:.2f} s", _own("first_s"), _mean),
        Column("tokens", "codes drawn", "Speed", drawn, -1, "{:.0f}", _own("tokens"), _mean),
        Column("cost", "cost an hour", "Speed", price, -1, "{:.2f}", cost, _ratio),
    ]  # fmt: skip


def _names(found: Evaluation) -> list[str]:
    return list(found.facts["systems"])

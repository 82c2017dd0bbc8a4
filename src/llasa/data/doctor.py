"""The data-set doctor: reads every row of a source once, changes nothing, and says what is wrong with it.

Must not know: what becomes of the rows, how findings are drawn (`report.py`).
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np

from llasa.core import Clip
from llasa.data.checks import About, Conflicting, Each, Examination, Repeated, Seen, Unusual, Worst, folded
from llasa.data.encode import said
from llasa.data.findings import Check, Findings, Spread
from llasa.data.measures import TITLES, measure
from llasa.data.reading import Disagreeing, Model, TooLong, Unread
from llasa.data.rejects import BadClip, Reject
from llasa.data.sounds import fingerprint, load
from llasa.data.sources import SOUNDS_ALONE, Source
from llasa.data.sources.coded import Coded
from llasa.data.transcripts import oddities, shown
from llasa.recognizers import load_recognizer
from llasa.text.reading import Reader

CLIPPED, QUIET_DB, LOUD_DB = 1e-3, -40.0, -8.0
LONG_SILENCE_S, MOSTLY_QUIET = 1.0, 0.6


def check(
    source: Source, *, bundle: Model | None = None, recognizer: str | None = None, limit: int | None = None
) -> Findings:
    """Return what is wrong with a data set; it is only read, and memory does not grow with its sound.

    Args:
        bundle: the opened bundle whose model is to learn it (`load_bundle`); tells which signs it does not
            read and which rows are too long for it.
        recognizer: listens to every clip; as in `recognizers.load_recognizer`, or of the bundle.
        limit: look at the first rows only; at all if None.

    Raises:
        InputError: a file of the source cannot be opened at all. MissingExtra: something needed is not
            installed. ConfigError, BundleError: no such recogniser, or it is damaged.
    """
    listening = _listening(bundle, recognizer)
    checks = _checks(source, bundle)
    survey = _Survey(source, [*checks, *([listening] if listening else [])])
    for row in _followed(islice(source.rows(), limit), limit):
        survey.see(row)
    return survey.findings(listening)


def _listening(bundle: Model | None, recognizer: str | None) -> Disagreeing | None:
    if recognizer is None:
        return None
    if bundle is None:
        return Disagreeing(load_recognizer(recognizer, {}), Reader())
    return Disagreeing(bundle.recognizer(recognizer), bundle.reader)


def _followed(rows: Iterable[Clip | Coded | Reject], total: int | None) -> Iterator[Clip | Coded | Reject]:
    """Yield rows with a progress bar, if a person is watching."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    quiet = not console.is_terminal
    yield from track(rows, "Checking", total, console=console, transient=True, disable=quiet)


class _Survey:
    """Collects what is asked of all rows, and shows each usable one to the checks."""

    def __init__(self, source: Source, checks: list[Examination]) -> None:
        self._source, self._checks = source, checks
        self._rejects = Worst(
            About("rejects", "Rows that prepare leaves out", "Correct or remove them.", bad=0.2)
        )
        self._counts = {name: Counter[str]() for name in ("reason", "speaker", "language", "split", "rate")}
        self._values = {name: list[float]() for name in TITLES}
        self._clips = 0

    def see(self, row: Clip | Coded | Reject) -> None:
        self._rejects.of += 1
        if isinstance(row, Reject):
            return self._reject(row.id, row.place, row.reason, row.detail)
        try:
            seen = self._looked_at(row)
        except BadClip as error:
            place = row.audio if isinstance(row, Clip) else row.place
            return self._reject(row.id, place, error.reason, str(error))
        self._count(seen)
        for one in self._checks:
            one.see(seen)
        return None

    def _looked_at(self, row: Clip | Coded) -> Seen:
        if self._source.kind != SOUNDS_ALONE:
            said(row.text)
        if isinstance(row, Coded):
            return Seen(row, row.place)
        audio = load(row)
        return Seen(row, row.audio, audio, fingerprint(row), measure(audio, row.text))

    def _reject(self, id: str, place: str, reason: str, detail: str) -> None:
        self._counts["reason"][reason] += 1
        # Of every reason some are shown: the rarer, the sooner.
        self._rejects.add(-self._counts["reason"][reason], id, place, f"{reason}: {shown(detail, 300)}")

    def _count(self, seen: Seen) -> None:
        self._clips += 1
        for name, value in (
            ("speaker", seen.speaker),
            ("language", seen.language),
            ("split", seen.row.split),
        ):
            self._counts[name][value] += 1
        if seen.audio:
            self._counts["rate"][str(seen.audio.sample_rate)] += 1
        for name in self._values.keys() & seen.measures.keys():
            self._values[name].append(seen.measures[name])

    def findings(self, listening: Disagreeing | None) -> Findings:
        found = [one.found() for one in self._checks]
        spreads = [Spread.of(name, TITLES[name], np.array(v)) for name, v in self._values.items() if v]
        if listening and listening.rates:
            spreads.append(Spread.of("wrong", "Share of letters heard wrongly", np.array(listening.rates)))
        counts = self._counts
        return Findings(
            path=str(self._source.path),
            kind=self._source.kind,
            rows=self._rejects.of,
            clips=self._clips,
            reasons=dict(counts["reason"].most_common()),
            hours=sum(self._values["duration_s"]) / 3600,
            speakers=len(counts["speaker"].keys() - {""}),
            languages=dict(counts["language"].most_common()),
            splits=dict(counts["split"].most_common()),
            rates_hz=dict(counts["rate"].most_common()),
            checks=(self._rejects.check(), *found, *_mixed(counts["rate"])),
            spreads=tuple(spreads),
        )


def _mixed(rates: Counter[str]) -> list[Check]:
    """Return the check of sample rates: many mean recordings of many kinds, and low ones dull sound."""
    low = sum(count for rate, count in rates.items() if int(rate) < 16_000)
    advice = "Sound of less than 16 kHz has no high tones to learn: leave such recordings out."
    verdict = "bad" if low > 0.05 * rates.total() else "look" if low or len(rates) > 3 else "good"
    title = (
        f"Sample rates: {', '.join(f'{rate} Hz ({count})' for rate, count in rates.most_common(6)) or '-'}"
    )
    return [Check("rates", title, verdict, low, rates.total(), advice)]


def _checks(source: Source, bundle: Model | None) -> list[Examination]:
    texts = [] if source.kind == SOUNDS_ALONE else _of_texts()
    sounds = [] if source.coded else _of_sounds()
    asked: list[Examination] = [Unread(bundle), TooLong(bundle)] if bundle else []
    return [*_of_rows(), *texts, *sounds, *asked]


def _of_rows() -> list[Examination]:
    once = "The first is kept, the others are left out."
    apart = "Hold out whole speakers: prepare --held-out speakers."
    return [
        Repeated(About("ids", "Ids used twice", once), lambda seen: seen.row.id),
        Conflicting(
            About("similar-ids", "Ids that differ in case or Unicode form only", "Rename one of them."),
            key=lambda seen: folded(seen.row.id),
            value=lambda seen: seen.row.id,
        ),
        Conflicting(
            About("speakers", "Speakers in several splits", apart, bad=0.01),
            key=lambda seen: seen.speaker,
            value=lambda seen: seen.row.split,
        ),
    ]


def _of_texts() -> list[Examination]:
    spoken = "Write down what is said and nothing else."
    apart = "Keep each text in one split, or results on it mean nothing."
    return [
        Each(About("odd-text", "Odd transcripts", spoken, bad=0.02), _odd),
        Repeated(About("texts", "Texts spoken more than once", "", bad=2.0), _text),
        Conflicting(
            About("split-texts", "Texts in several splits", apart, bad=0.01),
            key=_text,
            value=lambda seen: seen.row.split,
        ),
    ]


def _of_sounds() -> list[Examination]:
    trim = "Prepare trims the ends. Long ones may mean wrong cuts: listen."
    wrong = "Listen: the text or the cut is mostly wrong."
    return [
        Repeated(About("sounds", "The same sound under two ids", "The first is kept."), lambda s: s.digest),
        Unusual(About("letters", "Spoken oddly fast or slowly", wrong), "letters_per_s", "letters/s"),
        Each(About("clipping", "Clipped sound", "Record at a lower level.", bad=0.1), _clipping),
        Each(About("level", "Very quiet or very loud", "Prepare levels them; noise stays.", 0.2), _level),
        Each(About("ends", f"Over {LONG_SILENCE_S:g} s of silence at an end", trim, bad=0.3), _ends),
        Each(About("quiet", "Mostly silence", "Cut them at the pauses, or leave them out."), _quiet),
    ]


def _text(seen: Seen) -> str:
    return " ".join(seen.row.text.casefold().split())


def _odd(seen: Seen) -> tuple[float, str] | None:
    found = oddities(seen.row.text)
    return (len(found), f"{'; '.join(found[:8])}. Text: {shown(seen.row.text)}") if found else None


def _clipping(seen: Seen) -> tuple[float, str] | None:
    share = seen.measures["clipped"]
    return (share, f"{share:.2%} of the samples are at full scale") if share > CLIPPED else None


def _level(seen: Seen) -> tuple[float, str] | None:
    level = seen.measures["level_db"]
    return None if QUIET_DB <= level <= LOUD_DB else (abs(level + 24), f"{level:.1f} dBFS while speaking")


def _ends(seen: Seen) -> tuple[float, str] | None:
    silence_s = seen.measures["ends_s"]
    return (silence_s, f"{silence_s:.1f} s of silence") if silence_s > LONG_SILENCE_S else None


def _quiet(seen: Seen) -> tuple[float, str] | None:
    share = seen.measures["quiet"]
    return (share, f"{share:.0%} of it is quiet") if share > MOSTLY_QUIET else None

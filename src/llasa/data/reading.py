"""The doctor's questions to a model: can it read the texts, do the rows fit, does it hear what is written.

Knows a bundle by what it asks of it only.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Protocol

from rapidfuzz.distance import Levenshtein

from llasa.codec.base import Codec
from llasa.core import Clip
from llasa.data.checks import About, Seen, Worst
from llasa.data.findings import Check
from llasa.data.sources.coded import Coded
from llasa.data.transcripts import shown
from llasa.errors import ConfigError, InputError
from llasa.prompt import Prompt
from llasa.recognizers.base import Recognizer
from llasa.text.reading import Reader, Unit, tokens_of
from llasa.text.written import Written

_TOGETHER = 16  # clips heard at a time
_WRONG = 0.5  # a clip with a larger share of wrong letters is named


class Model(Protocol):
    """What is asked of a bundle; `bundle.Bundle` is one. max_length: of prompt and codes, ids."""

    @property
    def name(self) -> str: ...
    @property
    def max_length(self) -> int: ...
    @property
    def prompt(self) -> Prompt: ...
    @property
    def codec(self) -> Codec: ...
    @property
    def reader(self) -> Reader: ...
    def form(self, text: str, language: str = "en") -> Written:
        """Return a text in the form that the language model reads."""
        ...

    def recognizer(self, name: str) -> Recognizer:
        """Return a recogniser by its name."""
        ...


class Unread:
    """Names rows whose text the model cannot read, or reads without some of its signs."""

    def __init__(self, model: Model) -> None:
        advice = "Say it in the transcript as it is spoken, or choose a model that knows these signs."
        title = f"Signs that '{model.name}' does not read"
        self._worst, self._model = Worst(About("unread", title, advice, 0.2)), model
        self._signs = Counter[str]()

    def see(self, seen: Seen) -> None:
        """See `checks.Examination`."""
        if not seen.row.text:
            return
        self._worst.of += 1
        try:
            form = self._model.form(seen.row.text, seen.language or "en")
        except (InputError, ConfigError) as error:
            self._worst.add(1e6, seen.row.id, seen.place, shown(str(error), 300))
            return
        dropped = list(dict.fromkeys([*form.dropped, *self._model.prompt.text_ids(form.text)[1]]))
        if dropped:
            self._signs.update(dropped)
            signs = " ".join(shown(sign, 12) for sign in dropped[:20])
            self._worst.add(len(dropped), seen.row.id, seen.place, f"left out: {signs}")

    def found(self) -> Check:
        """See `checks.Examination`."""
        if common := self._signs.most_common(12):
            said = ", ".join(f"{shown(sign, 12)} ({count})" for sign, count in common)
            about = self._worst.about
            self._worst.about = About(about.name, f"{about.title}: {said}", about.advice, about.bad)
        return self._worst.check()


class TooLong:
    """Names rows whose prompt and codes are longer than the model can learn."""

    def __init__(self, model: Model) -> None:
        most = model.max_length
        advice = "Cut these recordings at pauses. Training leaves such rows out."
        self._worst = Worst(About("length", f"Rows longer than the model's {most} ids", advice, 0.02))
        self._model, self._most = model, most
        self._codes_per_s = model.codec.sample_rate / model.codec.hop_length

    def see(self, seen: Seen) -> None:
        """See `checks.Examination`."""
        codes = self._codes(seen)
        self._worst.of += 1
        if codes + 1 >= self._most:  # whatever the text
            return self._name(seen, codes)
        try:
            form = self._model.form(seen.row.text, seen.language or "en").text
            prompt = len(self._model.prompt.render(form))
        except (InputError, ConfigError):
            return None  # named by `Unread`
        return self._name(seen, codes + prompt) if codes + prompt + 1 > self._most else None

    def _codes(self, seen: Seen) -> int:
        if isinstance(seen.row, Coded):
            return len(seen.row.codes)
        return round(seen.measures.get("duration_s", 0.0) * self._codes_per_s)

    def _name(self, seen: Seen, length: int) -> None:
        self._worst.add(length, seen.row.id, seen.place, f"{length + 1} ids, {self._most} are the most")

    def found(self) -> Check:
        """See `checks.Examination`."""
        return self._worst.check()


class Disagreeing:
    """Names clips in which a recogniser hears something else than is written, the worst first."""

    def __init__(self, recognizer: Recognizer, reader: Reader) -> None:
        title = f"What '{recognizer.name}' hears is not the text"
        advice = "Listen to the worst. Most are wrong transcripts or cuts; leave those out."
        self._worst = Worst(About("agreement", title, advice))
        self._recognizer, self._reader = recognizer, reader
        self._unit: Unit = "phones" if recognizer.text_form == "phones" else "characters"
        self._waiting: list[Seen] = []
        self.rates: list[float] = []

    def see(self, seen: Seen) -> None:
        """See `checks.Examination`."""
        if isinstance(seen.row, Clip) and seen.row.text and seen.audio is not None:
            self._waiting.append(seen)
        if len(self._waiting) >= _TOGETHER:
            self._hear()

    def _hear(self) -> None:
        heard = self._recognizer.transcribe([seen.audio for seen in self._waiting if seen.audio])
        for seen, transcript in zip(self._waiting, heard, strict=True):
            self._compare(seen, transcript.text)
        self._waiting = []

    def _compare(self, seen: Seen, said: str) -> None:
        try:
            written = tokens_of(self._reader(seen.row.text, self._unit, seen.language))
            heard = tokens_of(self._reader.heard(said, self._recognizer.text_form, self._unit, seen.language))
        except (InputError, ConfigError):
            return  # named by `Unread`, or by the rejects
        self._worst.of += 1
        rate = _rate(written, heard)
        self.rates.append(rate)
        if rate > _WRONG:
            errors = round(rate * len(written))
            why = f"{errors} errors in {len(written)} {self._unit}. Heard: {shown(said)}"
            self._worst.add(rate, seen.row.id, seen.place, why)

    def found(self) -> Check:
        """See `checks.Examination`."""
        if self._waiting:
            self._hear()
        return self._worst.check()


def _rate(written: Sequence[str], heard: Sequence[str]) -> float:
    return Levenshtein.distance(written, heard) / max(1, len(written))

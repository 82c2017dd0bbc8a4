"""Which word of a recording went wrong, and whose fault it most likely is.

Hears it with two recognisers, before and after the codec. Must not know: command lines, files, how the
recording was made.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

import numpy as np

from llasa.align import align
from llasa.audio import SILENCE_PEAK
from llasa.bundle import Bundle
from llasa.codec.base import Codec
from llasa.core import Audio, Utterance, Word, WordStatus, plain
from llasa.errors import ConfigError, InputError
from llasa.recognizers.base import Recognizer, SupportsLikelihood, Transcript
from llasa.scorers.likelihood import in_form
from llasa.scorers.wer import UNITS, compare
from llasa.text.reading import Reader, tokens_of

Fault = Literal["recogniser", "codec", "model", "unclear"]
Place = tuple[int, int]  # of a word in the text: start, end; they are equal for an added one

ROUND_TRIP, CLEAN, CLEAN_ROUND_TRIP = "round trip", "clean", "clean round trip"


@dataclass(frozen=True)
class Hearing:
    """What one recogniser made of one word in one sound; None: not known.

    error: share of the word's tokens that were heard otherwise, 0 or more. confidence: of the recogniser in
    what it heard, [0, 1]. fit: how much better the sound fits the text with the word than without it, nats a
    token of the word; below 0 the word is hardly there.
    """

    heard: str
    status: WordStatus
    error: float | None = None
    confidence: float | None = None
    fit: float | None = None


@dataclass(frozen=True)
class Finding:
    """A word and what was found out about it.

    word: as the bundle's recogniser heard it. fault: whose, None if it was said. evidence: short sentences.
    hearings: by recogniser and sound, such as `first` or `second, clean round trip`; a recogniser that did
    not hear an added word has none.
    """

    word: Word
    fault: Fault | None
    evidence: tuple[str, ...]
    hearings: Mapping[str, Hearing]


@dataclass(frozen=True)
class Diagnosis:
    """What was found out about a recording.

    recognizers: names of the first and the second. errors: share of all tokens heard otherwise, by
    recogniser and sound.
    """

    text: str
    findings: tuple[Finding, ...]
    recognizers: Mapping[str, str]
    errors: Mapping[str, float]

    @property
    def wrong(self) -> tuple[Finding, ...]:
        """The words that the bundle's recogniser did not hear as they stand in the text."""
        return tuple(one for one in self.findings if one.fault)

    def to_json(self) -> dict[str, object]:
        """Return plain values for JSON; a number that is not finite becomes None."""
        return {key: plain(value) for key, value in asdict(self).items()}


def diagnose(
    audio: Audio, text: str, bundle: Bundle, clean: Audio | None = None, second: str | None = "held-out"
) -> Diagnosis:
    """Return which words of a text went wrong in a recording, and whose fault it most likely is.

    A word that the first recogniser, the bundle's, does not hear is the fault of the recogniser if the second
    hears it, or if neither hears it in `clean`; of the codec if it is heard in `clean` but not after a round
    trip through the codec; of the model if neither hears it and the word does not fit the sound.

    Args:
        audio: speech, any rate.
        text: what it should say, English.
        clean: the same text by a person or another synthesiser. Without it the codec is judged by a second
            round trip of `audio`, which gives no more than a hint.
        second: another recogniser, as for `Bundle.recognizer`; None: without it most faults are unclear.

    Raises:
        InputError: a sound is empty or silent, or nothing in the text can be said.
        ConfigError: the bundle has no recogniser of its own, or not the second.
        ScorerError: a recogniser failed.
    """
    bundle.reader(text, "words")  # refuses a text without words
    for sound in (audio, clean) if clean else (audio,):
        _check_sound(sound)
    listeners = {"first": _recognizer(bundle, "bundle")}
    if second is not None:
        listeners["second"] = _recognizer(bundle, second)
    ears = {name: _Ear(one, bundle.reader, text) for name, one in listeners.items()}
    sounds = _sounds(audio, clean, bundle.codec)
    heard = {
        ", ".join(filter(None, (name, label))): ear.hear(sound)
        for name, ear in ears.items()
        for label, sound in sounds.items()
    }
    _measure_fit(ears, heard, audio)
    findings = tuple(_finding(word, heard, list(ears)) for word in heard["first"].words.values())
    names = {name: one.name for name, one in listeners.items()}
    return Diagnosis(text, findings, names, {name: one.error for name, one in heard.items()})


def _check_sound(audio: Audio) -> None:
    peak = float(np.max(np.abs(audio.samples), initial=0.0))
    if peak < SILENCE_PEAK:
        found = f"it has {len(audio.samples)} samples and a peak of {peak:.2g}, which is silence"
        raise InputError(f"Diagnosing a recording: {found}. Give one with speech in it.")


def _recognizer(bundle: Bundle, name: str) -> Recognizer:
    if name in ("bundle", "held-out") and name not in bundle.manifest.recognizers:
        found = f"bundle '{bundle.name}' has no recogniser '{name}'"
        raise ConfigError(f"Diagnosing a recording: {found}. Use a bundle that has one, or name another.")
    return bundle.recognizer(name)


def _sounds(audio: Audio, clean: Audio | None, codec: Codec) -> dict[str, Audio]:
    [again] = codec.decode(codec.encode([clean or audio]))
    return {"": audio, CLEAN: clean, CLEAN_ROUND_TRIP: again} if clean else {"": audio, ROUND_TRIP: again}


@dataclass
class _Heard:
    """What one recogniser heard in one sound. error: share of all tokens."""

    words: dict[Place, Word]
    hearings: dict[Place, Hearing]
    error: float


@dataclass(frozen=True)
class _Ear:
    """A recogniser and the text that it should hear."""

    recognizer: Recognizer
    reader: Reader
    text: str

    def hear(self, audio: Audio) -> _Heard:
        """Return what is heard of each word, but for its fit."""
        form = self.recognizer.text_form
        unit = UNITS[form]
        transcript = self.recognizer.transcribe([audio])[0]
        words = {(w.start, w.end): w for w in align(self.text, transcript, self.reader, form)}
        read = self.reader(self.text, unit)
        found = compare(read, tokens_of(self.reader.heard(transcript.text, form, unit)))
        hearings = dict[Place, Hearing]()
        for place, word in words.items():
            own = [
                pair for pair in zip(read, found.matches, strict=True) if place[0] <= pair[0].start < place[1]
            ]
            size = sum(len(part.tokens) for part, _ in own)
            error = sum(match.errors for _, match in own) / size if size else None
            hearings[place] = Hearing(word.heard, word.status, error, _confidence(transcript, word))
        return _Heard(words, hearings, found.errors / len(tokens_of(read)))

    def fits(self, audio: Audio, places: Sequence[Place]) -> dict[Place, float]:
        """Return the fit of the words at these places, where it can be told."""
        if not isinstance(self.recognizer, SupportsLikelihood) or self.recognizer.text_form == "written":
            return {}
        whole = self._form(self.text)
        without = {place: self._form(self.text[: place[0]] + self.text[place[1] :]) for place in places}
        others = {place: text for place, text in without.items() if text and text != whole}
        likely = self.recognizer.log_likelihood([audio] * (1 + len(others)), [whole, *others.values()])
        size, total = self._size(whole), likely[0] * self._size(whole)
        return {
            place: (total - value * self._size(text)) / max(1, size - self._size(text))
            for (place, text), value in zip(others.items(), likely[1:], strict=True)
            if math.isfinite(total) and math.isfinite(value)
        }

    def _form(self, text: str) -> str:
        """Return a text as the recogniser takes it, empty if no word is left."""
        try:
            return in_form(self.reader, Utterance("", text), self.recognizer.text_form)
        except InputError:
            return ""

    def _size(self, text: str) -> int:
        return len(text.split()) if self.recognizer.text_form == "phones" else len(text)


def _confidence(transcript: Transcript, word: Word) -> float | None:
    if word.start_s is None or word.end_s is None:
        return None
    rows = zip(transcript.spans, transcript.logprobs, strict=False)  # logprobs may be unknown
    own = [logprob for (start, end), logprob in rows if word.start_s <= (start + end) / 2 <= word.end_s]
    return math.exp(sum(own) / len(own)) if own else None


def _measure_fit(ears: Mapping[str, _Ear], heard: Mapping[str, _Heard], audio: Audio) -> None:
    wrong = [place for place, word in heard["first"].words.items() if word.status in ("changed", "missed")]
    for name, ear in ears.items() if wrong else ():
        known = heard[name].hearings
        for place, fit in ear.fits(audio, wrong).items():
            known[place] = replace(known[place], fit=fit)


def _finding(word: Word, heard: Mapping[str, _Heard], ears: Sequence[str]) -> Finding:
    place = (word.start, word.end)
    hearings = {name: one.hearings[place] for name, one in heard.items() if place in one.hearings}
    if word.status == "said":
        return Finding(word, None, (), hearings)
    right = {name: _right(place, one) for name, one in heard.items()}
    fits = [one.fit for name in ears if (one := hearings.get(name)) and one.fit is not None]
    fault, reason = _verdict(right, ears, fits)
    told = [_sentence(name, hearings.get(name), right[name]) for name in heard]
    return Finding(word, fault, (reason, *told, *_hint(hearings, ears)), hearings)


def _right(place: Place, heard: _Heard) -> bool:
    """Tell whether a word was heard as it stands, or an added one not even as a part of its neighbours."""
    if place in heard.words:
        return heard.words[place].status == "said"
    before = [word for word in heard.words.values() if word.end <= place[0]]
    after = [word for word in heard.words.values() if word.start >= place[1]]
    return all(word.status == "said" for word in (*before[-1:], *after[:1]))


def _verdict(right: Mapping[str, bool], ears: Sequence[str], fits: Sequence[float]) -> tuple[Fault, str]:
    """Return whose fault a wrong word is, and why. right: by recogniser and sound."""
    with_clean = f"first, {CLEAN}" in right
    witnesses = [ear for ear in ears if not with_clean or right[f"{ear}, {CLEAN}"]]
    absent = bool(fits) and max(fits) < 0
    if not witnesses:
        return "recogniser", "No recogniser hears the word in the clean recording either."
    if any(right[ear] for ear in witnesses):
        if absent:
            return "unclear", "Another recogniser hears the word, but it does not fit the sound."
        return "recogniser", "Another recogniser hears the word as it should be."
    if with_clean:
        lost = [not right[f"{ear}, {CLEAN_ROUND_TRIP}"] for ear in witnesses]
        if all(lost):
            return "codec", "The word is heard in the clean recording, but not after the codec's round trip."
        if any(lost):
            return (
                "unclear",
                "After the codec's round trip one recogniser hears the clean word, one does not.",
            )
        return "model", "The word is heard in a clean recording, also after the codec, but not here."
    if len(ears) == 1:
        return "unclear", "Only one recogniser listened, and there is no clean recording."
    if fits and not absent:
        return "unclear", "Neither recogniser hears the word, yet it fits the sound."
    return "model", "Neither recogniser hears the word" + (", nor does it fit the sound." if fits else ".")


def _sentence(name: str, hearing: Hearing | None, right: bool) -> str:
    if hearing is None:
        return f"{name}: no added word" + ("." if right else ", but a word beside it was heard otherwise.")
    numbers = {"error": hearing.error, "confidence": hearing.confidence, "fit": hearing.fit}
    told = [f"{key} {value:.2f}" for key, value in numbers.items() if value is not None]
    what = f"heard {hearing.heard!r}" if hearing.heard else "heard nothing"
    return f"{name}: {hearing.status}, " + ", ".join((what, *told)) + "."


def _hint(hearings: Mapping[str, Hearing], ears: Sequence[str]) -> tuple[str, ...]:
    pairs = [(hearings.get(ear), hearings.get(f"{ear}, {ROUND_TRIP}")) for ear in ears]
    known = [(given.heard, again.heard) for given, again in pairs if given and again]
    if not known:
        return ()
    if all(given == again for given, again in known):
        return ("Hint: the codec does not change what is heard.",)
    return ("Hint: once more through the codec it is heard differently.",)

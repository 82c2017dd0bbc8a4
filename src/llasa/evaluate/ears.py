"""What is measured of a line once it is said. One of each measure for all systems, so that they compare.

Must not know how a line was said, or what is done with the numbers. What cannot be measured is told with a
reason and never guessed.
"""

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llasa.align import align
from llasa.bundle import Bundle
from llasa.core import Audio, Candidate, Score, Utterance, Voice
from llasa.errors import BundleError, ConfigError, InputError, MissingExtra, ScorerError
from llasa.evaluate.plan import Plan, label
from llasa.evaluate.seed_tts import LANGUAGES, SeedTtsRate
from llasa.evaluate.sets import Line
from llasa.evaluate.systems import Said
from llasa.judge import Part
from llasa.recognizers.base import Recognizer, SupportsLikelihood
from llasa.scorers.asked import answers
from llasa.scorers.base import CODES, Scorer, load_scorer
from llasa.scorers.checks import expectation
from llasa.scorers.likelihood import Likelihood
from llasa.scorers.prosody import measure
from llasa.scorers.similarity import Similarity
from llasa.scorers.wer import RATES, ErrorRate
from llasa.text.normalize import language_code
from llasa.text.reading import Unit, tokens_of

PROSODY = ("f0_median_hz", "f0_range_st", "level_db", "pauses", "pause_share", "speech_s")
_log = logging.getLogger(__name__)


@dataclass
class Heard:
    """What was measured of a line.

    measures: numbers by name, and which recogniser where one did it, as in `wer:pocketsphinx`. heard: what it
    heard. words: of the text as given, what was heard in place of each, and its status. missing: reasons.
    """

    measures: dict[str, float] = field(default_factory=dict[str, float])
    heard: dict[str, str] = field(default_factory=dict[str, str])
    words: dict[str, list[list[str]]] = field(default_factory=dict[str, list[list[str]]])
    missing: dict[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True)
class _Listener:
    """A recogniser and what is asked of it."""

    label: str
    recognizer: Recognizer
    rates: Mapping[str, ErrorRate]
    likelihood: Likelihood | None


class Ears:
    """Listens.

    missing: what is not measured at all, and why. listeners: names of recognisers by what reports call them.
    """

    def __init__(self, plan: Plan, bundle: Bundle) -> None:
        """Load what listens; what is not there is told in `missing` and in the log.

        Raises:
            ConfigError: a recogniser, scorer or option that nobody knows.
        """
        self.bundle, self.missing = bundle, dict[str, str]()
        self._listeners = list(self._recognizers(plan.recognizers))
        self.listeners = {one.label: one.recognizer.name for one in self._listeners}
        self._parts = [part for block in plan.scorers for part in self._scorer(block)]
        self._similarity = self._try("similarity", lambda: self._embedding(plan.similarity))
        self._emotion = self._try("emotion", lambda: self._embedding(plan.emotion, emotion=True))
        self._seed = plan.seed_tts_eval and self._try("seed-tts-eval", lambda: SeedTtsRate("en")) is not None
        for name, reason in self.missing.items():
            _log.warning("Not measured: %s: %s", name, reason)

    def _try(self, name: str, make: Callable[[], Any]) -> Any:
        try:
            return make()
        except (MissingExtra, BundleError, ScorerError) as error:
            self.missing[name] = str(error)
            return None

    def _recognizers(self, specs: Sequence[str]) -> Iterator[_Listener]:
        for spec in specs:
            found: Recognizer | None = self._try(label(spec), lambda spec=spec: self.bundle.recognizer(spec))
            if found is not None:
                phones = found.text_form == "phones"
                units: tuple[Unit, ...] = ("phones",) if phones else ("words", "characters")
                rates = {RATES[unit]: ErrorRate(found, self.bundle.reader, unit) for unit in units}
                yield _Listener(label(spec), found, rates, self._likelihood(found))

    def _likelihood(self, recognizer: Recognizer) -> Likelihood | None:
        able: Any = recognizer if isinstance(recognizer, SupportsLikelihood) else None
        return Likelihood(able, self.bundle.reader) if able is not None else None

    def _scorer(self, block: Any) -> Iterator[Part]:
        name = block.label or block.name
        found: Scorer | None = self._try(
            name, lambda: load_scorer(block.name, block.model_extra or {}, self.bundle.parts)
        )
        if found is not None:
            yield Part(found, label=block.label)

    def _embedding(self, model: str | None, emotion: bool = False) -> Similarity | None:
        if model is None:
            return None
        kind = ("AutoModelForAudioClassification", "logits") if emotion else ("WavLMForXVector", "embeddings")
        return Similarity(self.bundle.codec, model, kind=kind[0], output=kind[1])

    def problem(self, line: Line) -> str | None:
        """Return why what is heard of a line could not be compared with it, None if it can."""
        language = line.language or self.bundle.language(line.text)
        try:
            expectation(self.bundle.reader, line.text, language)
            self._count(Heard(), Utterance(line.name, line.text, None, language))
        except (ConfigError, InputError) as error:
            return str(error)
        return None

    def listen(self, line: Line, said: Said) -> Heard:
        """Return what is measured of a line.

        Raises:
            ScorerError: a recogniser failed, so that the line has no verdict; the same may work later.
        """
        heard = Heard()
        language = line.language or self.bundle.language(line.text)
        utterance = Utterance(line.name, line.text, None, language)
        heard.measures["units"] = expectation(self.bundle.reader, line.text, language)[1]
        self._count(heard, utterance)
        if said.audio is None:
            return heard
        candidate = Candidate(utterance, said.codes or [], "stop", audio=said.audio)
        for listener in self._listeners:
            self._hear(listener, candidate, heard)
        self._like(said, candidate, heard)
        self._prosody(said.audio, heard)
        for part in self._parts:
            self._score(part, said, candidate, heard)
        return heard

    def _count(self, heard: Heard, said: Utterance) -> None:
        """Tell how many tokens there are to say, also of a line that nobody heard."""
        for listener in self._listeners:
            for name, rate in listener.rates.items():
                tokens = tokens_of(self.bundle.reader(said.text, rate.unit, said.language))
                heard.measures[f"tokens.{name}:{listener.label}"] = len(tokens)

    def _hear(self, listener: _Listener, candidate: Candidate, heard: Heard) -> None:
        said, name = candidate.utterance, listener.label
        assert candidate.audio is not None
        try:
            [transcript] = listener.recognizer.transcribe([candidate.audio])
        except InputError as error:
            heard.missing[name] = str(error)
            return
        heard.heard[name] = transcript.text
        form = "phones" if listener.recognizer.text_form == "phones" else "written"  # whole words read better
        words = align(said.text, transcript, self.bundle.reader, form, said.language)
        heard.words[name] = [[word.text, word.heard, word.status] for word in words]
        for key, rate in listener.rates.items():
            [score] = rate.score([candidate])
            heard.measures[f"{key}:{name}"] = score.measures[key]
        self._seed_tts(listener, said, transcript.text, heard)
        if listener.likelihood:
            self._keep(answers(listener.likelihood, [candidate])[0], {"nll": f"nll:{name}"}, "nll", heard)

    def _seed_tts(self, listener: _Listener, said: Utterance, transcript: str, heard: Heard) -> None:
        if self._seed and "wer" in listener.rates and language_code(said.language) in LANGUAGES:
            heard.measures[f"seed:{listener.label}"] = SeedTtsRate(said.language)(said.text, transcript)

    def _like(self, said: Said, candidate: Candidate, heard: Heard) -> None:
        """Compare with the reference: the recording (SIM-o), and what the codec makes of it (SIM-r)."""
        wanted = (
            ("sim_o", self._similarity, said.reference), ("sim_r", self._similarity, said.decoded),
            ("emotion", self._emotion, said.reference),
        )  # fmt: skip
        for key, scorer, reference in wanted:
            if scorer is not None and reference is not None:
                voice = Voice("reference", "", [0], "", reference)
                spoken = Utterance(candidate.utterance.id, candidate.utterance.text, voice)
                asked = Candidate(spoken, candidate.codes, candidate.finish, audio=candidate.audio)
                self._keep(answers(scorer, [asked])[0], {"sim": key}, key, heard)

    def _prosody(self, audio: Audio, heard: Heard) -> None:
        found = measure(audio)
        heard.measures |= {name: found[name] for name in PROSODY}
        if found["speech_s"]:
            heard.measures["rate"] = heard.measures["units"] / found["speech_s"]

    def _score(self, part: Part, said: Said, candidate: Candidate, heard: Heard) -> None:
        if part.scorer.cost == CODES and (said.codes is None or said.codec != self.bundle.codec.name):
            heard.missing[part.name] = (
                "it looks at codes, and those of this system are not known or of another codec"
            )
            return
        score = answers(part.scorer, [candidate])[0]
        keys = part.measures(score) if isinstance(score, Score) else {}
        self._keep(score, {}, part.name, heard)
        heard.measures |= {key: value for key, value in keys.items() if math.isfinite(value)}

    @staticmethod
    def _keep(score: Score | str, keys: Mapping[str, str], name: str, heard: Heard) -> None:
        if isinstance(score, str):
            heard.missing[name] = score
            return
        heard.measures |= {key: score.measures[own] for own, key in keys.items() if own in score.measures}

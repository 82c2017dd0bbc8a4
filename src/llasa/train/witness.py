"""The held-out panel: fixed lines that the current weights say, heard by models that never steer.

Must not know: trainers,
limits, what is done with what was heard.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, Field

from llasa import config
from llasa.bundle import Bundle
from llasa.core import Audio, Candidate, Judged, Status, Utterance
from llasa.data.texts import spread, texts_in
from llasa.errors import ConfigError, InputError, MissingExtra, ScorerError
from llasa.judge import Judge, Part, Rubric
from llasa.recipe import HELD_OUT
from llasa.scorers.base import Parts, Scorer, load_scorer
from llasa.scorers.checks import expectation
from llasa.scorers.prosody import Prosody
from llasa.scorers.wer import RATES, ErrorRate
from llasa.synthesizer import Synthesizer
from llasa.text.reading import tokens_of
from llasa.text.segment import segment

# What may tell, best first. `timbre` and `noise` are always there, and cruder.
SPEAKERS = {"resemblyzer": "similarity", "timbre": "timbre"}
OPINIONS = {"dnsmos": "naturalness", "noise": "noise"}
WINDOW_S = 9.02  # DNSMOS needs 9.01; the rest is for rounding
UNJUDGED = 0.1  # share of lines without a verdict from which on the panel says nothing
_log = logging.getLogger(__name__)


class WitnessBlock(BaseModel):
    """What is said and who hears it.

    texts: a file of one text a line, short enough for one go; the built-in English ones if None. lines: so
    many of them, spread over all lengths. takes: how often each is said, other seeds. voices: take turns;
    the bundle's default one if None. language: of the texts; as for any text if None. recognizer: of another
    family than what steers.
    similarity, mos: what tells them; the best that is installed and does not steer if None, which the log
    says. `noise` stands on the scale of opinions, from 1 to 5. opinions: lines that one is asked of, for that
    is dear, spread over all lengths; of each the first 9 seconds, repeated up to there.
    """

    model_config = config.STRICT
    texts: str | None = None
    lines: int = Field(default=40, ge=2)
    takes: int = Field(default=1, ge=1)
    voices: list[str] | None = Field(default=None, min_length=1)
    language: str | None = None
    recognizer: str = HELD_OUT
    similarity: Literal["resemblyzer", "timbre"] | None = None
    mos: Literal["dnsmos", "noise"] | None = None
    opinions: int = Field(default=16, ge=2)


@dataclass(frozen=True)
class Line:
    """One line of the panel, said once; NaN where there is nothing to measure.

    errors, tokens: of the recogniser's own unit. units: phones or letters of the text; rate: of them a second
    of speech, pauses left out. similarity: to the voice. mos: from 1 to 5. pitch_range: semitones.
    """

    line: int
    take: int
    text: str
    voice: str | None
    finish: str
    status: Status
    reason: str
    tokens: float
    units: float
    errors: float = math.nan
    rate: float = math.nan
    similarity: float = math.nan
    mos: float = math.nan
    pitch_range: float = math.nan
    duration_s: float = 0.0

    @property
    def failed(self) -> bool:
        """Whether it was not speech that ended by itself."""
        return self.status == "bad"


def line_of(row: Mapping[str, Any]) -> Line:
    """Return a line from what JSON kept of it, where null stands for NaN."""
    known: dict[str, Any] = {key: math.nan if value is None else value for key, value in row.items()}
    known.pop("step", None)
    return Line(**known | {"voice": row["voice"]})


class Witness:
    """Has the lines said and listens to them."""

    def __init__(self, block: WitnessBlock, bundle: Bundle, rubric: Rubric | None) -> None:
        """Take what steers, so as not to listen with it; None if that is not known, which is warned of.

        Raises:
            ConfigError: the texts cannot be read, the recogniser steers or is not there, or so does what was
                named to measure similarity or opinion.
            MissingExtra, BundleError: what was named is not installed, or damaged.
        """
        self.block, self.bundle = block, bundle
        self.texts = read_texts(block)
        _check_lengths(self.texts, block.language, bundle)
        steering = [part.scorer for part in rubric.parts if not part.held_out] if rubric else []
        if rubric is None:
            _log.warning("The panel cannot tell whether its recogniser steers: the judge is elsewhere.")
        self._heard = _error_rate(block.recognizer, bundle, steering)
        self.by = {"wer": self._heard.recognizer.name, "unit": self._heard.unit}
        parts = [self._heard, Prosody(bundle.codec, bundle.reader)]
        names = {scorer.name for scorer in steering}
        if block.voices or bundle.default_voice is not None:
            parts.append(self._chosen("similarity", SPEAKERS, names))
        else:
            _log.warning("The panel speaks without a voice: similarity is not measured.")
        self.critic = Judge(bundle.codec, self._chosen("mos", OPINIONS, names))
        self.judge = Judge(bundle.codec, Rubric([Part(scorer) for scorer in parts], "mean"))

    def _chosen(self, measure: str, known: Mapping[str, str], steering: set[str]) -> Scorer:
        """Return what measures similarity or opinion: the one named, or the first that can and may."""
        wanted: str | None = getattr(self.block, measure)
        if wanted is not None and known[wanted] in steering:
            todo = f"Name another guard.{measure}, or leave it out of [judge]"
            raise ConfigError(f"Guarding {measure} by '{wanted}': it steers, so it cannot tell. {todo}.")
        order = [wanted] if wanted else sorted(known, key=lambda name: known[name] in steering)
        name, scorer = _first(order, known, self.bundle.parts)
        self.by[measure] = name
        _log.info("The panel measures %s by %s.", measure, name)
        if known[name] in steering:
            _log.warning("The panel measures %s by %s, which steers too: it may be pleased.", measure, name)
        return scorer

    def listen(self, synthesizer: Synthesizer) -> list[Line]:
        """Return what was heard of each line and take, all drawn in one batch.

        Raises:
            ConfigError: no such voice or language. InputError: a text cannot be said; names its line.
            EngineError: the model failed. ScorerError: too many lines got no verdict.
        """
        voices = [synthesizer.voice(name) for name in self.block.voices or [None]]
        jobs = []
        for take in range(self.block.takes):
            for number, text in enumerate(self.texts):
                voice = voices[number % len(voices)]
                try:
                    job = synthesizer.job(text, voice, take, self.block.language)
                except InputError as error:
                    raise InputError(f"Guarding with line {number + 1} of the panel: {error}") from error
                jobs.append((number, take, job))
        engine, prompt = synthesizer.bundle.engine, synthesizer.bundle.prompt
        # Where an engine can let them begin in one step, a panel said again is the same bit for bit.
        with getattr(engine, "together", nullcontext)():
            requests = [engine.submit(job.prompt, job.params) for _, _, job in jobs]
        made = [request.result()[0] for request in requests]
        candidates = [
            Candidate(replace(job.utterance, id=f"line {number + 1}"), prompt.codes(one.ids), one.finish)
            for (number, _, job), one in zip(jobs, made, strict=True)
        ]
        judged = self.judge.judge(candidates)
        _check_verdicts(judged)
        lines = [self._line(number, take, one) for (number, take, _), one in zip(jobs, judged, strict=True)]
        return self._criticised(lines, judged)

    def _criticised(self, lines: Sequence[Line], judged: Sequence[Judged]) -> list[Line]:
        """Return the lines with an opinion of some of them."""
        some = spread(len(lines), self.block.opinions)
        asked = [place for place in some if judged[place].status == "scored"]
        found = self.critic.judge([_at_once(judged[place].candidate) for place in asked])
        opinions = {place: _opinion(one) for place, one in zip(asked, found, strict=True)}
        return [replace(line, mos=opinions.get(place, math.nan)) for place, line in enumerate(lines)]

    def _line(self, number: int, take: int, judged: Judged) -> Line:
        candidate, said = judged.candidate, judged.candidate.utterance
        tokens = len(tokens_of(self.bundle.reader(said.text, self._heard.unit, said.language)))
        units = expectation(self.bundle.reader, said.text, said.language)[1]
        codec = self.bundle.codec
        duration_s = len(candidate.codes) * codec.hop_length / codec.sample_rate
        name = said.voice.name if said.voice else None
        line = Line(
            number, take, said.text, name, candidate.finish, judged.status, judged.reason, tokens, units,
            duration_s=duration_s,
        )  # fmt: skip
        if judged.status != "scored" or judged.score is None:
            return line
        return replace(line, **self._measures(judged.score.measures, said, tokens, units))

    def _measures(
        self, found: Mapping[str, float], said: Utterance, tokens: int, units: int
    ) -> dict[str, float]:
        speech_s = found["speech_s"]
        alike = found["sim"] if "sim" in found else found.get("timbre.value", math.nan)
        return {
            "errors": found[RATES[self._heard.unit]] * tokens,
            "rate": units / speech_s if speech_s else math.nan,
            "similarity": alike if said.voice else math.nan,
            "pitch_range": found["f0_range_st"],
        }


def read_texts(block: WitnessBlock) -> list[str]:
    """Return the panel's texts, short ones first; of more than `lines` those spread evenly over lengths.

    Raises:
        ConfigError: the file is missing or no UTF-8, or holds fewer than two texts.
    """
    named = Path(block.texts) if block.texts else None
    texts = sorted(dict.fromkeys(text for _, text in texts_in(named, "Reading the panel's texts")), key=len)
    if len(texts) < 2:
        raise ConfigError(f"Reading the panel's texts: found {len(texts)}. Give two or more, one a line.")
    return [texts[place] for place in spread(len(texts), block.lines)]


def _check_lengths(texts: Sequence[str], language: str | None, bundle: Bundle) -> None:
    """Refuse texts that speaking would cut: nothing learns to say them in one go."""
    long = [text for text in texts if len(segment(text, language=language or bundle.language(text))) > 1]
    if long:
        found = f"{len(long)} are too long to be said in one go, such as {long[0][:60]!r}"
        raise ConfigError(f"Reading the panel's texts: {found}. Shorten or cut them.")


def _at_once(candidate: Candidate) -> Candidate:
    """Return a candidate with as much sound as DNSMOS hears at once: more would be heard second by second."""
    if candidate.audio is None or not len(candidate.audio.samples):
        return candidate
    rate = candidate.audio.sample_rate
    return replace(candidate, audio=Audio(np.resize(candidate.audio.samples, round(WINDOW_S * rate)), rate))


def _opinion(judged: Judged) -> float:
    found = judged.score.measures if judged.score else {}
    return found["mos"] if "mos" in found else 1 + 4 * found.get("noise.value", math.nan)


def _error_rate(name: str, bundle: Bundle, steering: Sequence[Scorer]) -> ErrorRate:
    doing = f"Guarding with the recogniser '{name}'"
    if name == HELD_OUT and name not in bundle.manifest.recognizers:
        todo = "Name guard.recognizer, such as pocketsphinx, of another family than what steers"
        raise ConfigError(f"{doing}: bundle '{bundle.name}' has no second one. {todo}.")
    recognizer = bundle.recognizer(name)
    heard_by = {getattr(getattr(scorer, "recognizer", None), "name", None) for scorer in steering}
    if recognizer.name in heard_by:
        found = f"'{recognizer.name}' steers, and what is learnt is to please it"
        raise ConfigError(f"{doing}: {found}. Name one of another family in guard.recognizer.")
    return ErrorRate(recognizer, bundle.reader)


def _first(order: Sequence[str], known: Mapping[str, str], parts: Parts) -> tuple[str, Scorer]:
    """Return the first that is installed."""
    for name in order[:-1]:
        try:
            return name, load_scorer(known[name], {}, parts)
        except MissingExtra as error:
            _log.warning("The panel does without %s: %s", name, error)
    return order[-1], load_scorer(known[order[-1]], {}, parts)


def _check_verdicts(judged: Sequence[Judged]) -> None:
    reasons = [one.reason for one in judged if one.status == "unjudged"]
    if len(reasons) > UNJUDGED * len(judged):
        found = f"{len(reasons)} of {len(judged)} lines got no verdict ({reasons[0]})"
        raise ScorerError(f"Listening to the panel: {found}. See to what listens, then run it again.")

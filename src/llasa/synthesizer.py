"""The conductor: text -> segments -> ids -> codes -> sound. The only file that knows the order of the steps.

It must not know files of sound, command lines or the inside of any part.
"""

import logging
import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from os import PathLike, fspath
from pathlib import PurePath
from typing import TypeVar, Unpack

from llasa.bundle import Bundle, Options, load_bundle
from llasa.core import Audio, Candidate, Codes, Generation, Utterance, Voice
from llasa.engines.base import Request
from llasa.errors import ConfigError
from llasa.flow import Drawn, Part, flowing, heard
from llasa.jobs import Ready, codes_per_s, ready
from llasa.judge import Judge, build_judge
from llasa.manifest import Sampling
from llasa.receipt import Receipt, receipt_of
from llasa.recipe import HELD_OUT, Effort, Recipe, build_search, build_streaming, read_recipe, with_witness
from llasa.search import Job, Means, Ranking, followed
from llasa.spoken import EDGE_SILENCE_S, Spoken, concatenated, voiced
from llasa.stream import behind, held_back
from llasa.text.segment import Segment, segment
from llasa.voice import check_codec
from llasa.voice import load as load_voice

VoiceLike = Voice | str | PathLike[str]

T = TypeVar("T")

_log = logging.getLogger(__name__)


class Synthesizer:
    """Speaks with the parts of a bundle.

    Sampling parameters are the fields of `manifest.Sampling`; those not given are the bundle's. The same
    text, voice, seed and parameters give the same sound on the same machine.
    """

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self._efforts: dict[int, Effort] = {}  # a judge remembers voices: not to be made for each text

    def warm_up(self) -> None:
        """Load every part now, so that the first text does not wait for it."""
        _ = self.bundle.codec, self.bundle.prompt, self.bundle.phonemizer, self.bundle.engine
        behind(self.bundle.codec)  # its streaming decoder, if it has one

    def say(
        self,
        text: str,
        voice: VoiceLike | None = None,
        seed: int = 0,
        effort: int | Effort = 1,
        language: str | None = None,
        **sampling: object,
    ) -> Audio:
        """Return a text as speech.

        Args:
            text: as people write it, of any length.
            voice: a name, a `Voice` or the path of a voice file; the bundle's default voice if None.
            seed: any integer.
            effort: candidates a segment; the judge's best is kept. 1: the first is taken, unjudged.
            language: of the text, a code such as "en" or "zh"; if None English, or, where the model reads
                other scripts, as the text's letters suggest.
            sampling: such as `temperature=0.6`.

        Raises:
            InputError: nothing in the text can be said, or the voice is too long.
            ConfigError: no such voice, a language that the model does not read, or a sampling parameter is
                unknown or out of range.
            BundleError: a part of the bundle is damaged, or the voice belongs to another codec.
            EngineError: the language model failed, or gave no speech at all.
            ScorerError: no candidate of a segment got a verdict.
        """
        return concatenated(voiced(self.speak(text, voice, seed, effort, language, **sampling)))

    def stream(
        self,
        text: str,
        voice: VoiceLike | None = None,
        seed: int = 0,
        effort: int | Effort = 1,
        language: str | None = None,
        told: Callable[[Spoken], None] | None = None,
        **sampling: object,
    ) -> Iterator[Audio]:
        """Return an iterator over the speech of a text, piece by piece, with the pauses between segments.

        With effort 1 they come while they are drawn, and are of the codes that `say` has: by the codec's
        streaming decoder, or in windows near to the sound of `say` (`stream.decode_stream`). Else as the
        search commits them (`Effort.streaming`), or segment by segment where it does not. A machine that is
        late draws fewer candidates, and a seed then gives another sound. Arguments and errors as for `say`;
        what can be refused is refused at once.

        Args:
            told: is given each segment once it is said, with the sound that was given.
        """
        segments, jobs, chosen = self._asked(text, voice, seed, effort, language, sampling)
        parts = (
            self._searched(segments, jobs, chosen, streams=True)
            if chosen
            else Drawn(self.bundle, segments, jobs).parts()
        )
        return flowing(parts, told or _warn)

    def speak(
        self,
        text: str,
        voice: VoiceLike | None = None,
        seed: int = 0,
        effort: int | Effort = 1,
        language: str | None = None,
        **sampling: object,
    ) -> Iterator[Spoken]:
        """Return an iterator over the segments of a text, said, with all that is known of each.

        A segment that loops, runs into the limit or stays empty is given like any other: see
        `Spoken.warnings`. Arguments and errors as for `stream`.
        """
        segments, jobs, chosen = self._asked(text, voice, seed, effort, language, sampling)
        if chosen is None:
            return self._speak(segments, jobs)
        return map(_unheard, self._searched(segments, jobs, chosen, streams=False))

    def _asked(
        self,
        text: str,
        voice: VoiceLike | None,
        seed: int,
        effort: int | Effort,
        language: str | None,
        sampling: Mapping[str, object],
    ) -> tuple[list[Segment], list[Ready], Effort | None]:
        """Return the segments of a text, each made ready, and how to search for them, None if not at all."""
        chosen = effort if isinstance(effort, Effort) else None if effort == 1 else self._usual(effort)
        if chosen is not None and chosen.temperature is not None:
            sampling = {"temperature": chosen.temperature, **sampling}
        language = language or self.bundle.language(text)
        segments, speaker = segment(text, language=language), self.voice(voice)
        said = (Utterance(str(i), part.text, speaker, language) for i, part in enumerate(segments))
        return segments, [self._job(utterance, 1, seed, sampling) for utterance in said], chosen

    def effort(
        self,
        n: int | None = None,
        recipe: Recipe | None = None,
        *,
        target: float | None = None,
        deadline_s: float | None = None,
        deadline_x: float | None = None,
        judge: Judge | None = None,
    ) -> Effort:
        """Return how to search: a judge and a strategy, loaded and ready.

        Args:
            n: candidates a segment; the recipe's if None.
            recipe: the bundle's own if None.
            target: a value in [0, 1]; candidates come in waves until one reaches it.
            deadline_s, deadline_x: see `Effort`.
            judge: the recipe's, made before.

        Raises:
            ConfigError: `n` is below 1, the bundle has no judge of its own, or the recipe is not possible.
            MissingExtra, BundleError: what a scorer needs is missing or damaged.
        """
        recipe = recipe or self.recipe()
        if HELD_OUT in self.bundle.manifest.recognizers:
            recipe = with_witness(recipe)
        judge = judge or build_judge(recipe.judge, self.bundle.parts)
        waves = deadline_s is not None or deadline_x is not None
        search = build_search(recipe, judge, self.bundle.parts, n, target, waves)
        many = recipe.search.n if n is None else n
        streaming = build_streaming(recipe, judge, self.bundle.parts, many, target)
        limits = deadline_s, deadline_x, recipe.search.temperature
        return Effort(search, judge, *limits, recipe=recipe, streaming=streaming)

    def _usual(self, n: int) -> Effort:
        """Return the effort of the bundle's own recipe, made once."""
        if n not in self._efforts:
            self._efforts[n] = self.effort(n)
        return self._efforts[n]

    def recipe(self, path: str | PathLike[str] | None = None) -> Recipe:
        """Return the recipe in a file, with the bundle's own [judge] if it has a [search] only.

        Args:
            path: the bundle's own recipe if None.

        Raises:
            ConfigError: the bundle has no judge of its own, or the file is no recipe.
        """
        if path is not None:
            return read_recipe(path, self.bundle.judge)
        if self.bundle.judge is None:
            found = f"bundle '{self.bundle.name}' has no judge of its own"
            raise ConfigError(f"Searching: {found}. Name a recipe with a [judge] table, or use effort 1.")
        return read_recipe(self.bundle.judge)

    def receipt(self, text: str, spoken: Sequence[Spoken], effort: Effort) -> Receipt:
        """Return what was heard of a text that was searched for with `effort`, word by word.

        Args:
            spoken: all that `speak` gave for the text.
        """
        first = spoken[0]
        voice = first.candidate.utterance.voice
        heard_meanwhile = any(one.ranking and one.ranking.pace for one in spoken)
        search = (effort.streaming if heard_meanwhile else None) or effort.search
        made = {
            "bundle": self.bundle.name,
            "codec": self.bundle.codec.name,
            "voice": voice.name if voice else None,
            "language": first.candidate.utterance.language,
            "engine": self.bundle.engine.name,
            "dtype": getattr(self.bundle.engine, "dtype", None),
            "drafts": getattr(self.bundle.engine, "drafts", None),
            "sampling": {key: getattr(first.params, key) for key in ("seed", *Sampling.model_fields)},
            "search": type(search).__name__,
            "candidates": getattr(search, "n", None),
            "recipe": effort.recipe.model_dump(exclude_none=True) if effort.recipe else None,
            "deadline_s": effort.deadline_s,
            "deadline_x": effort.deadline_x,
        }
        return receipt_of(text, spoken, effort.judge, self.bundle.parts, made)

    def candidates(
        self,
        text: str,
        voice: VoiceLike | None = None,
        n: int = 1,
        seed: int = 0,
        language: str | None = None,
        **sampling: object,
    ) -> list[Candidate]:
        """Return `n` attempts at saying a text in one go; candidate i does not depend on `n`.

        Args:
            text: short enough for one go; `text.segment.segment` cuts longer ones.
            n: how many, 1 or more.

        Returns:
            Candidates in order, with `audio` where there are codes. Other arguments and errors as for `say`.
        """
        job = self._job(
            Utterance("0", text, self.voice(voice), language or self.bundle.language(text)), n, seed, sampling
        )
        return self._heard(job, self._submit(job).result())

    def means(self, judge: Judge, streams: bool = False) -> Means:
        """Return what a search strategy works with; streams: somebody listens meanwhile."""
        rate = codes_per_s(self.bundle)
        if not streams:
            return Means(self.bundle.engine, judge, self.bundle.prompt.codes, rate)
        silence = math.ceil(EDGE_SILENCE_S * rate)  # it may be the end, of which so much is kept
        early, later = held_back(self.bundle.codec)
        held = early + silence, later + silence
        return Means(self.bundle.engine, judge, self.bundle.prompt.codes, rate, held)

    def job(
        self,
        text: str,
        voice: VoiceLike | None = None,
        seed: int = 0,
        language: str | None = None,
        **sampling: object,
    ) -> Job:
        """Return one utterance made ready for a search strategy; arguments and errors as for `candidates`."""
        return self._job(
            Utterance("0", text, self.voice(voice), language or self.bundle.language(text)), 1, seed, sampling
        )

    def voice(self, voice: VoiceLike | None) -> Voice | None:
        """Return the voice to speak with, checked against the codec; None if the bundle has no default.

        Raises:
            ConfigError: no such voice. BundleError: a damaged file, or codes of another codec.
        """
        if voice is None and self.bundle.default_voice is None:
            return None
        # A voice of the user's may have the default's name, and another codec.
        own = self.bundle.folder / "voices" / f"{self.bundle.default_voice}.safetensors"
        chosen = own if voice is None else voice
        if not isinstance(chosen, Voice):
            chosen = load_voice(chosen) if _is_path(chosen) else self.bundle.voices.get(fspath(chosen))
        check_codec(chosen, self.bundle.codec)
        return chosen

    def _job(self, utterance: Utterance, n: int, seed: int, sampling: Mapping[str, object]) -> Ready:
        return ready(self.bundle, utterance, n, seed, sampling)

    def _submit(self, job: Ready) -> Request:
        return self.bundle.engine.submit(job.prompt, job.params)

    def _speak(self, segments: Sequence[Segment], jobs: Sequence[Ready]) -> Iterator[Spoken]:
        # One request at a time: rounding depends on who shares a step, and a seed must give its sound again.
        request = self._submit(jobs[0])
        try:
            for number, (part, job) in enumerate(zip(segments, jobs, strict=True), 1):
                generations = request.result()
                if number < len(jobs):
                    request = self._submit(jobs[number])
                yield self._spoken(part, job, generations, number, len(jobs))
        finally:
            request.cancel()

    def _searched(
        self, segments: Sequence[Segment], jobs: Sequence[Ready], effort: Effort, streams: bool
    ) -> Generator[Part]:
        """Yield segments; where nobody listens meanwhile, what is committed is passed over."""
        means, total_s = self.means(effort.judge, streams), sum(job.expected_s for job in jobs)
        for number, (part, job) in enumerate(zip(segments, jobs, strict=True), 1):
            limit_s = None if effort.deadline_s is None else effort.deadline_s * job.expected_s / total_s
            limit_s = limit_s if effort.deadline_x is None else effort.deadline_x * job.expected_s
            search = (effort.streaming if streams else None) or effort.search
            told = partial(effort.on_progress, number, len(jobs)) if effort.on_progress else None
            codes = followed(search.run(job, means, limit_s), told, streams)
            begun = Candidate(job.utterance, [], "partial")
            spoken = Spoken(part, begun, number, len(jobs), job.dropped, params=job.params)
            yield self._found(spoken, codes, effort.judge, streams)

    def _found(
        self, spoken: Spoken, codes: Generator[Codes, None, Ranking], judge: Judge, streams: bool
    ) -> Part:
        """Yield the sound of a segment that is searched for: what is committed at once, else all last."""
        voice = spoken.candidate.utterance.voice
        # A streaming decoder is opened for who listens only.
        ranking, sound = (
            (yield from heard(self.bundle.codec, voice, codes)) if streams else (_ended(codes), None)
        )
        best = replace(ranking.judged[0].candidate, audio=sound)
        if sound is None:  # also of one that was ruled out before it was decoded
            [best] = judge.decode([ranking.judged[0].candidate])
            if best.audio is not None:
                yield best.audio
        return replace(spoken, candidate=best, stats=ranking.stats, ranking=ranking)

    def _spoken(
        self, part: Segment, job: Ready, generations: list[Generation], number: int, total: int
    ) -> Spoken:
        began = time.perf_counter()
        candidate = self._heard(job, generations)[0]
        stats = {**generations[0].stats, "codec_s": time.perf_counter() - began}
        spoken = Spoken(part, candidate, number, total, job.dropped, stats, job.params)
        _warn(spoken)
        return spoken

    def _heard(self, job: Ready, generations: Sequence[Generation]) -> list[Candidate]:
        """Return the candidates of an utterance, those with codes decoded in one batch."""
        rows = [self.bundle.prompt.codes(generation.ids) for generation in generations]
        voice = job.utterance.voice
        sounds = iter(self.bundle.codec.decode([row for row in rows if row], voice.codes if voice else None))
        return [
            Candidate(job.utterance, row, made.finish, _mean(made.logprobs), next(sounds) if row else None)
            for row, made in zip(rows, generations, strict=True)
        ]


def load(
    name_or_path: str | PathLike[str] = "starter",
    device: str | None = None,
    dtype: str | None = None,
    words: Mapping[str, str] | None = None,
    **options: Unpack[Options],
) -> Synthesizer:
    """Return a synthesizer over a bundle; arguments and errors as for `bundle.load_bundle`."""
    return Synthesizer(load_bundle(name_or_path, device, dtype, words, **options))


def _ended(coming: Generator[object, None, T]) -> T:
    """Return what a generator returns; nobody listens to what it yields."""
    try:
        while True:
            next(coming)
    except StopIteration as end:
        return end.value


def _unheard(part: Part) -> Spoken:
    spoken = _ended(part)
    _warn(spoken)
    return spoken


def _warn(spoken: Spoken) -> None:
    for warning in spoken.warnings:
        _log.warning("%s", warning)


def _is_path(voice: str | PathLike[str]) -> bool:
    return not isinstance(voice, str) or voice.endswith(".safetensors") or len(PurePath(voice).parts) > 1


def _mean(logprobs: list[float] | None) -> float | None:
    return sum(logprobs) / len(logprobs) if logprobs else None

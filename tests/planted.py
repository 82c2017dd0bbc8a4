"""The planted-defect harness: speech whose faults are known, so that judging and searching can be tested for
what they choose, fast and without models.

A text of W words is spoken well as W runs of `WORD_CODES` codes. A code is `slot + SLOTS * tone`: the slot
says which word sounds (or silence, or a wrong word), the tone how pleasantly. What `PlantedEngine` draws next
depends on the codes so far and on (seed, utterance, candidate, position), as with a real engine.
"""

import random
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, groupby

import numpy as np

from llasa.core import Audio, Candidate, Codes, Finish, Generation, Ids, SamplingParams, Score, Utterance
from llasa.engines.base import Step
from llasa.engines.sampling import stream_key, uniforms
from llasa.errors import EngineError
from llasa.judge import Judge
from llasa.scorers.base import CODES, LARGE_MODEL, Scorer
from llasa.search import Job, Means

SLOTS, TONES = 64, 64
SILENCE, WRONG = 0, 32  # slots 1..31 are words, 33..63 the same words said wrongly
WORD_CODES, RUSHED_CODES, CODES_PER_S = 5, 2, 25.0
LOOP_CODES = 40  # a run so long ends a candidate with finish `loop`
STOP_ID, FIRST_ID, HEAD = 999, 1000, 3


@dataclass(frozen=True)
class Cheats:
    """How often each fault is chosen when one occurs (weights), and how long loops and silences last."""

    loop: float = 1.0
    truncate: float = 1.0
    rush: float = 1.0
    silence: float = 1.0
    wrong: float = 1.0
    severity: float = 0.95  # probability of one more code of a loop or silence, in [0, 1)

    def chances(self, pass_rate: float, words: int) -> tuple[float, float, float, float, float]:
        """Return the chance to rush a word, and the ends of the ranges that loop, pause, err or end."""
        weights = (self.rush, self.loop, self.silence, self.wrong, self.truncate)
        hazard = (1 - pass_rate ** (1 / words)) / sum(weights)
        rush, *others = (hazard * weight for weight in weights)
        loop, pause, wrong, end = accumulate(others)
        return rush, loop, pause, wrong, end


def planted_job(words: int = 8, pass_rate: float = 0.6, number: int = 0, seed: int = 0) -> Job:
    """Return an utterance of up to 31 words that candidates say without fault with about this probability."""
    params = SamplingParams(max_tokens=3 * WORD_CODES * words, seed=seed, stop_token_ids=(STOP_ID,))
    text = " ".join(f"w{i}" for i in range(1, words + 1))
    return Job(Utterance(str(number), text), [words, round(1000 * pass_rate), number], params)


def planted_means(engine: "PlantedEngine", scorer: Scorer, cascade: bool = True) -> Means:
    """Return what a search over planted speech works with."""
    return Means(engine, Judge(PlantedCodec(), scorer, cascade=cascade), planted_codes, CODES_PER_S)


def planted_codes(ids: Ids) -> Codes:
    """Return the codes of generated ids."""
    return [token_id - FIRST_ID for token_id in ids]


@dataclass
class _Mouth:
    """What is being said: how many words were tried, the sounding slot, for how many codes, and its tone."""

    tried: int = 0
    slot: int = -1
    run: int = 0
    tone: int = 0

    def push(self, code: int) -> None:
        slot = code % SLOTS
        self.run = self.run + 1 if slot == self.slot else 1
        self.slot, self.tone = slot, code // SLOTS
        if slot != SILENCE:
            self.tried = slot % WRONG


@dataclass
class PlantedEngine:
    """An `engines.base.Engine` that speaks with known faults.

    delay_s: slept for each request. fails_after: requests that succeed before one raises. asked: what was
    submitted. drawn: ids drawn in all. in_flight: requests that are neither over nor cancelled.
    """

    cheats: Cheats = Cheats()
    delay_s: float = 0.0
    fails_after: int | None = None
    name: str = "planted"
    max_length: int = 4096
    concurrency: int = 64
    asked: list[tuple[Ids, SamplingParams]] = field(default_factory=list[tuple[Ids, SamplingParams]])
    drawn: int = 0
    in_flight: int = 0

    def submit(self, prompt: Ids, params: SamplingParams) -> "PlantedRequest":
        """See `Engine.submit`."""
        if self.fails_after is not None and len(self.asked) >= self.fails_after:
            raise EngineError("Generating: the planted engine was told to fail. Tell it otherwise.")
        self.asked.append((prompt, params))
        self.in_flight += 1
        return PlantedRequest(self, prompt, params)

    def say(self, prompt: Ids, params: SamplingParams, candidate: int) -> tuple[Ids, Finish, list[float]]:
        """Return the ids of one candidate, those of a loop included, how it ended, and its random numbers."""
        words, pass_rate, number = prompt[:HEAD]
        limit = min(params.max_tokens, self.max_length - len(prompt))
        key = stream_key(stream_key(params.seed, number), params.first + candidate)
        draws = uniforms(np.full(limit, key, np.uint64), len(prompt) + np.arange(limit)).tolist()
        chances = self.cheats.chances(pass_rate / 1000, words)
        mouth = _Mouth()
        for code in planted_codes(prompt[HEAD:]):
            mouth.push(code)
        ids: Ids = []
        for draw in draws:
            slot = self._next_slot(mouth, words, chances, draw)
            if slot is None and len(ids) >= params.min_tokens:
                return ids, "stop", draws
            slot = mouth.slot if slot is None else slot
            code = slot + SLOTS * _next_tone(mouth, slot, draw)
            mouth.push(code)
            ids.append(FIRST_ID + code)
            if params.loop_guard and min(mouth.run, len(ids)) >= LOOP_CODES:
                return ids, "loop", draws
        return ids, "length", draws

    def _next_slot(self, mouth: _Mouth, words: int, chances: tuple[float, ...], draw: float) -> int | None:
        """Return what sounds next; None: the end."""
        rush, loop, pause, wrong, end = chances
        following = mouth.tried + 1 if mouth.tried < words else None
        if mouth.slot == SILENCE or mouth.run > WORD_CODES:
            return mouth.slot if draw < self.cheats.severity else following
        if 0 < mouth.run < WORD_CODES:
            return following if mouth.run == RUSHED_CODES and draw < rush else mouth.slot
        if mouth.run and draw < loop:
            return mouth.slot
        if following is None or (mouth.run and wrong <= draw < end):
            return None
        if loop <= draw < pause:
            return SILENCE
        return following + WRONG if pause <= draw < wrong else following


class PlantedRequest:
    """One prompt of a `PlantedEngine`: an `engines.base.Request`. Draws a candidate when asked for it."""

    def __init__(self, engine: PlantedEngine, prompt: Ids, params: SamplingParams) -> None:
        self._engine, self._prompt, self._params = engine, prompt, params
        self._steps: list[Step] = []
        self._made: dict[int, Generation] = {}
        self._slept = self._left = False

    def __iter__(self) -> Iterator[Step]:
        """Yield all steps from the first on."""
        seen = 0
        while seen < len(self._steps) or len(self._made) < self._params.n:
            if seen == len(self._steps):
                self._draw(len(self._made))
            yield self._steps[seen]
            seen += 1

    def cancel(self, candidate: int | None = None) -> None:
        """End one candidate, or all, unless it has ended."""
        for number in range(self._params.n) if candidate is None else [candidate]:
            if number not in self._made:
                self._end(number, Generation([], "cancelled"), 0)
        self._leave()

    def result(self) -> list[Generation]:
        """Return one generation per candidate, in order."""
        for _ in self:
            pass
        return [self._made[number] for number in range(self._params.n)]

    def _draw(self, number: int) -> None:
        if self._engine.delay_s and not self._slept:
            time.sleep(self._engine.delay_s)
            self._slept = True
        ids, finish, draws = self._engine.say(self._prompt, self._params, number)
        self._engine.drawn += len(ids)
        self._steps.append(Step(number, ids))
        kept = len(ids) - LOOP_CODES + WORD_CODES if finish == "loop" else len(ids)
        logprobs = [-draw for draw in draws[:kept]] if self._params.logprobs else None
        self._end(number, Generation(ids[:kept], finish, logprobs), len(ids) - kept)
        self._leave()

    def _end(self, number: int, made: Generation, rollback: int) -> None:
        self._made[number] = made
        self._steps.append(Step(number, [], made.finish, rollback))

    def _leave(self) -> None:
        if not self._left and len(self._made) == self._params.n:
            self._left = True
            self._engine.in_flight -= 1


def _next_tone(mouth: _Mouth, slot: int, draw: float) -> int:
    if slot == mouth.slot:
        return mouth.tone
    spare = draw * 7919 % 1  # digits of the random number that no other decision looks at
    return int(spare * TONES) if mouth.slot < 0 else min(max(mouth.tone + int(spare * 3) - 1, 0), TONES - 1)


@dataclass
class PlantedCodec:
    """A `codec.base.Codec` of one sample a code. decoded: rows in all."""

    name: str = "planted@0"
    sample_rate: int = round(CODES_PER_S)
    codebook_size: int = SLOTS * TONES
    hop_length: int = 1
    decoded: int = 0

    def encode(self, audio: Sequence[Audio]) -> list[Codes]:
        """See `Codec.encode`."""
        return [np.round(one.samples * self.codebook_size).astype(int).tolist() for one in audio]

    def decode(self, codes: Sequence[Codes], context: Codes | None = None) -> list[Audio]:
        """See `Codec.decode`."""
        self.decoded += len(codes)
        return [Audio(np.asarray(row, np.float32) / self.codebook_size, self.sample_rate) for row in codes]

    def code_count(self, n_samples: int) -> int:
        """See `Codec.code_count`."""
        return n_samples


@dataclass
class PlantedScorer:
    """A `Scorer` by a formula. noise: of the value, a function of name and codes. calls: candidates seen."""

    name: str
    view: Callable[[Candidate], float]
    cost: int = LARGE_MODEL
    noise: float = 0.0
    partial: bool = True
    calls: int = 0

    def score(self, candidates: Sequence[Candidate]) -> list[Score]:
        """See `Scorer.score`."""
        self.calls += len(candidates)
        return [Score(min(max(self.view(one) + self._error(one.codes), 0.0), 1.0)) for one in candidates]

    def _error(self, codes: Codes) -> float:
        key = zlib.crc32(np.array(codes, np.uint16).tobytes() + self.name.encode())
        return random.Random(key).gauss(0, self.noise) if self.noise else 0.0


def faults(candidate: Candidate) -> float:
    """Return what is true of the words: 1 without fault, less the worse; a beginning is judged as such."""
    words, runs = len(candidate.utterance.text.split()), _runs(candidate.codes)
    said = {slot for slot, _ in runs if 0 < slot < WRONG}
    tried = max((slot % WRONG for slot, _ in runs), default=0) if candidate.finish == "partial" else words
    whole = runs[:-1] if candidate.finish == "partial" else runs
    rushed = sum(length < WORD_CODES for slot, length in whole if slot != SILENCE)
    looped = sum(max(length - WORD_CODES, 0) for slot, length in runs if slot != SILENCE)
    silent = sum(length for slot, length in runs if slot == SILENCE)
    right = len(said) / max(tried, 1) if tried else 0.5
    return right * (1 - 0.5 * rushed / words) / (1 + looped / 20) / (1 + silent / 20)


def tone(candidate: Candidate) -> float:
    """Return how pleasant the sound truly is, in [0, 1]."""
    return sum(code // SLOTS for code in candidate.codes) / len(candidate.codes) / (TONES - 1)


def truth(candidate: Candidate) -> float:
    """Return the true quality: words above all, and of equal ones the pleasanter sound."""
    return faults(candidate) * (0.8 + 0.2 * tone(candidate))


def length_and_runs(candidate: Candidate) -> float:
    """Return what codes alone can tell: too short, too long or repeating; it hears neither words nor tone."""
    ratio = len(candidate.codes) / (WORD_CODES * len(candidate.utterance.text.split()))
    longest = max((length for _, length in _runs(candidate.codes)), default=0)
    return min(ratio, 1 / ratio, WORD_CODES / max(longest, WORD_CODES))


def cheap_scorer(noise: float = 0.0) -> PlantedScorer:
    """Return the cheap view, for a cascade."""
    return PlantedScorer("cheap", length_and_runs, CODES, noise)


def oracle(
    view: Callable[[Candidate], float] = truth, noise: float = 0.0, partial: bool = True
) -> PlantedScorer:
    """Return the dear verifier; without noise it knows the truth."""
    return PlantedScorer("oracle", view, LARGE_MODEL, noise, partial)


def spoken(engine: PlantedEngine, job: Job, n: int) -> list[Candidate]:
    """Return the first n candidates of a job, unjudged."""
    made = engine.submit(job.prompt, replace(job.params, n=n)).result()
    return [Candidate(job.utterance, planted_codes(one.ids), one.finish) for one in made]


def _runs(codes: Codes) -> list[tuple[int, int]]:
    return [(slot, sum(1 for _ in run)) for slot, run in groupby(code % SLOTS for code in codes)]

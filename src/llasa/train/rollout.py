"""One step's candidates: drawn by an engine that shares the trained weights, judged as they finish.

TRL asks for completions of prompts; here a prompt is the name of a job. Where TRL has vLLM, that draws, and
TRL hands it the weights. Must not know: what rewards do.
"""

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

from llasa.core import Candidate, Codes, Finish, Generation, Ids, Judged
from llasa.engines.base import Request
from llasa.engines.loop import StepLoop
from llasa.search import Job
from llasa.train.scoring import Judging, Key, Scoring


@dataclass(frozen=True)
class Rolled:
    """A candidate of a step and its verdict. group, candidate: over all processes. ids: as TRL has them.

    logprobs: of the ids, by who drew them, nats; None if that is the engine, whose are those that are learnt.
    """

    step: int
    group: int
    candidate: int
    ids: Ids = field(repr=False)
    judged: Judged = field(repr=False)
    logprobs: list[float] | None = field(default=None, repr=False)

    @property
    def reward(self) -> float | None:
        """The verdict's value, None if there is none."""
        return self.judged.score.value if self.judged.score is not None else None


@dataclass(frozen=True)
class Spent:
    """Seconds. rollout_s: until the last id was drawn. exposed_s: from then to the last verdict.

    judge_s: work of all the judge's threads together.
    """

    rollout_s: float
    judge_s: float
    exposed_s: float


@dataclass(frozen=True)
class Place:
    """Which part of which step this is. call: of the step. first: the first prompt, over all processes."""

    step: int
    call: int
    first: int
    group: int  # candidates of one prompt
    longest: int  # codes


@dataclass(frozen=True)
class _Asked:
    """Candidates of one prompt that are to be drawn here."""

    number: int
    job: Job


class Roller:
    """Draws and judges: TRL's `rollout_func`.

    rolled: this process's candidates of the step that was drawn last.
    """

    def __init__(
        self, engine: StepLoop, codes: Callable[[Ids], Codes], end_id: int, judge: Judging,
        job: Callable[[str], Job], seed: int,
    ) -> None:  # fmt: skip
        """Take what draws, what judges, and jobs by name.

        Args:
            codes: of drawn ids. end_id: the end marker's, which engines leave out.
        """
        self._engine, self._codes, self._end_id, self._judge = engine, codes, end_id, judge
        self._job, self._seed = job, seed
        self._step, self._call = 0, 0
        self.rolled: list[Rolled] = []

    def __call__(self, prompts: list[str], trainer: Any) -> dict[str, Any]:
        """Return completions of prompts in TRL's form; `rolled` and `spent` reach the reward."""
        place = self._place(len(prompts), trainer)
        with resting(trainer.model):
            rolled, spent = self.roll(prompts, place, trainer.vllm_generation if trainer.use_vllm else None)
        self.rolled += rolled
        return {
            "prompt_ids": [self._job(name).prompt for name in prompts],
            "completion_ids": [one.ids for one in rolled],
            # vLLM rounds in its own way, which TRL can weigh; the engine has the very weights.
            "logprobs": [one.logprobs for one in rolled] if trainer.use_vllm else None,
            "rolled": rolled,
            "spent": spent,
        }

    def _place(self, count: int, trainer: Any) -> Place:
        step = trainer.state.global_step + 1
        if step != self._step:
            self._step, self._call, self.rolled = step, 0, []
        self._call += 1
        first = trainer.accelerator.process_index * count
        return Place(step, self._call, first, trainer.num_generations, trainer.max_completion_length)

    def roll(self, prompts: Sequence[str], place: Place, vllm: Any = None) -> tuple[list[Rolled], Spent]:
        """Return a judged candidate for each prompt; a prompt stands there once for each of its candidates.

        Args:
            vllm: TRL's `VLLMGeneration` if that draws, not the engine.

        Raises:
            EngineError: the engine failed. ScorerError: the judge did, as a whole.
        """
        began = time.perf_counter()
        self._engine.forget()  # fused optimizers leave no trace in weights that they change
        asked = self._asked(prompts, place)
        with Scoring(self._judge) as scoring:
            drawn = self._drawn(asked, scoring) if vllm is None else self._served(asked, place, vllm, scoring)
            done = time.perf_counter()
            verdicts = scoring.verdicts()
        spent = Spent(done - began, scoring.judge_s, time.perf_counter() - done)
        rolled = [
            Rolled(
                place.step,
                one.number,
                number,
                self._ended(generation),
                verdicts[one.number, number],
                generation.logprobs,
            )
            for one, generations in zip(asked, drawn, strict=True)
            for number, generation in enumerate(generations, one.job.params.first)
        ]
        return rolled, spent

    def _asked(self, prompts: Sequence[str], place: Place) -> list[_Asked]:
        """Return one request for neighbours of one group, its random numbers the same on any processes."""
        numbers = range(place.first, place.first + len(prompts))
        return [
            self._request(prompts[members[0] - place.first], group, members, place)
            for group, found in groupby(numbers, lambda number: number // place.group)
            if (members := list(found))
        ]

    def _request(self, name: str, group: int, members: Sequence[int], place: Place) -> _Asked:
        job = self._job(name)
        limit = min(job.params.max_tokens, place.longest)
        params = replace(
            job.params, n=len(members), first=members[0] % place.group, max_tokens=limit,
            min_tokens=min(job.params.min_tokens, limit),
            seed=_mixed(self._seed, place.step, place.call, group),
        )  # fmt: skip
        return _Asked(group, replace(job, params=params))

    def _drawn(self, asked: Sequence[_Asked], scoring: Scoring) -> list[list[Generation]]:
        requests: list[Request] = []
        with ThreadPoolExecutor(len(asked), "llasa-rollout") as pool:
            try:
                with self._engine.together():  # so that a resumed run repeats bit for bit
                    for one in asked:
                        requests.append(self._engine.submit(one.job.prompt, one.job.params))
                pairs = zip(asked, requests, strict=True)
                following = [pool.submit(self._follow, one, request, scoring) for one, request in pairs]
                return [work.result() for work in following]
            finally:  # an error in one ends all
                for request in requests:
                    request.cancel()

    def _served(
        self, asked: Sequence[_Asked], place: Place, vllm: Any, scoring: Scoring
    ) -> list[list[Generation]]:
        """Let vLLM draw, which gives all candidates at once, and hand them over."""
        prompts = [one.job.prompt for one in asked for _ in range(one.job.params.n)]
        _, completions, told, _ = vllm.generate(prompts=prompts, images=None, num_generations=place.group)
        left = zip(completions, told, strict=True)
        drawn = list[list[Generation]]()
        for one in asked:
            limit, numbers = one.job.params.max_tokens, range(one.job.params.n)
            made = [self._generation(*next(left), limit) for _ in numbers]
            for number, generation in enumerate(made, one.job.params.first):
                key = (one.number, number)
                scoring.put(key, self._candidate(one, generation.ids, generation.finish, key))
            drawn.append(made)
        return drawn

    def _generation(self, ids: Ids, told: Sequence[Sequence[float]], limit: int) -> Generation:
        """Return what vLLM drew, cut where a text of this length has long ended."""
        ended = ids[-1:] == [self._end_id] and len(ids) <= limit + 1
        logprobs = [first for first, *_ in told]
        if ended:
            return Generation(ids[:-1], "stop", logprobs)
        return Generation(ids[:limit], "length", logprobs[:limit])

    def _follow(self, one: _Asked, request: Request, scoring: Scoring) -> list[Generation]:
        """Hand over each candidate of a request when it has ended."""
        ids: list[Ids] = [[] for _ in range(one.job.params.n)]
        for step in request:
            ids[step.candidate] += step.ids
            if step.finish is not None and step.finish != "cancelled":
                key = (one.number, one.job.params.first + step.candidate)
                scoring.put(key, self._candidate(one, ids[step.candidate], step.finish, key))
        return request.result()

    def _candidate(self, one: _Asked, ids: Ids, finish: Finish, key: Key) -> Candidate:
        utterance = replace(one.job.utterance, id=f"{key[0]}.{key[1]}")
        return Candidate(utterance, self._codes(ids), finish)

    def _ended(self, generation: Generation) -> Ids:
        """Return a completion as it is learnt: with the end marker where it was drawn, and never empty."""
        return (
            [*generation.ids, self._end_id]
            if generation.finish == "stop" or not generation.ids
            else generation.ids
        )


@contextmanager
def resting(model: Any) -> Iterator[None]:
    """Put a model into evaluation mode, and back: TRL and caches look at the mode."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def _mixed(*parts: int) -> int:
    """Return a seed that any of these numbers changes."""
    text = ".".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=7).digest(), "big")

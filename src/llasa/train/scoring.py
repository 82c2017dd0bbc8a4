"""Candidates judged while others are still being drawn. Must not know: engines, trainers."""

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from threading import Lock
from typing import Protocol, Self

from llasa.codec.base import Codec
from llasa.core import Candidate, Judged, Utterance
from llasa.errors import ConfigError, InputError, ScorerError
from llasa.judge import Judge, Part

Key = tuple[int, int]  # group, candidate


class Judging(Protocol):
    """Gives verdicts; `judge.Judge` is one, `remote_judge.RemoteJudge` another.

    It may have `concurrency`, the calls that may be in flight, and `step()`, a context for those of a step.
    """

    def judge(self, candidates: Sequence[Candidate], held_out: bool = False) -> list[Judged]:
        """Return one verdict a candidate, in order."""
        ...


class Scoring:
    """Verdicts of one step. A judge that takes one call at a time is given all that waits, others one each.

    judge_s: seconds of work of all its threads together.
    """

    def __init__(self, judge: Judging) -> None:
        self._judge, self.judge_s = judge, 0.0
        workers = max(1, int(getattr(judge, "concurrency", 1)))
        self._alone = workers > 1
        self._lock = Lock()
        self._waiting: list[tuple[Key, Candidate]] = []
        self._verdicts: dict[Key, Judged] = {}
        self._work: list[Future[None]] = []
        self._pool = ThreadPoolExecutor(workers, "llasa-judge")
        self._step = getattr(judge, "step", nullcontext)()

    def __enter__(self) -> Self:
        """Begin a step."""
        self._step.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        """End it; what nobody waits for is not begun."""
        self._pool.shutdown(cancel_futures=True)
        self._step.__exit__(None, None, None)

    def put(self, key: Key, candidate: Candidate) -> None:
        """Have a candidate judged; any thread may call this."""
        with self._lock:
            self._waiting.append((key, candidate))
            self._work.append(self._pool.submit(self._next))

    def verdicts(self) -> dict[Key, Judged]:
        """Wait for all that was put, and return it; whatever a judge raised is raised."""
        for work in self._work:
            work.result()
        return self._verdicts

    def _next(self) -> None:
        with self._lock:
            taken = self._waiting[:1] if self._alone else self._waiting[:]
            del self._waiting[: len(taken)]
        if not taken:  # an earlier call took it along
            return
        began = time.perf_counter()
        judged = self._judge.judge([candidate for _, candidate in taken])
        spent = time.perf_counter() - began
        with self._lock:
            self._verdicts |= dict(zip((key for key, _ in taken), judged, strict=True))
            self.judge_s += spent


def check_judge(judge: Judging, utterance: Utterance, codec: Codec) -> None:
    """See that every scorer that steers can judge such an utterance, on a sound that is no speech.

    Raises:
        ConfigError: one cannot, or a service does not answer.
    """
    codes = utterance.voice.codes if utterance.voice else [7 * i % codec.codebook_size for i in range(50)]
    trial = Candidate(utterance, list(codes), "stop")
    [judged] = judge.judge([trial])
    reason = judged.reason if judged.status == "unjudged" else ""
    if isinstance(judge, Judge):  # each part, also those that a floor has kept from listening
        [heard] = judge.decode([trial])
        reason = next(filter(None, (_failure(part, heard) for part in judge.rubric.parts)), reason)
    if reason:
        raise ConfigError(
            f"Trying the judge on a prompt: {reason} Change [judge], the prompts or their voices."
        )


def _failure(part: Part, candidate: Candidate) -> str:
    try:
        if not part.held_out:
            part.scorer.score([candidate])
    except (InputError, ScorerError) as error:
        return f"{part.name}: {error}"
    return ""

"""What is in flight in an engine of this process: requests, live rows, and groups that draw together.

Knows no model and no thread of its own; a request is the only object that callers and the step loop share.
"""

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llasa.core import Finish, Generation, Ids, SamplingParams
from llasa.engines.base import Step, check_candidate, follow
from llasa.engines.drawing import Settings, draw, penalise
from llasa.engines.head import Head
from llasa.engines.sampling import LoopWatch, uniforms
from llasa.engines.stages import Stages
from llasa.errors import EngineError


class LocalRequest:
    """One prompt in flight: an `engines.base.Request`, which any thread may read.

    adapter: what the runner knows it by; None is the model as it is.
    """

    def __init__(self, prompt: Ids, params: SamplingParams, head: Head, adapter: Any = None) -> None:
        self.prompt, self.params, self.head, self.adapter = prompt, params, head, adapter
        self._steps: list[Step] = []
        self._generations: dict[int, Generation] = {}
        self._cancelled: set[int] = set()
        self._error: Exception | None = None
        self._begun = False
        self._news = threading.Condition()
        self._over = threading.Event()

    def __iter__(self) -> Iterator[Step]:
        """Yield all steps from the first on, as they come.

        Raises:
            EngineError: the engine failed or was closed.
        """
        yield from follow(self._news, self._steps, self._over.is_set)
        self._raise()

    def cancel(self, candidate: int | None = None) -> None:
        """Stop one candidate, or all; what was drawn so far is its generation.

        A request that still waits for a slot is over at once.
        """
        check_candidate(candidate, self.params.n)
        with self._news:
            self._cancelled.update(range(self.params.n) if candidate is None else [candidate])
            if len(self._cancelled) == self.params.n and not (self._begun or self._over.is_set()):
                self._end_empty()

    def result(self) -> list[Generation]:
        """Wait, then return one generation per candidate, in order.

        Raises:
            EngineError: the engine failed or was closed.
        """
        self._over.wait()
        self._raise()
        return [self._generations[candidate] for candidate in range(self.params.n)]

    def cancelled(self, candidate: int) -> bool:
        """Tell whether the caller has stopped this candidate."""
        return candidate in self._cancelled

    def begin(self) -> bool:
        """Tell whether somebody wants this request; if so, only the engine's side ends it from now on."""
        with self._news:
            self._begun = not self._over.is_set()
            return self._begun

    def publish(self, steps: Sequence[Step], generations: dict[int, Generation]) -> None:
        """Hand the caller news; the engine's side of the request."""
        with self._news:
            self._steps += steps
            self._generations |= generations
            if len(self._generations) == self.params.n:
                self._over.set()
            self._news.notify_all()

    def fail(self, error: Exception) -> None:
        """End the request with an error unless it is over; the engine's side of the request."""
        with self._news:
            if self._over.is_set():
                return
            self._error = error
            self._over.set()
            self._news.notify_all()

    def _end_empty(self) -> None:
        empty = Generation([], "cancelled", [] if self.params.logprobs else None)
        candidates = range(self.params.n)
        self.publish([Step(i, [], "cancelled") for i in candidates], dict.fromkeys(candidates, empty))

    def _raise(self) -> None:
        if isinstance(self._error, EngineError):
            raise EngineError(str(self._error), self._error.retryable) from self._error
        if self._error is not None:
            raise EngineError(
                f"Generating {self.params.n} candidates after {len(self.prompt)} ids: the model failed with "
                f"{type(self._error).__name__}: {self._error}. Check the model folder and the free memory.",
                retryable=isinstance(self._error, torch.OutOfMemoryError),
            ) from self._error


@dataclass
class Row:
    """A live candidate. `last` is the id to feed; `drawn` counts all draws, the stop id included.

    stats: of its prompt. stages: of the loop, which had `spent` so much when the row began.
    """

    request: LocalRequest
    candidate: int
    last: int
    limit: int
    key: int
    stats: dict[str, float]
    stages: Stages
    watch: LoopWatch | None
    seen: Tensor | None
    began: float = field(default_factory=time.perf_counter)
    spent: tuple[float, float, float] = field(init=False)
    drawn: int = 0
    ids: Ids = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.spent = self.stages.spent()

    def take(self, token_id: int, column: int, logprob: float | None) -> Step:
        """Add a drawn id and tell what it means for the candidate."""
        self.drawn += 1
        self.last = token_id
        if token_id in self.request.params.stop_token_ids:
            return Step(self.candidate, [], "stop")
        self.ids.append(token_id)
        if logprob is not None:
            self.logprobs.append(logprob)
        if self.seen is not None:
            self.seen[column] = True
        if self.watch is not None and (turns := self.watch.push(token_id)):
            del self.ids[-turns:], self.logprobs[-turns:]
            return Step(self.candidate, [], "loop", rollback=turns - 1)
        return Step(self.candidate, [token_id], "length" if len(self.ids) == self.limit else None)

    def generation(self, finish: Finish) -> Generation:
        """Return the finished candidate."""
        stats = {
            **self.stats,
            **self.stages.since(self.began, self.spent),
            "tokens": len(self.ids),
            "steps": self.drawn,
        }
        return Generation(self.ids, finish, self.logprobs if self.request.params.logprobs else None, stats)


class Group:
    """The rows that share one head, with what stays the same from step to step."""

    def __init__(self, head: Head, numbers: list[int], rows: list[Row], device: torch.device) -> None:
        self.head, self.numbers, self.rows, self.device = head, numbers, rows, device
        self.params = [row.request.params for row in rows]
        self.settings = Settings.of(self.params, device)
        self._keys = np.array([row.key for row in rows], np.uint64)
        self._stops = self._stop_columns()

    def draw(self, state: Tensor) -> list[tuple[int, int, float | None]]:
        """Return id, column and log-probability drawn for each row; `state` is of these rows."""
        logits = self.head(state)
        columns = draw(self._shaped(logits), self.settings, self._uniforms())[:, None]
        wanted = any(params.logprobs for params in self.params)
        values = (
            logits.log_softmax(-1).gather(-1, columns)[:, 0].tolist() if wanted else [None] * len(self.rows)
        )
        picked = columns[:, 0].tolist()
        return list(zip(self.head.token_ids(picked), picked, values, strict=True))

    def _uniforms(self) -> Tensor:
        positions = np.array([len(row.request.prompt) + row.drawn for row in self.rows])
        return torch.from_numpy(uniforms(self._keys, positions)).to(self.device)

    def _shaped(self, logits: Tensor) -> Tensor:
        if self.settings.penalises:
            unseen = torch.zeros(self.head.width, dtype=torch.bool, device=self.device)
            seen = torch.stack([unseen if row.seen is None else row.seen for row in self.rows])
            logits = penalise(logits, seen, self.settings.penalty)
        young = [len(row.ids) < row.request.params.min_tokens for row in self.rows]
        if any(young):
            logits = logits.masked_fill(
                self._stops & torch.tensor(young, device=self.device)[:, None], -torch.inf
            )
        return logits

    def _stop_columns(self) -> Tensor:
        stops = torch.zeros(len(self.rows), self.head.width, dtype=torch.bool)
        for number, params in enumerate(self.params):
            for column in map(self.head.column, params.stop_token_ids):
                if column is not None:
                    stops[number, column] = True
        return stops.to(self.device)

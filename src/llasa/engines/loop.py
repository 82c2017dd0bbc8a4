"""The step loop that in-process engines share: one thread, all requests in flight. Knows no text.

The loop owns the rows, a `Runner` the model; callers own nothing but their `LocalRequest`. Between two steps
finished and cancelled candidates leave and waiting ones join. A prompt is prefilled once, without its last
id, and its past is shared by its candidates; the last id is then their first step: the first drawn id is
nothing special. Pasts of recent prompts are kept: another wave of candidates, or a beam that goes on, is not
read anew.
"""

import atexit
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Protocol

import torch
from torch import Tensor

from llasa.core import Generation, Ids, SamplingParams
from llasa.device import set_own_threads
from llasa.engines.base import Step
from llasa.engines.head import Head
from llasa.engines.inflight import Group, LocalRequest, News, Row
from llasa.engines.pulse import Pulse
from llasa.engines.sampling import LoopGuard, LoopWatch, check, check_prompt, stream_key
from llasa.engines.stages import Stages
from llasa.engines.verification import Verification
from llasa.errors import ConfigError, EngineError
from llasa.shortage import of_memory

_GONE_S = 1.0  # for a thread that hangs


class Runner(Protocol):
    """Runs a language model for live rows, one id a step each. Only the loop's thread calls it.

    Row numbers are dense: `add` appends, and `drop` gives the last row the number of the one that left.
    vocab_size: ids lie in [0, vocab_size). device: where states and heads are.
    """

    vocab_size: int
    device: torch.device

    def head(self, allowed: tuple[int, ...] | None) -> Head:
        """Return the head over some ids, all if None; any thread may call this."""
        ...

    def prefill(self, ids: Ids, adapter: Any) -> tuple[Any, int]:
        """Return the past of ids, for `add`, and how many of the first were known; there may be no ids.

        adapter: the past, and the rows it is given to, are of the model with this adapter; None is without,
        and all that a runner sees whose engine has no adapters.
        """
        ...

    def add(self, past: Any, length: int, count: int) -> None:
        """Append `count` rows that share a past of `length` ids."""
        ...

    def drop(self, row: int) -> None:
        """Remove a row."""
        ...

    def step(self, ids: Ids) -> Tensor:
        """Feed one id to each row and return what heads read, [B, D]."""
        ...

    def reset(self) -> None:
        """Remove all rows and release their memory."""
        ...

    def forget(self) -> None:
        """Release what is kept of earlier prompts."""
        ...

    def close(self) -> None:
        """Release the model; nothing is called after it."""
        ...


class Leaper(Runner, Protocol):
    """A runner whose model has drafts: it may be given several ids a row, of which those that hold are kept.

    leaps: whether `leap` may be called now; a row that took a `step` cannot go back to it.
    """

    @property
    def leaps(self) -> bool: ...

    def leap(self, ids: list[Ids]) -> Tensor:
        """Feed S ids to each row; return what heads read, of the model and its K drafts [B, S, 1 + K, D]."""
        ...

    def keep(self, counts: list[int]) -> None:
        """Keep so many of them of each row; follows every `leap`."""
        ...


@dataclass
class _Prompt:
    """A prompt whose candidates are being admitted: its past, and the next candidate to join."""

    request: LocalRequest
    past: Any = None
    stats: dict[str, float] = field(default_factory=dict[str, float])
    candidate: int = 0


class StepLoop:
    """Draws from a `Runner`: an `engines.base.Engine`. pulse: whether it still moves."""

    def __init__(
        self,
        runner: Runner,
        *,
        max_length: int,
        concurrency: int,
        name: str,
        loop_guard: LoopGuard | None = None,
        alone: bool = False,
        threads: int | None = None,
        leaper: Leaper | None = None,
        rule: Verification | None = None,
    ) -> None:
        """Start the loop.

        Args:
            runner: owned by the loop from now on.
            max_length: prompt and generated ids together.
            concurrency: live candidates; more wait for a free slot.
            name: what reports call the engine.
            loop_guard: when a candidate counts as looping; its defaults if None.
            alone: whether logits are computed and ids drawn row by row, so that no row's rounding depends on
                another; the runner has to do the same.
            threads: of torch, for the loop's thread; as for other threads if None.
            leaper: the runner again, if its model has drafts. rule: how their guesses are verified.

        Raises:
            ConfigError: max_length or concurrency is not positive.
        """
        for setting, value in (("max_length", max_length), ("concurrency", concurrency)):
            if value < 1:
                raise ConfigError(f"Starting the engine: {setting} is {value}. Set it to 1 or more.")
        self.name, self.max_length, self.concurrency = name, max_length, concurrency
        self.vocab_size = runner.vocab_size
        self._guard = loop_guard or LoopGuard()
        self._runner, self._alone, self._threads = runner, alone, threads
        self._leaper, self._rule = leaper, rule or Verification()
        self.pulse = Pulse()
        self._stages = Stages(runner.device)
        self._head = lru_cache(maxsize=8)(runner.head)
        # Never changed but replaced, since any thread may read it; requests hold on to their adapter.
        self._adapters: Mapping[str, Any] = {}
        self._waiting: deque[LocalRequest] = deque()
        self._entering: _Prompt | None = None
        self._rows: list[Row] = []
        self._groups: list[Group] | None = None
        self._closed = self._abandoned = False
        self._work = threading.Condition()
        self._thread = threading.Thread(target=self._run, name=f"llasa-{name}", daemon=True)
        self._thread.start()
        # Ending with a step in progress, Python would unwind C++ frames: the program would abort.
        atexit.register(self.close)

    def submit(self, prompt: Ids, params: SamplingParams) -> LocalRequest:
        """Start `params.n` candidates of one prompt; thread-safe. See `engines.base.Engine.submit`.

        Raises:
            ConfigError: parameters out of range, or no such adapter.
            InputError: the prompt is empty, too long, or holds ids outside the vocabulary.
            EngineError: the engine is closed.
        """
        adapters = self._adapters
        check(params, self.vocab_size, adapters.keys())
        check_prompt(prompt, self.vocab_size, self.max_length)
        adapter = None if params.adapter is None else adapters[params.adapter]
        request = LocalRequest(list(prompt), params, self._head(params.allowed_token_ids), adapter)
        with self._work:
            if self._closed:
                raise EngineError(f"Starting a generation: engine '{self.name}' is closed. Load it again.")
            self._waiting.append(request)
            self._work.notify()
        return request

    @contextmanager
    def together(self) -> Iterator[None]:
        """Let what is submitted inside, and nothing earlier, wait until all of it is there.

        Rounding depends on who shares a step: requests that begin in the same one repeat bit for bit.
        """
        with self._work:
            yield

    def forget(self) -> None:
        """Drop all that depends on weights, while nothing is in flight.

        Only needed after a change that leaves no trace in the weights' version counters: a write through
        `.data`, an adapter switched on or off.
        """
        self._head.cache_clear()
        self._runner.forget()

    def close(self) -> None:
        """Stop the step loop; whoever still waits gets an EngineError."""
        with self._work:
            self._closed = True
            self._work.notify()
        self._thread.join(_GONE_S if self._abandoned else None)
        atexit.unregister(self.close)

    def abandon(self, error: EngineError) -> None:
        """End all requests with an error and take no more: for a loop that does not move any more.

        Any thread may call this. Nothing can end a thread that hangs: its memory stays taken.
        """
        with self._work:
            self._closed = self._abandoned = True
            requests = self._requests()
            self._waiting.clear()
        for request in requests:
            request.fail(error)

    @torch.inference_mode()
    def _run(self) -> None:
        if self._threads is not None:
            set_own_threads(self._threads)
        while self._has_work():
            try:
                self._admit()
                self._drop_cancelled()
                if self._rows:
                    with self.pulse.beat("step"):
                        self._step()
                    self.pulse.failures = 0
            except Exception as error:  # the thread's edge: whoever waits must hear of any failure
                self._fail(error)
        self._fail(EngineError(f"Generating: engine '{self.name}' was closed. Load it again."))
        self._runner.close()

    def _has_work(self) -> bool:
        """Wait for something to do; False once the engine is closed."""
        with self._work:
            self._work.wait_for(lambda: self._closed or self._waiting or self._entering or self._rows)
            return not self._closed

    def _admit(self) -> None:
        """Let waiting candidates join, in order, while there are free slots."""
        while len(self._rows) < self.concurrency and (prompt := self._next_prompt()):
            request, first = prompt.request, prompt.candidate
            prompt.candidate = min(request.params.n, first + self.concurrency - len(self._rows))
            candidates = range(first, prompt.candidate)
            self._runner.add(prompt.past, len(request.prompt) - 1, len(candidates))
            self._rows += [self._row(prompt, candidate) for candidate in candidates]
            self._groups = None
            if prompt.candidate == request.params.n:
                self._entering = None

    def _next_prompt(self) -> _Prompt | None:
        while self._entering is None and self._waiting:
            with self._work:
                request = self._waiting.popleft()
            if request.begin():
                began = time.perf_counter()
                # Known before the work starts, so that a failure reaches its request too.
                self._entering = _Prompt(request)
                ids = request.prompt[:-1]
                with self.pulse.beat("prompt", len(ids)) as spared:
                    self._entering.past, reused = self._runner.prefill(ids, request.adapter)
                    spared.append(reused)
                prefill_s = time.perf_counter() - began
                self._stages.read_s += prefill_s
                self._entering.stats = {
                    "prefill_s": prefill_s,
                    "prefill_tokens": len(ids) - reused,
                    "reused_tokens": reused,
                }
        return self._entering

    def _row(self, prompt: _Prompt, candidate: int) -> Row:
        request, params = prompt.request, prompt.request.params
        return Row(
            request,
            candidate,
            last=request.prompt[-1],
            limit=min(params.max_tokens, self.max_length - len(request.prompt)),
            key=stream_key(params.seed, params.first + candidate),
            stats=prompt.stats,
            stages=self._stages,
            watch=LoopWatch(self._guard) if params.loop_guard else None,
            seen=torch.zeros(request.head.width, dtype=torch.bool, device=self._runner.device)
            if params.repetition_penalty != 1
            else None,
        )

    def _drop_cancelled(self) -> None:
        steps = {
            number: [Step(row.candidate, [], "cancelled")]
            for number, row in enumerate(self._rows)
            if row.request.cancelled(row.candidate)
        }
        self._deliver(steps)

    def _step(self) -> None:
        """Feed the last id of every row, and what is guessed of the next ones; draw, and deliver."""
        self._stages.begin()
        if self._groups is None:
            self._groups = self._grouped()
        crowded = len(self._rows) > self._rule.rows
        leaper = self._leaper if self._leaper and not crowded and self._leaper.leaps else None
        drawn = self._leap(leaper, self._groups) if leaper else self._draw(self._groups)
        self._stages.drawn()
        numbers = [number for group in self._groups for number in group.numbers]
        news = dict(zip(numbers, drawn, strict=True))
        if leaper:
            leaper.keep([len(news[number]) for number in range(len(self._rows))])
        self._deliver({number: self._rows[number].take_all(found) for number, found in news.items()})

    def _draw(self, groups: list[Group]) -> list[list[News]]:
        """Return what was drawn for the rows of each group: one id."""
        state = self._runner.step([row.last for row in self._rows])
        self._stages.stepped()
        for row in self._rows:
            row.guess = None
        parts = [group.draw(state if len(groups) == 1 else state[group.numbers]) for group in groups]
        return [[one] for part in parts for one in part]

    def _leap(self, leaper: Leaper, groups: list[Group]) -> list[list[News]]:
        """Return what was drawn for the rows of each group: guesses that hold, and one id more."""
        ahead = max(len(row.guess.ids) if row.guess else 0 for row in self._rows)
        # A row that has just come has no guess: anything may stand there.
        fed = [[row.last, *(row.guess.ids if row.guess else [row.last] * ahead)] for row in self._rows]
        states = leaper.leap(fed)
        self._stages.stepped()
        return [news for group in groups for news in group.leap(states[group.numbers], self._rule)]

    def _grouped(self) -> list[Group]:
        shared: dict[tuple[Head, int], list[int]] = {}
        for number, row in enumerate(self._rows):
            shared.setdefault((row.request.head, number if self._alone else 0), []).append(number)
        device = self._runner.device
        return [
            Group(head, numbers, [self._rows[i] for i in numbers], device)
            for (head, _), numbers in shared.items()
        ]

    def _deliver(self, steps: dict[int, list[Step]]) -> None:
        """Give every request its news, and free the rows that ended."""
        news: dict[LocalRequest, tuple[list[Step], dict[int, Generation]]] = {}
        for number, own in steps.items():
            row = self._rows[number]
            told, ended = news.setdefault(row.request, ([], {}))
            told += own
            if (finish := own[-1].finish) is not None:
                ended[row.candidate] = row.generation(finish)
        self._free([number for number, own in steps.items() if own[-1].finish is not None])
        for request, (told, ended) in news.items():
            request.publish(told, ended)

    def _free(self, numbers: list[int]) -> None:
        for number in sorted(numbers, reverse=True):
            self._runner.drop(number)
            self._rows[number] = self._rows[-1]
            self._rows.pop()
            self._groups = None
        if numbers and not self._rows:
            self._runner.reset()

    def _fail(self, error: Exception) -> None:
        """End all requests with an error and start afresh, or take no more if that cannot be."""
        self.pulse.failures += not of_memory(error)  # a single long request may bring that about
        with self._work:
            requests = self._requests()
            self._waiting.clear()
        self._rows, self._groups, self._entering = [], None, None
        try:
            self._runner.reset()
            self._runner.forget()
        except Exception:  # a lost device: whose rows are left there nobody knows
            self._closed = True
            self.pulse.stop()
        for request in requests:
            request.fail(error)

    def _requests(self) -> set[LocalRequest]:
        """Return all that is in flight or waits."""
        entering = [self._entering.request] if self._entering else []
        return {row.request for row in self._rows}.union(self._waiting, entering)

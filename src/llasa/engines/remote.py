"""The engine behind a server: threads that read its answers, and requests that callers hold.

Any server of completions that takes and gives token ids, in one of the `dialects`. Knows no text.
"""

import atexit
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import lru_cache
from http.client import HTTPException
from queue import SimpleQueue

from llasa.core import Finish, Generation, Ids, SamplingParams
from llasa.engines.base import Step, check_candidate, follow
from llasa.engines.dialects import dialect
from llasa.engines.replies import failure, unreached
from llasa.engines.sampling import LoopGuard, LoopWatch, check, check_prompt
from llasa.errors import ConfigError, EngineBusy, EngineError
from llasa.web import Call, Server

Part = tuple[range, Call]  # candidates that share HTTP requests
_GONE_S = 5.0  # a thread that looks up a name cannot be ended; the program's end does not wait for it


class RemoteEngine:
    """Draws from a server: an `engines.base.Engine`.

    Seeds repeat and candidates do not depend on `n`, as far as the server's arithmetic does not depend on
    what else it computes. Random numbers are not those of engines in this process, and not a function of the
    position: what goes on from drawn ids goes on otherwise. Log-probabilities are of all ids at temperature
    1, not of the allowed ones. Where candidates share an HTTP request, as with vLLM, one that was cancelled
    or looped is drawn on until the others end, and what comes is dropped.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        vocab_size: int,
        key: str | None = None,
        timeout_s: float = 120.0,
        concurrency: int = 64,
        loop_guard: LoopGuard | None = None,
    ) -> None:
        """Ask a server what it is.

        Args:
            url: where its API begins, such as `http://localhost:8000/v1`.
            model: as the server calls it.
            vocab_size: of the bundle's model; ids lie in [0, vocab_size).
            key: sent as a bearer token.
            timeout_s: the longest time without an answer, and without a new id.
            concurrency: HTTP requests at once, and no more than the server has slots; more wait.
            loop_guard: when a candidate counts as looping; its defaults if None.

        Raises:
            ConfigError: a wrong URL or number, an unknown server, or no such model.
            BundleError: the server's model has another vocabulary.
            EngineError: nobody listens there, or no sense can be made of the answer.
        """
        if concurrency < 1 or vocab_size < 1:
            found = f"concurrency {concurrency} and vocab_size {vocab_size}"
            raise ConfigError(f"Using '{url}': found {found}. Give positive numbers.")
        self._server = Server(url, "Using a server for the language model", key, timeout_s)
        self._dialect = dialect(self._server, model, vocab_size)
        self.name = f"remote@{self._server.netloc}/{model}"
        self.max_length, self.vocab_size = self._dialect.max_length, vocab_size
        # What waits at the server would be late; here its time has not begun.
        self.concurrency = min(concurrency, self._dialect.slots or concurrency)
        self._guard = loop_guard or LoopGuard()
        self._allowed = lru_cache(maxsize=8)(lambda ids: frozenset(range(vocab_size) if ids is None else ids))
        self._open: set[RemoteRequest] = set()
        self._closed = False
        self._lock = threading.Lock()
        self._waiting: SimpleQueue[tuple[RemoteRequest, int, Part] | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        # Not a pool of the library: a program would wait for its threads before it closes anything.
        atexit.register(self.close)

    @property
    def adapters(self) -> tuple[str, ...]:
        """Names for `SamplingParams.adapter`: the LoRA modules that the server had when it was asked."""
        return self._dialect.adapters

    def submit(self, prompt: Ids, params: SamplingParams) -> "RemoteRequest":
        """Start `params.n` candidates of one prompt; thread-safe. See `engines.base.Engine.submit`.

        Raises:
            ConfigError: parameters out of range, or the server has no such thing.
            InputError: the prompt is empty, too long, or holds ids outside the vocabulary.
            EngineError: the engine is closed.
        """
        check(params, self.vocab_size, self.adapters)
        if params.repetition_penalty != 1:
            raise ConfigError(
                f"Sampling: repetition_penalty is {params.repetition_penalty}, and servers count the ids of "
                "the prompt too. Set it to 1, or use an engine in this process."
            )
        self._dialect.check(params)
        check_prompt(prompt, self.vocab_size, self.max_length)
        allowed = self._allowed(params.allowed_token_ids)
        limit = min(params.max_tokens, self.max_length - len(prompt))
        rows = [self._row(params, allowed, limit) for _ in range(params.n)]
        parts = [(candidates, Call(self._server)) for candidates in self._dialect.parts(params)]
        request = RemoteRequest(self._server, list(prompt), params, rows, parts)
        with self._lock:
            if self._closed:
                raise EngineError(f"Starting a generation: engine '{self.name}' is closed. Load it again.")
            self._open.add(request)
            for part in parts:
                self._waiting.put((request, limit, part))
                self._start_thread()
        return request

    def close(self) -> None:
        """Hang up; whoever still waits gets an EngineError."""
        with self._lock:
            self._closed = True
            requests = list(self._open)
        for request in requests:
            request.fail(EngineError(f"Generating: engine '{self.name}' was closed. Load it again."))
        for _ in self._threads:
            self._waiting.put(None)
        ends_s = time.monotonic() + _GONE_S
        for thread in self._threads:
            thread.join(max(0.0, ends_s - time.monotonic()))
        atexit.unregister(self.close)

    def _start_thread(self) -> None:
        if len(self._threads) < self.concurrency:
            self._threads.append(threading.Thread(target=self._work, name="llasa-remote", daemon=True))
            self._threads[-1].start()

    def _work(self) -> None:
        while (task := self._waiting.get()) is not None:
            self._read(*task)

    def _row(self, params: SamplingParams, allowed: frozenset[int], limit: int) -> "_Row":
        return _Row(params, allowed, limit, LoopWatch(self._guard) if params.loop_guard else None)

    def _read(self, request: "RemoteRequest", limit: int, part: Part) -> None:
        """Draw the candidates of a part, in one of the threads."""
        candidates, call = part
        try:
            if request.live(candidates):
                drawn = self._dialect.draw(call, request.prompt, request.params, limit, candidates)
                with closing(drawn):
                    for news in drawn:
                        request.take(*news)
                        if news[1]:
                            call.extend()
                        if not request.live(candidates):
                            break
            if lost := request.live(candidates):
                raise request.failure(
                    f"the end of the answer, with candidates {lost} unfinished", retryable=True
                )
        except (OSError, HTTPException) as error:
            request.fail(unreached(self._server, error), part)
        except Exception as error:  # the thread's edge: whoever waits must hear of any failure
            request.fail(error, part)
        if request.over():
            with self._lock:
                self._open.discard(request)


@dataclass
class _Row:
    """A candidate. limit: ids it may have. finish is set once, by what was drawn or by who cancels."""

    params: SamplingParams
    allowed: frozenset[int]
    limit: int
    watch: LoopWatch | None
    began: float = field(default_factory=time.perf_counter)
    first_s: float = 0.0
    ended_s: float = 0.0
    ids: Ids = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish: Finish | None = None

    def take(self, ids: Ids, logprobs: Sequence[float | None]) -> str:
        """Add ids; return what is wrong with them, if anything."""
        self.first_s = self.first_s or time.perf_counter() - self.began
        for token_id, logprob in zip(ids, logprobs or [None] * len(ids), strict=True):
            if self.finish is not None:
                return "ids after the end of a candidate"
            if token_id not in self.allowed:
                return f"the id {token_id}, which is not allowed"
            if token_id in self.params.stop_token_ids:
                self.end("stop")
                return "" if len(self.ids) >= self.params.min_tokens else f"the end after {len(self.ids)} ids"
            self._add(token_id, logprob)
        return ""

    def _add(self, token_id: int, logprob: float | None) -> None:
        self.ids.append(token_id)
        if logprob is not None:
            self.logprobs.append(logprob)
        if self.watch is not None and (turns := self.watch.push(token_id)):
            del self.ids[-turns:], self.logprobs[-turns:]
            self.end("loop")
        elif len(self.ids) == self.limit:
            self.end("length")

    def end(self, finish: Finish) -> None:
        """Let nothing more come."""
        self.finish, self.ended_s = finish, time.perf_counter() - self.began

    def generation(self) -> Generation:
        """Return the finished candidate. Seconds are counted from the request on."""
        assert self.finish is not None
        stats = {"first_s": self.first_s, "decode_s": self.ended_s, "tokens": len(self.ids)}
        return Generation(self.ids, self.finish, self.logprobs if self.params.logprobs else None, stats)


class RemoteRequest:
    """One prompt in flight at a server: an `engines.base.Request`, which any thread may read."""

    def __init__(
        self, server: Server, prompt: Ids, params: SamplingParams, rows: list[_Row], parts: list[Part]
    ) -> None:
        self.prompt, self.params = prompt, params
        self._server, self._rows, self._parts = server, rows, parts
        self._steps: list[Step] = []
        self._error: Exception | None = None
        self._news = threading.Condition()

    def __iter__(self) -> Iterator[Step]:
        """Yield all steps from the first on, as they come.

        Raises:
            EngineError: the server failed, or the engine was closed.
        """
        yield from follow(self._news, self._steps, self.over)
        self._raise()

    def cancel(self, candidate: int | None = None) -> None:
        """Stop one candidate, or all; what was drawn so far is its generation.

        Connections that nobody needs any more are closed, and the server stops.
        """
        check_candidate(candidate, self.params.n)
        with self._news:
            for i in range(self.params.n) if candidate is None else [candidate]:
                if self._rows[i].finish is None and self._error is None:
                    self._rows[i].end("cancelled")
                    self._steps.append(Step(i, [], "cancelled"))
            self._news.notify_all()
        self._hang_up()

    def result(self) -> list[Generation]:
        """Wait, then return one generation per candidate, in order.

        Raises:
            EngineError: the server failed, or the engine was closed.
        """
        with self._news:
            self._news.wait_for(self.over)
        self._raise()
        return [row.generation() for row in self._rows]

    def live(self, candidates: range) -> list[int]:
        """Return those of some candidates that have not ended."""
        return [i for i in candidates if self._error is None and self._rows[i].finish is None]

    def over(self) -> bool:
        """Tell whether nothing more will come."""
        return not self.live(range(self.params.n))

    def take(self, candidate: int, ids: Ids, logprobs: list[float]) -> None:
        """Add what was drawn for a candidate; the engine's side of the request."""
        row = self._rows[candidate]
        with self._news:
            if row.finish in ("cancelled", "loop") or self._error is not None:
                return
            known = len(row.ids)
            if wrong := row.take(ids, logprobs):
                self._error = self.failure(wrong)  # here, since the candidate may have ended before
            elif ids:
                kept = min(known, len(row.ids))
                self._steps.append(Step(candidate, row.ids[kept:], row.finish, known - kept))
            self._news.notify_all()

    def fail(self, error: Exception, part: Part | None = None) -> None:
        """End all with an error, unless nobody waits for the part it comes from; the engine's side."""
        with self._news:
            if self.live(part[0] if part else range(self.params.n)):
                self._error = error
                self._news.notify_all()
        self._hang_up()

    def failure(self, found: str, retryable: bool = False) -> EngineError:
        """Return the error for an answer that does not fit what was asked."""
        return failure(self._server, found, "See what the server is, and its log", retryable)

    def _hang_up(self) -> None:
        for candidates, call in self._parts:
            if not self.live(candidates):
                call.hang_up()

    def _raise(self) -> None:
        if isinstance(self._error, EngineBusy):
            raise EngineBusy(str(self._error)) from self._error
        if isinstance(self._error, EngineError):
            raise EngineError(str(self._error), self._error.retryable) from self._error
        if self._error is not None:
            raise failure(
                self._server, f"{type(self._error).__name__}: {self._error}", "Report this"
            ) from self._error

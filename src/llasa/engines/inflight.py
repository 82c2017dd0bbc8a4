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
from torch import Tensor, nn

from llasa.core import Finish, Generation, Ids, SamplingParams
from llasa.engines.base import Step, check_candidate, follow
from llasa.engines.drawing import Settings, draw, penalise, pick, shares
from llasa.engines.head import Head
from llasa.engines.sampling import LoopWatch, branched, uniforms
from llasa.engines.stages import Stages
from llasa.engines.verification import Guess, Verification, verified
from llasa.errors import EngineError
from llasa.shortage import of_memory

News = tuple[int, int, float | None]  # id, column, log-probability
_GUESSES, _COINS = 1, 2  # streams of random numbers beside that of plain draws


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
                retryable=of_memory(self._error),
            ) from self._error


@dataclass
class Row:
    """A live candidate. `last` is the id to feed; `drawn` counts all draws, the stop id included.

    stats: of its prompt. stages: of the loop, which had `spent` so much when the row began. guess: of the ids
    to come, where drafts make one. passes: of the model; with guesses, `guessed` of them, where the first,
    the second and so on `held` so often.
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
    guess: Guess | None = None
    passes: int = 0
    guessed: int = 0
    held: list[int] = field(default_factory=list)
    ids: Ids = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.spent = self.stages.spent()

    def take_all(self, news: Sequence[News]) -> list[Step]:
        """Add ids drawn in one pass, guesses that held among them, up to one that ends the candidate."""
        self.passes += 1
        steps = list[Step]()
        for one in news:
            steps.append(self.take(*one))
            if steps[-1].finish is not None:
                break
        return steps

    def tally(self, held: int) -> None:
        """Note how many of the guesses held, from the first on; nothing if there were none."""
        if self.guess is not None:
            self.guessed += 1
            before = self.held or [0] * len(self.guess.ids)
            self.held = [count + (number < held) for number, count in enumerate(before)]

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
        if self.guessed:
            stats |= {"drafts_passes": self.passes, "drafts_guessed": self.guessed}
            stats |= {f"drafts_held_{number}": count for number, count in enumerate(self.held, 1)}
        return Generation(self.ids, finish, self.logprobs if self.request.params.logprobs else None, stats)


class Group:
    """The rows that share one head, with what stays the same from step to step."""

    def __init__(self, head: Head, numbers: list[int], rows: list[Row], device: torch.device) -> None:
        self.head, self.numbers, self.rows, self.device = head, numbers, rows, device
        self.params = [row.request.params for row in rows]
        self.settings = Settings.of(self.params, device)
        self._keys = np.array([row.key for row in rows], np.uint64)
        self._stops = self._stop_columns()
        self._repeated = {1: self.settings}

    def draw(self, state: Tensor) -> list[News]:
        """Return what is drawn for each row; `state` is of these rows."""
        logits = self.head(state)
        uniform = self._uniforms(self._positions())[:, 0]
        columns = draw(self._shaped(logits[:, None])[:, 0], self.settings, uniform)[:, None]
        return [news[0] for news in self._news(logits[:, None], columns, [1] * len(self.rows))]

    def leap(self, states: Tensor, rule: Verification) -> list[list[News]]:
        """Return what is drawn for each row, guesses that hold first, and guess anew.

        Args:
            states: what the head reads of the model and its drafts where the last id and the guesses are,
                [B, S, 1 + K, D], or [B, 1, 1 + K, D] where no row has a guess.
        """
        count, places = len(self.rows), states.shape[1]
        logits = self.head(states[:, :, 0].flatten(0, 1)).unflatten(0, (count, places))
        guess, base = self._guess(places - 1), self._positions()
        shaped = self._shaped(logits, guess[0])
        true = shares(shaped.flatten(0, 1), self._settings(places)).view_as(shaped)
        coins, uniform = self._uniforms(base, places - 1, _COINS), self._uniforms(base, places)
        held, last = verified(shaped, true, guess, self._stops, coins, uniform, rule.top_k)
        rows = torch.arange(count, device=self.device)
        drawn = torch.cat([guess[0], last[:, None]], 1).index_put((rows, held), last)
        after = held.cpu().numpy()
        for row, number in zip(self.rows, after.tolist(), strict=True):
            row.tally(number)
        self._guess_anew(states[rows, held, 1:], base + after[:, None] + 1)
        return self._news(logits, drawn, (after + 1).tolist())

    def _guess(self, ahead: int) -> tuple[Tensor, Tensor]:
        """Return columns [B, K] and distributions [B, K, A] of what is guessed; zeros for rows without."""
        found = [row.guess for row in self.rows]
        columns = [[0] * ahead if one is None else one.columns for one in found]
        empty = torch.zeros(ahead, self.head.width, dtype=torch.float64, device=self.device)
        tables = torch.stack([empty if one is None else one.shares for one in found])
        return torch.tensor(columns, dtype=torch.int64, device=self.device), tables[:, :ahead]

    def _guess_anew(self, states: Tensor, base: np.ndarray) -> None:
        """Guess from what the head reads of the drafts, [B, K, D], for places from `base` on, [B, 1].

        Penalties and floors are left to verification: any guess is as right, if not as likely to hold.
        """
        count = states.shape[1]
        found = shares(self.head(states.flatten(0, 1)), self._settings(count))
        columns = pick(found, self._uniforms(base, count, _GUESSES).flatten()).view(-1, count).tolist()
        for row, own, table in zip(self.rows, columns, found.view(-1, count, self.head.width), strict=True):
            row.guess = Guess(self.head.token_ids(own), own, table)

    def _news(self, logits: Tensor, columns: Tensor, counts: list[int]) -> list[list[News]]:
        """Return the first of the columns drawn at each place, [B, S], so many of each row."""
        picked = columns.tolist()
        values: list[list[float | None]] = [[None] * len(own) for own in picked]
        if any(params.logprobs for params in self.params):
            values = logits.log_softmax(-1).gather(-1, columns[..., None])[..., 0].tolist()
        return [
            list(zip(self.head.token_ids(own)[:count], own[:count], told[:count], strict=True))
            for own, told, count in zip(picked, values, counts, strict=True)
        ]

    def _settings(self, places: int) -> Settings:
        """Return the parameters of each row, so many times each."""
        if places not in self._repeated:
            params = [one for one in self.params for _ in range(places)]
            self._repeated[places] = Settings.of(params, self.device)
        return self._repeated[places]

    def _positions(self) -> np.ndarray:
        """Return the place of the next id of each row, [B, 1]."""
        return np.array([[len(row.request.prompt) + row.drawn] for row in self.rows])

    def _uniforms(self, base: np.ndarray, count: int = 1, stream: int = 0) -> Tensor:
        """Return random numbers for `count` places of each row from `base` on, [B, count]."""
        keys = branched(self._keys, stream) if stream else self._keys
        return torch.from_numpy(uniforms(keys[:, None], base + np.arange(count))).to(self.device)

    def _shaped(self, logits: Tensor, guessed: Tensor | None = None) -> Tensor:
        """Return logits [B, S, A] as rules change them where guesses [B, S - 1] have come true before."""
        places = logits.shape[1]
        if self.settings.penalises:
            unseen = torch.zeros(self.head.width, dtype=torch.bool, device=self.device)
            seen = torch.stack([unseen if row.seen is None else row.seen for row in self.rows])
            seen = seen[:, None].repeat(1, places, 1)
            for place in range(1, places):
                assert guessed is not None
                seen[:, place:] |= nn.functional.one_hot(
                    guessed[:, place - 1 : place], self.head.width
                ).bool()
            settings = self._settings(places)
            flat = penalise(logits.flatten(0, 1), seen.flatten(0, 1), settings.penalty)
            logits = flat.view_as(logits)
        young = [
            [len(row.ids) + place < row.request.params.min_tokens for place in range(places)]
            for row in self.rows
        ]
        if any(map(any, young)):
            forbidden = self._stops[:, None] & torch.tensor(young, device=self.device)[..., None]
            logits = logits.masked_fill(forbidden, -torch.inf)
        return logits

    def _stop_columns(self) -> Tensor:
        stops = torch.zeros(len(self.rows), self.head.width, dtype=torch.bool)
        for number, params in enumerate(self.params):
            for column in map(self.head.column, params.stop_token_ids):
                if column is not None:
                    stops[number, column] = True
        return stops.to(self.device)

"""The engine contract: token ids in, token ids out. Knows no text, no markers and no audio."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from threading import Condition
from typing import Protocol, runtime_checkable

from llasa.core import Finish, Generation, Ids, SamplingParams
from llasa.errors import ConfigError


@dataclass(frozen=True)
class Step:
    """News of one candidate: ids drawn since its last step; `finish` is set on its last one.

    `rollback`: how many ids already given are withdrawn (a loop cut back), counted before `ids` are added.
    """

    candidate: int
    ids: Ids
    finish: Finish | None = None
    rollback: int = 0


class Request(Protocol):
    """One prompt in flight, with `params.n` candidates."""

    def __iter__(self) -> Iterator[Step]:
        """Yield steps as ids come."""
        ...

    def cancel(self, candidate: int | None = None) -> None:
        """Stop one candidate, or all; the slot is free within one step."""
        ...

    def result(self) -> list[Generation]:
        """Wait, then return one generation per candidate, in order."""
        ...


class Engine(Protocol):
    """Runs the language model. max_length: prompt and generated ids together.
    concurrency: live candidates.
    """

    name: str
    max_length: int
    concurrency: int

    def submit(self, prompt: Ids, params: SamplingParams) -> Request:
        """Start `params.n` candidates of one prompt; thread-safe; requests in flight share one step loop.

        Raises ConfigError for parameters out of range, InputError for a prompt that leaves no room.
        """
        ...


@runtime_checkable
class SupportsAdapters(Protocol):
    """An engine with adapters: small changes of its weights that a request names in `SamplingParams.adapter`.

    Requests with different adapters, and with none, share one step loop.
    """

    @property
    def adapters(self) -> tuple[str, ...]:
        """Names of the adapters that requests may ask for, sorted."""
        ...

    def load_adapter(self, name: str, folder: str | PathLike[str]) -> None:
        """Make an adapter folder known under a name, while others are in flight."""
        ...

    def unload_adapter(self, name: str) -> None:
        """Let no new request have an adapter; those in flight keep it to their end."""
        ...


def follow(news: Condition, steps: list[Step], over: Callable[[], bool]) -> Iterator[Step]:
    """Yield all steps of a request from the first on, as they come.

    Args:
        news: told whenever there are more steps, and when it is over. steps: what came so far; only grows.
        over: whether nothing more will come.
    """
    seen = 0
    while True:
        with news:
            while len(steps) == seen and not over():
                news.wait()
            fresh = steps[seen:]
        if not fresh:
            return
        seen += len(fresh)
        yield from fresh


def check_candidate(candidate: int | None, n: int) -> None:
    """Raise ConfigError unless this is one of n candidates, or None for all."""
    if candidate is not None and not 0 <= candidate < n:
        raise ConfigError(f"Cancelling: candidate is {candidate}. Give one in [0, {n}), or None for all.")


def generate(engine: Engine, prompts: Sequence[Ids], params: SamplingParams) -> list[list[Generation]]:
    """Return `params.n` generations for each prompt, in order."""
    requests = [engine.submit(prompt, params) for prompt in prompts]
    return [request.result() for request in requests]


def stream(engine: Engine, prompt: Ids, params: SamplingParams) -> Iterator[Step]:
    """Yield the steps of one prompt; closing the iterator cancels the request."""
    request = engine.submit(prompt, params)
    try:
        yield from request
    finally:
        request.cancel()

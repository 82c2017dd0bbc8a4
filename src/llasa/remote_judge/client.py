"""The judge behind a service: candidates in, verdicts out, whatever happens on the way, and in time.

Must not know: what is done with the verdicts.
"""

import os
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.client import HTTPException
from threading import BoundedSemaphore, Lock
from typing import Annotated

from pydantic import BaseModel, Field

from llasa import config
from llasa.core import Candidate, Judged, Voice
from llasa.errors import ConfigError, InputError, ScorerError
from llasa.remote_judge.errand import Errand, Terms, root
from llasa.remote_judge.replicas import Pace, Replicas
from llasa.remote_judge.wire import (
    Health,
    SentCandidate,
    SentVoice,
    Verdict,
    digest,
    judged,
    sent_candidate,
    sent_voice,
)
from llasa.web import JSON, Call, Server

KEY_VARIABLE = "LLASA_JUDGE_KEY"
BATCH = 8  # candidates a request; the service joins requests that wait
REMEMBERED = 256  # voices
_DOING = "Asking a judge"

Seconds = Annotated[float, Field(gt=0, le=86_400)]


class RemoteBlock(BaseModel):
    """A [remote] table: the services that judge. The key, if they want one, is in `LLASA_JUDGE_KEY`.

    urls: of the services, which all run the same judge. item_deadline_s: for a candidate, from when it is
    sent, all tries included. step_deadline_s: in which anything of a step may wait for verdicts, in all.
    retries: after answers that are no verdicts; a service that is gone or busy is asked until the deadline.
    concurrency: requests at once, to all services together.
    """

    model_config = config.STRICT
    urls: list[str] = Field(min_length=1)
    item_deadline_s: Seconds = 20.0
    step_deadline_s: Seconds = 300.0
    retries: Annotated[int, Field(ge=0)] = 3
    concurrency: Annotated[int, Field(ge=1, le=256)] = 16


@dataclass
class _Step:
    """Counts the seconds in which anybody waits for verdicts: drawing candidates is not the judge's time.

    waiting: calls; since_s: when there was none before. spent_s: before that.
    """

    waiting: int = 0
    since_s: float = 0.0
    spent_s: float = 0.0
    lock: Lock = field(default_factory=Lock)

    @contextmanager
    def wait(self, deadline_s: float) -> Iterator[float]:
        """Count what is done inside, and give when it has to end."""
        with self.lock:
            now_s = time.monotonic()
            self.since_s = self.since_s if self.waiting else now_s
            self.waiting += 1
            ends_s = self.since_s + deadline_s - self.spent_s
        try:
            yield ends_s
        finally:
            with self.lock:
                self.waiting -= 1
                self.spent_s += 0.0 if self.waiting else time.monotonic() - self.since_s


class RemoteJudge:
    """Has the `judge` of `Judge`, thread-safe, and a candidate's sound is not among what comes back.

    A candidate on which no service gives a verdict in time is `unjudged`: it leaves every average and is
    never 0. concurrency: how many calls may be in flight.
    """

    def __init__(
        self, urls: Sequence[str], item_deadline_s: float = 20.0, step_deadline_s: float = 300.0,
        retries: int = 3, concurrency: int = 16, key: str | None = None,
    ) -> None:  # fmt: skip
        """Name the services; nothing is sent yet. For the arguments see `RemoteBlock`.

        Raises:
            ConfigError: no URL or a wrong one, a key with odd characters, or a number out of range.
        """
        given = {"urls": list(urls), "item_deadline_s": item_deadline_s, "step_deadline_s": step_deadline_s,
                 "retries": retries, "concurrency": concurrency}  # fmt: skip
        self._block = config.build(RemoteBlock, given, _DOING)
        self._servers = [Server(url, _DOING, key, item_deadline_s) for url in urls]
        self._terms = Terms(Replicas(self._servers), Pace(), item_deadline_s, retries)
        self.concurrency = concurrency
        self._free = BoundedSemaphore(concurrency)
        self._voices: dict[int, tuple[Voice, SentVoice]] = {}
        self._step: _Step | None = None

    def check(self, block: BaseModel, codec: str) -> None:
        """See that every service is there and judges as this run says; from here on no other judge is heard.

        Args:
            block: the run's `JudgeBlock`. codec: name of the run's codec, with the hash of its weights.

        Raises:
            ScorerError: nobody answers, or no judge.
            ConfigError: it judges by something else, or has another codec; names what differs.
        """
        for server in self._servers:
            health = _health(server)
            if health.codec != codec:
                found = f"the codec '{health.codec}' of bundle '{health.bundle}', the run has '{codec}'"
                raise ConfigError(
                    f"{_DOING} at '{server.url}': found {found}. Start it with the run's --bundle."
                )
            if health.digest != digest(block):
                found = _difference(block.model_dump(mode="json"), health.judge)
                todo = "Start it with the run's recipe: llasa serve --judge RECIPE"
                raise ConfigError(f"{_DOING} at '{server.url}': found another [judge]: {found}. {todo}.")
        self._terms = replace(self._terms, judge=digest(block))

    @contextmanager
    def step(self) -> Iterator[None]:
        """Give all that is judged inside, by any thread, one deadline; without, each call has its own."""
        self._step = _Step()
        try:
            yield
        finally:
            self._step = None

    def judge(self, candidates: Sequence[Candidate], held_out: bool = False) -> list[Judged]:
        """Return one verdict a candidate, in order; see `Judge.judge`. Takes `step_deadline_s` at most."""
        parts = [candidates[n : n + BATCH] for n in range(0, len(candidates), BATCH)]
        with (self._step or _Step()).wait(self._block.step_deadline_s) as ends_s:
            if len(parts) == 1:
                return self._part(parts[0], held_out, ends_s)
            with ThreadPoolExecutor(min(len(parts), self.concurrency) or 1) as pool:
                found = pool.map(lambda part: self._part(part, held_out, ends_s), parts)
                return [one for part in found for one in part]

    def _part(self, candidates: Sequence[Candidate], held_out: bool, ends_s: float) -> list[Judged]:
        """Return the verdicts on the candidates of one request."""
        mark = secrets.token_hex(6)
        items: dict[str, SentCandidate] = {}
        voices: dict[str, SentVoice] = {}
        refused: dict[int, Judged] = {}
        for number, candidate in enumerate(candidates):
            try:
                voice = self._voice(candidate.utterance.voice, voices)
                items[f"{mark}.{number}"] = sent_candidate(candidate, f"{mark}.{number}", voice)
            except (ConfigError, InputError) as error:
                refused[number] = Judged(candidate, None, "unjudged", str(error))
        found, reason = self._ask(items, voices, held_out, ends_s) if items else ({}, "")
        late = f"{_DOING}: found no verdict in time ({reason})."
        got = [found.get(f"{mark}.{number}") for number in range(len(candidates))]
        return [
            refused.get(number) or (judged(one, said) if said else Judged(one, None, "unjudged", late))
            for number, (one, said) in enumerate(zip(candidates, got, strict=True))
        ]

    def _ask(
        self, items: Mapping[str, SentCandidate], voices: dict[str, SentVoice], held_out: bool, ends_s: float
    ) -> tuple[Mapping[str, Verdict], str]:
        if not self._free.acquire(timeout=max(0.0, ends_s - time.monotonic())):
            return {}, "the step's time was over before it could be asked for"
        try:
            return Errand(self._terms, list(items.values()), voices, held_out).run(ends_s)
        finally:
            self._free.release()

    def _voice(self, voice: Voice | None, used: dict[str, SentVoice]) -> str | None:
        """Return the key of a voice, among those of a request from now on."""
        if voice is None:
            return None
        known = self._voices.get(id(voice))
        if known is None:
            if len(self._voices) >= REMEMBERED:
                self._voices = {}
            known = self._voices[id(voice)] = (voice, sent_voice(voice))  # kept, so that its id stays its own
        key = next((key for key, one in used.items() if one is known[1]), f"voice-{len(used)}")
        used[key] = known[1]
        return key


def build_remote(block: RemoteBlock) -> RemoteJudge:
    """Return the judge that a [remote] table describes, with the key in `LLASA_JUDGE_KEY`, if it is set.

    Raises:
        ConfigError: as `RemoteJudge`.
    """
    return RemoteJudge(**block.model_dump(), key=os.environ.get(KEY_VARIABLE) or None)


def _health(server: Server) -> Health:
    doing = f"{_DOING} at '{server.url}'"
    try:
        status, data = Call(server).ask("GET", root(server) + "/health", own=JSON)
    except (OSError, HTTPException) as error:
        found = f"{type(error).__name__}: {error}"
        todo = "Start it with: llasa serve --judge RECIPE, or correct the URL"
        raise ScorerError(f"{doing}: found {found}. {todo}.") from error
    if status != 200:
        todo = f"See its log, and give its key in {KEY_VARIABLE}" if status in (401, 403) else "See its log"
        raise ScorerError(f"{doing}: found HTTP {status}: {server.shown(data)}. {todo}.")
    try:
        return Health.model_validate_json(data)
    except ValueError as error:
        found = f"no judge but {server.shown(data)}"
        raise ScorerError(f"{doing}: found {found}. Name a service of: llasa serve --judge.") from error


def _difference(own: object, other: object, path: str = "judge") -> str:
    """Return the first place where two tables differ."""
    if isinstance(own, dict) and isinstance(other, dict):
        for key in sorted({*own, *other}):
            if own.get(key) != other.get(key):
                return _difference(own.get(key), other.get(key), f"{path}.{key}")
    if isinstance(own, list) and isinstance(other, list) and len(own) == len(other):
        for number, (mine, its) in enumerate(zip(own, other, strict=True)):
            if mine != its:
                return _difference(mine, its, f"{path}.{number}")
    return f"{path} is {other!r:.120} there and {own!r:.120} here"

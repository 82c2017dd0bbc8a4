"""Getting verdicts on some candidates in time: asked, asked again elsewhere, the first good answer taken.

Must not know: what a verdict is used for.
"""

import json
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from http.client import HTTPException
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Literal

from llasa.remote_judge.replicas import Pace, Replica, Replicas
from llasa.remote_judge.wire import SentCandidate, SentVoice, Verdict, verdicts
from llasa.web import Call, Server

AT_ONCE = 2  # connections that one request is on
PAUSE_S, LONGEST_PAUSE_S = 0.05, 1.0  # before a service that failed is asked again, doubling
GONE = (502, 503, 504)  # said by what stands between


@dataclass(frozen=True)
class Lost:
    """Why there is no answer.

    kind: `gone`: nobody answered; `busy`: later, perhaps; `wrong`: what came is no verdict; `refused`:
    asking again does not help.
    """

    kind: Literal["gone", "busy", "wrong", "refused"]
    reason: str


@dataclass(eq=False)
class _Attempt:
    """A request on one connection."""

    replica: Replica
    ids: list[str]
    call: Call
    nonce: str = field(default_factory=lambda: secrets.token_hex(8))
    began_s: float = field(default_factory=time.monotonic)
    found: dict[str, Verdict] = field(default_factory=dict[str, Verdict])
    lost: Lost | None = None


@dataclass(frozen=True)
class Terms:
    """How services are asked. retries: after an answer that is none. judge: its digest, None for any."""

    replicas: Replicas
    pace: Pace
    deadline_s: float
    retries: int
    judge: str | None = None


class Errand:
    """Some candidates on their way to a verdict; used once, by one thread."""

    def __init__(
        self,
        terms: Terms,
        items: Sequence[SentCandidate],
        voices: dict[str, SentVoice],
        held_out: bool,
    ) -> None:
        self._terms = terms
        self._items = {item.id: item.model_dump(mode="json") for item in items}
        self._voices = {key: voice.model_dump(mode="json") for key, voice in voices.items()}
        self._held_out = held_out
        self._news: SimpleQueue[_Attempt] = SimpleQueue()
        self._running: list[_Attempt] = []
        self._found: dict[str, Verdict] = {}
        self._wrong, self._pause_s, self._next_s = 0, PAUSE_S, 0.0
        self._reason = "no service could be asked"

    def run(self, ends_s: float) -> tuple[dict[str, Verdict], str]:
        """Return verdicts by id, and why others have none.

        Args:
            ends_s: when to stop, as of `time.monotonic`; the deadline of the terms counts as well.
        """
        ends_s = min(ends_s, time.monotonic() + self._terms.deadline_s)
        try:
            while self._missing() and (now_s := time.monotonic()) < ends_s:
                self._ask(now_s)
                until_s = self._next_s if len(self._running) < AT_ONCE else ends_s
                try:
                    attempt = self._news.get(timeout=max(0.0, min(until_s, ends_s) - time.monotonic()))
                except Empty:
                    continue
                if attempt in self._running and not self._take(attempt):
                    break
        finally:
            self._hang_up()
        return self._found, self._reason

    def _missing(self) -> list[str]:
        return [id for id in self._items if id not in self._found]

    def _ask(self, now_s: float) -> None:
        """Ask for what is missing, if it is time to."""
        if now_s < self._next_s or len(self._running) >= AT_ONCE:
            return
        replica = self._terms.replicas.take([one.replica for one in self._running])
        if replica is None:
            self._next_s = now_s + PAUSE_S
            return
        attempt = _Attempt(replica, self._missing(), Call(replica.server))
        self._running.append(attempt)
        self._next_s = now_s + self._terms.pace.patience_s(self._terms.deadline_s)
        Thread(target=self._fetch, args=(attempt,), name="llasa-judge", daemon=True).start()

    def _fetch(self, attempt: _Attempt) -> None:
        """Get an answer, in a thread of its own; every way it can go ends in a message."""
        try:
            status, data = attempt.call.ask(
                "POST", root(attempt.replica.server) + "/v1/judge", self._body(attempt)
            )
            if status == 200:
                attempt.found, wrong = verdicts(data, attempt.nonce, attempt.ids, self._terms.judge)
                attempt.lost = Lost("wrong", wrong[0]) if wrong else None
            else:
                attempt.lost = Lost(_kind(status), f"HTTP {status}: {attempt.replica.server.shown(data)}")
        except (OSError, HTTPException) as error:
            attempt.lost = Lost("gone", f"{type(error).__name__}: {str(error)[:200]}")
        except Exception as error:  # the thread's edge: what came cannot be read, in whatever way
            attempt.lost = Lost("wrong", f"no verdicts: {str(error)[:200]}")
        self._news.put(attempt)

    def _body(self, attempt: _Attempt) -> bytes:
        items = [self._items[id] for id in attempt.ids]
        used = {item["voice"] for item in items}
        voices = {key: voice for key, voice in self._voices.items() if key in used}
        asked = {"nonce": attempt.nonce, "items": items, "voices": voices, "held_out": self._held_out}
        return json.dumps(asked).encode()

    def _take(self, attempt: _Attempt) -> bool:
        """Keep what an attempt brought; return whether to go on."""
        self._running.remove(attempt)
        terms, now_s = self._terms, time.monotonic()
        self._found = attempt.found | self._found
        if attempt.lost is None:
            self._outrun(attempt)
            terms.pace.add(now_s - attempt.began_s)
            terms.replicas.give_back(attempt.replica, True)
            return True
        terms.replicas.give_back(attempt.replica, False if attempt.lost.kind in ("gone", "wrong") else None)
        self._reason = f"'{attempt.replica.server.url}': {attempt.lost.reason}"
        self._wrong += attempt.lost.kind == "wrong"
        self._next_s, self._pause_s = now_s + self._pause_s, min(2 * self._pause_s, LONGEST_PAUSE_S)
        return attempt.lost.kind != "refused" and self._wrong <= terms.retries

    def _outrun(self, winner: _Attempt) -> None:
        """An older connection that was overtaken by a younger one is held against its service."""
        for other in [one for one in self._running if one.began_s < winner.began_s]:
            self._drop(other, good=False)

    def _hang_up(self) -> None:
        """End what still runs: late, if something is missing; else nobody waits for it any more."""
        late = bool(self._missing())
        for attempt in list(self._running):
            if late:
                waited_s = time.monotonic() - attempt.began_s
                self._reason = f"'{attempt.replica.server.url}': no answer after {waited_s:.1f} s"
            self._drop(attempt, good=False if late else None)

    def _drop(self, attempt: _Attempt, good: bool | None) -> None:
        self._running.remove(attempt)
        attempt.call.hang_up()
        self._terms.replicas.give_back(attempt.replica, good)


def _kind(status: int) -> Literal["gone", "busy", "wrong", "refused"]:
    if status == 429:
        return "busy"
    return "gone" if status in GONE else "refused" if status < 500 else "wrong"


def root(server: Server) -> str:
    """Return the path of a service, whether or not its URL was written with `/v1`."""
    return server.path.removesuffix("/v1")

"""Which of several services is asked next: the idlest one that works, with a circuit breaker for each.

Must not know: what is asked, HTTP.
"""

import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from statistics import median
from threading import Lock

from llasa.web import Server

OPEN_AFTER = 3  # failures in a row
COOL_S, LONGEST_COOL_S = 0.5, 5.0
USUAL, LEAST_S, KNOWN = 4.0, 0.1, 8  # a request that takes this many times the median is asked twice


@dataclass(eq=False)
class Replica:
    """A service. failures: in a row. until_s: while the circuit is open, when one request may try again."""

    server: Server
    in_flight: int = 0
    failures: int = 0
    cool_s: float = COOL_S
    until_s: float = 0.0

    @property
    def open(self) -> bool:
        """Whether it failed so often that only a probe is sent, now and then."""
        return self.failures >= OPEN_AFTER

    def due(self, now_s: float) -> bool:
        """Whether it is time for a probe (half-open)."""
        return self.open and now_s >= self.until_s and not self.in_flight


class Replicas:
    """Services that say the same. Thread-safe."""

    def __init__(self, servers: Sequence[Server], clock: Callable[[], float] = time.monotonic) -> None:
        self._all = [Replica(server) for server in servers]
        self._clock = clock
        self._lock = Lock()

    def take(self, avoid: Collection[Replica] = ()) -> Replica | None:
        """Return whom to ask; None: nobody works, and it is too soon to try again.

        A service whose probe is due comes first: only a request can tell that it works again.

        Args:
            avoid: asked already: only if there is no other.
        """
        with self._lock:
            now_s = self._clock()
            able = [one for one in self._all if not one.open or one.due(now_s)]
            if not able:
                return None
            chosen = min(able, key=lambda one: (one in avoid, not one.open, one.in_flight))
            chosen.in_flight += 1
            return chosen

    def give_back(self, replica: Replica, good: bool | None) -> None:
        """Tell what became of the request. good: None if nobody waited for it any more."""
        with self._lock:
            replica.in_flight -= 1
            if good:
                replica.failures, replica.cool_s = 0, COOL_S
            elif good is False:
                self._failed(replica)

    def _failed(self, replica: Replica) -> None:
        now_s = self._clock()
        if not replica.open:
            replica.failures += 1
            replica.until_s = now_s + replica.cool_s
        elif (
            now_s >= replica.until_s
        ):  # the probe; what was under way when the circuit opened says nothing new
            replica.cool_s = min(2 * replica.cool_s, LONGEST_COOL_S)
            replica.until_s = now_s + replica.cool_s


class Pace:
    """How long requests take, and from when on one takes too long. Thread-safe."""

    def __init__(self) -> None:
        self._took: deque[float] = deque(maxlen=64)
        self._lock = Lock()

    def add(self, took_s: float) -> None:
        """Note how long an answer took."""
        with self._lock:
            self._took.append(took_s)

    def patience_s(self, deadline_s: float) -> float:
        """Return when another connection is asked too: after 4 medians, a third of the deadline at most."""
        with self._lock:
            if len(self._took) < KNOWN:
                return deadline_s / 3
            return min(max(LEAST_S, USUAL * median(self._took)), deadline_s / 3)

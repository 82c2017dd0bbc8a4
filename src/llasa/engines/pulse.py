"""Whether a step loop still moves: what it does now is held against the slowest of its kind before."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

SLACK, LEAST_S = 10.0, 1.0  # a piece of work is late after so many times the slowest, and never sooner
UNKNOWN_S = 60.0  # allowed for what was never done before
KEPT = 0.99  # of the slowest, each time: what was slow once is forgotten


class Pulse:
    """The pulse of one loop, whose thread beats; any thread may look.

    failures: steps that failed since the last one that did not.
    """

    def __init__(self) -> None:
        self.failures = 0
        self._slowest = dict[str, float]()  # kind -> seconds for one of its size
        self._due: float | None = None

    @contextmanager
    def beat(self, kind: str, size: int = 1) -> Iterator[list[int]]:
        """Work inside; how long it may take grows with its size. The list takes what needed no work of it."""
        known = self._slowest.get(kind)
        began = time.monotonic()
        self._due = began + (UNKNOWN_S if known is None else max(LEAST_S, SLACK * size * known))
        spared = list[int]()
        try:
            yield spared
        finally:
            self._due = None
        if done := size - sum(spared):
            self._slowest[kind] = max((time.monotonic() - began) / done, KEPT * (known or 0.0))

    def stop(self) -> None:
        """Be late from now on: the loop has ended by itself."""
        self._due = time.monotonic()

    @property
    def late_s(self) -> float:
        """Seconds by which the work under way is late; 0 if it is not, or there is none."""
        due = self._due
        return 0.0 if due is None else max(0.0, time.monotonic() - due)

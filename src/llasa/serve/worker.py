"""One thread that does all the work of a service, joining what waits; a queue that can be full.

Must not know: HTTP, what the work is.
"""

from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from threading import Condition, Thread
from typing import Any

from llasa.errors import EngineBusy

Run = Callable[[Hashable, list[Any]], list[Any]]


@dataclass(eq=False)
class _Job:
    kind: Hashable
    items: Sequence[Any]
    future: "Future[list[Any]]" = field(default_factory=Future)


class Worker:
    """Gives the results of items, those of one kind that wait in one go, oldest first.

    Models and their caches are then used by one thread only.
    """

    def __init__(self, run: Run, most_items: int = 64, most_waiting: int = 1024) -> None:
        """Start the thread, which ends with the program.

        Args:
            run: one result an item of a kind, each as if it were alone. If it fails for joined requests, it
                is asked again for each of them.
            most_items: joined in one go. most_waiting: items; a request that finds as many is refused.
        """
        self._run, self._most_items, self._most_waiting = run, most_items, most_waiting
        self._jobs: deque[_Job] = deque()
        self._news = Condition()
        Thread(target=self._work, name="llasa-worker", daemon=True).start()

    @property
    def waiting(self) -> int:
        """Items that nobody works on yet."""
        return sum(len(job.items) for job in list(self._jobs) if not job.future.cancelled())

    def submit(self, kind: Hashable, items: Sequence[Any]) -> "Future[list[Any]]":
        """Return the results to come; cancelling them takes the items off the queue.

        Raises:
            EngineBusy: too many wait.
        """
        job = _Job(kind, items)
        with self._news:
            if self.waiting >= self._most_waiting:
                raise EngineBusy(f"Judging: found {self.waiting} items waiting. Ask again in a moment.")
            self._jobs = deque(one for one in self._jobs if not one.future.cancelled())
            self._jobs.append(job)
            self._news.notify()
        return job.future

    def _work(self) -> None:
        while True:
            with self._news:
                self._news.wait_for(lambda: self._jobs)
                jobs = self._joined()
            self._do([job for job in jobs if job.future.set_running_or_notify_cancel()])

    def _joined(self) -> list[_Job]:
        """Take the oldest job, and those of its kind that fit beside it, off the queue."""
        first = self._jobs[0]
        taken, n = [], 0
        for job in self._jobs:
            if job is first or (job.kind == first.kind and n + len(job.items) <= self._most_items):
                taken.append(job)
                n += len(job.items)
        self._jobs = deque(job for job in self._jobs if job not in taken)
        return taken

    def _do(self, jobs: list[_Job]) -> None:
        if not jobs:
            return
        items = [item for job in jobs for item in job.items]
        try:
            found = self._run(jobs[0].kind, items)
            if len(found) != len(items):
                raise RuntimeError(f"{len(found)} results for {len(items)} items")
        except Exception as error:  # the thread's edge: it must live, and whoever waits must hear of it
            if len(jobs) == 1:
                jobs[0].future.set_exception(error)
            else:
                for job in jobs:
                    self._do([job])
            return
        for job in jobs:
            job.future.set_result(found[: len(job.items)])
            del found[: len(job.items)]

"""Workers on many cores, GPUs or machines: Ray's, their results in this process's order. Knows no files.

Workers of `prepare` send codes back; one process decides what came before and writes, so shards are equal to
local ones. Evaluation has its lines said and heard the same way.
"""

from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Generic, TypeVar

from llasa.codec.base import Codec
from llasa.data.encode import Job, Made, Options, Tick, encode
from llasa.data.prepare import Drive
from llasa.errors import MissingExtra

Given = TypeVar("Given")
Result = TypeVar("Result")


def on_ray(load: Callable[[], Codec], options: Options) -> Drive:
    """Return what turns jobs into codes on Ray: on the cluster of `RAY_ADDRESS`, or on this machine.

    Every worker sees the sounds under the same paths.

    Args:
        load: gives a worker its codec; must be picklable. options: as given to `prepare`.

    Raises:
        MissingExtra: Ray is not installed.
    """
    _ray("Preparing on Ray")
    return partial(_encoded, load, options)


class _Encoder:
    """Keeps a codec between jobs."""

    def __init__(self, load: Callable[[], Codec], options: Options) -> None:
        self._codec, self._options = load(), options

    def __call__(self, job: Job) -> Made:
        return encode(job, self._codec, self._options)


def _encoded(load: Callable[[], Codec], options: Options, jobs: Iterator[Job], tick: Tick) -> Iterator[Made]:
    """Yield what became of the jobs, in order; `tick` hears nothing, as whole shards come back."""
    return in_order("Preparing on Ray", partial(_Encoder, load, options), jobs)


def in_order(
    doing: str, make: Callable[[], Callable[[Given], Result]], jobs: Iterator[Given]
) -> Iterator[Result]:
    """Yield what Ray's workers make of jobs, in the jobs' order.

    Args:
        doing: opens the message of an error.
        make: gives a worker what it calls with each job; must be picklable, and so must jobs and results.

    Raises:
        MissingExtra: Ray is not installed.
    """
    ray: Any = _ray(doing)
    ours = not ray.is_initialized()
    if ours:
        ray.init(include_dashboard=False, log_to_driver=False)
    try:
        workers = _workers(ray, make)
        pending = deque[Any]()
        for number, job in enumerate(jobs):
            # Two jobs a worker: it never waits, and no more is in memory.
            pending.append(workers[number % len(workers)].work.remote(job))
            if len(pending) >= 2 * len(workers):
                yield ray.get(pending.popleft())
        while pending:
            yield ray.get(pending.popleft())
    finally:
        if ours:
            ray.shutdown()


def _ray(doing: str) -> Any:
    try:
        import ray  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        raise MissingExtra(doing, "ray", "ray") from error
    return ray


class _Worker(Generic[Given, Result]):
    """Does jobs in a process of its own."""

    def __init__(self, make: Callable[[], Callable[[Given], Result]]) -> None:
        self._do = make()

    def work(self, job: Given) -> Result:
        return self._do(job)


def _workers(ray: Any, make: Callable[[], Callable[[Given], Result]]) -> list[Any]:
    """Start a worker on each GPU, or on each core if there is none."""
    found = ray.cluster_resources()
    gpus, cores = int(found.get("GPU", 0)), int(found.get("CPU", 1))
    worker = ray.remote(num_cpus=1, num_gpus=1 if gpus else 0)(_Worker)
    return [worker.remote(make) for _ in range(gpus or cores)]

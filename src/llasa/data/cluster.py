"""The worker of `prepare` on many cores, GPUs or machines: Ray's, in this process's order. Knows no files.

Workers send codes back; one process decides what came before and writes, so shards are equal to local ones.
"""

from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from llasa.codec.base import Codec
from llasa.data.encode import Job, Made, Options, Tick, encode
from llasa.data.prepare import Drive
from llasa.errors import MissingExtra


def on_ray(load: Callable[[], Codec], options: Options) -> Drive:
    """Return what turns jobs into codes on Ray: on the cluster of `RAY_ADDRESS`, or on this machine.

    Every worker sees the sounds under the same paths.

    Args:
        load: gives a worker its codec; must be picklable. options: as given to `prepare`.

    Raises:
        MissingExtra: Ray is not installed.
    """
    try:
        import ray  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        raise MissingExtra("Preparing on Ray", "ray", "ray") from error
    return partial(_spread, ray, load, options)


class _Worker:
    """Keeps a codec between jobs."""

    def __init__(self, load: Callable[[], Codec], options: Options) -> None:
        self._codec, self._options = load(), options

    def encode(self, job: Job) -> Made:
        return encode(job, self._codec, self._options)


def _spread(
    ray: Any, load: Callable[[], Codec], options: Options, jobs: Iterator[Job], tick: Tick
) -> Iterator[Made]:
    """Yield what became of the jobs, in order; `tick` hears nothing, as whole shards come back."""
    ours = not ray.is_initialized()
    if ours:
        ray.init(include_dashboard=False, log_to_driver=False)
    try:
        workers = _workers(ray, load, options)
        pending = deque[Any]()
        for job in jobs:
            # Two jobs a worker: it never waits, and no more is in memory.
            pending.append(workers[job.number % len(workers)].encode.remote(job))
            if len(pending) >= 2 * len(workers):
                yield ray.get(pending.popleft())
        while pending:
            yield ray.get(pending.popleft())
    finally:
        if ours:
            ray.shutdown()


def _workers(ray: Any, load: Callable[[], Codec], options: Options) -> list[Any]:
    """Start a worker on each GPU, or on each core if there is none."""
    found = ray.cluster_resources()
    gpus, cores = int(found.get("GPU", 0)), int(found.get("CPU", 1))
    worker = ray.remote(num_cpus=1, num_gpus=1 if gpus else 0)(_Worker)
    return [worker.remote(load, options) for _ in range(gpus or cores)]

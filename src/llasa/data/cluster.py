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
from llasa.errors import EngineError, LlasaError, MissingExtra

Given = TypeVar("Given")
Result = TypeVar("Result")
_TRIES = 3  # more of a job whose worker died
_SHARING = 4  # workers of `prepare` on a GPU, each with a codec of its own


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
    return in_order("Preparing on Ray", partial(_Encoder, load, options), jobs, _SHARING)


def in_order(
    doing: str, make: Callable[[], Callable[[Given], Result]], jobs: Iterator[Given], sharing: int = 1
) -> Iterator[Result]:
    """Yield what Ray's workers make of jobs, in the jobs' order.

    A worker that dies, or whose machine does, is started again, and what it had in hand is done again.

    Args:
        doing: opens the message of an error.
        make: gives a worker what it calls with each job; must be picklable, and so must jobs and results.
        sharing: workers on a GPU, at most, and as far as there are cores for them.

    Raises:
        MissingExtra: Ray is not installed.
        EngineError: a job ended every worker that tried it. What a job raises is raised as it is.
    """
    ray: Any = _ray(doing)
    ours = not ray.is_initialized()
    if ours:
        ray.init(include_dashboard=False, log_to_driver=False)
    try:
        workers = _workers(ray, make, sharing)
        pending = deque[Any]()
        for number, job in enumerate(jobs):
            # Two jobs a worker: it never waits, and no more is in memory.
            pending.append(workers[number % len(workers)].work.remote(job))
            if len(pending) >= 2 * len(workers):
                yield _result(ray, doing, pending.popleft())
        while pending:
            yield _result(ray, doing, pending.popleft())
    finally:
        if ours:
            ray.shutdown()


def _ray(doing: str) -> Any:
    try:
        import ray  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        raise MissingExtra(doing, "ray", "ray") from error
    return ray


def _result(ray: Any, doing: str, pending: Any) -> Any:
    try:
        return ray.get(pending)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from (None if isinstance(error.cause, LlasaError) else error)
    except ray.exceptions.RayActorError as error:
        found = f"a worker died {1 + _TRIES} times at the same job, which often is a want of memory"
        todo = "What is done is kept: run the same command again, or leave the job out."
        raise EngineError(f"{doing}: {found}. {todo} Ray says: {error}") from None


class _Worker(Generic[Given, Result]):
    """Does jobs in a process of its own."""

    def __init__(self, make: Callable[[], Callable[[Given], Result]]) -> None:
        self._make, self._do = make, None

    def work(self, job: Given) -> Result:
        # Made by the first job: Ray hides what an actor raises before it.
        self._do = self._do or self._make()
        return self._do(job)


def _workers(ray: Any, make: Callable[[], Callable[[Given], Result]], sharing: int) -> list[Any]:
    """Start workers on each GPU, or one on each core if there is none."""
    found = ray.cluster_resources()
    gpus, cores = int(found.get("GPU", 0)), int(found.get("CPU", 1))
    # A worker reads on its core and encodes on its GPU in turns: by itself it leaves the GPU waiting.
    a_gpu = max(1, min(sharing, cores // gpus)) if gpus else 0
    needs = {"num_cpus": 1, "num_gpus": 1 / a_gpu if gpus else 0}
    worker = ray.remote(**needs, max_restarts=-1, max_task_retries=_TRIES)(_Worker)
    return [worker.remote(make) for _ in range(gpus * a_gpu or cores)]

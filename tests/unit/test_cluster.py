"""Ray's workers make what this process makes, to the byte."""

import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from llasa import audio
from llasa.core import Clip
from llasa.data import cluster
from llasa.data.encode import Job, Made, Options
from llasa.data.prepare import prepare
from llasa.errors import ConfigError, EngineError, MissingExtra
from tests.listed import Listed, Plain
from tests.sounds import speechlike

OPTIONS = Options(shard_rows=3)


@pytest.fixture
def clips(tmp_path: Path) -> list[Clip]:
    made = list[Clip]()
    for n in range(10):
        audio.write(tmp_path / f"{n}.wav", speechlike(0.4 + n / 50))
        made.append(
            Clip(f"clip-{n}", str(tmp_path / f"{n}.wav"), f"Number {n}.", split="test" if n == 4 else "")
        )
    return [*made, replace(made[0], id="again"), replace(made[1], id="gone", audio="gone")]


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}


class Remote:
    """What `ray` offers of itself, done at once in this process; counts what nobody took yet."""

    def __init__(self, cores: int, gpus: int = 0, share: float = 0) -> None:
        self.found, self.share = {"CPU": cores, "GPU": gpus}, share
        self.waiting, self.most, self.up = 0, 0, False

    def is_initialized(self) -> bool:
        return self.up

    def init(self, **options: object) -> None:
        self.up = True

    def shutdown(self) -> None:
        self.up = False

    def cluster_resources(self) -> dict[str, float]:
        return self.found

    def remote(self, **needs: object):
        assert needs == {"num_cpus": 1, "num_gpus": self.share, "max_restarts": -1, "max_task_retries": 3}
        return lambda kind: _Started(self, kind)

    def get(self, made: Made) -> Made:
        self.waiting -= 1
        return made


@dataclass
class _Started:
    ray: Remote
    kind: type

    def remote(self, *given: object) -> "_Started":
        self.worker = self.kind(*given)
        return _Actor(self.ray, self.worker)  # pyright: ignore[reportReturnType]


class _Actor:
    def __init__(self, ray: Remote, worker: object) -> None:
        self.ray, self.worker, self.work = ray, worker, self

    def remote(self, job: Job) -> Made:
        self.ray.waiting += 1
        self.ray.most = max(self.ray.most, self.ray.waiting)
        return self.worker.work(job)  # pyright: ignore[reportAttributeAccessIssue]


def test_shards_are_equal_and_few_jobs_wait(
    tmp_path: Path, clips: list[Clip], monkeypatch: pytest.MonkeyPatch
):
    codec, ray = Plain(), Remote(cores=1)
    monkeypatch.setitem(sys.modules, "ray", ray)  # pyright: ignore[reportArgumentType]
    prepare(Listed(clips), tmp_path / "local", codec, OPTIONS)
    prepare(Listed(clips), tmp_path / "ray", codec, OPTIONS, drive=cluster.on_ray(Plain, OPTIONS))
    assert files(tmp_path / "local") == files(tmp_path / "ray")
    assert "heldout-00001.parquet" in files(tmp_path / "ray")
    assert ray.most == 2 and not ray.up


def test_without_ray(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match="llasa\\[ray\\]"):
        cluster.on_ray(Plain, OPTIONS)


class Frail:
    """Doubles numbers. 3 ends its process, once for each file in `tries`; without that it is refused."""

    def __init__(self, tries: Path | None = None) -> None:
        self.tries = tries

    def __call__(self, job: int) -> int:
        if job == 3 and self.tries is None:
            raise ConfigError("Doubling 3: found 3. Give another.")
        if job == 3 and self.tries is not None and (left := list(self.tries.iterdir())):
            left[0].unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return 2 * job


@pytest.fixture
def own_ray() -> Iterator[Any]:
    """Ray itself, on two cores of this machine."""
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield ray
    ray.shutdown()


@pytest.mark.parametrize(
    ("cores", "gpus", "count", "share"), [(64, 8, 32, 0.25), (12, 8, 8, 1), (4, 0, 4, 0)]
)
def test_workers_share_gpus_as_far_as_there_are_cores(cores: int, gpus: int, count: int, share: float):
    ray = Remote(cores, gpus, share)
    assert len(cluster._workers(ray, partial(Frail, None), 4)) == count


@pytest.mark.slow
def test_a_worker_of_ray_that_dies_is_replaced(tmp_path: Path, own_ray: Any):
    for n in range(6):
        (tmp_path / str(n)).touch()
    with pytest.raises(EngineError, match="Doubling: a worker died 4 times at the same job"):
        list(cluster.in_order("Doubling", partial(Frail, tmp_path), iter(range(8))))
    assert len(list(tmp_path.iterdir())) == 2  # which two more workers will die of
    assert list(cluster.in_order("Doubling", partial(Frail, tmp_path), iter(range(8)))) == [*range(0, 16, 2)]
    assert not list(tmp_path.iterdir())
    with pytest.raises(ConfigError) as refused:
        list(cluster.in_order("Doubling", Frail, iter(range(8))))
    assert str(refused.value) == "Doubling 3: found 3. Give another."
    assert own_ray.is_initialized()  # Ray that was there stays

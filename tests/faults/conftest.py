"""The process that forks children for faults to come to, and what they work on."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.runs import Runs
from tests.faults.zygote import Zygote


@pytest.fixture(scope="session")
def zygote() -> Iterator[Zygote]:
    process = Zygote()
    yield process
    process.close()


@pytest.fixture(scope="session")
def material(zygote: Zygote, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `works.material` makes."""
    folder = tmp_path_factory.mktemp("material")
    made = zygote.run("material", folder)
    assert made.code == 0, made
    return folder


@pytest.fixture(scope="session")
def runs(zygote: Zygote, material: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(zygote, material, tmp_path_factory.mktemp("runs"))

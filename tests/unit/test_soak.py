"""The soak of a service sees one that is gone. Its long form: `benchmarks/soak.py`."""

import asyncio
import random
from argparse import Namespace

import psutil
import pytest

pytest.importorskip("scipy")
pytest.importorskip("uvicorn")

from benchmarks import soak
from benchmarks.soak import Soak


@pytest.fixture
def gone() -> Soak:
    return Soak(random.Random(0), "http://127.0.0.1:1", psutil.Process())  # nobody listens there


def test_a_service_that_is_gone_is_not_explained(gone: Soak) -> None:
    asyncio.run(gone.one())
    asyncio.run(gone.crowd())
    assert len(gone.odd) == 201


def test_trouble_that_cannot_be_made_is_told(gone: Soak, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the rest of the time would pass without any, and look good."""
    left = iter([None])

    async def trouble(self: Soak, after_s: float) -> None:
        if next(left, self) is self:
            raise ZeroDivisionError

    monkeypatch.setattr(Soak, "trouble", trouble)
    monkeypatch.setattr(soak, "CUT_S", 0.0)
    with pytest.raises(ZeroDivisionError):
        asyncio.run(soak.run(gone, Namespace(share=1.0, warm_s=0.1, trouble_s=0.0, minutes=0.005)))

"""Many, slow, vanishing and greedy clients before a live service. The full forms: `benchmarks/load.py`."""

import asyncio
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

pytest.importorskip("uvicorn")
pytest.importorskip("websockets")

from benchmarks.load import TEXT, crowd, dawdlers, fairness, freed, hangups, visits
from llasa.serve.connections import Connection, Socket
from llasa.serve.guard import Rules
from llasa.serve.speech_api import Limits
from tests.crowd import Ask, ask, asked
from tests.paced import Live, paced, process

SEED = int(os.environ.get("SEED", "0"))


@pytest.fixture(scope="module")
def live(tiny_bundle: Path) -> Iterator[Live]:
    with paced(tiny_bundle, limits=Limits(4, 8)) as found:
        yield found


def test_those_let_in_get_all_and_the_others_come_back_later(live: Live) -> None:
    answers, right = asyncio.run(crowd(live.url, 40, 1000, SEED))
    taken = [n for n, one in enumerate(answers) if one.status == 200]
    assert len(taken) >= 12 and all(right[n] for n in taken), f"seed {SEED}"
    others = [one for one in answers if one.status != 200]
    assert others and all(one.status == 429 and one.heads["retry-after"] == "1" for one in others)


def test_bytes_are_those_of_the_codes(live: Live) -> None:
    for format in ("pcm", "wav", "flac"):
        body = {"input": TEXT, "seed": 5, "response_format": format}
        assert asked(live.url, Ask(body)).body == live.expected(**body), format


def test_nothing_is_left_of_clients_that_vanish(live: Live) -> None:
    asyncio.run(hangups(live, 20, SEED + 1, at_once=4))
    before = live.held()
    asyncio.run(hangups(live, 200, SEED, at_once=10))
    assert live.settled(before) == {}, f"seed {SEED}"
    assert sorted(asyncio.run(freed(live, 12, SEED)))[6] < live.engine.step_s + 0.05


def test_keys_are_served_alike(tiny_bundle: Path) -> None:
    keys = ["one", "two", "three"]
    with paced(tiny_bundle, limits=Limits(2, 6, 3), rules=Rules(key=" ".join(keys))) as live:
        served = asyncio.run(fairness(live.url, keys, 60))
    assert max(served) < 1.5 * min(served), served


def test_slow_readers_hold_up_nobody_and_are_cut(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Connection, "look_s", 1.5)
    with paced(tiny_bundle, limits=Limits(2, 64)) as live:
        asyncio.run(visits(live.url, 0.5))
        before = live.held()
        usual, beside, slow = asyncio.run(dawdlers(live.url, 10, 2.0))
        assert live.settled(before) == {}
    assert all(one.cut and one.took_s < 20 for one in slow), [(one.cut, one.took_s) for one in slow]
    assert sorted(beside)[len(beside) // 2] < 2 * sorted(usual)[len(usual) // 2] + 0.1


def test_little_waits_in_a_connection(live: Live) -> None:
    most = 0

    async def look() -> None:
        nonlocal most
        client = asyncio.create_task(
            ask(
                live.url,
                Ask(
                    {"input": TEXT * 60, "response_format": "pcm", "sample_rate": 48_000},
                    byte_s=1.0,
                    stay_s=3,
                ),
            )
        )
        while not client.done():
            await asyncio.sleep(0.02)
            most = max([most, *live.unsent()])

    asyncio.run(look())
    assert 0 < most <= 256 << 10


HALF = (
    b"",
    b"POST /v1/audio/speech HTTP/1.1\r\nHost:",
    b"GET /v1/audio/speech/stream HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
    b"Connection: Upgrade\r\nContent-Length: 9\r\n\r\n",
)


@pytest.mark.parametrize("begun", HALF)
def test_heads_that_do_not_come_are_not_waited_for(
    live: Live, begun: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind in (Connection, Socket):
        monkeypatch.setattr(kind, "look_s", 0.2)
    host, _, port = live.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=5) as own:
        own.sendall(begun)
        with suppress(ConnectionResetError):
            assert own.recv(1000)[:12] in (b"", b"HTTP/1.1 400")


@pytest.mark.fault("S8")
@pytest.mark.parametrize(
    "how", [{}, {"stream_format": "sse"}, {"response_format": "flac"}, {"stream": False}]
)
def test_what_fails_after_the_first_sound_is_cut(tiny_bundle: Path, how: dict[str, object]) -> None:
    with paced(tiny_bundle, fails_at=100, codes=200) as live:
        before = live.held()
        answer = asked(live.url, Ask({"input": TEXT, "response_format": "pcm"} | how))
        whole = how.get("stream") is False
        assert answer.status == (502 if whole else 200) and answer.whole == whole
        assert b"speech.audio.done" not in answer.body
        assert live.settled(before) == {}


def test_what_is_under_way_is_finished_when_the_service_ends() -> None:
    with process("8", "64", step_ms=20) as (url, own):
        alone = asked(url, Ask({"input": TEXT, "response_format": "pcm"}))

        async def run() -> list:
            every = [
                asyncio.create_task(ask(url, Ask({"input": TEXT, "response_format": "pcm"})))
                for _ in range(12)
            ]
            await asyncio.sleep(0.6)
            own.send_signal(signal.SIGTERM)
            return await asyncio.gather(*every)

        answers = asyncio.run(run())
        assert own.wait(20) == 0
    assert all(one.whole and one.body == alone.body for one in answers)
    with pytest.raises(ConnectionRefusedError):
        asked(url, Ask(path="/health", method="GET"))

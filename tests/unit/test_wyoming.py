"""Home Assistant's protocol, by its own client: what there is, a text as a whole, a text in pieces."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("wyoming")
pytest.importorskip("fastapi")

from wyoming.client import AsyncTcpClient
from wyoming.event import Event
from wyoming.info import Describe, Info
from wyoming.tts import (
    Synthesize,
    SynthesizeChunk,
    SynthesizeStart,
    SynthesizeStop,
    SynthesizeVoice,
)

from llasa.bundle import load_bundle
from llasa.serve.speaking import Speakers
from llasa.serve.speech_api import Desk, Limits
from llasa.serve.wyoming import serve
from llasa.synthesizer import Synthesizer

TEXT = "The cat sat. It was happy!"


def asked(folder: Path, ask: Callable[[AsyncTcpClient], Awaitable[Any]]) -> Any:
    """Return what a client is told by a service that lives as long as it asks."""

    async def run() -> Any:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        speaker = Synthesizer(load_bundle(folder))
        desk = Desk.open(Speakers({"tiny": speaker}, 4, 400), Limits())
        uri = f"tcp://127.0.0.1:{port}"
        service = asyncio.create_task(serve(uri, desk.speakers, desk.slots, desk.threads))
        for _ in range(200):
            try:
                async with AsyncTcpClient("127.0.0.1", port) as client:
                    return await asyncio.wait_for(ask(client), 60)
            except ConnectionRefusedError:
                await asyncio.sleep(0.02)
            finally:
                assert desk.slots.taken == 0
        service.cancel()
        raise AssertionError("nobody listens")

    return asyncio.run(run())


async def until(client: AsyncTcpClient, *ends: str) -> list[Event]:
    found: list[Event] = []
    while not found or found[-1].type not in ends:
        event = await client.read_event()
        assert event is not None
        found.append(event)
    return found


def sound(events: list[Event]) -> np.ndarray:
    return np.frombuffer(b"".join(one.payload or b"" for one in events), "<i2")


def test_it_says_what_there_is(tiny_bundle: Path) -> None:
    async def ask(client: AsyncTcpClient) -> Event:
        await client.write_event(Describe().event())
        [found] = await until(client, "info")
        return found

    [program] = Info.from_event(asked(tiny_bundle, ask)).tts
    assert program.installed and program.supports_synthesize_streaming
    assert "ada" in [voice.name for voice in program.voices] and program.voices[0].languages == ["en"]


def test_a_text_that_comes_whole(tiny_bundle: Path) -> None:
    async def ask(client: AsyncTcpClient) -> list[Event]:
        await client.write_event(Synthesize(TEXT, SynthesizeVoice(name="ada")).event())
        return await until(client, "audio-stop", "error")

    events = asked(tiny_bundle, ask)
    assert [one.type for one in (events[0], events[-1])] == ["audio-start", "audio-stop"]
    assert [events[0].data[key] for key in ("rate", "width", "channels")] == [16_000, 2, 1]
    expected = Synthesizer(load_bundle(tiny_bundle)).say(TEXT, "ada").samples
    assert len(sound(events)) == len(expected)


def test_a_text_that_comes_in_pieces_is_said_once(tiny_bundle: Path) -> None:
    async def ask(client: AsyncTcpClient) -> list[Event]:
        await client.write_event(SynthesizeStart().event())
        for piece in ("The cat", " sat. It was", " happy!"):
            await client.write_event(SynthesizeChunk(piece).event())
        await client.write_event(Synthesize(TEXT).event())  # for services that know no pieces
        await client.write_event(SynthesizeStop().event())
        return await until(client, "synthesize-stopped", "error")

    types = [one.type for one in asked(tiny_bundle, ask)]
    assert types.count("audio-start") == types.count("audio-stop") == 1
    assert types[-2:] == ["audio-stop", "synthesize-stopped"] and types.count("audio-chunk") > 2


def test_what_cannot_be_said_is_an_error_and_the_next_text_is_said(tiny_bundle: Path) -> None:
    async def ask(client: AsyncTcpClient) -> list[Event]:
        await client.write_event(Synthesize(TEXT, SynthesizeVoice(name="../nobody")).event())
        [error] = await until(client, "audio-stop", "error")
        await client.write_event(Synthesize("The cat.").event())
        return [error, *await until(client, "audio-stop", "error")]

    error, *events = asked(tiny_bundle, ask)
    assert error.type == "error" and "not a valid name" in error.data["text"]
    assert events[-1].type == "audio-stop"


def test_lengths_that_no_text_has_end_the_connection(tiny_bundle: Path) -> None:
    async def announced(client: AsyncTcpClient) -> object:
        assert client._writer is not None
        client._writer.write(b'{"type": "synthesize", "data_length": 1000000000}\n' + b" " * 100_000)
        return await client.read_event()

    async def endless(client: AsyncTcpClient) -> Event:
        await client.write_event(SynthesizeStart().event())
        await client.write_event(SynthesizeChunk("no end " * 100).event())
        [error] = await until(client, "audio-stop", "error")
        return error

    assert asked(tiny_bundle, announced) is None
    assert "hold no end of a sentence" in asked(tiny_bundle, endless).data["text"]

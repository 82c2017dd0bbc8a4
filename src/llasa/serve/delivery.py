"""Sounds made in threads, sent as bytes from an event loop. Must not know: routes, what is said."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import Executor
from typing import TypeVar

from llasa.audio import Encoder
from llasa.core import Audio

T = TypeVar("T")
MOST_BYTES = 32 << 10  # handed on at once: so much more than its limit may wait in a connection
MEDIA = {
    "mp3": "audio/mpeg",
    "opus": "audio/ogg",
    "aac": "audio/aac",
    "flac": "audio/flac",
    "wav": "audio/wav",
    "pcm": "audio/pcm",
}


async def pulled(make: Callable[[], T | None], threads: Executor) -> AsyncIterator[T]:
    """Yield what `make` gives in a thread, up to None; one is made while another is used, and no more."""
    loop = asyncio.get_running_loop()
    ahead = loop.run_in_executor(threads, make)
    while (made := await ahead) is not None:
        ahead = loop.run_in_executor(threads, make)
        yield made


async def encoded(
    sounds: Iterator[Audio],
    format: str,
    sample_rate: int,
    streams: bool,
    threads: Executor,
    tags: Mapping[str, str],
) -> AsyncIterator[bytes]:
    """Yield a sound's bytes.

    Args:
        sounds: made and encoded in `threads`. streams: false gives all bytes at the end, with exact headers.
        tags: as of `Encoder`.
    """
    encoder = Encoder(format, sample_rate, whole=not streams, tags=tags)

    def next_bytes() -> bytes | None:
        return next((data for piece in sounds if (data := encoder.push(piece))), None)

    async for data in pulled(next_bytes, threads):
        for part in _parts(data):
            yield part
    for part in _parts(await asyncio.get_running_loop().run_in_executor(threads, encoder.close)):
        yield part


def _parts(data: bytes) -> Iterator[bytes]:
    return (data[start : start + MOST_BYTES] for start in range(0, max(len(data), 1), MOST_BYTES))


async def begun(data: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Return the same bytes, once there are any: what fails before that can still be told by a status."""
    first = await anext(data)

    async def whole() -> AsyncIterator[bytes]:
        yield first
        async for more in data:
            yield more

    return whole()


async def events(data: AsyncIterator[bytes], usage: Callable[[], dict[str, int]]) -> AsyncIterator[bytes]:
    """Yield bytes as server-sent events: deltas of Base64, and at the end what was used."""
    async for piece in data:
        if piece:
            yield _event({"type": "speech.audio.delta", "audio": base64.b64encode(piece).decode()})
    yield _event({"type": "speech.audio.done", "usage": usage()})


def _event(content: dict[str, object]) -> bytes:
    return f"data: {json.dumps(content)}\n\n".encode()

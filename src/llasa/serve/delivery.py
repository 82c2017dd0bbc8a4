"""Sounds made in threads, sent as bytes from an event loop. Must not know: routes, what is said."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Executor

from llasa.audio import Encoder
from llasa.core import Audio

MEDIA = {
    "mp3": "audio/mpeg",
    "opus": "audio/ogg",
    "aac": "audio/aac",
    "flac": "audio/flac",
    "wav": "audio/wav",
    "pcm": "audio/pcm",
}


async def encoded(
    sounds: Iterator[Audio], format: str, sample_rate: int, streams: bool, threads: Executor
) -> AsyncIterator[bytes]:
    """Yield a sound's bytes; one piece is made while another is sent, and no more.

    Args:
        sounds: made and encoded in `threads`. streams: false gives all bytes at the end, with exact headers.
    """
    encoder = Encoder(format, sample_rate, whole=not streams)
    loop = asyncio.get_running_loop()

    def next_bytes() -> bytes | None:
        """Return what the next pieces give, None at the end."""
        for piece in sounds:
            if data := encoder.push(piece):
                return data
        return None

    ahead = loop.run_in_executor(threads, next_bytes)
    while (data := await ahead) is not None:
        ahead = loop.run_in_executor(threads, next_bytes)
        yield data
    yield await loop.run_in_executor(threads, encoder.close)


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

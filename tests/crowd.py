"""Clients of a speech service, many and ill-behaved, over plain sockets: every byte is theirs to time."""

import asyncio
import json
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

PATH = "/v1/audio/speech"


@dataclass(frozen=True)
class Ask:
    """A request. body: fields of JSON beside the model, bytes, or None for GET.

    after: bytes of the answer after which the client vanishes, None for never; 0 is before the first.
    reset: whether it vanishes with RST. byte_s: what it waits for between single bytes that it reads, and
    stay_s, how long it does so.
    """

    body: dict[str, Any] | bytes | None = None
    path: str = PATH
    method: str = "POST"
    heads: dict[str, str] = field(default_factory=dict[str, str])
    after: int | None = None
    reset: bool = False
    byte_s: float | None = None
    stay_s: float = 60.0

    def lines(self, host: str) -> bytes:
        """Return what is sent."""
        body = self.body if isinstance(self.body, bytes) else b""
        if isinstance(self.body, dict):
            body = json.dumps({"model": "tts-1"} | self.body).encode()
        heads = {"Host": host, "Content-Type": "application/json", "Connection": "close"}
        heads |= ({} if self.body is None else {"Content-Length": str(len(body))}) | self.heads
        told = "".join(f"{name}: {value}\r\n" for name, value in heads.items())
        return f"{self.method} {self.path} HTTP/1.1\r\n{told}\r\n".encode() + body


@dataclass(frozen=True)
class Answer:
    """What came. status: 0 if none did. whole: whether it came to the end that it announced.

    first_s, took_s: to the first byte of the body, and to the last. cut: by RST.
    """

    status: int
    heads: dict[str, str]
    body: bytes
    whole: bool
    first_s: float
    took_s: float
    cut: bool = False


async def ask(
    url: str,
    one: Ask,
    ready: Callable[[], Awaitable[object]] | None = None,
    left: asyncio.Event | None = None,
) -> Answer:
    """Connect, wait until `ready`, ask, follow the answer as far as is said, and leave once `left`."""
    parts, loop = urlsplit(url), asyncio.get_running_loop()
    data, first, cut = bytearray(), 0.0, False
    with socket.socket() as own:
        own.setblocking(False)
        if one.byte_s is not None:
            own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await loop.sock_connect(own, (parts.hostname, parts.port))
        if ready is not None:
            await ready()
        began = time.perf_counter()
        try:
            await loop.sock_sendall(own, one.lines(parts.netloc))
            async for piece in _pieces(own, one):
                data += piece
                if not first and 0 <= data.find(b"\r\n\r\n") < len(data) - 4:
                    first = time.perf_counter() - began
                if one.after is not None and len(data) >= one.after:
                    break
        except ConnectionError:
            cut = True
        if left is not None:
            await left.wait()
        if one.reset:
            own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return replace(_answer(bytes(data), first, time.perf_counter() - began), cut=cut)


async def _pieces(own: socket.socket, one: Ask) -> AsyncIterator[bytes]:
    """Yield what comes, an empty piece before anything does."""
    loop, until = asyncio.get_running_loop(), time.monotonic() + one.stay_s
    piece = b""
    yield piece
    while one.byte_s is None or time.monotonic() < until:
        if one.byte_s is not None:
            await asyncio.sleep(one.byte_s)
            if own.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):  # though there are bytes left to read
                raise ConnectionResetError
        piece = await loop.sock_recv(own, 1 << 16 if one.byte_s is None else 1)
        if not piece:
            return
        yield piece


def asked(url: str, one: Ask) -> Answer:
    """Ask once, and wait for the answer."""
    return asyncio.run(ask(url, one))


def _answer(data: bytes, first_s: float, took_s: float) -> Answer:
    head, found, body = data.partition(b"\r\n\r\n")
    if not found:
        return Answer(int(data[9:12] or 0), {}, b"", False, first_s, took_s)
    status, *lines = head.decode("latin-1").split("\r\n")
    heads = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if heads.get("transfer-encoding") == "chunked":
        body, whole = _joined(body)
    else:
        whole = len(body) == int(heads.get("content-length", -1))
    return Answer(int(status.split()[1]), heads, body, whole, first_s, took_s)


def _joined(body: bytes) -> tuple[bytes, bool]:
    """Return chunks joined, and whether the last one came."""
    parts, at = list[bytes](), 0
    while (end := body.find(b"\r\n", at)) >= 0:
        size = int(body[at:end], 16)
        parts.append(body[end + 2 : end + 2 + size])
        at = end + 2 + size + 2
        if not size:
            return b"".join(parts), at <= len(body)
    return b"".join(parts), False

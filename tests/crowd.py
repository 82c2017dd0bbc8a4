"""Clients of a speech service, many and ill-behaved, over plain sockets: every byte is theirs to time."""

import asyncio
import json
import socket
import struct
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

PATH = "/v1/audio/speech"


@dataclass(frozen=True)
class Ask:
    """A request. body: fields of JSON beside the model, bytes, or None for GET.

    after: bytes of the answer after which the client vanishes, None for never; 0 is before the first.
    reset: whether it vanishes with RST. byte_s: what it waits for between single bytes that it reads.
    """

    body: dict[str, Any] | bytes | None = None
    path: str = PATH
    method: str = "POST"
    heads: dict[str, str] = field(default_factory=dict[str, str])
    after: int | None = None
    reset: bool = False
    byte_s: float | None = None

    def lines(self, host: str) -> bytes:
        """Return what is sent."""
        body = self.body if isinstance(self.body, bytes) else b""
        if isinstance(self.body, dict):
            body = json.dumps({"model": "tts-1"} | self.body).encode()
        heads = {"Host": host, "Content-Type": "application/json", "Content-Length": str(len(body))}
        heads |= {"Connection": "close"} | self.heads
        told = "".join(f"{name}: {value}\r\n" for name, value in heads.items())
        return f"{self.method} {self.path} HTTP/1.1\r\n{told}\r\n".encode() + body


@dataclass(frozen=True)
class Answer:
    """What came. status: 0 if nothing. whole: whether it came to the end that it announced.

    first_s, took_s: to the first byte of the body, and to the last.
    """

    status: int
    heads: dict[str, str]
    body: bytes
    whole: bool
    first_s: float
    took_s: float


async def ask(
    url: str,
    one: Ask,
    ready: Callable[[], Awaitable[object]] | None = None,
    left: asyncio.Event | None = None,
) -> Answer:
    """Connect, wait until `ready`, ask, follow the answer as far as the request says, and hang up once `left`."""
    parts, loop = urlsplit(url), asyncio.get_running_loop()
    host, port = parts.hostname or "", parts.port or 80
    data, first = bytearray(), 0.0
    with socket.socket() as own:
        own.setblocking(False)
        if one.byte_s is not None:
            own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await loop.sock_connect(own, (host, port))
        if ready is not None:
            await ready()
        began = time.perf_counter()
        await loop.sock_sendall(own, one.lines(parts.netloc))
        try:
            while one.after is None or len(data) < one.after:
                if one.byte_s is not None:
                    await asyncio.sleep(one.byte_s)
                piece = await loop.sock_recv(own, 1 if one.byte_s is not None else 1 << 16)
                data += piece
                if not first and 0 <= data.find(b"\r\n\r\n") < len(data) - 4:
                    first = time.perf_counter() - began
                if not piece:
                    break
        except ConnectionError:
            pass
        if left is not None:
            await left.wait()
        if one.reset:
            own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return _answer(bytes(data), first, time.perf_counter() - began)


def asked(url: str, one: Ask) -> Answer:
    """Ask once, and wait for the answer."""
    return asyncio.run(ask(url, one))


def _answer(data: bytes, first_s: float, took_s: float) -> Answer:
    head, found, body = data.partition(b"\r\n\r\n")
    if not found:
        return Answer(0, {}, b"", False, first_s, took_s)
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

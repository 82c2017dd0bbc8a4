"""Connections under HTTP: how many there may be, how long one may idle or not read. Must not know: requests.

uvicorn has no deadline for heads that do not come and readers that do not read, closes only once all has been
read, and answers in plain text what is no HTTP.
"""

import asyncio
import resource
import socket
import struct
from contextlib import suppress
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from llasa.serve.replies import refusal

MOST_CONNECTIONS = 4096
SEND_BUFFER = 128 << 10  # bytes in the system, a connection; beside at most as many here
LOOK_S = 15.0  # who has to go on and has not from one look to the next is cut
DRAIN_S = 10
MOST_MESSAGE = 16 << 20  # bytes of one over a WebSocket: a sound for a voice may be in it


class _Watched(asyncio.Protocol):
    """A protocol of uvicorn whose client has to go on."""

    transport: Any
    connections: set[Any]
    look_s = LOOK_S

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._resumed, self._paused = 0, False
        if len(self.connections) > MOST_CONNECTIONS:
            self.transport.abort()
        self._loop = asyncio.get_running_loop()
        self._next = self._loop.call_later(self.look_s, self._look, None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._next.cancel()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        self._paused = True
        super().pause_writing()

    def resume_writing(self) -> None:
        self._paused, self._resumed = False, self._resumed + 1
        super().resume_writing()

    def _look(self, before: object) -> None:
        """Cut the connection if the client has done nothing since the look before."""
        if self.transport.get_protocol() is not self:  # it became a WebSocket
            return
        now = self._stuck()
        if now is not None and now == before:
            # RST: what the system still holds of it is dropped too
            own = self.transport.get_extra_info("socket")
            own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.transport.abort()
        else:
            self._next = self._loop.call_later(self.look_s, self._look, now)

    def _stuck(self) -> object:
        """Return what the client is to change, None if nothing."""
        if self.transport.is_closing():
            return "closing"  # all is said; it does not take the rest
        return ("full", self._resumed) if self._paused else None


class Connection(_Watched, H11Protocol):
    """HTTP."""

    def _stuck(self) -> object:
        waits = self.conn.their_state is h11.IDLE
        return super()._stuck() or (("head", self.cycle) if waits else None)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP in the words of all other refusals, and close."""
        answer = refusal(400, "something that is no HTTP", "Send another request", "no_http")
        with suppress(h11.LocalProtocolError):  # an answer is under way
            heads = [*answer.raw_headers, (b"connection", b"close")]
            for event in (
                h11.Response(status_code=400, headers=heads, reason=b"Bad Request"),
                h11.Data(data=bytes(answer.body)),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event))
        self.transport.close()


class Socket(_Watched, WebSocketsSansIOProtocol):
    """A WebSocket."""

    def _stuck(self) -> object:
        return super()._stuck() or (None if self.handshake_complete else "handshake")


def server(app: Any, log_level: str = "warning") -> uvicorn.Server:
    """Return a server of an application, not yet started."""
    config = uvicorn.Config(
        app, log_level=log_level, access_log=False, server_header=False, http=Connection,
        ws=Socket, ws_max_size=MOST_MESSAGE, timeout_graceful_shutdown=DRAIN_S,
    )  # fmt: skip
    return uvicorn.Server(config)


def listening(host: str, port: int) -> socket.socket:
    """Return a socket that listens; OSError if it cannot be had."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * MOST_CONNECTIONS if hard == resource.RLIM_INFINITY else min(2 * MOST_CONNECTIONS, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family, backlog=MOST_CONNECTIONS)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
    return listener

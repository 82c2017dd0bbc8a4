"""Asking a server that the user named, with the standard library only. Knows no API.

Redirects are not followed, so that what is sent and the key reach no other host; proxies and the environment
are not looked at. What a server says is bounded in size and in time.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from functools import partial
from http.client import HTTPConnection, HTTPResponse, HTTPSConnection, IncompleteRead
from socket import SHUT_RDWR, SOCK_STREAM, getaddrinfo, socket
from ssl import SSLContext, create_default_context
from threading import TIMEOUT_MAX, Event, Thread
from typing import Any
from urllib.parse import quote, urlsplit

from llasa.errors import ConfigError

LARGEST_ANSWER = 1 << 20  # bytes; also of one event
JSON = {"Content-Type": "application/json"}
CONNECT_S = 10.0
_PORTS = {"http": 80, "https": 443}


class Server:
    """Where an API begins, and what is told to it with each request.

    netloc: host and port as the user wrote them. place: host and port. path: of the URL, without a slash.
    context: for TLS, None without.
    """

    def __init__(self, url: str, doing: str, key: str | None = None, timeout_s: float = 30.0) -> None:
        """Name a server; nothing is sent yet.

        Args:
            url: where its API begins, such as `http://localhost:8000/v1`.
            doing: what it is asked for; opens the message of an error.
            key: sent as a bearer token.
            timeout_s: how long an answer may take, or the next part of one; connecting has 10 s at most.

        Raises:
            ConfigError: the URL has another scheme, no host or a password, the key has odd characters, or
                timeout_s is out of range.
        """
        try:
            parts = urlsplit(url)
            good = parts.scheme in _PORTS and parts.hostname and parts.port != 0
            parts.netloc.encode("idna")
        except ValueError:
            good = False
        if not good or "@" in parts.netloc or parts.query or parts.fragment:
            shown = url.rpartition("@")[2]  # without a password
            wanted = (
                "Give the URL of its API such as http://localhost:8000/v1, with no password or query in it"
            )
            raise ConfigError(f"{doing}: found the URL '{shown}'. {wanted}.")
        if key is not None and not (key.isascii() and key.isprintable()):
            raise ConfigError(f"{doing} from '{url}': the key has odd characters. Copy it again.")
        if not 0 < timeout_s <= TIMEOUT_MAX:
            found = f"timeout_s is {timeout_s}. Give seconds above 0, up to {TIMEOUT_MAX:.0f}"
            raise ConfigError(f"{doing} from '{url}': {found}.")
        self.url, self.netloc, self.timeout_s = url, parts.netloc, timeout_s
        self.place = parts.hostname or "", parts.port or _PORTS[parts.scheme]
        self.path = quote(parts.path.rstrip("/"), safe="/%~")
        self.context: SSLContext | None = create_default_context() if parts.scheme == "https" else None
        self._key = key
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}

    def connection(self) -> HTTPConnection:
        """Return a connection that is not open yet."""
        kind = partial(HTTPSConnection, context=self.context) if self.context else HTTPConnection
        return kind(self.netloc)

    def headers(self, own: Mapping[str, str]) -> dict[str, str]:
        """Return the headers of a request."""
        return self._headers | dict(own)

    def shown(self, answer: bytes) -> str:
        """Return the beginning of an answer for people, without the key."""
        text = answer[:2000].decode("utf-8", "replace")
        return repr((text.replace(self._key, "***") if self._key else text)[:200])


class Call:
    """Requests to a server, one after another, each on a connection of its own.

    Any thread may hang up; one works with it.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._socket: socket | None = None
        self._hung_up = self._late = False
        self._ends_s = 0.0

    def ask(
        self, method: str, path: str, body: bytes = b"", own: Mapping[str, str] = JSON
    ) -> tuple[int, bytes]:
        """Return status and body of an answer, of which there may be more.

        Args:
            path: on the server, from its root.
            own: headers of this request.

        Raises:
            OSError: nobody listens, or not in time.
            HTTPException: what came is no HTTP.
        """
        with closing(self._server.connection()) as connection, self._watched():
            response = self._answer(connection, method, path, body, own)
            return response.status, response.read(LARGEST_ANSWER)

    @contextmanager
    def events(self, path: str, body: bytes) -> Iterator[tuple[int, Iterator[bytes]]]:
        """Post JSON and give the status and the data of the events as they come (Server-Sent Events).

        If the status is not 200, the one thing that comes is the beginning of the answer.

        Raises:
            OSError: nobody listens, or nothing in time, where comments are nothing; see `extend`.
            HTTPException: what came is no HTTP.
        """
        with self.pieces(path, body) as (status, pieces):
            yield status, self._events(pieces) if status == 200 else iter([b"".join(pieces)])

    @contextmanager
    def pieces(self, path: str, body: bytes) -> Iterator[tuple[int, Iterator[bytes]]]:
        """Post JSON and give the status and the bytes of the answer as they come.

        If the status is not 200, only the beginning of the answer comes. Raises as `events`.
        """
        with (
            closing(self._server.connection()) as connection,
            self._watched(),
            self._answer(connection, "POST", path, body, JSON) as response,
        ):
            good = response.status == 200
            yield response.status, self._pieces(response) if good else iter([response.read(1 << 12)])

    def extend(self) -> None:
        """Give the next part of an answer its time."""
        self._ends_s = time.monotonic() + self._server.timeout_s

    def hang_up(self) -> None:
        """End what is under way and all that follows: an OSError or a short answer.

        Only looking up a name goes on until the system gives up.
        """
        self._hung_up = True
        if self._socket is not None:
            with suppress(OSError):  # it was closed meanwhile, or is not connecting yet
                socket.shutdown(self._socket, SHUT_RDWR)  # TLS's own would also take the socket to pieces

    def _answer(
        self, connection: HTTPConnection, method: str, path: str, body: bytes, own: Mapping[str, str]
    ) -> HTTPResponse:
        """Return the answer once its head is there."""
        self._connect()
        connection.sock = self._socket
        if self._hung_up:
            raise ConnectionAbortedError("hung up")
        connection.request(method, path, body or None, self._server.headers(own))
        return connection.getresponse()

    def _connect(self) -> None:
        """Open the socket, which is known from the first, so that it can be shut meanwhile."""
        failure: OSError = ConnectionAbortedError("hung up")
        for family, kind, protocol, _, place in getaddrinfo(*self._server.place, type=SOCK_STREAM):
            if self._hung_up:
                break
            self._socket = socket(family, kind, protocol)
            try:
                return self._join(self._socket, place)
            except OSError as error:
                self._socket.close()
                failure = error
        raise failure

    def _join(self, plain: socket, place: Any) -> None:
        plain.settimeout(min(CONNECT_S, self._server.timeout_s))
        try:
            plain.connect(place)
        except TimeoutError as error:
            raise ConnectionError(f"no connection within {plain.gettimeout():g} s") from error
        plain.settimeout(None)  # from here on the watch tells the time
        if self._server.context is not None:
            self._socket = self._server.context.wrap_socket(
                plain, server_hostname=self._server.place[0], do_handshake_on_connect=False
            )
            self._socket.do_handshake()

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Hang up when the time is over: a socket's own begins anew with each byte that arrives."""
        over = Event()
        self.extend()
        Thread(target=self._watch, args=(over,), daemon=True).start()
        try:
            yield
        finally:
            over.set()
            if self._late:
                raise TimeoutError("nothing new")

    def _watch(self, over: Event) -> None:
        while (left_s := self._ends_s - time.monotonic()) > 0:
            if over.wait(left_s):
                return
        self._late = True
        self.hang_up()

    def _pieces(self, response: HTTPResponse) -> Iterator[bytes]:
        self.extend()
        wanted, got = response.length, 0
        while piece := response.read1(1 << 16):
            got += len(piece)
            yield piece
        if wanted is not None and got < wanted:
            raise IncompleteRead(b"", wanted - got)

    def _events(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        rest = b""
        for piece in pieces:
            *lines, rest = (rest + piece).split(b"\n")
            if len(rest) > LARGEST_ANSWER:
                raise OSError(f"an event of more than {LARGEST_ANSWER} bytes")
            for line in lines:
                if line.startswith(b"data:"):
                    yield line[5:].strip()

"""Asking a server that the user named, with the standard library only. Knows no API.

Redirects are not followed, so that what is sent and the key reach no other host; proxies and the environment
are not looked at. What a server says is bounded in size and in time.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from http.client import HTTPConnection, HTTPResponse, HTTPSConnection
from socket import SHUT_RDWR, socket
from threading import Timer
from urllib.parse import quote, urlsplit

from llasa.errors import ConfigError

LARGEST_ANSWER = 1 << 20  # bytes; also of one event
JSON = {"Content-Type": "application/json"}
_CONNECTIONS = {"http": HTTPConnection, "https": HTTPSConnection}


class Server:
    """Where an API begins, and what is told to it with each request.

    netloc: host and port as the user wrote them. place: host and port. path: of the URL, without a slash.
    """

    def __init__(self, url: str, doing: str, key: str | None = None, timeout_s: float = 30.0) -> None:
        """Name a server; nothing is sent yet.

        Args:
            url: where its API begins, such as `http://localhost:8000/v1`.
            doing: what it is asked for; opens the message of an error.
            key: sent as a bearer token.
            timeout_s: how long connecting may take, and an answer or the next part of one.

        Raises:
            ConfigError: the URL has another scheme, no host or a password, or the key has odd characters.
        """
        try:
            parts = urlsplit(url)
            good = parts.scheme in _CONNECTIONS and parts.hostname and parts.port != 0
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
        self.url, self.netloc, self.timeout_s = url, parts.netloc, timeout_s
        self.place = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
        self.path = quote(parts.path.rstrip("/"), safe="/%~")
        self._kind = _CONNECTIONS[parts.scheme]
        self._key = key
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}

    def connection(self) -> HTTPConnection:
        """Return a connection that is not open yet."""
        return self._kind(self.netloc, timeout=self.timeout_s)

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
        self._hung_up = False
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
        with closing(self._server.connection()) as connection, self._alarm():
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
        with closing(self._server.connection()) as connection:
            with self._alarm():
                response = self._answer(connection, "POST", path, body, JSON)
            with response:
                good = response.status == 200
                yield response.status, self._events(response) if good else iter([response.read(1 << 12)])

    def extend(self) -> None:
        """Give the next part of an answer its time."""
        self._ends_s = time.monotonic() + self._server.timeout_s

    def hang_up(self) -> None:
        """End what is under way and all that follows: an OSError or a short answer."""
        self._hung_up = True
        if self._socket is not None:
            with suppress(OSError):  # it was closed meanwhile
                self._socket.shutdown(SHUT_RDWR)

    def _answer(
        self, connection: HTTPConnection, method: str, path: str, body: bytes, own: Mapping[str, str]
    ) -> HTTPResponse:
        """Return the answer once its head is there."""
        connection.connect()
        self._socket = connection.sock
        if self._hung_up:
            raise ConnectionAbortedError("hung up")
        connection.request(method, path, body or None, self._server.headers(own))
        return connection.getresponse()

    @contextmanager
    def _alarm(self) -> Iterator[None]:
        """Hang up after the timeout: a socket's own begins anew with each byte that arrives."""
        self.extend()
        alarm = Timer(self._server.timeout_s, self.hang_up)
        alarm.daemon = True
        alarm.start()
        try:
            yield
        finally:
            alarm.cancel()
            if time.monotonic() >= self._ends_s:
                raise TimeoutError("no whole answer")

    def _events(self, response: HTTPResponse) -> Iterator[bytes]:
        self.extend()
        rest = b""
        while piece := response.read1(1 << 16):
            *lines, rest = (rest + piece).split(b"\n")
            if len(rest) > LARGEST_ANSWER:
                raise OSError(f"an event of more than {LARGEST_ANSWER} bytes")
            for line in lines:
                if line.startswith(b"data:"):
                    yield line[5:].strip()
            if time.monotonic() >= self._ends_s:
                raise TimeoutError("nothing new")

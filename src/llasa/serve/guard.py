"""What is checked of every request before anything else sees it: where to, from where, by whom, how large.

Must not know: routes, what is served.
"""

import asyncio
import base64
import binascii
import hmac
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from typing import Any
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection

from llasa.serve.replies import refusal, reply

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

POLICY = 1008  # of RFC 6455; before the handshake servers answer 403
LOOPBACK = ("localhost", "127.0.0.1", "[::1]", "::1")


@dataclass(frozen=True)
class Rules:
    """Who may ask. hosts: what the Host header may say, without a port. key: that must be sent,
    if any; several, one of them, have white space between them.

    largest: bytes of a body. most_held: of all bodies at once. body_s: how long one may take to come.
    """

    hosts: tuple[str, ...] = LOOPBACK
    key: str | None = None
    largest: int = 20 << 20
    most_held: int = 256 << 20
    body_s: float = 30.0


class Guard:
    """An application around another one, which then sees whole, bounded and permitted requests only."""

    def __init__(self, app: App, rules: Rules) -> None:
        self._app, self._rules = app, rules
        self._keys = [sha256(key.encode()).digest() for key in (rules.key or "").split()]
        self._held = 0

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        headers = {key.lower(): value.decode("latin-1") for key, value in scope["headers"]}
        if scope["type"] == "websocket":
            if self._refused(headers) is not None:
                return await send({"type": "websocket.close", "code": POLICY})
            return await self._app(scope, receive, send)
        refused, body = self._refused(headers), bytearray()
        try:
            refused = refused or await self._read(body, receive)
            if refused is not None:
                return await refused(scope, receive, send)
            # What is raised here has been answered and logged; a server would log it again, texts and all.
            with suppress(Exception):
                await self._app(scope, replayed(bytes(body), receive), send)
        except ConnectionError:
            return None
        finally:
            self._held -= len(body)

    def _refused(self, headers: dict[bytes, str]) -> App | None:
        rules = self._rules
        host = _name(headers.get(b"host", ""))
        if host not in rules.hosts:
            # A page whose name was made to point here would say its own name.
            return refusal(403, "an unknown Host", "Call the service by a name it was started with", "host")
        origin = headers.get(b"origin")
        if (origin is not None and _site(origin) not in rules.hosts) or _is_foreign(headers):
            return refusal(403, "a page of another site", "Ask from a program", "origin")
        if self._keys:
            given = sha256(given_key(headers.get(b"authorization", "")).encode()).digest()
            if not sum(hmac.compare_digest(given, key) for key in self._keys):  # all, in the same time
                todo = "Send it as a bearer token, or as the password of any user"
                refused = refusal(401, "no key, or a wrong one", todo, "key")
                refused.headers["WWW-Authenticate"] = 'Basic realm="llasa", charset="UTF-8"'  # browsers ask
                return refused
        size = headers.get(b"content-length", "0")  # a number: the server sees to that
        return self._too_large() if len(size) > 12 or int(size) > rules.largest else None

    def _too_large(self) -> App:
        todo = f"Send {self._rules.largest} bytes at most"
        return refusal(413, "a body that is too large", todo, "too_large")

    @staticmethod
    def _too_many() -> App:
        found = "Answering a request: found too many large ones at once. Ask again in a moment."
        return reply(429, found, "busy", **{"Retry-After": "1"})

    async def _read(self, body: bytearray, receive: Receive) -> App | None:
        """Fill in the whole body, or return what to answer instead; ConnectionError: the client is gone."""
        try:
            async with asyncio.timeout(self._rules.body_s):
                while True:
                    more = await self._piece(body, receive)
                    if len(body) > self._rules.largest:
                        return self._too_large()
                    if self._held > self._rules.most_held:
                        return self._too_many()
                    if not more:
                        return None
        except TimeoutError:
            return refusal(408, "a request that did not come whole in time", "Send it again", "timeout")

    async def _piece(self, body: bytearray, receive: Receive) -> bool:
        """Take what has come of a body; return whether there is more."""
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionError("hung up")
        piece = message.get("body", b"")
        body += piece
        self._held += len(piece)
        return message.get("more_body", False)


def given_key(authorization: str) -> str:
    """Return the key in an Authorization header: a bearer token, or the password of whatever user."""
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() != "basic":
        return authorization.removeprefix("Bearer ")
    try:
        return base64.b64decode(value, validate=True).decode().partition(":")[2]
    except (binascii.Error, UnicodeDecodeError):
        return ""


def key_of(request: HTTPConnection) -> str:
    """Return whose turn a request takes: its key's, or else its address's."""
    key = given_key(request.headers.get("authorization", ""))
    return key or (request.client.host if request.client else "")


def _is_foreign(headers: dict[bytes, str]) -> bool:
    """Tell whether a browser asks for another site's page; who follows a link to here may."""
    ours = headers.get(b"sec-fetch-site", "none") in ("none", "same-origin")
    return not ours and headers.get(b"sec-fetch-mode") != "navigate"


def _site(origin: str) -> str:
    """Return the host of a page's origin, empty if it is none."""
    try:
        return _name(urlsplit(origin).netloc)
    except ValueError:
        return ""


def _name(netloc: str) -> str:
    """Return a host without its port."""
    name, colon, port = netloc.rpartition(":")
    return (name if colon and port.isdecimal() else netloc).lower()


def replayed(body: bytes, receive: Receive) -> Receive:
    """Return what gives the body once, and then what else there is, such as that the client is gone."""
    left = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return left.pop() if left else await receive()

    return replay

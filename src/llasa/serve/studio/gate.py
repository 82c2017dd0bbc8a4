"""What the page lets through to Gradio, which can do much more than the page needs.

Only the routes that the page uses; only files that were uploaded to it; and the browser is told to load
nothing from elsewhere. Must not know: what is on the page.
"""

import json
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from starlette.datastructures import MutableHeaders

from llasa.serve.guard import POLICY, App, Message, Receive, Send, replayed
from llasa.serve.replies import refusal

PLACES = (
    "/", "/config", "/theme.css", "/favicon.ico", "/manifest.json", "/gradio_api/theme.css",
    "/gradio_api/startup-events", "/gradio_api/info", "/gradio_api/queue/join", "/gradio_api/queue/data",
    "/gradio_api/upload", "/gradio_api/upload_progress", "/gradio_api/cancel", "/gradio_api/reset",
)  # fmt: skip
FOLDERS = ("/assets/", "/static/", "/svelte/", "/studio/", "/gradio_api/heartbeat/")
FILE, JOIN, UPLOAD = "/gradio_api/file=", "/gradio_api/queue/join", "/gradio_api/upload"
DEEPEST = 12  # of a message that the page sends
MOST_UPLOADED = 256 << 20  # bytes of all files that lie there at once
HEADS = {
    "Content-Security-Policy": "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; "
    "frame-ancestors 'none'; form-action 'self'; base-uri 'self'; object-src 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Gate:
    """An application around Gradio's. folder: where uploads lie, and what alone may be read of files."""

    def __init__(self, app: App, folder: Path) -> None:
        self._app, self._folder = app, folder.resolve()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            return await send({"type": "websocket.close", "code": POLICY})
        path: str = scope["path"]
        if not self._may(path):
            answer = refusal(404, "a place that is not there", "See /openapi.json", "refused")
            return await answer(scope, receive, send)
        if path == UPLOAD and self._size() > MOST_UPLOADED:
            answer = refusal(413, "too many uploads at once", "Wait ten minutes", "too_large")
            return await answer(scope, receive, send)
        if path == JOIN:
            body = await _body(receive)
            if not self._is_plain(body):
                answer = refusal(400, "a file that was not uploaded here", "Upload it", "file")
                return await answer(scope, receive, send)
            receive = replayed(body, receive)
        await self._app(scope, receive, _with_heads(send))

    def _size(self) -> int:
        return sum(path.stat().st_size for path in self._folder.rglob("*") if path.is_file())

    def _may(self, path: str) -> bool:
        if path.startswith(FILE):
            return self._is_own(path.removeprefix(FILE))
        return path in PLACES or path.startswith(FOLDERS)

    def _is_own(self, path: str) -> bool:
        """Tell whether a path leads into the folder, however it is written."""
        try:
            places = {Path(path).resolve(), Path(unquote(path)).resolve()}
        except (OSError, ValueError, RuntimeError):
            return False
        return all(place.is_relative_to(self._folder) and place != self._folder for place in places)

    def _is_plain(self, body: bytes) -> bool:
        """Tell whether all files that a message names are uploads: Gradio would fetch URLs."""
        try:
            return self._holds_own(json.loads(body), 0)
        except (ValueError, RecursionError):
            return False

    def _holds_own(self, value: Any, depth: int) -> bool:
        if depth > DEEPEST:
            return False
        if isinstance(value, dict):
            path = value.get("path", str(self._folder / "none"))
            if not (isinstance(path, str) and Path(path).is_absolute() and self._is_own(path)):
                return False
            value = list(value.values())
        return not isinstance(value, list) or all(self._holds_own(one, depth + 1) for one in value)


async def _body(receive: Receive) -> bytes:
    """Return a request's whole body, which the guard has bounded."""
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return body


def _with_heads(send: Send) -> Send:
    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(HEADS)
        await send(message)

    return sent

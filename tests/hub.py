"""A small Hub on loopback: the parts of its protocol that fetching a model needs, with real hashes."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = 4096  # bytes from which a file counts as large: kept by its SHA-256, not by git's hash


@dataclass
class Hub:
    """url: where it listens. models: folders by id. gated: ids that need the token "secret"."""

    models: dict[str, Path]
    gated: set[str] = field(default_factory=set)
    url: str = ""
    asked: list[str] = field(default_factory=list)


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """Serve models until the block ends."""
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def _hashes(path: Path) -> tuple[str, str]:
    content = path.read_bytes()
    git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    return git, hashlib.sha256(content).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path).strip("/")
        self.hub.asked.append(path)
        for name, folder in self.hub.models.items():
            if name not in path:
                continue
            if name in self.hub.gated and self.headers.get("Authorization") != "Bearer secret":
                return self._refuse(403, "GatedRepo")
            if "/bad/" in f"{path}/":
                return self._refuse(404, "RevisionNotFound")
            return self._answer(name, folder, path)
        self._refuse(404, "RepoNotFound")

    def _answer(self, name: str, folder: Path, path: str) -> None:
        files = sorted(one for one in folder.rglob("*") if one.is_file())
        if path.startswith(f"api/models/{name}/tree/"):
            return self._json([self._entry(folder, one) for one in files])
        if path.startswith("api/models/"):
            return self._json({"id": name, "modelId": name, "sha": COMMIT, "siblings": []})
        self._file(folder / path.split(f"/resolve/{COMMIT}/", 1)[1])

    def _entry(self, folder: Path, path: Path) -> dict[str, object]:
        git, sha256 = _hashes(path)
        size = path.stat().st_size
        entry = {"type": "file", "path": path.relative_to(folder).as_posix(), "oid": git, "size": size}
        return entry | ({"lfs": {"oid": sha256, "size": size, "pointerSize": 130}} if size >= LARGE else {})

    def _file(self, path: Path) -> None:
        content = path.read_bytes()
        git, sha256 = _hashes(path)
        etag = sha256 if len(content) >= LARGE else git
        self._send(
            200, content, {"X-Repo-Commit": COMMIT, "ETag": f'"{etag}"', "X-Linked-Size": str(len(content))}
        )

    def _json(self, answer: object) -> None:
        self._send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def _refuse(self, status: int, code: str) -> None:
        self._send(status, b"{}", {"X-Error-Code": code, "X-Error-Message": code})

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in (headers | {"Content-Length": str(len(content))}).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

"""What the speech service says of itself is true, each route has a policy, and nonsense is told off.

The full form is `CASES=5000 pytest -m slow tests/unit/test_schema.py` and `BODIES=100000 pytest -k bodies`;
SEED repeats a run.
"""

import json
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path

import numpy as np
import psutil
import pytest

pytest.importorskip("schemathesis")
pytest.importorskip("uvicorn")

from llasa.serve.guard import Rules
from tests.crowd import Ask, asked
from tests.paced import Live, paced

TESTS = Path(__file__).parent.parent
KEY = {"Authorization": "Bearer s3cret"}
SEED = os.environ.get("SEED", "1")


@pytest.fixture(scope="module")
def live(tiny_bundle: Path) -> Iterator[Live]:
    with paced(tiny_bundle, step_s=0.0002, codes=20, rules=Rules(key="s3cret other")) as found:
        yield found


def explored(url: str, cases: str, phases: str, folder: Path) -> None:
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", TESTS / "schemathesis.toml", "run"]
    command += [f"{url}/openapi.json", "--header", "Authorization: Bearer s3cret", "--max-examples", cases]
    command += ["--phases", phases, "--seed", SEED, "--no-color", "--max-failures", "5"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(TESTS.parent), *sys.path))}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"seed {SEED}\n" + done.stdout[-8000:] + done.stderr[-2000:]


def test_every_route_does_what_the_schema_says(live: Live, tmp_path: Path) -> None:
    before = live.held()
    explored(live.url, "50", "examples,fuzzing", tmp_path)
    assert live.settled(before) == {}


@pytest.mark.slow
def test_every_route_does_so_for_long(live: Live, tmp_path: Path) -> None:
    before = live.held()
    explored(live.url, os.environ.get("CASES", "500"), "examples,coverage,fuzzing,stateful", tmp_path)
    assert live.settled(before) == {}


# The policy of all: a key, where there is one, and no strange Host or page. A new route has to stand here.
ROUTES = {
    ("GET", "/health"), ("GET", "/metrics"), ("GET", "/openapi.json"), ("GET", "/ready"),
    ("GET", "/v1/audio/models"), ("GET", "/v1/audio/voices"), ("GET", "/v1/models"),
    ("GET", "/v1/models/{name}"), ("GET", "/v1/receipts/{id}"),
    ("POST", "/v1/audio/speech"), ("POST", "/v1/audio/voices"),
    ("GET", "/v1/audio/books"), ("POST", "/v1/audio/books"), ("GET", "/v1/audio/books/{id}"),
    ("GET", "/v1/audio/books/{id}/content"), ("POST", "/v1/audio/books/{id}/redo"),
    ("DELETE", "/v1/audio/books/{id}"),
    ("DELETE", "/v1/audio/voices/{name}"), ("WS", "/v1/audio/speech/stream"),
}  # fmt: skip
STRANGERS = [
    ({}, 401, "key"),
    ({"Authorization": "Bearer wrong"}, 401, "key"),
    ({"Authorization": "Bearer s3cret other"}, 401, "key"),
    (KEY | {"Host": "evil.example"}, 403, "host"),
    (KEY | {"Host": "127.0.0.1.evil.example:80"}, 403, "host"),
    (KEY | {"Origin": "http://evil.example"}, 403, "origin"),
    (KEY | {"Origin": "null"}, 403, "origin"),
    (KEY | {"Origin": "http://localhost.evil.example"}, 403, "origin"),
]


def test_there_is_a_policy_for_every_route(live: Live) -> None:
    found = set[tuple[str, str]]()
    for route in live.app._app.routes:
        methods = getattr(route, "methods", None) or {"WS"}
        found |= {(method, route.path) for method in methods - {"HEAD"}}
    assert found == ROUTES


@pytest.mark.parametrize("method, path", sorted(ROUTES))
def test_strangers_get_nothing(live: Live, method: str, path: str) -> None:
    for heads, status, code in STRANGERS:
        verb, more = ("GET", SOCKET) if method == "WS" else (method, {})
        answer = asked(
            live.url, Ask(None if more else b"{}", path.replace("{name}", "ada"), verb, heads | more)
        )
        assert answer.status == (403 if method == "WS" else status), (heads, answer)
        assert not [name for name in answer.heads if name.startswith("access-control")]
        if method != "WS":
            assert json.loads(answer.body)["error"]["code"] == code


def test_all_keys_open_and_no_site_of_ones_own_is_a_stranger(live: Live) -> None:
    for heads in (KEY, {"Authorization": "Bearer other"}, KEY | {"Origin": live.url}):
        assert asked(live.url, Ask(path="/v1/models", method="GET", heads=heads)).status == 200


SOCKET = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
SOCKET |= {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}
RIGHT = json.dumps({"model": "tts-1", "input": "One.", "seed": 1, "response_format": "pcm"}).encode()
BAD = [
    b"", b"null", b"[]", b'"a"', b"{", RIGHT + b"}", b"\xff" + RIGHT, RIGHT.replace(b"One", b"\xff\xfe"),
    RIGHT.replace(b"1,", b"NaN,"), RIGHT.replace(b"1,", b"-Infinity,"), RIGHT.replace(b"1,", b"1e999,"),
    RIGHT.replace(b"1,", b"9" * (10 << 20) + b","), RIGHT.replace(b"1,", b"0." + b"9" * (10 << 20) + b","),
    b'{"a":' * 100 + b"1" + b"}" * 100, b"[" * 100_000, b'{"model":' * 100_000,
    RIGHT.replace(b"One", b"\\ud800\\u0000"), RIGHT.replace(b'"One."', b'"\\ud800"'),
    b'{"input": "a", "input": 1, "model": "tts-1"}', b'{"' + b"k" * (5 << 20) + b'": 1}',
    b"{" + b",".join(b'"k%d": 1' % n for n in range(200_000)) + b"}",
]  # fmt: skip


def spoilt(draw: random.Random) -> bytes:
    """Return a right body with some bytes cut, doubled or changed."""
    body = bytearray(RIGHT)
    for _ in range(draw.randint(1, 4)):
        start = draw.randrange(len(body) + 1)
        end = min(start + draw.choice((0, 1, 1, 2, 8, 100)), len(body))
        token = draw.choice(
            (b"", body[start:end] * 2, draw.randbytes(2), b"NaN", b'"', b"{", b"1e400", b"\\u")
        )
        body[start:end] = token
    return bytes(body)


def told_off(connection: HTTPConnection, body: bytes) -> tuple[int, float]:
    """Return status and seconds of an answer, having looked at its form."""
    began = time.perf_counter()
    connection.request("POST", "/v1/audio/speech", body, {"Content-Type": "application/json"} | KEY)
    answer = connection.getresponse()
    data = answer.read()
    took = time.perf_counter() - began
    if answer.status != 200:
        assert set(json.loads(data)["error"]) == {"message", "type", "param", "code"}, (body[:300], data)
        assert answer.status in (400, 413), (body[:300], data)
    return answer.status, took


def test_bodies_that_are_no_requests_are_refused(live: Live) -> None:
    draw, memory = random.Random(SEED), psutil.Process().memory_info
    connection = HTTPConnection(live.url.removeprefix("http://"), timeout=60)
    refused = [told_off(connection, body)[0] for body in BAD]
    assert set(refused) <= {400}
    before = memory().rss
    told = [told_off(connection, spoilt(draw)) for _ in range(int(os.environ.get("BODIES", "150")))]
    waits, grown = [took for status, took in told if status != 200], (memory().rss - before) >> 20
    p99 = 1e3 * np.percentile(waits, 99)
    print(f"seed {SEED}: {len(waits)} of {len(told)} refused, p99 {p99:.1f} ms, {grown} MiB more")
    assert len(waits) > len(told) / 2 and grown < 16


@pytest.mark.parametrize(
    "sent",
    [b"GET\r\n\r\n", b"\x16\x03\x01" + b"\0" * 200, b"A" * 9000 + b"\r\n\r\n"],
)
def test_what_is_no_http_is_told_so(live: Live, sent: bytes) -> None:
    with socket_to(live.url) as own:
        own.sendall(sent)
        assert b'"no_http"' in b"".join(iter(lambda: own.recv(1000), b""))


def test_a_body_that_does_not_come_is_not_waited_for(tiny_bundle: Path) -> None:
    with paced(tiny_bundle, rules=Rules(body_s=0.3)) as here, socket_to(here.url) as own:
        own.sendall(Ask(b"{}", heads={"Content-Length": "100"}).lines("localhost"))
        assert own.recv(1000).startswith(b"HTTP/1.1 408")


def socket_to(url: str) -> socket.socket:
    host, _, port = url.removeprefix("http://").partition(":")
    return socket.create_connection((host, int(port)), timeout=10)

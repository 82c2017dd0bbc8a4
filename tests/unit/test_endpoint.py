"""The recogniser behind a server: what is sent, what comes back, and every way a server fails."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email import message_from_bytes, policy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Lock, Thread

import numpy as np
import pytest

from llasa.core import Audio
from llasa.errors import ConfigError, InputError, ScorerError
from llasa.recognizers.endpoint import EndpointRecognizer

Answer = Callable[[BaseHTTPRequestHandler, dict[str, bytes]], None]


def reply(handler: BaseHTTPRequestHandler, status: int, body: bytes, **headers: str) -> None:
    """Send an answer."""
    handler.send_response(status)
    for name, value in ({"Content-Length": str(len(body))} | headers).items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)


def count_samples(handler: BaseHTTPRequestHandler, form: dict[str, bytes]) -> None:
    """Answer as many words as there are tenths of a second; silence has none."""
    samples = np.frombuffer(form["file"][44:], "<i2")
    words = "word " * (len(samples) // 1600) if samples.any() else ""
    reply(handler, 200, json.dumps({"text": words}).encode())


class Served:
    """A local server. requests: paths, headers and forms it got; most: how many it worked on at once."""

    def __init__(self, answer: Answer) -> None:
        self.requests: list[tuple[str, dict[str, str], dict[str, bytes]]] = []
        self.most = self._now = 0
        lock, served = Lock(), self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
                parts = message_from_bytes(head + body, policy=policy.HTTP).iter_parts()
                form = {
                    part.get_param("name", header="content-disposition"): part.get_payload(decode=True)
                    for part in parts
                }
                with lock:
                    served.requests.append((self.path, dict(self.headers), form))
                    served._now += 1
                    served.most = max(served.most, served._now)
                try:
                    answer(self, form)
                except OSError:
                    pass  # the client hung up
                finally:
                    with lock:
                        served._now -= 1

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def serving(answer: Answer) -> Iterator[Served]:
    """A server for as long as the block runs."""
    served = Served(answer)
    try:
        yield served
    finally:
        served.close()


def clip(seconds: float = 0.3, sample_rate: int = 16000) -> Audio:
    time_s = np.arange(round(seconds * sample_rate)) / sample_rate
    return Audio(0.3 * np.sin(2 * np.pi * 200 * time_s).astype(np.float32), sample_rate)


def test_the_request_is_openais() -> None:
    with serving(count_samples) as served:
        recognizer = EndpointRecognizer(served.url + "/", "tiny/model", key="s3cret")
        assert [heard.text for heard in recognizer.transcribe([clip()])] == ["word word word"]
    (path, headers, form) = served.requests[0]
    assert path == "/v1/audio/transcriptions" and headers["Authorization"] == "Bearer s3cret"
    assert form["model"] == b"tiny/model" and form["response_format"] == b"json"
    assert form["language"] == b"en" and form["file"][:4] == b"RIFF" and len(form["file"]) == 44 + 2 * 4800
    assert recognizer.name.startswith("endpoint@127.0.0.1:") and "s3cret" not in recognizer.name


def test_each_clip_is_asked_for_once_and_many_at_once() -> None:
    together = Event()

    def wait_for_three(handler: BaseHTTPRequestHandler, form: dict[str, bytes]) -> None:
        if served.most == 3:
            together.set()
        together.wait(5)
        count_samples(handler, form)

    with serving(wait_for_three) as served:
        recognizer = EndpointRecognizer(served.url, "m", concurrency=3)
        clips = [clip(0.1 * n) for n in (5, 1, 4, 2, 3, 5)]
        assert [len(heard.text.split()) for heard in recognizer.transcribe(clips)] == [5, 1, 4, 2, 3, 5]
        recognizer.transcribe(clips)
    assert len(served.requests) == 5 and served.most == 3


def test_word_times_are_read() -> None:
    words = [{"word": " hi", "start": 0.1, "end": 0.25}, {"word": "you", "start": 0.25, "end": 0.5}]
    body = json.dumps({"text": " hi  you ", "words": words}).encode()
    with serving(lambda handler, form: reply(handler, 200, body)) as served:
        (heard,) = EndpointRecognizer(served.url, "m", words=True).transcribe([clip(0.45)])
    assert served.requests[0][2]["response_format"] == b"verbose_json"
    assert served.requests[0][2]["timestamp_granularities[]"] == b"word"
    assert (heard.text, heard.tokens, heard.spans) == ("hi you", ("hi", "you"), ((0.1, 0.25), (0.25, 0.5)))


def sleep(handler: BaseHTTPRequestHandler, form: dict[str, bytes]) -> None:
    time.sleep(0.6)


def trickle_body(handler: BaseHTTPRequestHandler, form: dict[str, bytes]) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    trickle(handler)


def trickle(handler: BaseHTTPRequestHandler, form: dict[str, bytes] | None = None) -> None:
    """Send a byte every 50 ms, so that no single read is slow."""
    for byte in b"HTTP/1.0 200 OK\r\nX: ":
        handler.wfile.write(bytes([byte]))
        handler.wfile.flush()
        time.sleep(0.05)


def drop(handler: BaseHTTPRequestHandler, form: dict[str, bytes]) -> None:
    handler.wfile.write(b"HTTP/1.0 200 OK\r\nContent-Length: 500\r\n\r\n{")


FAILURES: dict[str, tuple[Answer, str]] = {
    "slow": (sleep, r"no whole answer after 0\.\d s.*timeout_s"),
    "trickling head": (trickle, "no whole answer"),
    "trickling body": (trickle_body, "no whole answer"),
    "500": (lambda handler, form: reply(handler, 500, b"out of memory"), "HTTP 500.*out of memory"),
    "401": (lambda handler, form: reply(handler, 401, b""), "HTTP 401.*LLASA_ENDPOINT_KEY"),
    "no http": (lambda handler, form: handler.wfile.write(b"SSH-2.0\r\n\r\n"), "BadStatusLine"),
    "html": (lambda handler, form: reply(handler, 200, b"<html>"), "no JSON with 'text'.*<html>"),
    "bytes": (lambda handler, form: reply(handler, 200, b"\xff\x00"), "no JSON with 'text'"),
    "no text": (lambda handler, form: reply(handler, 200, b'{"error": 1}'), "no JSON with 'text'"),
    "a list": (lambda handler, form: reply(handler, 200, b"[1]"), "no JSON with 'text'"),
    "nested": (lambda handler, form: reply(handler, 200, b"[" * 90000), "no JSON with 'text'"),
    "text is null": (lambda handler, form: reply(handler, 200, b'{"text": null}'), "no JSON with 'text'"),
    "cut off": (drop, "no JSON with 'text'"),
    "redirect": (
        lambda handler, form: reply(handler, 307, b"", Location="http://127.0.0.2:1/v1"), "HTTP 307",
    ),
}  # fmt: skip


@pytest.mark.parametrize("failure", FAILURES)
def test_a_failing_server_gives_no_transcript(failure: str) -> None:
    answer, found = FAILURES[failure]
    with serving(answer) as served:
        recognizer = EndpointRecognizer(served.url, "m", key="s3cret", timeout_s=0.3)
        started = time.monotonic()
        with pytest.raises(ScorerError, match=found) as error:
            recognizer.transcribe([clip()])
        assert "s3cret" not in str(error.value) and served.url in str(error.value)
        assert time.monotonic() - started < 5
    assert len(served.requests) == 1


def test_a_server_that_is_down_gives_no_transcript() -> None:
    with serving(count_samples) as served:
        pass
    with pytest.raises(ScorerError, match=r"ConnectionRefusedError.*runs there"):
        EndpointRecognizer(served.url, "m").transcribe([clip()])


@pytest.mark.parametrize(
    "words",
    [
        None,
        [{"word": "hi", "start": float("nan"), "end": 0.1}],
        [{"word": "hi", "start": 0.2, "end": 0.1}],
        [{"word": "hi", "start": -0.1, "end": 0.1}],
        [{"word": "hi", "start": 0.1, "end": 0.5}],
        [{"word": " ", "start": 0, "end": 0.1}],
        [{"word": None, "start": 0, "end": 0.1}],
    ],
)
def test_words_that_were_asked_for_must_come_with_times_in_the_clip(words: object) -> None:
    answer = json.dumps({"text": "hi", "words": words}).encode()
    with (
        serving(lambda handler, form: reply(handler, 200, answer)) as served,
        pytest.raises(ScorerError, match="'text' and 'words'"),
    ):
        EndpointRecognizer(served.url, "m", words=True).transcribe([clip()])


def test_one_failure_does_not_lose_the_other_answers() -> None:
    broken = [True]

    def fail_on_the_longest(handler: BaseHTTPRequestHandler, form: dict[str, bytes]) -> None:
        if broken[0] and len(form["file"]) > 44 + 2 * 1600 * 4:
            reply(handler, 503, b"busy")
        else:
            count_samples(handler, form)

    with serving(fail_on_the_longest) as served:
        recognizer = EndpointRecognizer(served.url, "m")
        clips = [clip(0.1 * n) for n in (1, 5, 2)]
        with pytest.raises(ScorerError, match="503"):
            recognizer.transcribe(clips)
        broken[0] = False
        assert [len(heard.text.split()) for heard in recognizer.transcribe(clips)] == [1, 5, 2]
    assert len(served.requests) == 4


@pytest.mark.parametrize(
    "url", ["ftp://host/v1", "localhost:8000", "", "http://", "http://h:99999/v1", "file:///etc/passwd",
            "http://h/v1?a=b", "http://" + "h" * 70 + ".org"],
)  # fmt: skip
def test_wrong_urls_are_refused_at_once(url: str) -> None:
    with pytest.raises(ConfigError, match="http://localhost:8000/v1"):
        EndpointRecognizer(url, "m")


def test_a_password_in_the_url_is_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigError) as error:
        EndpointRecognizer("http://me:s3cret@host/v1", "m")
    assert "s3cret" not in str(error.value) and "host/v1" in str(error.value)


@pytest.mark.parametrize(
    "options",
    [
        {"timeout_s": 0},
        {"timeout_s": float("nan")},
        {"timeout_s": float("inf")},
        {"concurrency": 0},
        {"key": "a\nb"},
        {"model": ""},
    ],
)
def test_wrong_options_are_refused_at_once(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        EndpointRecognizer(**{"url": "http://host/v1", "model": "m"} | options)  # pyright: ignore


def test_damaged_clips_are_not_sent() -> None:
    with serving(count_samples) as served, pytest.raises(InputError):
        EndpointRecognizer(served.url, "m").transcribe([clip(), Audio(np.zeros(0, np.float32), 16000)])
    assert not served.requests

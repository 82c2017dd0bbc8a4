"""Every way a server fails under the remote engine: an error that names it, in time, without the key."""

import time
from dataclasses import replace
from typing import Any

import pytest

from llasa.errors import EngineBusy, EngineError
from tests.servers import Fields, Handler, llama_server
from tests.unit.test_remote import PARAMS, Post, answering, engine_over


def events(*given: Any) -> Post:
    """A stream of events."""

    def post(handler: Handler, fields: Fields) -> None:
        handler.begin()
        for event in given:
            handler.event(event)
        handler.write(b"")

    return post


def choices(*given: dict[str, Any]) -> Post:
    """Events with one choice each, then the end, as vLLM gives them."""
    return events(*({"choices": [{"index": 0} | choice]} for choice in given), "[DONE]")


def stall(handler: Handler, fields: Fields) -> None:
    handler.begin()
    handler.event({"choices": [{"index": 0, "token_ids": [20]}]})
    time.sleep(1.5)


def only_comments(handler: Handler, fields: Fields) -> None:
    handler.begin()
    for _ in range(30):
        handler.write(b": still here\n\n")
        time.sleep(0.05)


def empty_news(handler: Handler, fields: Fields) -> None:
    handler.begin()
    for _ in range(30):
        handler.event({"choices": [{"index": 0, "token_ids": []}]})
        time.sleep(0.05)


def endless_event(handler: Handler, fields: Fields) -> None:
    handler.begin()
    for _ in range(100):
        handler.write(b"x" * (1 << 20))


def truncated(handler: Handler, fields: Fields) -> None:
    handler.begin()
    handler.event({"choices": [{"index": 0, "token_ids": [20]}]})
    handler.wfile.write(b"ff\r\ndata: {")


def large_answer(handler: Handler, fields: Fields) -> None:
    handler.reply(500, b"x", **{"Content-Length": str(100 << 20)})
    for _ in range(100):
        handler.wfile.write(b"x" * (1 << 20))


def dripped_chunk(handler: Handler, fields: Fields) -> None:
    handler.begin()
    handler.event({"choices": [{"index": 0, "token_ids": [20]}]})
    drip(handler, b"5;" + b"a" * 60)


def dripped_trailers(handler: Handler, fields: Fields) -> None:
    handler.begin()
    handler.event({"choices": [{"index": 0, "token_ids": [20]}]})
    handler.wfile.write(b"0\r\n")
    drip(handler, b"a: b\r\n" * 10)


def dripped_500(handler: Handler, fields: Fields) -> None:
    handler.send_response(500)
    handler.send_header("Content-Length", "4096")
    handler.end_headers()
    drip(handler, b"a" * 60)


def drip(handler: Handler, data: bytes) -> None:
    """Send a byte every 50 ms, so that no single read is slow."""
    for byte in data:
        handler.wfile.write(bytes([byte]))
        handler.wfile.flush()
        time.sleep(0.05)


def no_http(handler: Handler, fields: Fields) -> None:
    handler.wfile.write(b"SSH-2.0\r\n\r\n")


def status(code: int, **headers: str) -> Post:
    return lambda handler, fields: handler.reply(code, {"error": {"message": "s3cret is why"}}, **headers)


FAILURES: dict[str, tuple[Post, str]] = {
    "500": (status(500), "HTTP 500.*why.*log"),
    "400": (status(400), "HTTP 400"),
    "401": (status(401), "HTTP 401.*LLASA_ENGINE_KEY"),
    "404": (status(404), "HTTP 404.*/v1"),
    "429": (status(429), "HTTP 429.*later"),
    "503": (status(503), "HTTP 503.*later"),
    "redirect": (status(307, Location="http://127.0.0.2:1/v1"), "HTTP 307.*not followed"),
    "large answer": (large_answer, "HTTP 500"),
    "endless event": (endless_event, "event of more than"),
    "truncated": (truncated, "IncompleteRead"),
    "nothing": (choices(), r"end of the answer, with candidates \[0\] unfinished"),
    "stalling": (stall, r"nothing new for 0\.4 s"),
    "dripped chunk": (dripped_chunk, r"nothing new for 0\.4 s"),
    "dripped trailers": (dripped_trailers, r"nothing new for 0\.4 s"),
    "dripped 500": (dripped_500, r"nothing new for 0\.4 s"),
    "only comments": (only_comments, r"nothing new for 0\.4 s"),
    "no new ids": (empty_news, r"nothing new for 0\.4 s"),
    "no http": (no_http, "BadStatusLine"),
    "no json": (events("{"), "no JSON"),
    "nested": (events("[" * 90000), "no JSON"),
    "a list": (events([1]), "no JSON object"),
    "an error": (events({"error": "oom"}), "failed.*oom"),
    "no choices": (events({}), "no choices"),
    "no ids": (choices({"text": "hi"}), "no token ids"),
    "text for ids": (choices({"token_ids": ["20"]}), "no token ids"),
    "a choice too many": (choices({"index": 1, "token_ids": [20]}), "none of 1"),
    "an id that is not allowed": (choices({"token_ids": [20, 5]}), "id 5, which is not allowed"),
    "an id out of the vocabulary": (choices({"token_ids": [10**9]}), "not allowed"),
    "too many ids": (choices({"token_ids": [20] * 7}), "after the end"),
    "ids after the stop": (choices({"token_ids": [20] * 6 + [40]}), "after the end"),
    "a stop too early": (choices({"token_ids": [20, 40]}), "the end after 1 ids"),
    "too few ids": (choices({"token_ids": [20, 21], "finish_reason": "length"}), "unfinished"),
    "no log-probabilities": (choices({"token_ids": [20], "logprobs": None}), "no 1 log-prob"),
    "odd log-probabilities": (choices({"token_ids": [20], "logprobs": [1]}), "no 1 log-prob"),
    "a log-probability above 0": (
        choices({"token_ids": [20], "logprobs": {"token_logprobs": [0.5]}}), "no 1 log-prob",
    ),
    "no number": (
        choices({"token_ids": [20], "logprobs": {"token_logprobs": [float("nan")]}}), "no 1 log-prob",
    ),
}  # fmt: skip


@pytest.mark.fault("S8")
@pytest.mark.parametrize("failure", FAILURES)
def test_a_failing_server_is_an_error_that_names_it(failure: str) -> None:
    post, found = FAILURES[failure]
    params = replace(PARAMS, logprobs="log" in failure or failure == "no number")
    with engine_over(answering(post), timeout_s=0.4) as (engine, served):
        began = time.monotonic()
        request = engine.submit([1, 2], params)
        with pytest.raises(EngineError, match=f"(?s){found}") as error:
            request.result()
        with pytest.raises(EngineError):
            list(request)
        assert "s3cret" not in str(error.value) and served.url in str(error.value)
        assert time.monotonic() - began < 4
        assert isinstance(error.value, EngineBusy) == (failure in ("429", "503"))
        assert len(str(error.value)) < 600


LLAMA_FAILURES: dict[str, tuple[Post, str]] = {
    "ids held back": (events({"tokens": [20], "tokens_predicted": 2}), "1 ids where '2' were drawn"),
    "key": (
        events({"tokens": [20], "tokens_predicted": "s3cret" * 900}),
        r"where '\"\*\*\*.{,200} were drawn",
    ),
    "no ids": (events({"content": "hi"}), "no token ids"),
    "too few": (events({"tokens": [], "tokens_predicted": 0, "stop": True}), "unfinished"),
    "no log-probabilities": (events({"tokens": [20], "tokens_predicted": 1}), "no 1 log-prob"),
}


@pytest.mark.parametrize("failure", LLAMA_FAILURES)
def test_a_failing_llama_server_is_an_error(failure: str) -> None:
    post, found = LLAMA_FAILURES[failure]
    with engine_over(answering(post, llama_server), timeout_s=0.4) as (engine, _):
        request = engine.submit([1, 2], replace(PARAMS, n=3, logprobs="log" in failure))
        with pytest.raises(EngineError, match=found):
            request.result()

"""The engine behind a server: what is sent, every way a server fails, and that nothing is left running."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import pytest

from llasa import web
from llasa.core import SamplingParams
from llasa.engines.remote import RemoteEngine
from llasa.errors import BundleError, ConfigError, EngineBusy, EngineError
from tests.servers import VOCAB, Fields, Handler, Served, Speak, llama_server, serving, vllm

PARAMS = SamplingParams(
    temperature=1.0, allowed_token_ids=(*range(20, 40), 40), stop_token_ids=(40,), min_tokens=6, max_tokens=6
)
LONG = replace(PARAMS, min_tokens=900, max_tokens=900, stop_token_ids=(), loop_guard=False)
Post = Callable[[Handler, Fields], None]


@contextmanager
def engine_over(speak: Speak, **options: Any) -> Iterator[tuple[RemoteEngine, Served]]:
    """An engine and its server."""
    with serving(speak) as served:
        engine = RemoteEngine(served.url, "tiny", **{"vocab_size": VOCAB, "key": "s3cret"} | options)
        try:
            yield engine, served
        finally:
            engine.close()


def answering(post: Post, speak: Speak = vllm) -> Speak:
    """A server that knows its model and answers generations otherwise."""

    def spoken(handler: Handler, fields: Fields | None) -> None:
        if fields is None or (fields.get("stop_token_ids") or [0])[0] >= VOCAB:
            speak(handler, fields)
        else:
            post(handler, fields)

    return spoken


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


def test_loading_does_not_speak_of_generating() -> None:
    with (
        serving(lambda handler, fields: handler.reply(401, b"no")) as served,
        pytest.raises(EngineError, match=r"Asking .*401.*LLASA_ENGINE_KEY"),
    ):
        RemoteEngine(served.url, "tiny", vocab_size=VOCAB)


def test_what_a_server_calls_its_models_is_bounded_and_without_the_key() -> None:
    cards = {"data": [{"id": f"s3cret{i}", "owned_by": "s3cret" * 90} for i in range(900)]}
    with serving(lambda handler, fields: handler.reply(200, cards)) as served:
        for name in ("tiny", "s3cret1"):
            with pytest.raises(ConfigError) as error:
                RemoteEngine(served.url, name, vocab_size=VOCAB, key="s3cret")
            assert len(str(error.value)) < 600 and "s3cret" not in str(error.value).replace(f"'{name}'", "")


@contextmanager
def black_hole() -> Iterator[str]:
    """A place where connecting takes for ever: its queue is full."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server, ExitStack() as kept:
        for _ in range(4):
            kept.enter_context(waiting := socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(server.getsockname())
        yield f"http://127.0.0.1:{server.getsockname()[1]}/v1"


def test_connecting_has_a_time_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "CONNECT_S", 0.3)
    with black_hole() as url, pytest.raises(EngineError, match=r"no connection within 0\.3 s"):
        RemoteEngine(url, "tiny", vocab_size=VOCAB)


def test_hanging_up_ends_connecting() -> None:
    with black_hole() as url:
        call, errors = web.Call(web.Server(url, "Testing")), []

        def ask() -> None:
            with pytest.raises(OSError) as error:
                call.ask("GET", "/")
            errors.append(error.value)

        thread = threading.Thread(target=ask)
        thread.start()
        time.sleep(0.2)
        call.hang_up()
        thread.join(2)
        assert not thread.is_alive() and len(errors) == 1


def test_a_server_that_is_down_is_an_error() -> None:
    with serving(vllm) as served:
        pass
    with pytest.raises(EngineError, match=r"ConnectionRefusedError.*runs") as error:
        RemoteEngine(served.url, "tiny", vocab_size=VOCAB)
    assert error.value.retryable


def test_a_server_that_goes_away_is_an_error() -> None:
    with engine_over(vllm) as (engine, served):
        served.close()
        with pytest.raises(EngineError, match="ConnectionRefusedError"):
            engine.submit([1], PARAMS).result()


def test_vllm_is_asked_once_for_all_candidates() -> None:
    with engine_over(vllm) as (engine, served):
        found = engine.submit([1, 2], replace(PARAMS, n=3, first=2, seed=7, top_k=5, top_p=0.9)).result()
        engine.submit([1, 2], replace(PARAMS, seed=7)).result()
    assert [len(generation.ids) for generation in found] == [6] * 3
    (probe, (path, headers, fields), (_, _, other)) = served.requests
    assert probe[2]["stop_token_ids"] == [2**31 - 1] and path == "/v1/completions"
    assert headers["Authorization"] == "Bearer s3cret"
    assert (fields["n"], fields["top_k"], fields["top_p"], fields["min_p"]) == (3, 5, 0.9, 0)
    assert fields["seed"] == other["seed"] + 2 and fields["ignore_eos"] and fields["return_token_ids"]


def test_llama_server_is_asked_for_each_candidate_and_told_what_is_banned() -> None:
    with engine_over(llama_server) as (engine, served):
        engine.submit([1, 2], replace(PARAMS, n=3, min_tokens=0)).result()
        engine.submit([1, 2], replace(PARAMS, top_k=5)).result()
    banned = [{token_id for token_id, _ in fields["logit_bias"]} for _, _, fields in served.requests]
    outside = set(range(20)) | set(range(41, VOCAB))
    assert banned[:3] == [outside] * 3 and banned[3] == outside | {40}
    assert len({fields["seed"] for _, _, fields in served.requests[:3]}) == 3
    assert all(path == "/completion" for path, _, _ in served.requests)


@pytest.mark.parametrize("speak", [vllm, llama_server])
def test_no_candidate_ends_before_min_tokens(speak: Speak) -> None:
    params = replace(PARAMS, allowed_token_ids=(30, 40), min_tokens=4, max_tokens=30, loop_guard=False, n=20)
    with engine_over(speak) as (engine, _):
        found = engine.submit([1, 2], params).result()
    assert {generation.finish for generation in found} == {"stop"}
    assert 4 == min(len(generation.ids) for generation in found) < max(len(g.ids) for g in found)


@pytest.mark.parametrize("speak", [vllm, llama_server])
def test_a_loop_is_cut_back_and_its_connection_closed(speak: Speak) -> None:
    params = replace(LONG, allowed_token_ids=(30,), stop_token_ids=(), loop_guard=True, logprobs=True)
    with engine_over(speak) as (engine, served):
        request = engine.submit([1, 2], params)
        (generation,) = request.result()
        assert (generation.ids, generation.finish) == ([30], "loop")
        assert generation.logprobs is not None and len(generation.logprobs) == 1
        given = [token_id for step in request for token_id in step.ids]
        assert len(given) - sum(step.rollback for step in request) == 1
        wait_for(lambda: served.now == 0)
        assert served.hung_up == 1


def wait_for(holds: Callable[[], bool]) -> None:
    ends = time.monotonic() + 5
    while not holds():
        assert time.monotonic() < ends
        time.sleep(0.01)


@pytest.mark.parametrize("speak", [vllm, llama_server])
def test_cancelling_closes_the_connections(speak: Speak) -> None:
    with engine_over(speak) as (engine, served):
        request = engine.submit([1, 2], replace(LONG, n=2))
        next(iter(request))
        connections = 1 if speak is vllm else 2
        wait_for(lambda: served.now == connections)
        request.cancel(0)
        request.cancel()
        assert [generation.finish for generation in request.result()] == ["cancelled"] * 2
        wait_for(lambda: served.now == 0)
        assert served.hung_up == connections


def test_a_silent_server_can_be_cancelled_at_once() -> None:
    free = threading.Event()

    def post(handler: Handler, fields: Fields) -> None:
        free.wait(5)

    with engine_over(answering(post)) as (engine, served):
        request = engine.submit([1, 2], PARAMS)
        wait_for(lambda: served.now == 1)
        began = time.monotonic()
        request.cancel()
        assert request.result()[0].finish == "cancelled"
        engine.close()
        assert time.monotonic() - began < 2
        free.set()


def test_one_candidate_of_several_is_cancelled_alone() -> None:
    with engine_over(vllm) as (engine, served):
        request = engine.submit([1, 2], replace(LONG, n=2, min_tokens=500, max_tokens=500))
        next(iter(request))
        request.cancel(1)
        first, second = request.result()  # the connection was not closed, or the first would not end so
        assert (len(first.ids), first.finish, second.finish) == (500, "length", "cancelled")
        assert len(second.ids) < 500 and len(served.requests) == 2


def test_no_more_requests_than_concurrency_run_at_once() -> None:
    free = threading.Event()

    def post(handler: Handler, fields: Fields) -> None:
        free.wait(5)
        llama_server(handler, fields)

    with engine_over(answering(post, llama_server), concurrency=3) as (engine, served):
        request = engine.submit([1], replace(PARAMS, n=10))
        wait_for(lambda: served.now == 3)
        time.sleep(0.1)
        assert served.now == 3
        free.set()
        assert len(request.result()) == 10


def test_no_more_requests_than_the_server_has_slots_are_sent() -> None:
    with engine_over(llama_server, concurrency=64) as (engine, _):
        assert engine.concurrency == 4
    with engine_over(vllm, concurrency=64) as (engine, _):
        assert engine.concurrency == 64


def test_closing_ends_what_is_in_flight_and_leaves_no_thread() -> None:
    with engine_over(llama_server) as (engine, served):
        request = engine.submit([1, 2], replace(LONG, n=3))
        next(iter(request))
        engine.close()
        with pytest.raises(EngineError, match="closed"):
            request.result()
        with pytest.raises(EngineError, match="closed"):
            engine.submit([1], PARAMS)
        wait_for(lambda: served.now == 0)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("llasa-remote")]


def test_an_adapter_is_the_name_of_a_served_module() -> None:
    with engine_over(vllm) as (engine, _):
        assert engine.adapters == ("soft",)
        (generation,) = engine.submit([1, 2], replace(PARAMS, adapter="soft")).result()
        assert max(generation.ids) < 30
        with pytest.raises(ConfigError, match=r"adapter is 'hard'.*soft"):
            engine.submit([1, 2], replace(PARAMS, adapter="hard"))
    with engine_over(llama_server) as (engine, _), pytest.raises(ConfigError, match="no adapters"):
        engine.submit([1, 2], replace(PARAMS, adapter="soft"))


def test_what_servers_do_otherwise_is_refused_by_name() -> None:
    with engine_over(vllm) as (engine, _):
        with pytest.raises(ConfigError, match="repetition_penalty"):
            engine.submit([1], replace(PARAMS, repetition_penalty=1.1))
        with pytest.raises(ConfigError, match=r"temperature.*0\.01"):
            engine.submit([1], replace(PARAMS, temperature=0.001))


@pytest.mark.parametrize("speak", [vllm, llama_server])
def test_another_vocabulary_is_found_before_anything_is_drawn(speak: Speak) -> None:
    with pytest.raises(BundleError, match=r"64 ids.*193800"), engine_over(speak, vocab_size=193800):
        pass


def mute(handler: Handler, fields: Fields | None) -> None:
    """Speak as older vLLM does, which says no more of stop ids than of ids in a prompt."""
    if fields and max(fields["prompt"]) >= VOCAB:
        handler.reply(400, {"error": {"message": "Token id is out of vocabulary"}})
    elif fields and "seed" not in fields:
        handler.reply(200, {"choices": []})
    else:
        vllm(handler, fields)


def test_a_vocabulary_that_is_not_told_is_tried(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(BundleError, match="refuses id 193799"), engine_over(mute, vocab_size=193800):
        pass
    assert not caplog.records
    with engine_over(mute) as (engine, _):
        assert "does not tell its vocabulary" in caplog.text
        assert len(engine.submit([1], PARAMS).result()[0].ids) == 6


@pytest.mark.parametrize("speak", [vllm, llama_server])
def test_rows_beyond_the_vocabulary_are_never_drawn(speak: Speak) -> None:
    params = SamplingParams(temperature=5.0, max_tokens=40, n=10, loop_guard=False)
    with engine_over(speak, vocab_size=VOCAB - 20) as (engine, _):
        drawn = {i for generation in engine.submit([1], params).result() for i in generation.ids}
    assert VOCAB - 30 < max(drawn) < VOCAB - 20


def test_a_model_that_is_not_served_is_refused_with_those_that_are() -> None:
    with serving(vllm) as served, pytest.raises(ConfigError, match=r"no model 'huge', but \"'tiny', 'soft'"):
        RemoteEngine(served.url, "huge", vocab_size=VOCAB)


def test_other_servers_are_refused_by_name() -> None:
    def speak(handler: Handler, fields: Fields | None) -> None:
        handler.reply(200, {"data": [{"id": "tiny", "owned_by": "sglang", "max_model_len": 100}]})

    with serving(speak) as served, pytest.raises(ConfigError, match=r"'sglang'.*token ids"):
        RemoteEngine(served.url, "tiny", vocab_size=VOCAB)


MODELS: dict[str, tuple[Any, type[Exception], str]] = {
    "html": (b"<html>", EngineError, "no JSON"),
    "a list": ([], EngineError, "no JSON object"),
    "no models": ({"data": None}, ConfigError, "no model 'tiny', but none"),
    "odd models": ({"data": [3, {"id": None}]}, ConfigError, "no model 'tiny'"),
    "no length": ({"data": [{"id": "tiny", "owned_by": "vllm"}]}, EngineError, "no 'max_model_len'"),
    "odd aliases": ({"data": [{"id": "a", "aliases": 3}]}, ConfigError, "no model 'tiny', but .'a'"),
    "no context": ({"data": [{"id": "tiny", "owned_by": "llamacpp"}]}, EngineError, "no 'n_ctx'"),
}


@pytest.mark.parametrize("answer", MODELS)
def test_odd_descriptions_are_refused(answer: str) -> None:
    body, kind, found = MODELS[answer]
    with (
        serving(lambda handler, fields: handler.reply(200, body)) as served,
        pytest.raises(kind, match=found),
    ):
        RemoteEngine(served.url, "tiny", vocab_size=VOCAB)


def test_a_missing_path_is_an_error_that_says_so() -> None:
    with (
        serving(lambda handler, fields: handler.reply(404, b"not here")) as served,
        pytest.raises(EngineError, match=r"404.*/v1"),
    ):
        RemoteEngine(served.url, "tiny", vocab_size=VOCAB)


@pytest.mark.parametrize(
    "options",
    [{"timeout_s": 0}, {"timeout_s": float("nan")}, {"timeout_s": 1e12}, {"concurrency": 0},
     {"vocab_size": 0}, {"key": "a\nb"},
     {"url": "http://me:s3cret@host/v1"}, {"url": "ftp://host/v1"}, {"model": ""}],
)  # fmt: skip
def test_wrong_options_are_refused_at_once(options: dict[str, Any]) -> None:
    with serving(vllm) as served, pytest.raises(ConfigError) as error:
        RemoteEngine(**{"url": served.url, "model": "tiny", "vocab_size": VOCAB} | options)
    assert "s3cret" not in str(error.value)


def test_a_request_is_valid_json_with_all_ids_allowed() -> None:
    for speak in (vllm, llama_server):
        with engine_over(speak) as (engine, served):
            engine.submit([1], replace(PARAMS, allowed_token_ids=None)).result()
            fields = served.requests[-1][2]
        assert json.dumps(fields) and (fields.get("allowed_token_ids"), fields.get("logit_bias", [])) == (
            None,
            [],
        )

"""The judge's service over HTTP: its routes, its limits, and what it says of what it cannot do."""

import asyncio
import base64
import json
import logging
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

from llasa import audio
from llasa.core import Audio
from llasa.recognizers.endpoint import EndpointRecognizer, _form
from llasa.remote_judge.wire import MOST_CODES, MOST_ITEMS, MOST_LETTERS, Asked
from llasa.serve import judging as judging_module
from llasa.serve.guard import Rules
from llasa.serve.judge_api import make_app
from tests.judging import BLOCK, CODEC, First, judging, service

JSON = {"Content-Type": "application/json"}
SOUND = Audio(np.full(4000, 0.5, np.float32), 8000)  # what codes of 500 sound like


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with judging() as own:
        yield own


def ask(
    url: str, method: str, path: str, body: bytes | None = None, **headers: str
) -> tuple[int, dict[str, str], Any]:
    connection = HTTPConnection(url.removeprefix("http://"), timeout=20)
    connection.request(method, path, body, JSON | {key.replace("_", "-"): v for key, v in headers.items()})
    answer = connection.getresponse()
    data, kind = answer.read(), answer.headers.get("Content-Type", "")
    connection.close()
    told = json.loads(data) if kind.startswith("application/json") else data
    return answer.status, {key.lower(): v for key, v in answer.headers.items()}, told


def item(id: str = "a", **fields: object) -> dict[str, object]:
    return {"id": id, "text": "hello", "codes": [500] * 50, "finish": "stop"} | fields


def asked(*items: dict[str, object], **fields: object) -> bytes:
    return json.dumps({"nonce": "n1", "items": list(items)} | fields).encode()


def judged(url: str, *items: dict[str, object], **fields: object) -> list[dict[str, Any]]:
    status, _, told = ask(url, "POST", "/v1/judge", asked(*items, **fields))
    assert status == 200, told
    return told["items"]


def test_a_verdict_has_its_parts_and_the_answer_its_nonce(url: str) -> None:
    status, _, told = ask(url, "POST", "/v1/judge", asked(item("a"), item("b", codes=[])))
    assert (status, told["nonce"], told["digest"]) == (200, "n1", service().health().digest)
    good, bad = told["items"]
    assert good["measures"] == {
        "code": 500.0, "never": None, "first.value": 0.5, "peak": 0.5, "loud.value": 0.5,
    }  # fmt: skip
    assert (good["id"], good["status"], good["value"], good["reason"]) == ("a", "scored", 0.5, "")
    assert (bad["id"], bad["status"], bad["value"], bad["reason"]) == ("b", "bad", 0.0, "no codes (stop)")


def test_a_sound_does_instead_of_codes(url: str) -> None:
    file = base64.b64encode(audio.encode(SOUND, "wav")).decode()
    (told,) = judged(url, item(codes=[], audio=file))
    assert told["status"] == "scored" and told["value"] == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"codes": [5, 1000]}, "code 1000 for a codec of 1000"),
        ({"codes": [], "audio": "%%%"}, "no base64"),
        ({"codes": [], "audio": base64.b64encode(b"/etc/passwd").decode()}, "no audio format"),
        ({"codes": [], "audio": "/etc/passwd"}, "no audio format|no base64"),
        ({"codes": [13]}, "thirteen"),
        ({"voice": "other"}, "codes of 'xcodec2@1'"),
        ({"voice": "odd"}, "code 4000"),
    ],
)
def test_what_cannot_be_judged_is_told_and_costs_the_others_nothing(
    url: str, fields: Any, found: str
) -> None:
    voices = {
        "other": {"name": "v", "text": "hi", "codes": [1], "codec": "xcodec2@1"},
        "odd": {"name": "v", "text": "hi", "codes": [4000]},
    }
    one, two = judged(url, item("a", **fields), item("b"), voices=voices)
    assert (one["status"], one["value"], two["status"]) == ("unjudged", None, "scored")
    assert any(part in one["reason"] for part in found.split("|"))


@pytest.mark.parametrize(
    ("body", "place"),
    [
        (b"", ""),
        (b"{", ""),
        (b"[" * 100_000, ""),
        (asked(), "items"),
        (asked(item(), wish=1), "wish"),
        (asked(item(), item()), "id twice"),
        (asked(item(voice="nobody")), "nobody"),
        (asked(item(codes=[-1])), "codes"),
        (asked(item(codes=["1"])), "codes"),
        (asked(item(codes=[1.5])), "codes"),
        (asked(item(codes=[1] * (MOST_CODES + 1))), "codes"),
        (asked(item(text="a" * (MOST_LETTERS + 1))), "text"),
        (asked(item(text="\ud800")), "Invalid JSON"),
        (asked(item(finish="done")), "finish"),
        (asked(item(logprob=float("nan"))), "logprob"),
        (asked(item("a b\r\n")), "id"),
        (asked(item(), nonce="x" * 100), "nonce"),
        (asked(*(item(f"i{n}", codes=[1]) for n in range(MOST_ITEMS + 1))), "items"),
    ],
)  # fmt: skip
def test_a_wrong_request_is_named_in_openais_shape(url: str, body: bytes, place: str) -> None:
    status, _, told = ask(url, "POST", "/v1/judge", body)
    assert status == 400 and set(told) == {"error"}
    assert set(told["error"]) == {"message", "type", "param", "code"}
    assert place in told["error"]["message"] and told["error"]["type"] == "invalid_request_error"


def test_there_are_four_routes_and_no_page(url: str) -> None:
    status, _, told = ask(url, "GET", "/openapi.json")
    routes = {(path, method) for path, methods in told["paths"].items() for method in methods}
    assert status == 200 and routes == {
        ("/v1/judge", "post"), ("/v1/audio/transcriptions", "post"), ("/health", "get"), ("/metrics", "get"),
    }  # fmt: skip
    for method, path in [("GET", "/docs"), ("GET", "/../etc/passwd"), ("GET", "/v1/judge"), ("POST", "/")]:
        status, _, told = ask(url, method, path, b"{}")
        assert status in (404, 405) and set(told) == {"error"}


def test_health_says_what_a_client_compares(url: str) -> None:
    status, _, told = ask(url, "GET", "/health")
    assert status == 200 and told["ready"] and told["codec"] == "plain@0" and told["recognizers"] == ["ears"]
    assert told["judge"] == BLOCK.model_dump(mode="json") and len(told["digest"]) == 16


def test_a_bug_is_a_500_with_an_id_and_without_the_text(caplog: pytest.LogCaptureFixture) -> None:
    with judging() as url, caplog.at_level(logging.ERROR, "llasa.serve"):
        status, _, told = ask(url, "POST", "/v1/judge", asked(item(text="canary", codes=[14])))
        assert judged(url, item())[0]["status"] == "scored"  # it goes on
    assert status == 500 and told["error"]["type"] == "server_error"
    assert told["error"]["code"] in caplog.text and "RuntimeError" in caplog.text
    assert "canary" not in caplog.text and "canary" not in json.dumps(told)


def test_what_serves_never_hears_of_a_bug_whose_message_has_the_text() -> None:
    """uvicorn would log it: it is answered by then, and logged without."""
    app, sent = make_app(service(), Rules()), list[dict[str, Any]]()
    body = asked(item(text="canary", codes=[14]))
    came = [{"type": "http.request", "body": body}]
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "method": "POST", "path": "/v1/judge",
        "query_string": b"", "headers": [(b"host", b"localhost"), (b"content-type", b"application/json")],
    }  # fmt: skip

    async def receive() -> dict[str, Any]:
        return came.pop() if came else await asyncio.sleep(60, {})

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    assert sent[0]["status"] == 500 and b"canary" not in b"".join(one.get("body", b"") for one in sent)


def test_a_thousand_wrong_values_are_counted_and_not_listed(url: str) -> None:
    flood = {f"k{n}": 1 for n in range(5000)}
    status, _, told = ask(url, "POST", "/v1/judge", asked(item(), **flood))
    assert status == 400 and "5000 wrong values" in told["error"]["message"]
    status, _, told = ask(url, "POST", "/v1/judge", asked(item(codes=[""] * 5000)))
    assert status == 400 and told["error"]["param"] == "items.0.codes.0"  # and it looked no further
    status, _, told = ask(url, "POST", "/v1/judge", asked(item(), **{"k" * 5000: 1}))
    assert status == 400 and len(json.dumps(told)) < 1000


def test_the_sounds_of_a_request_have_a_limit_together(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llasa.serve.judging.MOST_SOUND_S", 0.9)
    file = base64.b64encode(audio.encode(SOUND, "wav")).decode()
    told = judged(url, *(item(f"i{n}", codes=[], audio=file) for n in range(3)), item("last"))
    assert [one["status"] for one in told] == ["scored", "scored", "unjudged", "scored"]
    assert "more than 0.9 s in a request" in told[2]["reason"]


def test_voices_are_read_once_and_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    heard = judging_module.heard_voice
    monkeypatch.setattr(judging_module, "heard_voice", lambda sent: read.append(sent.name) or heard(sent))
    reader = judging_module.Reader(CODEC, 1000)
    voices = {key: {"name": key, "text": "hi", "codes": [1] * 20} for key in ("v", "w")}
    body = asked(*(item(f"i{n}", voice="v") for n in range(3)), item("w", voice="w"), voices=voices)
    one = reader.candidates(Asked.model_validate_json(body))
    two = reader.candidates(Asked.model_validate_json(body))
    assert sorted(read) == ["v", "w"]
    assert len({id(each.utterance.voice) for each in (*one, *two) if not isinstance(each, str)}) == 2
    monkeypatch.setattr(judging_module, "MOST_KEPT", 2000)  # bytes: one of them
    reader = judging_module.Reader(CODEC, 1000)
    for _ in range(2):
        assert all(not isinstance(each, str) for each in reader.candidates(Asked.model_validate_json(body)))
    assert len(read) > 4


# --- who may ask -----------------------------------------------------------------------------------------

ROUTES = [
    ("POST", "/v1/judge"), ("POST", "/v1/audio/transcriptions"), ("GET", "/health"), ("GET", "/metrics"),
    ("GET", "/openapi.json"), ("GET", "/nowhere"),
]  # fmt: skip


@pytest.fixture(scope="module")
def locked() -> Iterator[str]:
    with judging(rules=Rules(key="s3cret", largest=1000, body_s=0.3)) as own:
        yield own


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_every_route_wants_key_host_and_no_foreign_page(locked: str, method: str, path: str) -> None:
    good = {"Authorization": "Bearer s3cret"}
    for headers, status, code in [
        ({}, 401, "key"),
        ({"Authorization": "Bearer s3cre"}, 401, "key"),
        ({"Authorization": "Bearer s3cret\xe9"}, 401, "key"),
        (good | {"Host": "evil.example"}, 403, "host"),
        (good | {"Host": "localhost.evil.example:80"}, 403, "host"),
        (good | {"Origin": "http://evil.example"}, 403, "origin"),
        (good | {"Origin": "null"}, 403, "origin"),
        (good | {"Origin": "http://["}, 403, "origin"),
    ]:
        found, _, told = ask(locked, method, path, asked(item()), **headers)
        assert (found, told["error"]["code"]) == (status, code)
        assert "s3cret" not in json.dumps(told)


def test_the_right_key_opens(locked: str) -> None:
    for host in ("localhost", "127.0.0.1:99", "[::1]:99"):
        headers = {"Authorization": "Bearer s3cret", "Host": host, "Origin": "http://localhost:3000"}
        assert ask(locked, "POST", "/v1/judge", asked(item()), **headers)[0] == 200


def test_a_body_has_limits_in_size_and_in_time(locked: str) -> None:
    key = {"Authorization": "Bearer s3cret"}
    assert ask(locked, "POST", "/v1/judge", b"x" * 1001, **key)[0] == 413
    connection = HTTPConnection(locked.removeprefix("http://"), timeout=10)
    connection.request("POST", "/v1/judge", iter([b"x" * 600] * 2), JSON | key, encode_chunked=True)
    assert connection.getresponse().status == 413
    connection = HTTPConnection(locked.removeprefix("http://"), timeout=10)
    connection.putrequest("POST", "/v1/judge")
    for name, value in (key | {"Content-Length": "100"}).items():
        connection.putheader(name, value)
    connection.endheaders(b"{")  # and nothing more
    assert connection.getresponse().status == 408


def test_bodies_have_a_limit_together() -> None:
    with judging(rules=Rules(most_held=3000)) as url:
        waits = HTTPConnection(url.removeprefix("http://"), timeout=10)
        waits.putrequest("POST", "/v1/judge")
        waits.putheader("Content-Length", "3001")
        waits.endheaders(b"x" * 2900)
        for _ in range(100):  # until it has come
            status, headers, told = ask(url, "POST", "/v1/judge", asked(item()))
            if status == 429:
                break
        assert (status, told["error"]["code"], headers["retry-after"]) == (429, "busy", "1")
        waits.close()
        time.sleep(0.1)
        assert judged(url, item())[0]["status"] == "scored"  # what is gone is held no more


# --- much at once ----------------------------------------------------------------------------------------


def test_what_waits_is_judged_together_and_each_gets_its_own() -> None:
    first = First(took_s=0.1)
    with judging(first, most_items=4) as url, ThreadPoolExecutor(9) as pool:
        rows = [item(f"i{n}", codes=[100 + n] * 9) for n in range(9)]
        told = list(pool.map(lambda row: judged(url, row)[0], rows))
    assert [one["id"] for one in told] == [f"i{n}" for n in range(9)]
    assert [one["measures"]["code"] for one in told] == [100.0 + n for n in range(9)]
    assert len(first.seen) < 9 and max(map(len, first.seen)) <= 4


def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    first = First(took_s=0.3)
    with judging(first, most_items=1, most_waiting=2) as url, ThreadPoolExecutor(8) as pool:
        rows = [asked(item(f"i{n}")) for n in range(8)]
        told = list(pool.map(lambda row: ask(url, "POST", "/v1/judge", row), rows))
    refused = [one for one in told if one[0] == 429]
    assert 0 < len(refused) < 8 and {one[0] for one in told} == {200, 429}
    assert refused[0][1]["retry-after"] == "1" and refused[0][2]["error"]["code"] == "busy"


def test_nobody_works_for_a_client_that_hung_up() -> None:
    first = First(took_s=0.6)
    with judging(first, most_items=1) as url:
        calls = [HTTPConnection(url.removeprefix("http://")) for _ in range(6)]
        for n, call in enumerate(calls):
            call.request("POST", "/v1/judge", asked(item(f"i{n}")), JSON)
        time.sleep(0.2)
        for call in calls:
            call.close()
        time.sleep(0.8)
        assert judged(url, item("last", text="last"))[0]["status"] == "scored"
        metrics = ask(url, "GET", "/metrics")[2].decode()
    assert len(first.seen) < 4 and "llasa_abandoned_total 6.0" in metrics


def test_metrics_count(url: str) -> None:
    judged(url, item(codes=[13]))
    told = ask(url, "GET", "/metrics")[2].decode()
    assert 'llasa_verdicts_total{status="unjudged"}' in told and "llasa_waiting 0.0" in told


# --- transcriptions --------------------------------------------------------------------------------------


def hear(url: str, fields: dict[str, str], data: bytes) -> tuple[int, Any]:
    kind, body = _form(fields, data)
    status, _, told = ask(url, "POST", "/v1/audio/transcriptions", body, Content_Type=kind)
    return status, told


WAV = audio.encode(SOUND, "wav")


def test_transcripts_come_in_openais_forms(url: str) -> None:
    words = "word0 word1 word2 word3 word4"
    assert hear(url, {"model": "ears"}, WAV) == (200, {"text": words})
    assert hear(url, {"model": "ears", "response_format": "text"}, WAV) == (200, f"{words}\n".encode())
    status, told = hear(url, {"model": "ears", "response_format": "verbose_json", "language": "de"}, WAV)
    assert (status, told["duration"], told["language"]) == (200, 0.5, "de")
    assert told["words"][1] == {"word": "word1", "start": 0.1, "end": 0.2}


def test_our_own_client_understands_it(url: str) -> None:
    (heard,) = EndpointRecognizer(url + "/v1", "ears", words=True).transcribe([SOUND])
    assert heard.tokens == ("word0", "word1", "word2", "word3", "word4") and heard.spans[4] == (0.4, 0.5)


@pytest.mark.parametrize(
    ("fields", "data", "status"),
    [
        ({"model": "ears"}, b"", 400),
        ({"model": "ears"}, b"RIFF", 400),
        ({"model": "ears"}, audio.encode(Audio(np.zeros(8000, np.float32), 8000), "wav"), 400),
        ({"model": "ears", "response_format": "srt"}, WAV, 400),
        ({}, WAV, 400),
        ({"model": "whisper:/etc"}, WAV, 404),
        ({"model": "os:system"}, WAV, 404),
    ],
)
def test_what_cannot_be_heard_is_refused(url: str, fields: dict[str, str], data: bytes, status: int) -> None:
    found, told = hear(url, fields, data)
    assert found == status and set(told["error"]) == {"message", "type", "param", "code"}


def test_no_path_in_a_request_is_opened(url: str, tmp_path: Path) -> None:
    audio.write(tmp_path / "here.wav", SOUND)
    place = str(tmp_path / "here.wav")
    assert hear(url, {"model": "ears", "file": place}, b"x")[0] == 400
    for sent in (place, f"file://{place}"):
        (told,) = judged(url, item(codes=[], audio=sent))
        assert told["status"] == "unjudged"

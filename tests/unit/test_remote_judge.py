"""The client of a judge's service: the same verdicts, joined by id, in time, whatever goes wrong."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

from llasa import config
from llasa.core import Audio, Judged, Voice
from llasa.errors import ConfigError, ScorerError
from llasa.judge import JudgeBlock, PartBlock
from llasa.remote_judge import RemoteBlock, RemoteJudge, build_remote
from llasa.remote_judge.replicas import COOL_S, LONGEST_COOL_S, OPEN_AFTER, Pace, Replicas
from llasa.serve.guard import Rules
from llasa.web import Server
from tests.judging import BLOCK, CODEC, ROWS, candidate, judging, local_judge, served, service, verdicts


def test_a_service_gives_the_verdicts_of_the_judge_itself() -> None:
    with judging() as url:
        judge = RemoteJudge([url + "/v1"])
        judge.check(BLOCK, CODEC)
        told = judge.judge(ROWS)
    assert verdicts(told) == verdicts(local_judge().judge(ROWS))
    assert [one.status for one in told] == ["scored", "scored", "bad", "unjudged", "scored", "bad"]
    assert [one.reason for one in told] == [one.reason for one in local_judge().judge(ROWS)]
    assert all(one.candidate is row for one, row in zip(told, ROWS, strict=True))
    assert judge.judge([]) == []


def test_a_voice_comes_with_its_recording() -> None:
    quiet = Audio(np.full(8000, 0.25, np.float32), 8000)
    voices = [Voice(name, "hi", [1, 2], CODEC, reference) for name, reference in (("a", quiet), ("b", None))]
    rows = [candidate(100, voice=voice) for voice in [*voices, None] * 4]
    with judging() as url:
        told = RemoteJudge([url]).judge(rows)
    assert verdicts(told) == verdicts(local_judge().judge(rows))
    assert told[0].score and told[0].score.measures["peak"] == pytest.approx(0.4)


def test_threads_get_their_own_verdicts() -> None:
    rows = [candidate(n) for n in range(100, 300)]
    told: dict[int, list[Judged]] = {}
    with judging() as url:
        judge = RemoteJudge([url], concurrency=8)
        threads = [
            threading.Thread(target=lambda n=n: told.update({n: judge.judge(rows[n * 10 : n * 10 + 10])}))
            for n in range(20)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert verdicts([one for n in range(20) for one in told[n]]) == verdicts(local_judge().judge(rows))


# --- answers that are none -------------------------------------------------------------------------------

Answer = dict[str, Any]
Script = Callable[[int, Answer], tuple[int, bytes]]


class Liar:
    """A service that begins with a good answer and spoils it: `script` is given its number."""

    def __init__(self) -> None:
        self.script: Script = lambda n, answer: (200, json.dumps(answer).encode())
        self.asked: list[Answer] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        health = service().health()
        status, answer = 200, health.model_dump_json().encode()
        if scope["path"] != "/health":
            status, answer = self.judge(json.loads(await self.body(receive)), health.digest)
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": answer})

    async def body(self, receive: Any) -> bytes:
        body = b""
        while (message := await receive()) and (body := body + message["body"]) and message["more_body"]:
            pass
        return body

    def judge(self, asked: Answer, digest: str) -> tuple[int, bytes]:
        items = [
            {"id": one["id"], "status": "scored", "value": one["codes"][0] / 1000, "measures": {"code": 1.0}}
            for one in asked["items"]
        ]
        number = len(self.asked)
        self.asked.append(asked)
        said = {"nonce": asked["nonce"], "digest": digest, "items": items, "old": self.asked[0]["nonce"]}
        return self.script(number, said)


def first(answer: Answer, **changes: object) -> Answer:
    """Spoil the verdict on the first candidate."""
    return answer | {"items": [answer["items"][0] | changes, *answer["items"][1:]]}


# what is said -> whether it costs the first verdict only, or that of all
LIES: dict[str, tuple[Callable[[Answer], Answer | bytes], bool]] = {
    "NaN": (lambda a: first(a, value=float("nan")), True),
    "inf": (lambda a: first(a, value=float("inf")), True),
    "None": (lambda a: first(a, value=None), True),
    "above": (lambda a: first(a, value=1.01), True),
    "below": (lambda a: first(a, value=-0.01), True),
    "text": (lambda a: first(a, value="0.5"), True),
    "bool": (lambda a: first(a, value=True), True),
    "status": (lambda a: first(a, status="good"), True),
    "unjudged with a value": (lambda a: first(a, status="unjudged"), True),
    "NaN among measures": (lambda a: first(a, measures={"wer": float("nan")}), True),
    "no value": (lambda a: a | {"items": [{"id": a["items"][0]["id"]}, *a["items"][1:]]}, True),
    "one too few": (lambda a: a | {"items": a["items"][1:]}, True),
    "one too many": (lambda a: a | {"items": [*a["items"], a["items"][0] | {"id": "else"}]}, False),
    "one twice": (lambda a: a | {"items": [*a["items"], a["items"][0]]}, False),
    "one in another's place": (lambda a: first(a, id=a["items"][1]["id"]), False),
    "no id": (lambda a: first(a, id=None), False),
    "another nonce": (lambda a: a | {"nonce": "stale"}, False),
    "no nonce": (lambda a: {"digest": a["digest"], "items": a["items"]}, False),
    "another judge": (lambda a: a | {"digest": "other"}, False),
    "items": (lambda a: a | {"items": "all"}, False),
    "no objects": (lambda a: a | {"items": [1, 2, 3]}, False),
    "a list": (lambda a: b"[1]", False),
    "no JSON": (lambda a: b"\xff<html>", False),
    "nothing": (lambda a: b"", False),
    "nested": (lambda a: b"[" * 90_000, False),
}


Lying = Callable[..., tuple[RemoteJudge, Liar]]


@pytest.fixture(scope="module")
def lying() -> Iterator[Lying]:
    """Make a judge that asks a service which follows a script."""
    liar = Liar()
    with served(liar) as url:

        def asked(script: Script, **options: Any) -> tuple[RemoteJudge, Liar]:
            given: dict[str, Any] = {"item_deadline_s": 5, "retries": 1} | options
            judge = RemoteJudge([url], **given)
            judge.check(BLOCK, CODEC)
            liar.script, liar.asked = script, []
            return judge, liar

        yield asked


def lie(kind: str, answer: Answer) -> bytes:
    told = LIES[kind][0](answer)
    return told if isinstance(told, bytes) else json.dumps(told).encode()


THREE = [candidate(n) for n in (100, 200, 300)]


@pytest.mark.fault("R11")
@pytest.mark.parametrize("kind", LIES)
def test_what_is_no_verdict_leaves_no_value(lying: Lying, kind: str) -> None:
    judge, liar = lying(lambda n, answer: (200, lie(kind, answer)))
    began_s = time.monotonic()
    told = judge.judge(THREE)
    lost = ["unjudged"] + (["scored"] * 2 if LIES[kind][1] else ["unjudged"] * 2)
    assert [one.status for one in told] == lost and told[0].score is None
    assert "no verdict" in told[0].reason and time.monotonic() - began_s < 4
    ids = [[item["id"] for item in asked["items"]] for asked in liar.asked]
    assert len(ids) == 2 and set(ids[1]) <= set(ids[0]) and len(ids[1]) == lost.count("unjudged")
    assert liar.asked[0]["nonce"] != liar.asked[1]["nonce"]


@pytest.mark.fault("R11")
@pytest.mark.parametrize("kind", LIES)
def test_one_lie_costs_nothing(lying: Lying, kind: str) -> None:
    judge, _ = lying(lambda n, answer: (200, json.dumps(answer).encode() if n else lie(kind, answer)))
    assert [one.score and one.score.value for one in judge.judge(THREE)] == [0.1, 0.2, 0.3]


@pytest.mark.fault("R11")
def test_verdicts_in_another_order_are_joined_by_id(lying: Lying) -> None:
    judge, liar = lying(
        lambda n, answer: (200, json.dumps(answer | {"items": answer["items"][::-1]}).encode())
    )
    assert [one.score and one.score.value for one in judge.judge(THREE)] == [0.1, 0.2, 0.3]
    assert len(liar.asked) == 1


@pytest.mark.fault("R11")
def test_a_stale_answer_is_not_taken_for_the_new_one(lying: Lying) -> None:
    # The service repeats its first answer's nonce for ever, as a cache in between would.
    judge, _ = lying(lambda n, answer: (200, json.dumps(answer | {"nonce": answer["old"]}).encode()))
    assert judge.judge(THREE[:1])[0].status == "scored"
    assert judge.judge(THREE[:1])[0].status == "unjudged"


@pytest.mark.parametrize(("status", "requests"), [(500, 2), (400, 1), (401, 1), (404, 1)])
def test_refusals_are_not_repeated_and_failures_are(lying: Lying, status: int, requests: int) -> None:
    judge, liar = lying(lambda n, answer: (status, b"{}"))
    told = judge.judge(THREE)
    assert {one.status for one in told} == {"unjudged"} and f"HTTP {status}" in told[0].reason
    assert len(liar.asked) == requests


def test_a_busy_service_is_asked_until_it_has_time(lying: Lying) -> None:
    def script(n: int, answer: Answer) -> tuple[int, bytes]:
        return (200, json.dumps(answer).encode()) if n > 3 else (429, b"{}")

    judge, liar = lying(script, retries=0)
    began_s = time.monotonic()
    assert [one.status for one in judge.judge(THREE)] == ["scored"] * 3 and len(liar.asked) == 5
    assert time.monotonic() - began_s < 2  # busy is not broken: no circuit opens


def test_what_cannot_be_sent_is_unjudged_and_alone() -> None:
    with judging() as url:
        told = RemoteJudge([url]).judge([candidate(100, "a" * 5000), candidate(100)])
        odd = Voice("odd", "hi", [1], CODEC, Audio(np.full(8000, np.nan, np.float32), 8000))
        more = RemoteJudge([url]).judge([candidate(100, "\ud800"), candidate(100, voice=odd), candidate(100)])
    assert [one.status for one in told] == ["unjudged", "scored"] and "text" in told[0].reason
    assert [one.status for one in more] == ["unjudged", "unjudged", "scored"]


# --- the circuit breaker, by a clock of its own ---------------------------------------------------------


def replicas(n: int) -> tuple[Replicas, list[float]]:
    clock = [100.0]
    servers = [Server(f"http://h{i}", "Testing") for i in range(n)]
    return Replicas(servers, lambda: clock[0]), clock


def test_the_idlest_is_asked_and_another_one_for_the_second_time() -> None:
    able, _ = replicas(2)
    one, two = able.take(), able.take()
    assert one and two and one is not two
    able.give_back(one, True)
    assert able.take() is one
    able.give_back(one, True)
    assert able.take([one]) is two


@pytest.mark.fault("R10")
def test_the_circuit_opens_and_one_probe_closes_it() -> None:
    able, clock = replicas(1)
    for _ in range(OPEN_AFTER):
        one = able.take()
        assert one
        able.give_back(one, False)
    assert able.take() is None
    clock[0] += COOL_S
    probe = able.take()
    assert probe and able.take() is None  # one at a time
    able.give_back(probe, False)
    clock[0] += COOL_S
    assert able.take() is None  # twice as long now
    clock[0] += COOL_S
    probe = able.take()
    assert probe
    able.give_back(probe, True)
    assert able.take() and able.take()


def test_the_pause_between_probes_has_an_end() -> None:
    able, clock = replicas(1)
    for _ in range(OPEN_AFTER + 10):
        one = able.take()
        assert one
        able.give_back(one, False)
        clock[0] += LONGEST_COOL_S
    assert able.take()


def test_what_nobody_waited_for_counts_neither_way() -> None:
    able, _ = replicas(1)
    for _ in range(OPEN_AFTER * 2):
        one = able.take()
        assert one
        able.give_back(one, None)
    assert able.take()


def test_patience_follows_the_usual_time_not_the_tail() -> None:
    pace = Pace()
    assert pace.patience_s(9) == 3
    for n in range(40):
        pace.add(2.0 if n % 10 == 0 else 0.05)
    assert pace.patience_s(9) == pytest.approx(0.2)
    assert pace.patience_s(0.3) == pytest.approx(0.1)


# --- before the first step ------------------------------------------------------------------------------


def test_another_judge_or_codec_is_refused_by_name() -> None:
    other = JudgeBlock(scorers=[BLOCK.scorers[0], PartBlock.model_validate({"name": "loud", "weight": 2.0})])
    with judging() as url:
        judge = RemoteJudge([url])
        with pytest.raises(ConfigError, match=r"judge\.scorers\.1\.weight is 1\.0 there and 2\.0 here"):
            judge.check(other, CODEC)
        with pytest.raises(ConfigError, match=r"codec 'plain@0' of bundle 'tiny', the run has 'other@1'"):
            judge.check(BLOCK, "other@1")


def test_who_is_no_judge_is_told() -> None:
    with pytest.raises(ScorerError, match="llasa serve --judge"):
        RemoteJudge(["http://127.0.0.1:1"]).check(BLOCK, CODEC)
    with judging(rules=Rules(key="s3cret")) as url:
        with pytest.raises(ScorerError, match=r"HTTP 401.*LLASA_JUDGE_KEY"):
            RemoteJudge([url], key="wrong").check(BLOCK, CODEC)
        RemoteJudge([url], key="s3cret").check(BLOCK, CODEC)


def test_a_table_says_it_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLASA_JUDGE_KEY", "s3cret")
    block = config.build(RemoteBlock, {"urls": ["http://x"], "concurrency": 3}, "Testing")
    assert build_remote(block).concurrency == 3
    wrong = {"urls": []}, {"urls": ["x"], "retries": -1}, {"urls": ["x"], "item_deadline_s": 0}, {"url": "x"}
    for table in wrong:
        with pytest.raises(ConfigError):
            config.build(RemoteBlock, table, "Testing")
    with pytest.raises(ConfigError, match="URL 'x'"):
        RemoteJudge(["x"])

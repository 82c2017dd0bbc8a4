"""Speech for a text that is still being written, over a WebSocket: order, sound, interruption, refusals."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("websockets")

from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from llasa import audio
from llasa.serve.guard import Rules
from llasa.serve.incoming import sentences
from llasa.serve.speaking import Speakers
from tests.speaking import speaking

PATH = "/v1/audio/speech/stream"


@pytest.fixture(scope="module")
def served(tiny_bundle: Path) -> Iterator[tuple[str, Speakers]]:
    with speaking(tiny_bundle) as found:
        yield found


@contextmanager
def session(url: str, **config: Any) -> Iterator[Any]:
    with connect(url.replace("http", "ws") + PATH, max_size=None) as socket:
        tell(socket, "session.config", **config)
        yield socket


def tell(socket: Any, kind: str, **content: Any) -> None:
    socket.send(json.dumps({"type": kind} | content))


def heard(socket: Any) -> tuple[list[dict[str, Any]], dict[int, bytes]]:
    """Return all that comes up to the end: messages, and the bytes of each sentence."""
    messages, sounds, number = list[dict[str, Any]](), dict[int, bytes](), -1
    try:
        while True:
            data = socket.recv(timeout=60)
            if isinstance(data, bytes):
                sounds[number] = sounds.get(number, b"") + data
                continue
            messages.append(json.loads(data))
            number = messages[-1].get("sentence_index", number)
    except ConnectionClosed:
        return messages, sounds


def assert_idle(speaker: Any) -> None:
    """Nothing is drawn any more, within some seconds."""
    until = time.monotonic() + 20
    while speaker.bundle.engine._rows and time.monotonic() < until:
        time.sleep(0.05)
    assert not speaker.bundle.engine._rows


def test_sentences_are_said_as_they_become_whole(served: tuple[str, Speakers]) -> None:
    url, speakers = served
    [speaker] = speakers.speakers.values()
    with session(url, seed=3, sample_rate=16_000) as socket:
        for piece in ("The c", "at sat. It was happy! ", "And th", "en it slept"):
            tell(socket, "input.text", text=piece)
        tell(socket, "input.done")
        messages, sounds = heard(socket)
    said = ["The cat sat.", "It was happy!", "And then it slept"]
    assert [one["sentence_text"] for one in messages if one["type"] == "audio.start"] == said
    kinds = ["audio.start", "audio.done"] * 3 + ["session.done"]
    assert [one["type"] for one in messages] == kinds and messages[-1]["total_sentences"] == 3
    assert not any(one.get("cancelled") for one in messages)
    for number, text in enumerate(said):
        found = np.frombuffer(sounds[number], "<i2") / 32768
        assert len(found) == len(speaker.say(text, seed=3).samples)


def test_a_sentence_is_said_before_the_text_is_done(served: tuple[str, Speakers]) -> None:
    with session(served[0]) as socket:
        tell(socket, "input.text", text="The cat sat. It was")
        assert json.loads(socket.recv(timeout=30))["type"] == "audio.start"
        assert isinstance(socket.recv(timeout=30), bytes)


def test_every_format_is_whole_by_itself(served: tuple[str, Speakers]) -> None:
    for format in audio.FORMATS:
        with session(served[0], response_format=format) as socket:
            tell(socket, "input.text", text="One. Two. ")
            tell(socket, "input.done")
            messages, sounds = heard(socket)
        assert [one["format"] for one in messages if one["type"] == "audio.start"] == [format] * 2
        assert sounds[0] and sounds[1], format


@pytest.mark.parametrize("done", [False, True])
def test_who_interrupts_is_not_spoken_over(served: tuple[str, Speakers], done: bool) -> None:
    url, speakers = served
    [speaker] = speakers.speakers.values()
    with session(url, max_tokens=200) as socket:
        tell(socket, "input.text", text="The cat sat on a mat and looked around. " * 6)
        if done:
            tell(socket, "input.done")
        assert json.loads(socket.recv(timeout=30))["type"] == "audio.start"
        tell(socket, "input.cancel")
        if not done:
            tell(socket, "input.text", text="A new thing")
            tell(socket, "input.done")
        messages, _ = heard(socket)
    ended = [one for one in messages if one["type"] == "audio.done"]
    assert [one["cancelled"] for one in ended] == ([True] if done else [True, False])
    assert messages[-1]["type"] == "session.done"
    assert_idle(speaker)


def test_who_hangs_up_frees_his_place(tiny_bundle: Path) -> None:
    with speaking(tiny_bundle) as (url, speakers):
        [speaker] = speakers.speakers.values()
        for _ in range(12):  # more than may speak at once
            with session(url, max_tokens=300) as socket:
                tell(socket, "input.text", text="The cat sat on a mat. " * 8)
                socket.recv(timeout=30)
        assert_idle(speaker)
        with session(url) as socket:
            tell(socket, "input.text", text="Still here. ")
            tell(socket, "input.done")
            assert heard(socket)[0][-1]["type"] == "session.done"


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([{"type": "input.text", "text": "a"}], "session.config"),
        ([{"type": "session.config", "voice": "nobody"}], "nobody"),
        ([{"type": "session.config", "voice": "../x"}], "../x"),
        ([{"type": "session.config", "wrong": 1}], "wrong"),
        ([{"type": "session.config", "effort": 99}], "99"),
        ([{"type": "session.config", "stream_format": "sse"}], "stream_format"),
        ([{"type": "session.config"}, {"type": "what"}], "'what'"),
        ([{"type": "session.config"}, {"type": "input.text", "text": 1}], "input.text"),
        ([{"type": "session.config"}, {"type": "input.text", "text": "a" * 500}], "500 characters"),
        ([{"type": "session.config"}, {"type": "input.text", "text": "a" * 200_000}], "more than 100000"),
        ([["session.config"]], "JSON object"),
    ],
)
def test_what_cannot_be_followed_is_told_and_ends_it(
    served: tuple[str, Speakers], messages: list[Any], said: str
) -> None:
    with connect(served[0].replace("http", "ws") + PATH) as socket:
        for message in messages:
            socket.send(json.dumps(message))
        told, _ = heard(socket)
    assert said in next(one["message"] for one in told if one["type"] == "error")
    assert "audio.start" not in [one["type"] for one in told]


def test_what_comes_after_the_end_of_the_text_is_refused(served: tuple[str, Speakers]) -> None:
    with session(served[0], max_tokens=100) as socket:
        tell(socket, "input.text", text="The cat went home. And it slept there.")
        tell(socket, "input.done")
        tell(socket, "input.text", text="More.")
        messages, _ = heard(socket)
    assert "after input.done" in messages[-1]["message"]


def test_a_long_piece_is_said_sentence_by_sentence(served: tuple[str, Speakers]) -> None:
    with session(served[0], max_tokens=3) as socket:
        tell(socket, "input.text", text="The cat went home. " * 40)  # more characters than a request may have
        tell(socket, "input.done")
        messages, _ = heard(socket)
    assert messages[-1] == {"type": "session.done", "total_sentences": 40}
    assert not [one for one in messages if one["type"] == "error"]


def test_text_that_is_no_json_is_refused(served: tuple[str, Speakers]) -> None:
    with connect(served[0].replace("http", "ws") + PATH) as socket:
        socket.send("{")
        assert heard(socket)[0][-1]["type"] == "error"
    with connect(served[0].replace("http", "ws") + PATH) as socket:
        socket.send("[" * 100_000)
        assert heard(socket)[0][-1]["type"] == "error"


@pytest.mark.parametrize(
    "heads",
    [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "Bearer right", "Origin": "http://a.b"}],
)
def test_who_may_not_ask_gets_no_connection(tiny_bundle: Path, heads: dict[str, str]) -> None:
    with speaking(tiny_bundle, rules=Rules(key="right")) as (url, _):
        with pytest.raises(InvalidStatus) as refused:
            connect(url.replace("http", "ws") + PATH, additional_headers=heads)
        assert refused.value.response.status_code == 403
        with connect(url.replace("http", "ws") + PATH, additional_headers={"Authorization": "Bearer right"}):
            pass


def test_a_sentence_is_sure_once_another_has_begun() -> None:
    assert sentences("It costs 3.", "en", 99) == ([], "It costs 3.")
    assert sentences("It costs 3.5 pounds. So? Or", "en", 99) == (["It costs 3.5 pounds.", "So?"], " Or")
    assert sentences("... ", "en", 99) == ([], "... ")
    assert sentences("\u65e5\u672c\u3002", "en", 99) == ([], "\u65e5\u672c\u3002")


@pytest.mark.parametrize("unit", ["7", ".", " ", "\U0001f600", "1.", "A.B.", "a,"])
def test_time_is_linear_in_a_text(unit: str) -> None:
    def took(length: int) -> float:
        text, began = "One. " + (unit * length)[:length] + " Two", time.process_time()
        sentences(text, "en", 100_000)
        return time.process_time() - began

    short, long = (min(took(length) for _ in range(3)) for length in (12_500, 50_000))
    assert long < 2.3**2 * short + 0.05  # twice doubled

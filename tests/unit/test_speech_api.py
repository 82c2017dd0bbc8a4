"""Speech over HTTP: formats, streams, events, what is refused, and that who hangs up frees his place."""

import base64
import io
import json
import time
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

from fastapi.responses import PlainTextResponse

from llasa import audio
from llasa.bundle import load_bundle
from llasa.core import Audio
from llasa.errors import EngineError
from llasa.serve.asked import SpeechRequest
from llasa.serve.guard import Rules
from llasa.serve.speaking import Speakers
from llasa.serve.speech_api import Desk, Limits, make_app
from llasa.synthesizer import Synthesizer
from tests.conftest import STARTER
from tests.judging import served as running
from tests.speaking import speaking

TEXT = "The cat sat. It was happy!"


@pytest.fixture(scope="module")
def served(tiny_bundle: Path) -> Iterator[tuple[str, Speakers]]:
    with speaking(tiny_bundle) as found:
        yield found


def begun(url: str, path: str = "/v1/audio/speech", **body: Any) -> tuple[HTTPConnection, HTTPResponse]:
    connection = HTTPConnection(url.removeprefix("http://"), timeout=60)
    asked = json.dumps({"model": "tts-1", "input": TEXT} | body) if path.endswith("speech") else None
    heads = {"Content-Type": "application/json"}
    connection.request("POST" if asked else "GET", path, asked, heads)
    return connection, connection.getresponse()


def answered(url: str, path: str = "/v1/audio/speech", **body: Any) -> tuple[int, dict[str, str], bytes]:
    connection, answer = begun(url, path, **body)
    data = answer.read()
    connection.close()
    return answer.status, {key.lower(): value for key, value in answer.headers.items()}, data


def sound(data: bytes, format: str, rate: int = 24_000) -> np.ndarray:
    """Return what FFmpeg makes of it, mono."""
    options: dict[str, Any] = (
        {"format": "s16le", "options": {"sample_rate": str(rate)}} if format == "pcm" else {}
    )
    if format == "pcm":
        return np.frombuffer(data, "<i2") / 32768
    with av.open(io.BytesIO(data), **options) as file:
        frames = [frame.to_ndarray().astype(np.float64).reshape(-1) for frame in file.decode(audio=0)]
        assert file.streams.audio[0].rate == (48_000 if format == "opus" else rate)
    found = np.concatenate(frames)
    return found / 32768 if np.abs(found).max() > 2 else found


def test_every_format_holds_all_of_the_sound(served: tuple[str, Speakers]) -> None:
    url, speakers = served
    [speaker] = speakers.speakers.values()
    expected = audio.resample(speaker.say(TEXT, seed=3), 24_000).duration_s
    for format in audio.FORMATS:
        status, heads, data = answered(url, response_format=format, seed=3)
        assert status == 200 and heads["content-type"].startswith("audio/"), format
        rate = 48_000 if format == "opus" else 24_000
        slack = 0.12 if format in ("mp3", "aac") else 0.001
        assert len(sound(data, format)) / rate == pytest.approx(expected, abs=slack), format


def test_the_stream_is_near_what_say_gives(served: tuple[str, Speakers]) -> None:
    url, speakers = served
    [speaker] = speakers.speakers.values()
    whole = speaker.say(TEXT, seed=3).samples
    found = sound(answered(url, response_format="pcm", sample_rate=16_000, seed=3)[2], "pcm")
    assert len(found) == len(whole)
    assert np.square(found - whole).mean() < 0.05 * np.square(whole).mean()


def test_every_answer_says_that_it_is_synthetic(served: tuple[str, Speakers]) -> None:
    for format in audio.FORMATS:
        _, heads, data = answered(served[0], response_format=format, seed=3)
        assert heads["x-synthetic-speech"].startswith("trainedAlgorithmicMedia; llasa/")
        if format not in ("aac", "pcm"):
            with av.open(io.BytesIO(data)) as file:
                told = file.metadata | file.streams[0].metadata
            assert "Synthetic speech" in {key.lower(): said for key, said in told.items()}["comment"]


def test_wav_says_its_length_unless_it_is_streamed(served: tuple[str, Speakers]) -> None:
    url, _ = served
    whole = answered(url, response_format="wav", seed=3)[2]
    assert int.from_bytes(whole[4:8], "little") == len(whole) - 8
    streamed = answered(url, response_format="wav", seed=3, stream=True)[2]
    assert streamed[4:8] == b"\xff\xff\xff\xff"


def test_events_hold_the_sound_and_what_was_used(served: tuple[str, Speakers]) -> None:
    url, _ = served
    status, heads, data = answered(url, response_format="pcm", seed=3, stream_format="sse")
    assert status == 200 and heads["content-type"].startswith("text/event-stream")
    events = [json.loads(line[6:]) for line in data.decode().split("\n\n") if line]
    *deltas, done = events
    assert {one["type"] for one in deltas} == {"speech.audio.delta"} and done["type"] == "speech.audio.done"
    joined = b"".join(base64.b64decode(one["audio"]) for one in deltas)
    assert joined == answered(url, response_format="pcm", seed=3)[2]
    used = done["usage"]
    assert used["output_tokens"] > 0 and used["input_tokens"] + used["output_tokens"] == used["total_tokens"]


def test_speed_changes_the_length_alone(served: tuple[str, Speakers]) -> None:
    url, _ = served
    usual, quick = (len(answered(url, response_format="pcm", seed=3, speed=speed)[2]) for speed in (1.0, 2.0))
    assert quick == pytest.approx(usual / 2, rel=0.05)


def test_a_voice_of_ones_own_for_one_request(served: tuple[str, Speakers]) -> None:
    url, _ = served
    draw = np.random.default_rng(0)
    recording = Audio((0.1 * draw.standard_normal(16_000 * 2)).astype(np.float32), 16_000)
    url64 = "data:audio/wav;base64," + base64.b64encode(audio.encode(recording, "wav")).decode()
    given = {"ref_audio": url64, "ref_text": "the cat", "seed": 3, "response_format": "pcm"}
    status, _, data = answered(url, **given)
    assert status == 400 and "consent" in json.loads(data)["error"]["message"]
    given["consent"] = "I agree. Ada"
    assert answered(url, **given)[0] == 200
    assert answered(url, **given)[2] != answered(url, response_format="pcm", seed=3)[2]


@pytest.mark.parametrize(
    ("body", "status", "found"),
    [
        ({"input": ""}, 400, "input"),
        ({"input": "x" * 401}, 400, "401 characters"),
        ({"input": "..."}, 400, "..."),
        ({"model": "gpt-9"}, 400, "gpt-9"),
        ({"voice": "nobody"}, 400, "nobody"),
        ({"voice": "../../etc/passwd"}, 400, "not a valid name"),
        ({"voice": "/tmp/mine.safetensors"}, 400, "not a valid name"),
        ({"voice": {"id": "nobody"}}, 400, "nobody"),
        ({"voice": {"path": "x"}}, 400, "voice"),
        ({"speed": 5}, 400, "speed"),
        ({"response_format": "exe"}, 400, "response_format"),
        ({"temprature": 1}, 400, "temprature"),
        ({"instructions": "whisper"}, 400, "instructions"),
        ({"effort": 5}, 400, "effort 5"),
        ({"language": "tlh"}, 400, "tlh"),
        ({"ref_audio": "/etc/passwd", "ref_text": "a", "consent": "a"}, 400, "ref_audio"),
        ({"ref_audio": "https://a.b/c.wav", "ref_text": "a", "consent": "a"}, 400, "ref_audio"),
        ({"ref_audio": "AAAA", "ref_text": "a", "consent": "a"}, 400, "audio"),
        ({"ref_audio": "AAAA", "consent": "a"}, 400, "ref_text"),
        ({"temperature": -1}, 400, "temperature"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(
    served: tuple[str, Speakers], body: dict[str, Any], status: int, found: str
) -> None:
    code, heads, data = answered(served[0], **body)
    assert heads["content-type"] == "application/json"
    error = json.loads(data)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (code, error["type"]) == (status, "invalid_request_error") and found in error["message"], error


def test_models_and_health(served: tuple[str, Speakers]) -> None:
    url, speakers = served
    listed = json.loads(answered(url, "/v1/models")[2])
    names = [one["id"] for one in listed["data"]]
    assert names == [*speakers.speakers, "tts-1", "tts-1-hd", "gpt-4o-mini-tts"]
    assert json.loads(answered(url, f"/v1/models/{names[0]}")[2])["id"] == names[0]
    assert answered(url, "/v1/models/none")[0] == 404
    assert json.loads(answered(url, "/health")[2])["status"] == "ok"
    assert b"llasa_speeches_total" in answered(url, "/metrics")[2]


@pytest.mark.skipif(not (STARTER / "bundle.toml").is_file(), reason="the starter is not built here")
def test_what_is_judged_afterwards_streams_as_ever_and_all_candidates_are_told_of() -> None:
    with speaking(STARTER) as (url, speakers):
        asked: dict[str, Any] = {"input": "The cat sat.", "response_format": "pcm", "seed": 3}
        _, heads, judged = answered(url, **asked, judge=True)
        assert judged == answered(url, **asked)[2]
        receipt = json.loads(answered(url, heads["link"].split(">")[0][1:])[2])
        [part] = receipt["segments"]
        assert (part["drawn"], part["tried"], part["status"]) == (1, [], "scored") and part["words"]
        told: dict[bool, list[str]] = {}
        for spares in (True, False):
            wanted = {"model": "tts-1", "effort": 4, "seed": 1, "stream": not spares} | asked
            one = speakers.begin(SpeechRequest.model_validate(wanted), spares)
            assert list(one.sounds())
            receipt = one.receipt()
            assert receipt is not None
            segments: Any = receipt["segments"]
            told[spares] = [tried["status"] for tried in segments[0]["tried"]]
            values = [tried["value"] for tried in segments[0]["tried"]]
            assert max(values) == pytest.approx(segments[0]["value"])
        assert told[False] == ["scored"] * 4 and "outdone" in told[True]


@pytest.mark.skipif(not (STARTER / "bundle.toml").is_file(), reason="the starter is not built here")
def test_what_is_searched_for_streams_and_the_receipt_is_of_what_was_sent() -> None:
    with speaking(STARTER) as (url, speakers):
        asked: dict[str, Any] = {"input": "Good morning, everybody.", "effort": 3, "response_format": "pcm"}
        _, heads, sent = answered(url, **asked, sample_rate=16000)
        [part] = json.loads(answered(url, heads["link"].split(">")[0][1:])[2])["segments"]
        assert part["pace"]["blocks"] > 1 and "committed" in part["stop"] and part["words"]
        assert max(word["end_s"] for word in part["words"] if word["end_s"]) <= len(sent) / 32000
        one = speakers.begin(SpeechRequest.model_validate({"model": "tts-1"} | asked))
        sounds = one.sounds()
        assert len(next(sounds).samples) and not one.spoken
        one.cut()
        with pytest.raises(EngineError, match="the client is gone"):
            list(sounds)


def test_who_hangs_up_frees_his_place(tiny_bundle: Path) -> None:
    with speaking(tiny_bundle, limits=Limits(speaking=1, waiting=2)) as (url, _):
        for _ in range(3):
            connection, answer = begun(
                url, input="The cat sat on the mat. " * 10, max_tokens=500, response_format="pcm"
            )
            assert answer.status == 200 and answer.read(10)
            connection.sock.close() if connection.sock else None
            answer.close()
            connection.close()
        assert answered(url, input="The cat.")[0] == 200
        until = time.monotonic() + 5
        while json.loads(answered(url, "/health")[2])["speaking"] and time.monotonic() < until:
            time.sleep(0.05)
        assert json.loads(answered(url, "/health")[2]) == {"status": "ok", "speaking": 0, "waiting": 0}


def test_a_key_is_asked_for_everywhere(tiny_bundle: Path) -> None:
    with speaking(tiny_bundle, rules=Rules(key="s3cret")) as (url, _):
        for path in (
            "/v1/audio/speech",
            "/v1/models",
            "/health",
            "/metrics",
            "/v1/receipts/a",
            "/openapi.json",
        ):
            status, heads, _ = answered(url, path)
            assert status == 401 and heads["www-authenticate"].startswith("Basic ")


def test_a_browser_may_send_the_key_as_a_password(tiny_bundle: Path) -> None:
    logins = {
        "anybody:s3cret": 200,
        "s3cret:": 401,
        "a:S3cret": 401,
        "a:s3cret:": 401,
        "s3cret": 401,
        "": 401,
    }
    with speaking(tiny_bundle, rules=Rules(key="s3cret")) as (url, _):
        connection = HTTPConnection(url.removeprefix("http://"), timeout=60)
        for login, status in logins.items():
            told = f"Basic {base64.b64encode(login.encode()).decode()}"
            connection.request("GET", "/health", headers={"Authorization": told})
            answer = connection.getresponse()
            assert (answer.read(), answer.status)[1] == status, login
        for broken in ("Basic", "Basic !!", "Basic gIA="):
            connection.request("GET", "/health", headers={"Authorization": broken})
            answer = connection.getresponse()
            assert (answer.read(), answer.status)[1] == 401, broken
        connection.close()


def test_another_sites_page_may_link_here_and_no_more(tiny_bundle: Path) -> None:
    with speaking(tiny_bundle) as (url, _):
        connection = HTTPConnection(url.removeprefix("http://"), timeout=60)
        for site, mode, status in (
            ("none", "navigate", 200), ("same-origin", "cors", 200), ("cross-site", "navigate", 200),
            ("cross-site", "no-cors", 403), ("same-site", "cors", 403),
        ):  # fmt: skip
            connection.request("GET", "/health", headers={"Sec-Fetch-Site": site, "Sec-Fetch-Mode": mode})
            answer = connection.getresponse()
            assert (answer.read(), answer.status)[1] == status, (site, mode)
        connection.close()


def posted(url: str, path: str, fields: dict[str, str], file: bytes) -> tuple[int, Any]:
    mark = "7e57"
    parts = [
        f'--{mark}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
    ]
    head = f'--{mark}\r\nContent-Disposition: form-data; name="audio_sample"; filename="a.wav"\r\n\r\n'
    body = b"".join(parts) + head.encode() + file + f"\r\n--{mark}--\r\n".encode()
    connection = HTTPConnection(url.removeprefix("http://"), timeout=60)
    connection.request("POST", path, body, {"Content-Type": f"multipart/form-data; boundary={mark}"})
    answer = connection.getresponse()
    told = json.loads(answer.read())
    connection.close()
    return answer.status, told


def test_voices_are_listed_made_used_and_removed(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLASA_HOME", str(tmp_path))
    draw = np.random.default_rng(0)
    recording = Audio((0.1 * draw.standard_normal(16_000 * 2)).astype(np.float32), 16_000)
    file = audio.encode(recording, "wav")
    fields = {"name": "grace", "text": "the cat", "consent": "I agree. Grace"}
    with speaking(tiny_bundle) as (url, speakers):
        [speaker] = speakers.speakers.values()
        listed = json.loads(answered(url, "/v1/audio/voices")[2])
        assert listed["voices"] == listed["data"] and "grace" not in [one["id"] for one in listed["data"]]
        for left_out in fields:
            status, told = posted(url, "/v1/audio/voices", fields | {left_out: ""}, file)
            assert status == 400 and left_out in told["error"]["message"], told
        assert posted(url, "/v1/audio/voices", fields, b"no sound")[0] == 400
        assert posted(url, "/v1/audio/voices", fields, file) == (
            201,
            {"id": "grace", "name": "grace", "object": "audio.voice"},
        )
        assert speaker.bundle.voices.get("grace").consent == "I agree. Grace"
        assert posted(url, "/v1/audio/voices", fields, file)[0] == 409
        assert answered(url, voice={"id": "grace"})[0] == 200
        connection = HTTPConnection(url.removeprefix("http://"), timeout=60)
        for name, status in (("grace", 200), ("grace", 404), ("ada", 403)):
            connection.request("DELETE", f"/v1/audio/voices/{name}")
            answer = connection.getresponse()
            assert (answer.status, answer.read()) and answer.status == status
        connection.close()


def test_a_page_leaves_the_api_its_own(tiny_bundle: Path, tmp_path: Path) -> None:
    async def page(scope: Any, receive: Any, send: Any) -> None:
        await PlainTextResponse("the page")(scope, receive, send)

    bundle = load_bundle(tiny_bundle)
    desk = Desk.open(Speakers({"tiny": Synthesizer(bundle)}, 4, 400), Limits())
    with running(make_app(desk, Rules(), page, tmp_path)) as url:
        assert answered(url, "/")[2] == answered(url, "/somewhere")[2] == b"the page"
        status, heads, data = answered(url, "/v1/audio/voices/ada")
        assert status == 405 and heads["allow"] == "DELETE" and json.loads(data)["error"]
        assert answered(url, "/v1/nope")[0] == 404 and answered(url, "/v1/models")[0] == 200

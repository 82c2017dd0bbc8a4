"""Speech servers as systems: what they answer, well or badly, becomes a `Said`; what is refused at once."""

import base64
import io
import socket
import threading
import wave
from collections.abc import Callable
from pathlib import Path

import pytest

from llasa.audio import Encoder, encode, write
from llasa.core import Audio
from llasa.errors import ConfigError, EngineError
from llasa.evaluate.plan import SystemBlock
from llasa.evaluate.servers import ServerSystem
from llasa.evaluate.sets import Line
from tests.conftest import clip
from tests.servers import Fields, Handler, serving

LINE = Line("set", "line-1", "Hello.", reference_text="what I say")


def system(url: str, **fields: object) -> ServerSystem:
    return ServerSystem(SystemBlock.model_validate({"url": url, **fields}), wait_s=0.01)


def answering(*answers: tuple[int, bytes]) -> Callable[[Handler, Fields | None], None]:
    left, lock = list(answers), threading.Lock()

    def speak(handler: Handler, fields: Fields | None) -> None:
        with lock:
            status, body = left.pop(0) if len(left) > 1 else left[0]
        handler.reply(status, body)

    return speak


def streamed_wav(audio: Audio) -> bytes:
    encoder = Encoder("wav", audio.sample_rate)
    return encoder.push(audio) + encoder.close()


def test_wav_and_pcm_are_heard_with_their_times() -> None:
    sound = clip(1.0, 24_000)
    with serving(answering((200, encode(sound, "wav")))) as server:
        said = system(server.url).say(LINE, 3)
    assert said.audio is not None and said.audio.sample_rate == 24_000 and not said.failure
    assert said.audio.duration_s == pytest.approx(1.0) and said.finish == "unknown"
    assert said.first_s is not None and said.total_s is not None and 0 < said.first_s <= said.total_s
    with serving(answering((200, encode(sound, "pcm")))) as server:
        heard = system(server.url, format="pcm", rate_hz=24_000).say(LINE, 0).audio
    assert heard is not None and heard.duration_s == pytest.approx(1.0)


def test_a_streamed_wav_does_not_know_its_length() -> None:
    with serving(answering((200, streamed_wav(clip(1.0, 24_000))))) as server:
        said = system(server.url).say(LINE, 0)
    assert said.audio is not None and said.audio.duration_s == pytest.approx(1.0)


def test_what_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLASA_SYSTEM_KEY", "secret")
    write(tmp_path / "me.wav", clip(2.0))
    line = Line("set", "line-1", "Hello.", reference=str(tmp_path / "me.wav"), reference_text="What I say.")
    with serving(answering((200, encode(clip(), "wav")))) as server:
        named = {"model": "kokoro", "voice": "bella", "fields": {"speed": 1.1}, "send_seed": True}
        assert system(server.url, **named).say(LINE, 7).reference is None
        cloned = system(server.url).say(line, 7)
    (path, headers, first), (_, _, second) = server.requests
    assert path == "/v1/audio/speech" and headers["Authorization"] == "Bearer secret"
    assert first == {
        "model": "kokoro", "input": "Hello.", "response_format": "wav", "voice": "bella", "seed": 7,
        "speed": 1.1,
    }  # fmt: skip
    assert second["ref_text"] == "What I say." and "seed" not in second
    with wave.open(io.BytesIO(base64.b64decode(second["ref_audio"].partition(",")[2]))) as sent:
        assert sent.getnframes() == 32_000
    assert cloned.voice == "reference" and cloned.reference is not None


def test_silent_pcm_is_no_sound() -> None:
    with serving(answering((200, bytes(48_000)))) as server:
        said = system(server.url, format="pcm").say(LINE, 0)
    assert said.failure == "empty" and "silent" in said.reason


@pytest.mark.parametrize(
    ("status", "body", "failure", "told"),
    [
        (500, b"out of memory", "error", "HTTP 500"),
        (200, b"", "empty", "empty"),
        (200, encode(Audio(clip().samples * 0, 16_000), "wav"), "empty", "silent"),
        (200, b"<html>no sound</html>", "error", "no audio format"),
    ],
)
def test_what_goes_wrong_is_a_failure(status: int, body: bytes, failure: str, told: str) -> None:
    with serving(answering((status, body))) as server:
        said = system(server.url).say(LINE, 0)
    assert said.audio is None and said.failure == failure and told in said.reason


def test_a_busy_server_is_asked_again() -> None:
    with serving(answering((429, b"later"), (503, b"later"), (200, encode(clip(), "wav")))) as server:
        assert system(server.url).say(LINE, 0).audio is not None
    with serving(answering((429, b"later"))) as server:
        said = system(server.url).say(LINE, 0)
    assert said.failure == "error" and "HTTP 429" in said.reason and len(server.requests) == 4


def test_nobody_there_is_refused_before_anything_is_said() -> None:
    with serving(answering((200, b""))) as server:
        url = server.url
    with pytest.raises(EngineError, match="nobody answers"):
        system(url).begin(LINE)
    with pytest.raises(EngineError, match="nobody listens any more"):  # the lines stay open
        system(url).say(LINE, 0)


@pytest.mark.parametrize("format", ["wav", "pcm"])
def test_half_an_answer_is_a_failure(format: str) -> None:
    whole = encode(clip(1.0), format)
    heads = f"HTTP/1.1 200 OK\r\nContent-Length: {len(whole)}\r\n\r\n".encode()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer_half, args=(listener, heads + whole[: len(whole) // 2]))
        thread.start()
        said = system(f"http://127.0.0.1:{listener.getsockname()[1]}/v1", format=format).say(LINE, 0)
        thread.join()
    assert said.failure == "error" and said.audio is None and "IncompleteRead" in said.reason


def answer_half(listener: socket.socket, data: bytes) -> None:
    """Take one request, and hang up in the middle of the answer."""
    connection, _ = listener.accept()
    with connection:
        connection.recv(1 << 16)
        connection.sendall(data)


def test_a_streamed_wav_of_length_zero_is_heard() -> None:
    data = bytearray(encode(clip(1.0), "wav"))
    place = data.index(b"data") + 4
    data[place : place + 4] = bytes(4)
    with serving(answering((200, bytes(data)))) as server:
        said = system(server.url).say(LINE, 0)
    assert said.audio is not None and said.audio.duration_s == pytest.approx(1.0, abs=0.01)


def test_a_server_that_refuses_is_found_out_at_once() -> None:
    with (
        serving(answering((404, b"no such model"))) as server,
        pytest.raises(ConfigError, match="no such model"),
    ):
        system(server.url, model="nothing").begin(LINE)
    with pytest.raises(ConfigError, match="URL"):
        system("localhost:8000")

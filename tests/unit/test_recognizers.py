"""Names of recognisers, the memory they share, and pocketsphinx."""

import socket
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llasa.core import Audio
from llasa.errors import BundleError, ConfigError, InputError, MissingExtra, ScorerError
from llasa.recognizers import load_recognizer
from llasa.recognizers.base import Recognizer, Transcript
from llasa.recognizers.cache import Memory, checked
from llasa.recognizers.ctc import CtcRecognizer
from llasa.recognizers.endpoint import EndpointRecognizer
from llasa.recognizers.pocketsphinx import PocketsphinxRecognizer
from tests.conftest import STARTER


class Deaf:
    """Hears nothing."""

    name, text_form = "deaf@0", "characters"

    def transcribe(self, audio: Sequence[Audio]) -> list[Transcript]:
        return [Transcript("")] * len(audio)


class Demanding(Deaf):
    def __init__(self, needed: str) -> None:
        self.needed = needed


class Nameless:
    text_form, transcribe = "characters", Deaf.transcribe


class Formless:
    name, transcribe = "x@0", Deaf.transcribe


class Hearsay(Deaf):
    text_form = "rumour"


class Mute:
    name, text_form = "x@0", "characters"


def clip(n_samples: int, value: float = 0.1, sample_rate: int = 16000) -> Audio:
    return Audio(np.full(n_samples, value, np.float32), sample_rate)


class Listener:
    """Gives lengths, and remembers what it was asked together."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []

    def __call__(self, clips: list[Audio]) -> list[int]:
        self.calls.append([len(clip.samples) for clip in clips])
        return self.calls[-1]


@given(st.lists(st.integers(1, 30), max_size=40), st.integers(1, 8), st.floats(0.001, 0.005))
def test_batches_are_bounded_and_order_is_kept(sizes: list[int], batch: int, batch_s: float) -> None:
    memory, listen = Memory[int](100, batch, batch_s), Listener()
    assert memory.get([clip(n) for n in sizes], listen) == sizes
    asked = [n for call in listen.calls for n in call]
    assert asked == sorted(set(sizes))
    assert all(len(call) <= batch for call in listen.calls)
    assert all(len(call) == 1 or len(call) * max(call) / 16000 <= batch_s for call in listen.calls)
    assert memory.get([clip(n) for n in sizes[::-1]], listen) == sizes[::-1]
    assert (memory.hits, memory.misses) == (2 * len(sizes) - len(set(sizes)), len(set(sizes)))


def test_samples_and_rate_tell_clips_apart() -> None:
    memory, listen = Memory[int](10), Listener()
    memory.get([clip(5), clip(5, 0.2), clip(5, sample_rate=8000), clip(5)], listen)
    assert sum(map(len, listen.calls)) == memory.misses == 3


def test_the_clips_used_last_are_kept() -> None:
    memory, listen = Memory[int](2, batch=1), Listener()
    for n in (1, 2, 1, 3, 1, 2):
        assert memory.get([clip(n)], listen) == [n]
    assert listen.calls == [[1], [2], [3], [2]]
    assert memory.get([clip(n) for n in (7, 8, 9)], listen) == [7, 8, 9]  # more than are kept


def test_threads_compute_a_clip_once() -> None:
    memory, listen = Memory[int](100), Listener()

    def slowly(clips: list[Audio]) -> list[int]:
        time.sleep(0.01)
        return listen(clips)

    with ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(memory.get, [clip(n), clip(n + 1)], slowly) for n in (1, 2, 3) * 8]
        assert [job.result() for job in jobs] == [[n, n + 1] for n in (1, 2, 3) * 8]
    assert sorted(n for call in listen.calls for n in call) == [1, 2, 3, 4]
    assert (memory.hits, memory.misses) == (44, 4)


def test_a_failed_clip_is_asked_for_again_and_the_others_are_not() -> None:
    memory, listen = Memory[int](10, batch=2), Listener()

    def refuse_two(clips: list[Audio]) -> list[int | Exception]:
        return [ValueError("two") if n == 2 else n for n in listen(clips)]

    with pytest.raises(ValueError, match="two"):
        memory.get([clip(1), clip(2), clip(3)], refuse_two)
    assert memory.get([clip(1), clip(2), clip(3)], listen) == [1, 2, 3]
    assert listen.calls == [[1, 2], [3], [2]]


def test_long_clips_are_refused() -> None:
    assert len(checked([clip(16000)], max_s=1.0)) == 1
    with pytest.raises(InputError, match=r"1\.5 s.*at most 1 s"):
        checked([clip(24000)], max_s=1.0)


def test_names_of_the_caller_come_first(tmp_path: Path) -> None:
    named: dict[str, Callable[[], Recognizer]] = {"starter": Deaf, "pocketsphinx": Deaf}
    assert isinstance(load_recognizer("starter", named), Deaf)
    assert isinstance(load_recognizer("pocketsphinx", named), Deaf)
    with pytest.raises(ConfigError, match=r"'startr'.*Did you mean 'starter'"):
        load_recognizer("startr", named)


def test_kinds_are_made_of_what_follows_the_colon(tmp_path: Path) -> None:
    CtcRecognizer.random(text_form="characters").save(tmp_path)
    assert load_recognizer(f"ctc:{tmp_path}", {}).text_form == "characters"
    with pytest.raises(BundleError, match="Loading Whisper"):
        load_recognizer(f"whisper:{tmp_path}", {})


def test_anyones_class_is_made_without_arguments() -> None:
    made = load_recognizer(f"{__name__}:Deaf", {})
    assert made.transcribe([clip(1)]) == [Transcript("")]


@pytest.mark.parametrize(
    "spec, found",
    [
        ("", "Known: pocketsphinx"),
        ("wisper:x", "wisper"),
        ("pocketsphynx", "Did you mean 'pocketsphinx'"),
        ("pocketsphinx:big", "Write it as pocketsphinx"),
        ("whisper", "Write it as whisper:MODEL"),
        ("ctc:", "Write it as ctc:FOLDER"),
        ("endpoint:http://localhost:9/v1", "model"),
        ("nowhere.at_all:Class", "nowhere"),
        (f"{__name__}:Dumb", "Dumb"),
        (f"{__name__}:Demanding", "needed"),
        (f"{__name__}:STARTER", "no class"),
        (".relative:Class", "module:Class"),
        ("..:X", "module:Class"),
        (f"{__name__}:", "module:Class"),
        ("os:path", "no class"),
        ("math:pi", "a float, no class"),
        ("builtins:dict", "not known"),
        (f"{__name__}:Nameless", "'name'"),
        (f"{__name__}:Formless", "'text_form'"),
        (f"{__name__}:Hearsay", "'rumour'.*phones, characters, written"),
        (f"{__name__}:Mute", "'transcribe'"),
    ],
)
def test_unknown_names_are_refused(spec: str, found: str) -> None:
    with pytest.raises(ConfigError, match=found):
        load_recognizer(spec, {})


@pytest.mark.parametrize(
    "body, found",
    [
        ("def broken(:", "SyntaxError"),
        ("1 / 0", "ZeroDivisionError"),
        ("import nothing_like", "nothing_like"),
    ],
)
def test_a_module_that_does_not_run_is_refused(
    body: str, found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "users_own.py").write_text(body)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=found):
        load_recognizer("users_own:Class", {})


def test_an_endpoint_is_looked_for_before_anything_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLASA_ENDPOINT_KEY", "s3cret")
    with socket.create_server(("127.0.0.1", 0)) as server:
        place = f"127.0.0.1:{server.getsockname()[1]}"
        asked = load_recognizer(f"endpoint:http://{place}/v1#openai/whisper-1", {})
    assert isinstance(asked, EndpointRecognizer) and asked.name == f"endpoint@{place}/openai/whisper-1"
    with pytest.raises(ScorerError, match=rf"{place}.*Start the server"):
        load_recognizer(f"endpoint:http://{place}/v1#openai/whisper-1", {})


def test_an_endpoint_is_sent_the_key_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    heads: list[bytes] = []

    def serve(server: socket.socket) -> None:
        for _ in range(2):  # somebody looks whether it is there, then asks
            with server.accept()[0] as link:
                heads.append(link.recv(4096))
                link.sendall(
                    b'HTTP/1.0 200 OK\r\nContent-Length: 14\r\n\r\n{"text": "hi"}' if heads[-1] else b""
                )

    monkeypatch.setenv("LLASA_ENDPOINT_KEY", "s3cret")
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:
        job = pool.submit(serve, server)
        url = f"http://127.0.0.1:{server.getsockname()[1]}/v1"
        assert load_recognizer(f"endpoint:{url}#m", {}).transcribe([clip(160)]) == [Transcript("hi")]
        job.result()
    assert heads[0] == b"" and b"Authorization: Bearer s3cret" in heads[1]


def test_pocketsphinx_needs_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pocketsphinx", None)
    with pytest.raises(MissingExtra, match=r"llasa\[eval\]"):
        load_recognizer("pocketsphinx", {})


@pytest.mark.skipif(not (STARTER / "bundle.toml").is_file(), reason="needs the starter bundle")
def test_pocketsphinx_hears_words_where_they_are() -> None:
    from llasa import load

    spoken = load().candidates("The quick brown fox.", voice="rufus", n=1, seed=0, temperature=0.5)[0].audio
    assert spoken is not None
    recognizer = PocketsphinxRecognizer()
    later = Audio(np.concatenate((np.zeros(8000, np.float32), spoken.samples)), spoken.sample_rate)
    heard, moved = recognizer.transcribe([spoken, later])
    assert heard.text == " ".join(heard.tokens) == "the quick brown fox"
    assert all(0 <= start < end <= spoken.duration_s for start, end in heard.spans)
    assert heard.logprobs and all(logprob <= 0 for logprob in heard.logprobs)
    shifts = [after[0] - before[0] for before, after in zip(heard.spans, moved.spans, strict=True)]
    np.testing.assert_allclose(shifts[1:], 0.5, atol=0.05)

"""A speech service whose engine takes a fixed time a step and whose sound is known.

`python -m tests.paced STEP_MS [SPEAKING [WAITING]]` serves it as `llasa serve` does, in a process of its own.
"""

import asyncio
import gc
import os
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO
from unittest.mock import patch

import numpy as np
import psutil

from llasa.audio import Encoder
from llasa.bundle import Bundle, load_bundle
from llasa.codec.base import Codec
from llasa.core import Audio, Codes, Generation, Ids, SamplingParams
from llasa.engines.base import Step
from llasa.engines.head import Head
from llasa.engines.inflight import LocalRequest
from llasa.errors import EngineError
from llasa.serve.connections import Connection
from llasa.serve.guard import Rules
from llasa.serve.speaking import Speakers
from llasa.serve.speech_api import Desk, Limits, make_app
from llasa.synthesizer import Synthesizer
from tests.crowd import Ask, asked
from tests.judging import served

MOST_CHARACTERS, MOST_EFFORT = 4096, 4
ROOT = Path(__file__).parent.parent


@dataclass
class _Live:
    request: LocalRequest
    ids: Ids
    given: int = 0


@dataclass
class PacedEngine:
    """An `engines.base.Engine`: every live request gets one id a step; which, its prompt and seed tell.

    codes: of a request, unless its limit is lower. fails_at: steps after which a request fails, if any.
    """

    step_s: float = 0.002
    codes: int = 60
    fails_at: int | None = None
    name: str = "paced"
    max_length: int = 100_000
    concurrency: int = 1024
    live: list[_Live] = field(default_factory=list[_Live])

    def __post_init__(self) -> None:
        self._came = threading.Condition()
        threading.Thread(target=self._run, name="paced", daemon=True).start()

    def submit(self, prompt: Ids, params: SamplingParams) -> LocalRequest:
        """See `Engine.submit`; one candidate."""
        request = LocalRequest(list(prompt), params, _no_head())
        request.begin()
        with self._came:
            self.live.append(_Live(request, self.planted(prompt, params)))
            self._came.notify()
        return request

    def planted(self, prompt: Ids, params: SamplingParams) -> Ids:
        """Return the ids that a request gets."""
        assert params.allowed_token_ids is not None
        usable = sorted(set(params.allowed_token_ids) - set(params.stop_token_ids))
        key = zlib.crc32(np.array([*prompt, params.seed], np.int64).tobytes())
        return random.Random(key).choices(usable, k=min(self.codes, params.max_tokens))

    def _run(self) -> None:
        due = time.monotonic()
        while True:
            with self._came:
                self._came.wait_for(lambda: self.live)
                rows = list(self.live)
            due = max(due + self.step_s, time.monotonic())
            time.sleep(max(due - time.monotonic(), 0))
            ended = [row for row in rows if self._step(row)]
            with self._came:
                self.live = [row for row in self.live if row not in ended]

    def _step(self, row: _Live) -> bool:
        """Give a request its next id; return whether it is over."""
        if row.request.cancelled(0):
            finish, ids = "cancelled", []
        elif row.given == self.fails_at:
            row.request.fail(EngineError("Generating: the paced engine was told to fail. Tell it otherwise."))
            return True
        elif row.given == len(row.ids):
            finish, ids = "stop", []
        else:
            finish, ids = None, [row.ids[row.given]]
        row.given += len(ids)
        made = {0: Generation(row.ids[: row.given], finish)} if finish else {}
        row.request.publish([Step(0, ids, finish)], made)
        return finish is not None


def _no_head() -> Head:
    return None  # pyright: ignore[reportReturnType]  # nothing is drawn


class PlantedSound:
    """A codec that decodes to steps as high as the codes, whatever the window; encodes as the real one."""

    sample_rate, hop_length = 8000, 160

    def __init__(self, codec: Codec) -> None:
        self.name, self.codebook_size, self.encode = codec.name, codec.codebook_size, codec.encode
        self.code_count = codec.code_count

    def decode(self, codes: list[Codes], context: Codes | None = None) -> list[Audio]:
        """See `Codec.decode`."""
        rows = [np.repeat(np.array(row, np.float32) + 1, self.hop_length) / 128 for row in codes]
        return [Audio(row, self.sample_rate) for row in rows]


def paced_bundle(folder: Path, engine: PacedEngine) -> Bundle:
    """Return a bundle that speaks planted sound."""
    bundle = copy(load_bundle(folder))
    bundle.__dict__["codec"] = PlantedSound(bundle.codec)
    return bundle.with_engine(engine)


@dataclass
class Live:
    """A service in a thread here. bundle: what speaks."""

    url: str
    desk: Desk
    bundle: Bundle
    engine: PacedEngine
    app: Any
    loops: list[asyncio.AbstractEventLoop] = field(default_factory=list[asyncio.AbstractEventLoop])

    def held(self) -> dict[str, int]:
        """Return what must not leak."""
        own = psutil.Process()
        return {
            "slots": self.desk.slots.taken + self.desk.slots.waiting,
            "requests": len(self.engine.live),
            "tasks": sum(len(asyncio.all_tasks(loop)) for loop in self.loops),
            "threads": threading.active_count(),
            "files": own.num_fds(),
            "children": len(own.children()),
            "temporary": len(os.listdir(tempfile.gettempdir())),
        }

    def unsent(self) -> list[int]:
        """Return how many bytes wait in each connection."""
        every = [one for one in gc.get_objects() if type(one) is Connection]
        return [one.transport.get_write_buffer_size() for one in every]

    def settled(self, before: dict[str, int], within_s: float = 5.0) -> dict[str, tuple[int, int]]:
        """Return what is held beyond `before`, once nothing is or after a while; threads are kept."""
        until = time.monotonic() + within_s
        while more := {name: (before[name], n) for name, n in self.held().items() if n > before[name]}:
            more.pop("threads", None)
            if not more or time.monotonic() > until:
                return more
            time.sleep(0.02)
        return {}

    def expected(self, **asked: Any) -> bytes:
        """Return the bytes that a request is answered with."""
        speech = self.desk.speakers.begin(_asked(asked))
        streams = speech.asked.streams
        how = (speech.asked.response_format, speech.asked.sample_rate, not streams)
        encoder = Encoder(*how, tags=speech.provenance.tags)
        return b"".join(map(encoder.push, speech.sounds())) + encoder.close()


def _asked(body: dict[str, Any]) -> Any:
    from llasa.serve.asked import SpeechRequest

    return SpeechRequest.model_validate({"model": "tts-1"} | body)


@contextmanager
def paced(
    folder: Path, limits: Limits | None = None, rules: Rules | None = None, **engine: Any
) -> Iterator[Live]:
    """Serve planted sound for as long as the block runs."""
    paced = PacedEngine(**engine)
    bundle = paced_bundle(folder, paced)
    desk = desk_of(bundle, limits or Limits())
    app, loops = make_app(desk, rules or Rules()), list[asyncio.AbstractEventLoop]()

    async def noticed(scope: Any, receive: Any, send: Any) -> None:
        if not loops:
            loops.append(asyncio.get_running_loop())
        await app(scope, receive, send)

    with tempfile.TemporaryDirectory() as own, served(noticed) as url, patch("tempfile.tempdir", own):
        asked(url, Ask(path="/health", method="GET"))  # the loop is known then
        yield Live(url, desk, bundle, paced, app, loops)


@contextmanager
def process(*limits: str, step_ms: float = 2.0, keys: str = "") -> Iterator[tuple[str, psutil.Process]]:
    """Serve planted sound in a process of its own, as the command does; gives the URL and the process."""
    command = [sys.executable, "-m", "tests.paced", str(step_ms), *limits]
    with started(command, LLASA_KEY=keys) as found:
        yield found


@contextmanager
def started(command: list[str], **environment: str) -> Iterator[tuple[str, psutil.Process]]:
    """Run a command that serves, until the block ends; gives its URL and process.

    What it says to standard error goes to a file, so that it never waits for a reader.
    """
    with tempfile.TemporaryFile("w+", encoding="utf-8") as file:
        own = subprocess.Popen(command, stderr=file, cwd=ROOT, env=os.environ | environment)
        try:
            while not (found := re.search(r"http://\S+:\d+", _text(file))):
                assert own.poll() is None, f"the service did not start: {_text(file)}"
                time.sleep(0.05)
            yield found[0], psutil.Process(own.pid)
        finally:
            own.kill()
            own.wait()


def _text(file: TextIO) -> str:
    """Return what a file holds; a child that shares its place goes on where it was."""
    return os.pread(file.fileno(), 1 << 20, 0).decode()


def desk_of(bundle: Bundle, limits: Limits) -> Desk:
    """Return what a service shares, over one loaded bundle."""
    speaker = Synthesizer(bundle)
    speaker.warm_up()
    return Desk.open(Speakers({bundle.name: speaker}, MOST_EFFORT, MOST_CHARACTERS), limits)


def main() -> None:
    """Serve until a signal."""
    from llasa.cli.serve import SPEECH_KEY, _listening, _rules, _run_speech
    from tests.conftest import build_tiny_bundle

    step_ms, speaking, waiting = (*map(float, sys.argv[1:]), 8, 64)[:3]
    rules = _rules("127.0.0.1", [], SPEECH_KEY)
    limits = Limits(int(speaking), int(waiting), max(len((rules.key or "").split()), 1))
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LLASA_HOME"] = folder
        bundle = paced_bundle(build_tiny_bundle(Path(folder) / "tiny"), PacedEngine(step_ms / 1000))
        with _listening("127.0.0.1", 0) as listener:
            _run_speech(desk_of(bundle, limits), listener, rules, None, page=False)


if __name__ == "__main__":
    main()

"""A speech server as a system: whoever speaks OpenAI's `POST /v1/audio/speech`. Knows no model and no bundle.

Source: OpenAI's API reference; `ref_audio` and `ref_text` as vLLM-Omni and `llasa serve` have them.
"""

import base64
import io
import json
import os
import time
from collections.abc import Mapping
from dataclasses import replace
from http.client import HTTPException
from pathlib import Path
from socket import create_connection
from typing import Any

import numpy as np

from llasa.audio import SILENCE_PEAK, read
from llasa.core import Audio
from llasa.errors import ConfigError, EngineError, InputError
from llasa.evaluate.plan import SystemBlock
from llasa.evaluate.sets import Line, reference_of
from llasa.evaluate.systems import Said
from llasa.web import Call, Server

KEY_VARIABLE = "LLASA_SYSTEM_KEY"
REACH_S = 2.0  # how long a server may take to accept a connection
LARGEST = 100 << 20  # bytes of an answer
WAV_HEAD = 44  # bytes before the first sample
BUSY, TRIES = (429, 503), 4  # a server that is busy did not fail; it is asked again


class ServerSystem:
    """A server, asked for one line after another."""

    steered_by: tuple[str, ...] = ()

    def __init__(self, block: SystemBlock, wait_s: float = 1.0) -> None:
        """Name a server; nothing is sent yet.

        Args:
            wait_s: before a busy server is asked again; twice as long each time.

        Raises:
            ConfigError: the URL or key is wrong.
        """
        self._block, self._wait_s = block, wait_s
        self._doing = f"Evaluating '{block.title}'"
        key = os.environ.get(KEY_VARIABLE) or None
        self._server = Server(block.url or "", self._doing, key, block.timeout_s)
        self.facts: Mapping[str, Any] = {}

    def problem(self, line: Line) -> str | None:
        """See `System.problem`; what a server refuses is known once it is asked."""
        return None

    def begin(self, line: Line) -> None:
        """See `System.begin`; a server that refuses the line is found out now."""
        try:
            create_connection(self._server.place, REACH_S).close()
        except OSError as error:
            found = f"nobody answers at {self._server.url} ({error})"
            raise EngineError(f"{self._doing}: {found}. Start the server, or correct `url`.") from error
        said = self.say(line, 0)
        if said.failure == "error":
            todo = f"Correct model, voice, format or fields; a key is taken from {KEY_VARIABLE}"
            raise ConfigError(f"{self._doing}: asked for one line, found {said.reason}. {todo}.")

    def say(self, line: Line, seed: int) -> Said:
        """See `System.say`."""
        clones = bool(line.reference) and self._block.voice is None
        body = json.dumps(self._body(line, seed, clones)).encode()
        voice = "reference" if clones else self._block.voice
        wait_s = self._wait_s
        for _ in range(TRIES):
            said, status = self._asked(body)
            if status not in BUSY:
                break
            time.sleep(wait_s)
            wait_s *= 2
        return replace(said, voice=voice, reference=reference_of(line) if clones else None)

    def _body(self, line: Line, seed: int, clones: bool) -> dict[str, Any]:
        block = self._block
        body: dict[str, Any] = {"model": block.model, "input": line.text, "response_format": block.format}
        body |= {"voice": block.voice} if block.voice else {}
        body |= {"seed": seed} if block.send_seed else {}
        if clones:
            sound = base64.b64encode(Path(line.reference).read_bytes()).decode()
            body |= {"ref_audio": f"data:audio/wav;base64,{sound}", "ref_text": line.reference_text}
        return body | block.fields

    def _asked(self, body: bytes) -> tuple[Said, int]:
        """Return what came, and the HTTP status, 0 if there was none."""
        data, status, first_s = bytearray(), 0, None
        head = WAV_HEAD if self._block.format == "wav" else 0
        began = time.perf_counter()
        try:
            with Call(self._server).pieces(f"{self._server.path}/audio/speech", body) as (status, pieces):
                for piece in pieces:
                    data += piece
                    first_s = first_s or (time.perf_counter() - began if len(data) > head else None)
                    if len(data) > LARGEST:
                        return _failed(f"more than {LARGEST} bytes"), status
        except ConnectionRefusedError as error:  # as in a run's beginning: those lines can be said later
            raise EngineError(f"{self._doing}: nobody listens any more. Start the server again.") from error
        except (OSError, HTTPException) as error:
            return _failed(f"{type(error).__name__}: {self._server.shown(str(error).encode())}"), status
        if status != 200:
            return _failed(f"HTTP {status}: {self._server.shown(bytes(data))}"), status
        return self._heard(bytes(data), time.perf_counter() - began, first_s), status

    def _heard(self, data: bytes, total_s: float, first_s: float | None) -> Said:
        try:
            sound = self._sound(data)
        except InputError as error:
            silent = error.reason in ("empty", "silent", "too-short")
            said = _failed(str(error), "empty" if silent else "error")
            return replace(said, total_s=total_s)
        return Said(sound, finish="unknown", total_s=total_s, first_s=first_s)

    def _sound(self, data: bytes) -> Audio:
        if self._block.format == "wav":
            return read(io.BytesIO(_lengths_mended(data)), min_s=0.02, max_s=3600.0)
        samples = np.frombuffer(data[: len(data) // 2 * 2], "<i2").astype(np.float32) / 32768
        if not len(samples):
            raise InputError("Reading pcm: found no sample. Check the server.", "empty")
        if np.abs(samples).max() < SILENCE_PEAK:
            raise InputError("Reading pcm: it is silent. Check the server.", "silent")
        return Audio(samples, self._block.rate_hz)


def _failed(reason: str, failure: str = "error") -> Said:
    return Said(None, failure, reason, "unknown")


def _lengths_mended(data: bytes) -> bytes:
    """Return a WAV file whose header states its length; one that was streamed could not know it."""
    place = data.find(b"data", 12)
    if (
        data[:4] != b"RIFF"
        or place < 0
        or 0 < int.from_bytes(data[place + 4 : place + 8], "little") <= len(data) - place - 8
    ):
        return data
    sizes = [(len(data) - skipped).to_bytes(4, "little") for skipped in (8, place + 8)]
    return data[:4] + sizes[0] + data[8 : place + 4] + sizes[1] + data[place + 8 :]

"""A recogniser behind a server that speaks OpenAI's `/v1/audio/transcriptions`. Knows no model.

Only the standard library is needed. Redirects are not followed, so that sound and key reach no other host;
proxies and the environment are not looked at; `load_recognizer` alone reads the key from there.
"""

import json
import math
import secrets
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from socket import create_connection
from urllib.parse import quote

from llasa.audio import encode, resample
from llasa.core import Audio
from llasa.errors import ConfigError, ScorerError
from llasa.recognizers.base import TextForm, Transcript
from llasa.recognizers.cache import Memory, checked
from llasa.web import Call, Server

RATE_HZ = 16000  # what such models listen at; more would only be sent
REACH_S = 2.0  # how long a server may take to accept a connection
KEY_VARIABLE = "LLASA_ENDPOINT_KEY"
_SLACK_S = 0.1  # servers round, and some hear more than there is
_MORE_TIME = "Ask a quicker server, or in Python make an EndpointRecognizer with a larger timeout_s"


class EndpointRecognizer:
    """A `Recognizer` that asks a server."""

    text_form: TextForm = "written"

    def __init__(
        self, url: str, model: str, key: str | None = None, timeout_s: float = 30.0, concurrency: int = 8,
        words: bool = False, language: str = "en",
    ) -> None:  # fmt: skip
        """Name a server; nothing is sent yet.

        Args:
            url: where its API begins, such as `http://localhost:8000/v1`.
            model: as the server calls it. language: of the speech, as in ISO 639-1.
            key: sent as a bearer token. A recipe's endpoint gets it from `LLASA_ENDPOINT_KEY`.
            timeout_s: for all of one clip, connecting included.
            concurrency: clips sent at once.
            words: ask for the times of words too (`verbose_json`), which fewer servers know.

        Raises:
            ConfigError: the URL has another scheme, no host or a password, or a number is not positive.
        """
        self._server = Server(url, "Asking a server for transcripts", key, timeout_s)
        if concurrency < 1 or not model:
            raise ConfigError(
                f"Asking '{url}' for transcripts: found concurrency {concurrency} and model '{model}'. "
                "Give a positive number and the model's name."
            )
        self.url, self.name = url, f"endpoint@{self._server.netloc}/{quote(model)}"
        self.timeout_s, self.concurrency, self.words = timeout_s, concurrency, words
        self._fields = {"model": model, "language": language, "temperature": "0"} | (
            {"response_format": "verbose_json", "timestamp_granularities[]": "word"}
            if words
            else {"response_format": "json"}
        )
        self.memory: Memory[Transcript] = Memory(1024, batch=1 << 20, batch_s=math.inf)

    def reach(self) -> None:
        """See whether anybody listens there, within 2 s and without asking anything.

        Raises:
            ScorerError: nobody does.
        """
        try:
            create_connection(self._server.place, REACH_S).close()
        except OSError as error:
            found = f"{type(error).__name__}: {error}"
            raise self._failure(found, "Start the server, or correct the URL") from error

    def transcribe(self, audio: Sequence[Audio]) -> list[Transcript]:
        """See `Recognizer.transcribe`. tokens and spans are there if `words` was asked for.

        What the server answered is remembered also where another clip fails.
        """
        return self.memory.get(checked(audio), self._ask_all)

    def _ask_all(self, clips: list[Audio]) -> list[Transcript | Exception]:
        with ThreadPoolExecutor(self.concurrency) as pool:
            return list(pool.map(self._ask, clips))

    def _ask(self, clip: Audio) -> Transcript | Exception:
        """Return the transcript, or why there is none."""
        wave = encode(resample(clip, RATE_HZ), "wav")
        kind, body = _form(self._fields, wave)
        started = time.monotonic()
        try:
            path = self._server.path + "/audio/transcriptions"
            status, answer = Call(self._server).ask("POST", path, body, {"Content-Type": kind})
            return self._transcript(status, answer, clip.duration_s)
        except ScorerError as error:
            return error
        except (OSError, HTTPException) as error:
            spent = time.monotonic() - started
            slow = isinstance(error, TimeoutError) or spent >= self.timeout_s
            found = (
                f"no whole answer after {spent:.1f} s"
                if slow
                else f"{type(error).__name__}: {self._server.shown(str(error).encode())}"
            )
            return self._failure(found, _MORE_TIME if slow else "See that it runs there")

    def _transcript(self, status: int, answer: bytes, duration_s: float) -> Transcript:
        if status != 200:
            todo = f"Check the URL, which mostly ends in /v1, the model's name and the key ({KEY_VARIABLE})"
            raise self._failure(f"HTTP {status}: {self._server.shown(answer)}", todo)
        try:
            fields = json.loads(answer)
            text, parts = " ".join(fields["text"].split()), fields["words"] if self.words else []
            tokens = tuple(part["word"].strip() for part in parts)
            spans = tuple((float(part["start"]), float(part["end"])) for part in parts)
            if not all(tokens) or not all(0 <= start <= end <= duration_s + _SLACK_S for start, end in spans):
                raise ValueError("a word without letters, or a time outside the clip")
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
            wanted = "'text' and 'words'" if self.words else "'text'"
            found = f"an answer that is no JSON with {wanted}: {self._server.shown(answer)}"
            raise self._failure(found, "Ask a server that knows OpenAI's transcriptions") from error
        return Transcript(text, tokens, spans)

    def _failure(self, found: str, todo: str) -> ScorerError:
        return ScorerError(f"Transcribing with '{self.url}': found {found}. {todo}.")


def _form(fields: Mapping[str, str], wave: bytes) -> tuple[str, bytes]:
    """Return content type and body of a multipart form with a sound file (RFC 7578)."""
    mark = secrets.token_hex(16)
    begin = f'--{mark}\r\nContent-Disposition: form-data; name="'
    text = "".join(f'{begin}{name}"\r\n\r\n{value}\r\n' for name, value in fields.items())
    head = f'{text}{begin}file"; filename="clip.wav"\r\nContent-Type: audio/wav\r\n\r\n'
    return f"multipart/form-data; boundary={mark}", head.encode() + wave + f"\r\n--{mark}--\r\n".encode()

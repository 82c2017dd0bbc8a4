"""Speech as a service, by OpenAI's routes. `make_app` returns what an ASGI server runs.

Must not know: sockets, command lines.
"""

import asyncio
import secrets
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AsyncExitStack, aclosing, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from starlette.exceptions import HTTPException
from starlette.routing import Match

from llasa.provenance import header
from llasa.serve.asked import SpeechRequest
from llasa.serve.books import Books
from llasa.serve.books_api import add_books
from llasa.serve.delivery import MEDIA, begun, encoded, events
from llasa.serve.guard import App, Guard, Rules, key_of
from llasa.serve.replies import Refused, install, problems, refusal
from llasa.serve.slots import Place, Slots
from llasa.serve.speaking import Speakers, Speech
from llasa.serve.text_in import add_text_in
from llasa.serve.voices_api import add_voices
from llasa.serve.watchdog import Watchdog
from llasa.voice import home

T = TypeVar("T")
MOST_RECEIPTS = 1000
READERS = 4  # sounds that are decoded at once, each in a process of its own
CLOSED = 499  # nginx's: nobody reads it
_METRICS: dict[int | str, dict[str, Any]] = {200: {"description": "", "content": {"text/plain": {}}}}
_SOUND: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The sound, or events that hold it.",
        "content": {media: {} for media in (*MEDIA.values(), "text/event-stream")},
    },
    502: {"model": Refused, "description": "The language model or a scorer failed."},
}


class Gone(Exception):
    """The client hung up before there was anything to send."""


@dataclass(frozen=True)
class Limits:
    """speaking: requests at once. waiting: more, before they are refused. keys: that share the queue."""

    speaking: int = 8
    waiting: int = 64
    keys: int = 1


class _Counted:
    """What /metrics tells."""

    def __init__(self, slots: Slots, watchdog: Watchdog) -> None:
        self.registry = CollectorRegistry()
        own: dict[str, Any] = {"registry": self.registry}
        self.ended = Counter("llasa_speeches", "Requests for speech, by how they ended.", ["how"], **own)
        self.first_s = Histogram("llasa_first_audio_seconds", "From request to first sound.", **own)
        self.codes = Counter("llasa_codes", "Codes that were sent as sound.", **own)
        Gauge("llasa_speaking", "Requests that are spoken.", **own).set_function(lambda: slots.taken)
        Gauge("llasa_waiting", "Requests that wait.", **own).set_function(lambda: slots.waiting)
        late = Gauge("llasa_late_seconds", "How late the model is with a step; 0 where all is well.", **own)
        late.set_function(lambda: watchdog.late_s)


class Receipts:
    """The last receipts, each for the key that asked."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, tuple[str, dict[str, object]]] = OrderedDict()

    def keep(self, id: str, key: str, receipt: dict[str, object]) -> None:
        """Keep one, and forget the oldest."""
        self._kept[id] = key, receipt
        while len(self._kept) > MOST_RECEIPTS:
            self._kept.popitem(last=False)

    def find(self, id: str, key: str) -> dict[str, object] | None:
        """Return one, None if there is none for this key."""
        owner, receipt = self._kept.get(id, ("", None))
        return receipt if owner == key else None


@dataclass
class Desk:
    """What all requests share."""

    speakers: Speakers
    slots: Slots
    threads: Executor
    counted: _Counted
    watchdog: Watchdog
    receipts: Receipts = field(default_factory=Receipts)
    readers: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(READERS))

    @classmethod
    def open(cls, speakers: Speakers, limits: Limits) -> "Desk":
        """Return one over loaded speakers."""
        slots = Slots(limits.speaking, limits.waiting, limits.keys)
        threads = ThreadPoolExecutor(limits.speaking + 1, "llasa-speech")
        watchdog = Watchdog({name: one.bundle.engine for name, one in speakers.speakers.items()})
        return cls(speakers, slots, threads, _Counted(slots, watchdog), watchdog)

    async def answer(self, request: Request, asked: SpeechRequest) -> Response:
        """Return a request's answer, once its first sound is there.

        Raises:
            Gone: the client is. LlasaError: it cannot be followed, or nothing came of it.
        """
        began, id, key = time.monotonic(), secrets.token_hex(12), key_of(request)
        self.slots.check(key)  # before any work
        speech = await while_there(request, self.begin(asked))
        stack = AsyncExitStack()
        stack.callback(speech.cut)
        try:
            place = await while_there(request, stack.enter_async_context(self.slots.slot(key)))
            data = await while_there(request, begun(await self._bytes(speech)))
        except BaseException as error:
            self.counted.ended.labels("gone" if isinstance(error, Gone) else type(error).__name__).inc()
            await stack.aclose()
            raise
        self.counted.first_s.observe(time.monotonic() - began)
        return _Followed(self._told(data, speech, place, id, key), stack, **_heads(asked, speech, id))

    async def begin(self, asked: SpeechRequest) -> Speech:
        """Return a request's speech, see `Speakers.begin`; a sound of its own waits for a reader."""
        async with self.readers if asked.ref_audio is not None else nullcontext():
            return await asyncio.to_thread(self.speakers.begin, asked)

    async def _bytes(self, speech: Speech) -> AsyncIterator[bytes]:
        asked = speech.asked
        sounds = await asyncio.get_running_loop().run_in_executor(self.threads, speech.sounds)
        tags = speech.provenance.tags
        return encoded(sounds, asked.response_format, asked.sample_rate, asked.streams, self.threads, tags)

    async def _told(
        self, data: AsyncIterator[bytes], speech: Speech, place: Place, id: str, key: str
    ) -> AsyncGenerator[bytes]:
        """Yield the bytes, in the form that was asked for, and do what is to be done at the end."""
        if speech.asked.stream_format == "sse":
            data = events(data, lambda: _usage(speech))
        how = "cut"
        try:
            async for piece in data:
                async with place.lent():
                    yield piece
            how = "said"
            if receipt := await asyncio.to_thread(speech.receipt):
                self.receipts.keep(id, key, receipt)
        finally:
            self.counted.ended.labels(how).inc()
            self.counted.codes.inc(speech.codes)


class _Followed(StreamingResponse):
    """A stream that closes what it holds, however it ends, also before it began."""

    def __init__(self, content: AsyncGenerator[bytes], stack: AsyncExitStack, **options: Any) -> None:
        super().__init__(content, **options)
        self._content, self._stack = content, stack

    async def __call__(self, *given: Any) -> None:
        """Send it."""
        async with self._stack, aclosing(self._content):
            await super().__call__(*given)


def make_app(desk: Desk, rules: Rules, page: App | None = None, books: Path | None = None) -> Guard:
    """Return the application.

    Args:
        rules: who may ask. page: what answers at `/`, and wherever the API does not.
        books: folder where they are kept; the user's own if None.
    """
    speakers = desk.speakers
    library = Books(books or home() / "books", speakers, desk.slots, desk.threads)
    app = FastAPI(
        title="llasa", lifespan=library.reading, docs_url=None, redoc_url=None
    )  # those pages load scripts from elsewhere
    install(app, bool(rules.key))

    add_voices(app, speakers, desk.readers)
    add_text_in(app, desk)
    add_books(app, library)

    @app.post("/v1/audio/speech", response_class=Response, responses=_SOUND)
    async def speech(request: Request, asked: SpeechRequest) -> Response:
        try:
            return await desk.answer(request, asked)
        except Gone:
            return Response(status_code=CLOSED)

    @app.get("/v1/receipts/{id}")
    async def receipt(request: Request, id: str) -> Response:
        if found := desk.receipts.find(id, key_of(request)):
            return JSONResponse(found)
        return refusal(
            404, "no such receipt, or not yet", "Ask once the sound has come to its end", "not_found"
        )

    @app.get("/v1/models")
    @app.get("/v1/audio/models")
    async def models() -> dict[str, object]:
        return {"object": "list", "data": [_model(name) for name in _names(speakers)]}

    @app.get("/v1/models/{name}")
    async def model(name: str) -> Response:
        if name in _names(speakers):
            return JSONResponse(_model(name))
        return refusal(404, "no such model", "See /v1/models", "model_not_found", "model")

    _add_signs(app, desk)
    if page is not None:
        app.mount("/", _behind(app, page))
    return Guard(app, rules)


def _behind(app: FastAPI, page: App) -> App:
    """Return a page that leaves to the API what is its own: other methods of its routes, and all of /v1/."""

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            if any(route.matches(scope)[0] is Match.PARTIAL for route in app.routes):
                raise HTTPException(405)
            if scope["path"].startswith("/v1/"):
                raise HTTPException(404)
        await page(scope, receive, send)

    return answer


def _add_signs(app: FastAPI, desk: Desk) -> None:
    @app.get("/health")
    async def health() -> dict[str, object]:
        return {"status": "ok", "speaking": desk.slots.taken, "waiting": desk.slots.waiting}

    @app.get("/ready", responses=problems(_503="The model hangs or fails: ask another service."))
    async def ready() -> Response:
        if found := desk.watchdog.trouble:
            return refusal(503, found, "Ask another service", "not_ready")
        return JSONResponse(await health())

    @app.get("/metrics", response_class=Response, responses=_METRICS)
    async def metrics() -> Response:
        return Response(generate_latest(desk.counted.registry), media_type=CONTENT_TYPE_LATEST)


async def while_there(request: Request, work: Awaitable[T]) -> T:
    """Return what some work gives; Gone if the client hangs up before, and the work is cancelled."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Gone
        return task.result()
    finally:
        gone.cancel()
        if task.cancel():  # what it holds is given back before anything else happens
            await asyncio.wait((task,))


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _names(speakers: Speakers) -> list[str]:
    return [*speakers.speakers, *speakers.ALIASES]


def _model(name: str) -> dict[str, object]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "llasa"}


def _heads(asked: SpeechRequest, speech: Speech, id: str) -> dict[str, Any]:
    media = "text/event-stream" if asked.stream_format == "sse" else MEDIA[asked.response_format]
    judged = {"Link": f'</v1/receipts/{id}>; rel="describedby"'} if speech.effort else {}
    return {
        "media_type": media,
        "headers": {"X-Request-Id": id, "Cache-Control": "no-store", **header(), **judged},
    }


def _usage(speech: Speech) -> dict[str, int]:
    """Return ids read and drawn, as OpenAI counts them."""
    read = sum(
        int(one.stats.get("prefill_tokens", 0) + one.stats.get("reused_tokens", 0)) for one in speech.spoken
    )
    return {"input_tokens": read, "output_tokens": speech.codes, "total_tokens": read + speech.codes}

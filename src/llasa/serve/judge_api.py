"""The judge as a service: its four routes. `make_app` returns what an ASGI server runs.

Must not know: sockets, command lines.
"""

import asyncio
import io
from concurrent.futures import Future
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Form, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from pydantic import ValidationError

from llasa.audio import read
from llasa.core import Candidate
from llasa.recognizers.base import Transcript
from llasa.remote_judge.wire import LONGEST_S, Asked, verdict
from llasa.serve.guard import Guard, Rules
from llasa.serve.judging import HEAR, JUDGE, Reader, Service
from llasa.serve.replies import install, refusal
from llasa.serve.worker import Worker

GONE_S = 0.25  # how often it is seen to whether the client still waits
CLOSED = 499  # nginx's: nobody reads it
MOST_NAMED = 100  # wrong values; a request may have millions, and each one named takes memory
# The body is read by `_asked`; this is what /openapi.json says of it.
_BODY = {"$id": "asked", **Asked.model_json_schema()}
_JUDGE = {"requestBody": {"required": True, "content": {"application/json": {"schema": _BODY}}}}


class _Counted:
    """What /metrics tells."""

    def __init__(self, worker: Worker) -> None:
        self.registry = CollectorRegistry()
        own: dict[str, Any] = {"registry": self.registry}
        self.verdicts = Counter("llasa_verdicts", "Verdicts given.", ["status"], **own)
        self.took_s = Histogram("llasa_request_seconds", "From request to answer.", ["what"], **own)
        self.abandoned = Counter("llasa_abandoned", "Requests whose client hung up.", **own)
        Gauge("llasa_waiting", "Items that wait.", **own).set_function(lambda: worker.waiting)

    def gone(self) -> Response:
        """Return the answer that nobody reads."""
        self.abandoned.inc()
        return Response(status_code=CLOSED)


class _Flights:
    """Work under way. Who asks for the same again, on another connection, waits for the same result."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._flights: dict[object, tuple[Future[list[Any]], int]] = {}

    async def result(self, key: object, kind: object, items: list[Any], request: Request) -> list[Any] | None:
        """Return one result an item, or None if the client hung up; what nobody waits for is dropped."""
        future, others = self._flights.get(key) or (self._worker.submit(kind, items), 0)  # pyright: ignore
        self._flights[key] = future, others + 1
        shared = asyncio.wrap_future(future)
        shared.add_done_callback(lambda one: one.cancelled() or one.exception())  # heard of by somebody else
        try:
            while not (await asyncio.wait([shared], timeout=GONE_S))[0]:
                if await request.is_disconnected():
                    return None
            return list(shared.result())
        finally:
            self._leave(key)

    def _leave(self, key: object) -> None:
        future, waiting = self._flights.pop(key)
        if waiting > 1:
            self._flights[key] = future, waiting - 1
        else:
            future.cancel()


def make_app(service: Service, rules: Rules, most_items: int = 64, most_waiting: int = 1024) -> Guard:
    """Return the application.

    Args:
        rules: who may ask.
        most_items: judged in one go. most_waiting: before requests are refused (429).
    """
    worker = Worker(service.run, most_items, most_waiting)
    flights, counted, known = _Flights(worker), _Counted(worker), service.health()
    reader = Reader(service.judge.codec.name, service.judge.codec.codebook_size)
    app = FastAPI(
        title="llasa judge", docs_url=None, redoc_url=None
    )  # those pages load scripts from elsewhere
    install(app, bool(rules.key))

    @app.get("/health")
    async def health() -> dict[str, object]:
        return known.model_dump()

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(generate_latest(counted.registry), media_type=CONTENT_TYPE_LATEST)

    @app.post("/v1/judge", openapi_extra=_JUDGE)
    async def judge(request: Request) -> Response:
        with counted.took_s.labels("judge").time():
            asked, key, read = await asyncio.to_thread(_read, await request.body(), reader)
            work, kind = [one for one in read if isinstance(one, Candidate)], (JUDGE, asked.held_out)
            found = await flights.result(key, kind, work, request) if work else []
        if found is None:
            return counted.gone()
        left = iter(found)
        said = [next(left) if isinstance(one, Candidate) else one for one in read]
        told = [verdict(item.id, one) for item, one in zip(asked.items, said, strict=True)]
        for one in told:
            counted.verdicts.labels(one["status"]).inc()
        return JSONResponse({"nonce": asked.nonce, "digest": known.digest, "items": told})

    @app.post("/v1/audio/transcriptions")
    async def transcriptions(
        request: Request,
        file: UploadFile,
        model: Annotated[str, Form()],
        language: Annotated[str, Form(max_length=16)] = "en",
        response_format: Annotated[Literal["json", "text", "verbose_json"], Form()] = "json",
    ) -> Response:
        if model not in service.recognizers:
            todo = f"Models here: {', '.join(known.recognizers) or 'none'}"
            return refusal(404, "a model that is not here", todo, "model_not_found", "model")
        with counted.took_s.labels("transcriptions").time():
            sound = await asyncio.to_thread(read, io.BytesIO(await file.read()), max_s=LONGEST_S)
            found = await flights.result(object(), (HEAR, model), [sound], request)
        if found is None:
            return counted.gone()
        if response_format == "text":
            return PlainTextResponse(found[0].text + "\n")
        more = _verbose(found[0], language, sound.duration_s) if response_format == "verbose_json" else {}
        return JSONResponse({"text": found[0].text, **more})

    return Guard(app, rules)


def _read(body: bytes, reader: Reader) -> tuple[Asked, str, list[Candidate | str]]:
    """Return what a body asks for, a key of it, and the candidates or why one cannot be judged."""
    asked = _asked(body)
    return asked, asked.digest(), reader.candidates(asked)


def _asked(body: bytes) -> Asked:
    try:
        return Asked.model_validate_json(body)
    except ValidationError as error:
        if error.error_count() > MOST_NAMED:
            wrong: Any = {"loc": (), "msg": f"{error.error_count()} wrong values"}
        else:
            wrong = error.errors(include_url=False, include_context=False, include_input=False)[0]
        raise RequestValidationError([wrong]) from None


def _verbose(heard: Transcript, language: str, duration_s: float) -> dict[str, object]:
    """Return what `verbose_json` adds; times only where the recogniser tells those of words."""
    words = [
        {"word": word, "start": start, "end": end}
        for word, (start, end) in zip(heard.tokens, heard.spans, strict=False)
    ]
    timed = {"words": words} if words and " ".join(heard.tokens) == heard.text else {}
    return {"task": "transcribe", "language": language, "duration": duration_s, **timed}

"""Books over HTTP: sent, looked after, fetched. Must not know: engines, sockets, how they are read."""

from pathlib import PurePath
from typing import Annotated, Literal

from fastapi import Depends, FastAPI, Form, HTTPException, Request, UploadFile
from fastapi.responses import FileResponse, JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.types import Receive, Scope, Send

from llasa.provenance import header
from llasa.serve.books import BookRequest, Books, Ticket
from llasa.serve.guard import key_of
from llasa.serve.replies import problems, refusal

MEDIA = {
    "m4b": "audio/mp4", "m4a": "audio/mp4", "mp3": "audio/mpeg", "opus": "audio/ogg", "flac": "audio/flac",
    "wav": "audio/wav", "srt": "application/x-subrip", "vtt": "text/vtt", "json": "application/json",
}  # fmt: skip


class _Sent(BookRequest):
    file: UploadFile


class _Whole(FileResponse):
    """A file, all of it: parts have statuses and errors of their own."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        heads = [head for head in scope["headers"] if head[0] != b"range"]
        await super().__call__({**scope, "headers": heads}, receive, send)


class _Redo(BaseModel):
    model_config = ConfigDict(extra="forbid")
    lines: str | None = Field(None, min_length=1, max_length=2000)


def add_books(app: FastAPI, books: Books) -> None:
    """Give an application the routes of books; every key sees its own only."""

    def own(request: Request, id: str) -> Ticket:
        if ticket := books.find(id, key_of(request)):
            return ticket
        raise HTTPException(404)

    @app.post(
        "/v1/audio/books",
        status_code=202,
        responses=problems(_502="The voice or a file of the model cannot be used."),
    )
    async def add(
        request: Request, sent: Annotated[_Sent, Form(media_type="multipart/form-data")]
    ) -> Response:
        suffix = PurePath(sent.file.filename or "").suffix.lower()
        asked = BookRequest.model_validate(sent.model_dump(exclude={"file"}))
        ticket = await books.add(await sent.file.read(), suffix, asked, key_of(request))
        return JSONResponse(ticket.told(), 202)

    @app.get("/v1/audio/books")
    async def kept(request: Request) -> dict[str, object]:
        return {"object": "list", "data": [ticket.told() for ticket in books.of(key_of(request))]}

    @app.get("/v1/audio/books/{id}")
    async def one(ticket: Annotated[Ticket, Depends(own)]) -> dict[str, object]:
        return ticket.told()

    @app.get(
        "/v1/audio/books/{id}/content",
        response_class=FileResponse,
        responses=problems(_409="The book is not read to its end.")
        | {200: {"content": {media: {} for media in MEDIA.values()}}},
    )
    async def content(
        ticket: Annotated[Ticket, Depends(own)], form: Literal["sound", "srt", "vtt", "json"] = "sound"
    ) -> Response:
        if ticket.status != "done":
            todo = f"Ask once /v1/audio/books/{ticket.id} says 'done'"
            return refusal(409, f"a book that is {ticket.status}", todo, "not_done")
        suffix = ticket.asked.response_format if form == "sound" else form
        how = {"media_type": MEDIA[suffix], "filename": f"book.{suffix}", "headers": header()}
        return _Whole(books.place(ticket, suffix), **how)

    @app.post("/v1/audio/books/{id}/redo", status_code=202)
    async def redo(ticket: Annotated[Ticket, Depends(own)], asked: _Redo) -> dict[str, object]:
        await books.again(ticket, asked.lines)
        return ticket.told()

    @app.delete("/v1/audio/books/{id}")
    async def remove(ticket: Annotated[Ticket, Depends(own)]) -> dict[str, object]:
        await books.remove(ticket)
        return {"id": ticket.id, "object": "audio.book", "deleted": True}

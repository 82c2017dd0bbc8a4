"""The routes of the page's sounds: while they are made, afterwards, of each candidate, and to be kept.

Must not know: how the page looks.
"""

import asyncio
import io
import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fastapi import FastAPI, Request
from fastapi.responses import Response, StreamingResponse

from llasa.audio import encode
from llasa.serve.delivery import MEDIA
from llasa.serve.guard import key_of
from llasa.serve.replies import refusal
from llasa.serve.studio.takes import LIVE, Take, Takes

if TYPE_CHECKING:
    from llasa.serve.speech_api import Desk

FILES = {"studio.css": "text/css", "studio.js": "text/javascript"}
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")
Find = Callable[[Request, str], Take | None]
Format = Literal["wav", "flac", "mp3", "opus", "aac", "pcm"]


def add_studio(app: FastAPI, desk: "Desk", takes: Takes) -> None:
    """Add the routes to an application. A take is found by who made it only."""

    def found(request: Request, id: str) -> Take | None:
        return takes.find(id, key_of(request))

    _add_takes(app, found)
    _add_candidates(app, desk, found)

    @app.get("/studio/{name}.{kind}")
    async def file(name: str, kind: str) -> Response:
        if (media := FILES.get(f"{name}.{kind}")) is None:
            return _none("such file")
        text = Path(__file__).with_name(f"{name}.{kind}").read_text(encoding="utf-8")
        return Response(text, media_type=media, headers={"Cache-Control": "no-cache"})


def _add_takes(app: FastAPI, found: Find) -> None:
    @app.get("/studio/takes/{id}/live")
    async def live(request: Request, id: str) -> Response:
        if (take := found(request, id)) is None:
            return _none("such take any more")
        return StreamingResponse(take.heard(), media_type=MEDIA[LIVE], headers={"Cache-Control": "no-store"})

    @app.get("/studio/takes/{id}/sound.wav")
    async def sound(request: Request, id: str) -> Response:
        take = found(request, id)
        if take is None or take.sound is None:
            return _none("such sound any more")
        return _ranged(await asyncio.to_thread(encode, take.sound, "wav", take.tags), request)

    @app.get("/studio/takes/{id}/download")
    async def download(request: Request, id: str, format: Format = "wav") -> Response:
        take = found(request, id)
        if take is None or take.sound is None:
            return _none("such sound any more")
        data = await asyncio.to_thread(packed, take, format)
        name = f"llasa-{take.id[:8]}.zip"
        heads = {"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"}
        return Response(data, media_type="application/zip", headers=heads)


def _add_candidates(app: FastAPI, desk: "Desk", found: Find) -> None:
    @app.get("/studio/takes/{id}/{segment}-{number}.wav")
    async def candidate(request: Request, id: str, segment: int, number: int) -> Response:
        take = found(request, id)
        made = take.candidate(segment, number) if take else None
        if take is None or made is None:
            return _none("such candidate any more")
        heard = await asyncio.get_running_loop().run_in_executor(desk.threads, take.decoded, made)
        if heard is None:
            return _none("sound in this candidate")
        return _ranged(await asyncio.to_thread(encode, heard, "wav", take.tags), request)


def packed(take: Take, format: str) -> bytes:
    """Return a ZIP of a take's sound and of its receipt, if it has one."""
    assert take.sound is not None  # who calls has seen to that
    file, name = io.BytesIO(), f"llasa-{take.id[:8]}.{format}"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name, encode(take.sound, format, take.tags))
        if take.receipt is not None:
            text = json.dumps(take.receipt, indent=2, ensure_ascii=False, default=str) + "\n"
            archive.writestr(f"{name}.receipt.json", text)
    return file.getvalue()


def _none(what: str) -> Response:
    return refusal(404, f"no {what}", "Say the text again", "not_found")


def _ranged(data: bytes, request: Request) -> Response:
    """Return a sound, or the part of it that a player asks for: without this browsers cannot seek."""
    heads = {"Accept-Ranges": "bytes", "Cache-Control": "private, max-age=3600"}
    asked = _RANGE.fullmatch(request.headers.get("range", ""))
    if not asked:
        return Response(data, media_type=MEDIA["wav"], headers=heads)
    start, end = int(asked[1]), min(int(asked[2] or len(data)), len(data) - 1)
    if start > end:
        return Response(status_code=416, headers={"Content-Range": f"bytes */{len(data)}"})
    heads["Content-Range"] = f"bytes {start}-{end}/{len(data)}"
    return Response(data[start : end + 1], 206, heads, MEDIA["wav"])

"""Voices as a service: what there is, made from a sound, removed. Must not know: engines, sockets."""

import asyncio
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Form, UploadFile
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel

from llasa.audio.apart import read_apart
from llasa.bundle import Bundle
from llasa.errors import ConfigError
from llasa.serve.asked import MOST_SOUND
from llasa.serve.replies import Refused, refusal
from llasa.serve.speaking import Speakers
from llasa.voice import MAX_S, MIN_S, VoiceStore, create


class Made(BaseModel):
    """A voice, as it is told."""

    id: str
    name: str
    object: Literal["audio.voice"]


_LINK = {"operationId": "remove_voice", "parameters": {"name": "$response.body#/name"}}
_MADE: dict[int | str, dict[str, Any]] = {
    201: {"description": "The voice is made.", "links": {"remove": _LINK}},
    409: {"model": Refused, "description": "There is a voice of that name."},
    502: {"model": Refused, "description": "The voice could not be made."},
}


def add_voices(app: FastAPI, speakers: Speakers, readers: asyncio.Semaphore) -> None:
    """Give an application the routes of voices; those of the first bundle, and the user's own.

    readers: how many sounds are read at once.
    """
    bundle = next(iter(speakers.speakers.values())).bundle
    store: VoiceStore = bundle.voices

    @app.get("/v1/audio/voices")
    async def voices() -> dict[str, object]:
        found = [_told(name) for name in await asyncio.to_thread(store.names)]
        return {"object": "list", "voices": found, "data": found}  # some clients read one, some the other

    @app.post("/v1/audio/voices", status_code=201, response_model=Made, responses=_MADE)
    async def add(
        audio_sample: UploadFile,
        name: Annotated[str, Form(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")],
        text: Annotated[str, Form(min_length=1, max_length=2000)],
        consent: Annotated[str, Form(min_length=1, max_length=2000)],
    ) -> Response:
        data = await audio_sample.read(MOST_SOUND + 1)
        if len(data) > MOST_SOUND:
            return refusal(413, "a sound that is too large", f"Send {MOST_SOUND} bytes at most", "too_large")
        if name in await asyncio.to_thread(store.names):
            return refusal(409, f"a voice of the name '{name}' already", "Choose another", "exists", "name")
        async with readers:
            await asyncio.to_thread(add_voice, bundle, name, data, text, consent)
        return JSONResponse(_told(name), 201)

    @app.delete("/v1/audio/voices/{name}", operation_id="remove_voice")
    async def remove(name: str) -> Response:
        if name not in await asyncio.to_thread(store.names):
            return refusal(404, "no such voice", "See /v1/audio/voices", "voice_not_found", "name")
        try:
            await asyncio.to_thread(store.remove, name)
        except ConfigError:
            return refusal(403, f"the voice '{name}', which belongs to the bundle", "Remove your own", "kept")
        return JSONResponse({"id": name, "object": "audio.voice", "deleted": True})


def add_voice(bundle: Bundle, name: str, data: bytes, text: str, consent: str) -> None:
    """Make a voice of a sound file and keep it among the user's own.

    Args:
        data: of a stranger's file, so it is read apart. text: what is said in it. consent: who spoke, and
            that they agree.

    Raises:
        ConfigError: bad name, or there is one of that name. InputError: the sound cannot be used.
    """
    voice = create(name, read_apart(data, MIN_S, MAX_S), text, bundle.codec, "uploaded", consent)
    bundle.voices.add(voice)


def _told(name: str) -> dict[str, object]:
    return {"id": name, "name": name, "object": "audio.voice"}

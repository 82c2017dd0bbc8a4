"""Speech over a WebSocket, for a text that is still being written. Must not know: other routes.

The client sends `session.config`, then `input.text` as often as it likes and `input.done`; each sentence is
said once it is whole: `audio.start`, binary frames, `audio.done`; at the end `session.done`. `input.cancel`
falls silent and forgets what was not said, as when the listener interrupts.

Source: messages as of vLLM-Omni's `/v1/audio/speech/stream`; `input.cancel` is added.
"""

import asyncio
import json
import secrets
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from pydantic import ValidationError

from llasa.audio import OPUS_RATE
from llasa.core import Voice
from llasa.errors import InputError, LlasaError
from llasa.serve.asked import SpeechRequest
from llasa.serve.delivery import encoded
from llasa.serve.guard import POLICY, key_of
from llasa.serve.incoming import sentences
from llasa.serve.speaking import Speech

if TYPE_CHECKING:
    from llasa.serve.speech_api import Desk

CONFIG_S, IDLE_S = 10.0, 300.0  # how long may pass before the first message, and between others
MOST_HELD = 100_000  # characters that wait to be said
NORMAL = 1000  # of RFC 6455


class Session:
    """One connection: what has come of the text, and what is being said."""

    def __init__(self, socket: WebSocket, desk: "Desk", key: str) -> None:
        self._socket, self._desk, self._key = socket, desk, key
        self._config: dict[str, Any] = {}
        self._voice: Voice | None = None
        self._text, self._held, self._count, self._ended = "", 0, 0, False
        self._queue = asyncio.Queue[str | None]()
        self._speech: Speech | None = None
        self._cancelled = False

    async def run(self) -> None:
        """Follow the connection to its end."""
        try:
            await self._configure(await self._message(CONFIG_S))
        except (LlasaError, TimeoutError) as error:
            return await self._refuse(str(error) or f"Speaking: no session.config came in {CONFIG_S:g} s.")
        mouth, ears = asyncio.create_task(self._say_all()), asyncio.create_task(self._listen())
        try:
            await asyncio.wait({mouth, ears}, return_when=asyncio.FIRST_COMPLETED)
            (mouth if mouth.done() else ears).result()
        except (LlasaError, TimeoutError) as error:
            await self._refuse(str(error) or f"Speaking: no message came in {IDLE_S:g} s.")
        finally:
            mouth.cancel()
            ears.cancel()
            self._cut()

    async def _configure(self, message: dict[str, Any]) -> None:
        if message.pop("type", "") != "session.config":
            raise InputError("Speaking: found another message first. Send session.config.")
        message.pop("split_granularity", None)  # sentences are all there is
        self._config = {"model": next(iter(self._desk.speakers.speakers)), "response_format": "pcm"} | message
        asked = self._asked("a")  # what is wrong with it is told now, not at the first sentence
        if asked.stream_format != "audio":
            raise InputError("Speaking: found stream_format. Leave it out: sound comes in binary frames.")
        speech = await self._desk.begin(asked)
        self._voice, self._bundle = speech.voice, speech.speaker.bundle
        for once in ("ref_audio", "ref_text", "consent"):  # the voice is made
            self._config.pop(once, None)

    def _asked(self, text: str) -> SpeechRequest:
        try:
            return SpeechRequest.model_validate(self._config | {"input": text})
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))[:100]
            raise InputError(f"Reading session.config: {place}: {first['msg']}. Correct it.") from None

    async def _listen(self) -> None:
        """Take messages for as long as there are any: also what is said last may be interrupted."""
        while True:
            message = await self._message(None if self._ended else IDLE_S)
            kind = message.get("type")
            if kind == "input.cancel":
                self._forget()
            elif self._ended:
                raise InputError(
                    f"Speaking: found {str(kind)[:40]!r} after input.done. Open another session."
                )
            elif kind == "input.text" and isinstance(message.get("text"), str):
                await self._take(message["text"])
            elif kind == "input.done":
                self._put(self._text)
                self._text, self._ended = "", True
                self._queue.put_nowait(None)
            else:
                raise InputError(f"Speaking: found {str(kind)[:40]!r}. Send input.text, .cancel or .done.")

    async def _message(self, patience_s: float | None) -> dict[str, Any]:
        async with asyncio.timeout(patience_s):
            data = await self._socket.receive()
        if data["type"] == "websocket.disconnect":
            raise WebSocketDisconnect
        try:
            message = json.loads(data.get("text") or "")
        except (ValueError, RecursionError):
            message = None
        if not isinstance(message, dict):
            raise InputError("Speaking: found a message that is no JSON object. Send one.")
        return message

    async def _take(self, text: str) -> None:
        if self._held + len(self._text) + len(text) > MOST_HELD:
            raise InputError(f"Speaking: more than {MOST_HELD} characters wait. Send less at a time.")
        text = self._text + text
        language = self._config.get("language") or self._bundle.language(text)
        longest = self._desk.speakers.most_characters
        whole, self._text = await asyncio.to_thread(sentences, text, language, longest)
        for sentence in whole:
            self._put(sentence)

    def _put(self, text: str) -> None:
        if any(map(str.isalnum, text)):
            self._held += len(text)
            self._queue.put_nowait(text.strip())

    def _forget(self) -> None:
        """Fall silent."""
        self._text, self._held = "", 0
        while not self._queue.empty():
            self._queue.get_nowait()
        if self._ended:
            self._queue.put_nowait(None)
        self._cancelled = True
        self._cut()

    def _cut(self) -> None:
        if self._speech is not None:
            self._speech.cut()

    async def _say_all(self) -> None:
        while (text := await self._queue.get()) is not None:
            self._cancelled, self._held = False, max(self._held - len(text), 0)
            number, self._count = self._count, self._count + 1
            told: dict[str, object] = {}
            try:
                told = await self._say(text, number)
            except LlasaError as error:
                if not self._cancelled:
                    await self._tell("error", message=str(error), sentence_index=number)
            await self._tell("audio.done", sentence_index=number, cancelled=self._cancelled, **told)
        await self._tell("session.done", total_sentences=self._count)
        await self._socket.close(NORMAL)

    async def _say(self, text: str, number: int) -> dict[str, object]:
        """Say a sentence and return what else there is to tell of it."""
        desk, asked = self._desk, self._asked(text)
        async with desk.slots.slot(self._key) as place:
            self._speech = speech = await desk.begin(asked)
            speech.voice = self._voice
            if self._cancelled:
                return {}
            rate = OPUS_RATE if asked.response_format == "opus" else asked.sample_rate
            form = {"format": asked.response_format, "sample_rate": rate}
            await self._tell("audio.start", sentence_index=number, sentence_text=text, **form)
            try:
                sounds = await asyncio.get_running_loop().run_in_executor(desk.threads, speech.sounds)
                how = (asked.response_format, asked.sample_rate, asked.streams)
                async for piece in encoded(sounds, *how, desk.threads, speech.provenance.tags):
                    if self._cancelled:
                        return {}
                    if piece:
                        async with place.lent():
                            await self._socket.send_bytes(piece)
            finally:
                speech.cut()
                desk.counted.codes.inc(speech.codes)
            return await self._receipt(speech)

    async def _receipt(self, speech: Speech) -> dict[str, object]:
        receipt, id = await asyncio.to_thread(speech.receipt), secrets.token_hex(12)
        if receipt is None:
            return {}
        self._desk.receipts.keep(id, self._key, receipt)
        return {"receipt": f"/v1/receipts/{id}"}

    async def _tell(self, kind: str, **content: object) -> None:
        await self._socket.send_text(json.dumps({"type": kind, **content}))

    async def _refuse(self, message: str) -> None:
        await self._tell("error", message=message)
        await self._socket.close(POLICY)


def add_text_in(app: FastAPI, desk: "Desk") -> None:
    """Add the route to an application."""

    @app.websocket("/v1/audio/speech/stream")
    async def stream(socket: WebSocket) -> None:
        await socket.accept()
        try:
            await Session(socket, desk, key_of(socket)).run()
        except WebSocketDisconnect:
            return

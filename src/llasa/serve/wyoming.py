"""Speech for Home Assistant: Wyoming's text to speech, over TCP. Must not know: HTTP, command lines.

Source: github.com/OHF-Voice/wyoming. The protocol knows no keys: whoever reaches the port may speak.
"""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import Executor
from functools import partial
from importlib.metadata import version
from typing import Any

from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.error import Error
from wyoming.event import Event
from wyoming.info import Attribution, Describe, Info, TtsProgram, TtsVoice
from wyoming.server import AsyncEventHandler, AsyncServer
from wyoming.tts import (
    Synthesize,
    SynthesizeChunk,
    SynthesizeStart,
    SynthesizeStop,
    SynthesizeStopped,
    SynthesizeVoice,
)

from llasa.audio import to_int16
from llasa.core import Audio
from llasa.errors import LlasaError
from llasa.serve.asked import SpeechRequest
from llasa.serve.delivery import pulled
from llasa.serve.incoming import sentences
from llasa.serve.slots import Place, Slots
from llasa.serve.speaking import Speakers

_OWN = Attribution("llasa", "https://github.com/llasa")
WIDTH, CHANNELS = 2, 1  # bytes a sample
MOST_BYTES = 1 << 20  # of an event's data or payload


class _Bounded:
    """A reader that takes no more of an event than a text needs, whatever length a client announces."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reader, name)

    async def readexactly(self, n: int) -> bytes:
        if n > MOST_BYTES:
            raise ValueError(f"{n} bytes")  # which ends the connection
        return await self._reader.readexactly(n)


class Handler(AsyncEventHandler):
    """One client: says a text that comes whole, or sentence by sentence while it comes."""

    def __init__(
        self,
        speakers: Speakers,
        slots: Slots,
        threads: Executor,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        bounded: Any = _Bounded(reader)
        super().__init__(bounded, writer)
        self._speakers, self._slots, self._threads = speakers, slots, threads
        self._text: str | None = None  # of a text that comes in pieces, what is not said yet
        self._voice: str | None = None
        self._rate = 0

    async def handle_event(self, event: Event) -> bool:
        """Answer; False ends the connection."""
        try:
            await self._handle(event)
        except LlasaError as error:
            await self.write_event(Error(str(error), type(error).__name__).event())
            self._text, self._rate = None, 0
        return True

    async def _handle(self, event: Event) -> None:
        if Describe.is_type(event.type):
            await self.write_event(await asyncio.to_thread(_info, self._speakers))
        elif SynthesizeStart.is_type(event.type):
            self._text, self._voice = "", _name(SynthesizeStart.from_event(event).voice)
        elif SynthesizeChunk.is_type(event.type) and self._text is not None:
            text = self._text + SynthesizeChunk.from_event(event).text
            bundle = next(iter(self._speakers.speakers.values())).bundle
            language, longest = bundle.language(text), self._speakers.most_characters
            said, self._text = await asyncio.to_thread(sentences, text, language, longest)
            if said:  # together, for the pauses between them
                await self._say(" ".join(said))
        elif SynthesizeStop.is_type(event.type) and self._text is not None:
            text, self._text = self._text.strip(), None
            if text:
                await self._say(text)
            await self._end()
            await self.write_event(SynthesizeStopped().event())
        elif Synthesize.is_type(event.type) and self._text is None:
            # While a text comes in pieces, it comes whole as well, for older services.
            asked = Synthesize.from_event(event)
            self._voice = _name(asked.voice)
            if asked.text.strip():
                await self._say(asked.text)
            await self._end()

    async def _say(self, text: str) -> None:
        model = next(iter(self._speakers.speakers))
        asked = SpeechRequest.model_validate({"model": model, "input": text, "voice": self._voice})
        speech = await asyncio.to_thread(self._speakers.begin, asked)
        try:
            async with self._slots.slot("wyoming") as place:
                loop = asyncio.get_running_loop()
                sounds = await loop.run_in_executor(self._threads, speech.sounds)
                await self._send(pulled(partial(next, sounds, None), self._threads), place)
        finally:
            speech.cut()

    async def _send(self, sounds: AsyncIterator[Audio], place: Place) -> None:
        async for piece in sounds:
            if not self._rate:
                self._rate = piece.sample_rate
                await self.write_event(AudioStart(self._rate, WIDTH, CHANNELS).event())
            data = to_int16(piece.samples).tobytes()
            async with place.lent():
                await self.write_event(AudioChunk(self._rate, WIDTH, CHANNELS, data).event())

    async def _end(self) -> None:
        if self._rate:
            await self.write_event(AudioStop().event())
        self._rate = 0


async def serve(uri: str, speakers: Speakers, slots: Slots, threads: Executor) -> None:
    """Serve until cancelled.

    Args:
        uri: such as tcp://127.0.0.1:10200.
    """
    server = AsyncServer.from_uri(uri)
    try:
        await server.run(partial(Handler, speakers, slots, threads))
    finally:
        await server.stop()


def _name(voice: SynthesizeVoice | None) -> str | None:
    return voice.name if voice else None


def _info(speakers: Speakers) -> Event:
    name, speaker = next(iter(speakers.speakers.items()))
    languages = list(speaker.bundle.manifest.lm.languages)
    common: dict[str, Any] = {"attribution": _OWN, "installed": True, "version": version("llasa")}
    voices = [
        TtsVoice(name=one, description=one, languages=languages, **common)
        for one in speaker.bundle.voices.names()
    ]
    program = TtsProgram(
        name="llasa",
        description=f"Llasa: {name}",
        voices=voices,
        supports_synthesize_streaming=True,
        **common,
    )
    return Info(tts=[program]).event()

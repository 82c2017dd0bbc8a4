"""Takes: texts that were said for the page, one after another, each with all that is known of it.

A take lives here while it is made, so that its sound can be heard meanwhile, and for a while after. All in
memory: no file is written. Must not know: pages, routes.
"""

import asyncio
import secrets
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from llasa.core import Audio, Candidate
from llasa.errors import LlasaError
from llasa.provenance import provenance
from llasa.receipt import SegmentReceipt
from llasa.search import Progress
from llasa.serve.asked import SpeechRequest
from llasa.serve.delivery import encoded
from llasa.serve.replies import bug
from llasa.serve.speaking import Speech
from llasa.serve.studio.attempts import Attempt, attempts
from llasa.spoken import concatenated

if TYPE_CHECKING:
    from llasa.serve.speech_api import Desk

MOST_TAKES, MOST_SAMPLES = 200, 32 << 20  # samples of all takes together, 256 MB with what was sent live
LIVE, LIVE_RATE = "wav", 24_000  # browsers begin to play an mp3 only once they have 32 kB of it
NEWS_S = 1.0  # how often a follower is woken though nothing happened, to see whether he is still there


@dataclass
class Take:
    """A text being said, or said.

    owner: whose it is, a key or an address. live: its sound so far, encoded, until `over`. doing: what
    happens now, for people. share: how much of a search is done. error: why there is no sound; empty if there
    is. first_s, spent_s: until the first sound, and until all was said and judged. tried: by segment.
    """

    asked: SpeechRequest
    owner: str
    id: str = field(default_factory=lambda: secrets.token_hex(16))
    began: float = field(default_factory=time.time)
    live: list[bytes] = field(default_factory=list[bytes])
    over: bool = False
    doing: str = "Waiting"
    share: float | None = None
    error: str = ""
    first_s: float | None = None
    spent_s: float = 0.0
    speech: Speech | None = None
    sound: Audio | None = None
    receipt: dict[str, object] | None = None
    parts: tuple[SegmentReceipt, ...] = ()
    tried: list[list[Attempt]] = field(default_factory=list[list[Attempt]])
    warnings: tuple[str, ...] = ()
    stopped: bool = False

    def __post_init__(self) -> None:
        self._news = asyncio.Event()
        self._pieces: list[Audio] = []

    @property
    def voice(self) -> str:
        """The name of the voice that speaks, empty if the model has one of its own."""
        voice = self.speech.speaker.voice(self.speech.voice) if self.speech else None
        return voice.name if voice else ""

    @property
    def tags(self) -> dict[str, str]:
        """What files of its sounds say of themselves."""
        return self.speech.provenance.tags if self.speech else {}

    def tell(self, doing: str, share: float | None = None) -> None:
        """Say what happens now; on the loop's thread only, as all that follows here."""
        self.doing, self.share = doing, share
        self.stir()

    def stop(self) -> None:
        """Fall silent: nobody wants to hear it any more."""
        self.stopped = True
        if self.speech is not None:
            self.speech.cut()
        self.stir()

    def stir(self) -> None:
        """Wake who follows."""
        self._news.set()
        self._news = asyncio.Event()

    async def news(self, patience_s: float = NEWS_S) -> None:
        """Wait until something happened, or for so long."""
        try:
            await asyncio.wait_for(self._news.wait(), patience_s)
        except TimeoutError:
            return

    async def heard(self) -> AsyncIterator[bytes]:
        """Yield the encoded sound from its beginning, as it is made."""
        at = 0
        while at < len(self.live) or not self.over:
            if at == len(self.live):
                await self.news()
                continue
            at += 1
            yield self.live[at - 1]

    def candidate(self, segment: int, number: int) -> Candidate | None:
        """Return a candidate of a segment, numbers from 1; None if there is none."""
        rows = self.tried[segment - 1] if 0 < segment <= len(self.tried) else []
        return next((one.candidate for one in rows if one.number == number), None)

    def decoded(self, candidate: Candidate) -> Audio | None:
        """Return a candidate's sound, made again of its codes; None if it has none."""
        if self.speech is None or not candidate.codes:
            return None
        voice = candidate.utterance.voice
        bundle = self.speech.speaker.bundle
        sound = bundle.codec.decode([candidate.codes], voice.codes if voice else None)[0]
        return provenance(bundle.name, voice.name if voice else None).mark(sound)

    def kept(self, sounds: Iterator[Audio]) -> Iterator[Audio]:
        """Yield the same sounds, which this take remembers."""
        for piece in sounds:
            self._pieces.append(piece)
            yield piece

    def close(self) -> None:
        """It is said, as far as it will be."""
        self.sound = concatenated(self._pieces) if self._pieces and not self.error else None
        self._pieces.clear()
        self.over = True
        self.stir()


class Takes:
    """The last takes; the oldest are forgotten when there are too many, or too much sound."""

    def __init__(self) -> None:
        self._kept = OrderedDict[str, Take]()

    def keep(self, take: Take) -> None:
        """Remember a take."""
        self._kept[take.id] = take
        while len(self._kept) > MOST_TAKES or (self._samples() > MOST_SAMPLES and len(self._kept) > 1):
            self._kept.popitem(last=False)

    def find(self, id: str, owner: str) -> Take | None:
        """Return a take of somebody's, None if it is not his or not here any more."""
        take = self._kept.get(id)
        return take if take is not None and take.owner == owner else None

    def beside(self, take: Take, ids: Iterable[str]) -> list[Take]:
        """Return those of its owner's takes that say the same text and can be heard, itself left out."""
        kept = (self.find(id, take.owner) for id in ids if id != take.id)
        return [
            one for one in kept if one and one.sound and one.asked.input.split() == take.asked.input.split()
        ]

    def _samples(self) -> int:
        return sum(len(take.sound.samples) for take in self._kept.values() if take.sound)


async def followed(desk: "Desk", take: Take) -> AsyncIterator[Take]:
    """Make a take, and yield it whenever there is news of it; who stops listening ends it."""
    making = asyncio.create_task(_made(desk, take))
    try:
        while not making.done() and not take.stopped:
            await take.news()
            yield take
    finally:
        if not making.done():
            take.stop()
            making.cancel()
        await asyncio.wait({making})


async def _made(desk: "Desk", take: Take) -> None:
    how, began = "cut", time.monotonic()
    try:
        take.speech = speech = await asyncio.to_thread(desk.speakers.begin, take.asked, False)
        _listen(take, speech)
        if desk.slots.taken >= desk.slots.count:
            take.tell("Waiting for a turn")
        async with desk.slots.slot(take.owner):
            take.tell("Searching" if take.asked.effort > 1 else "Speaking")
            await _said(desk, take, speech, began)
            take.tell("Listening to what was said")
            await asyncio.to_thread(_judged, take, speech)
        if take.receipt is not None:
            desk.receipts.keep(take.id, take.owner, take.receipt)
        how = "said"
    except LlasaError as error:
        take.error, how = str(error), type(error).__name__
    except Exception as error:
        take.error, how = bug(error)[0], type(error).__name__
    finally:
        if take.speech is not None:
            take.speech.cut()
            desk.counted.codes.inc(take.speech.codes)
        take.error = take.error or ("Speaking: it was stopped." if how == "cut" else "")
        take.spent_s = time.monotonic() - began
        desk.counted.ended.labels(how).inc()
        take.close()


def _listen(take: Take, speech: Speech) -> None:
    """Let a search tell how far it is."""
    loop = asyncio.get_running_loop()

    def told(number: int, total: int, news: Progress) -> None:
        best = "" if news.best is None else f", best so far {news.best:.2f}"
        place = f"sentence {number} of {total}, " if total > 1 else ""
        share = (number - 1 + news.judged / max(news.total, 1)) / total
        doing = f"Searching: {place}{news.judged} of {news.total} candidates judged{best}"
        loop.call_soon_threadsafe(take.tell, doing, share)

    if speech.effort is not None:
        speech.effort = replace(speech.effort, on_progress=told)


async def _said(desk: "Desk", take: Take, speech: Speech, began: float) -> None:
    sounds = await asyncio.get_running_loop().run_in_executor(desk.threads, speech.sounds)
    async for data in encoded(take.kept(sounds), LIVE, LIVE_RATE, True, desk.threads, take.tags):
        if data and take.first_s is None:
            take.first_s = time.monotonic() - began
            desk.counted.first_s.observe(take.first_s)
        take.live.append(data)
        take.stir()


def _judged(take: Take, speech: Speech) -> None:
    """Add what was heard to a take that was said."""
    take.warnings = tuple(warning for one in speech.spoken for warning in one.warnings)
    receipt = speech.told()
    if receipt is None or speech.effort is None:
        return
    take.receipt, take.parts = receipt.to_json(), receipt.segments
    if take.asked.effort > 1:
        judge, parts = speech.effort.judge, speech.speaker.bundle.parts
        take.tried = [attempts(one, judge, parts) for one in speech.spoken]
    # What was heard is in the take; the sounds of all candidates would fill the memory.
    speech.spoken = [
        replace(one, ranking=None, candidate=replace(one.candidate, audio=None)) for one in speech.spoken
    ]

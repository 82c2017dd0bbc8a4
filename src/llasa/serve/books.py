"""Books that a service reads: kept in a folder each, so that one that was stopped goes on where it was.

One book is read at a time, oldest first, a line a turn: others speak in between. Must not know: routes.
"""

import asyncio
import hashlib
import json
import logging
import re
import secrets
import shutil
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from filelock import FileLock
from pydantic import BaseModel, ConfigDict, Field

from llasa.audio import replace_file
from llasa.core import plain
from llasa.errors import ConfigError, EngineBusy, InputError, LlasaError
from llasa.held import hold
from llasa.longform.audiobook import publish
from llasa.longform.book import Book, read_book
from llasa.longform.reading import Read, Reading, numbers_of
from llasa.longform.script import Line, lines_of
from llasa.serve.asked import SpeechRequest
from llasa.serve.replies import bug
from llasa.serve.slots import Slots
from llasa.serve.speaking import Speakers, Speech
from llasa.shortage import of_room

MOST_BOOKS, MOST_OWN, MOST_LINES = 64, 8, 20_000  # kept in all, by one key, and in a book
MOST_TEXT, MOST_CHAPTER_S, LETTERS_PER_S = 2_000_000, 7200, 12
SUFFIXES = (".epub", ".md", ".txt")
BUSY_S = 1.0  # before a line that found the queue full asks again
_TICKET, _AGAIN = "ticket.json", "Reading lines again"
_ID = re.compile(r"[0-9a-f]{24}")
_NO_ROOM = "Keeping a book: found no room on the disk. Remove a book, or ask again later."
_log = logging.getLogger(__name__)

T = TypeVar("T")
Status = Literal["queued", "reading", "done", "failed"]


class BookRequest(BaseModel):
    """What is asked of a book, beside its file; fields as of `SpeechRequest`."""

    model_config = ConfigDict(extra="forbid")
    model: str = Field(max_length=200)
    voice: str | None = Field(None, max_length=64)
    response_format: Literal["m4b", "m4a", "mp3", "opus", "flac", "wav"] = "m4b"
    seed: int = Field(0, ge=0, lt=2**63)
    language: str | None = Field(None, max_length=16, pattern=r"^[A-Za-z-]+$")
    effort: int = Field(1, ge=1)
    target: float | None = Field(None, ge=0, le=1)

    def speech(self, voice: str | None, judge: bool) -> SpeechRequest:
        """Return the same asked of a line."""
        own = self.model_dump(exclude={"response_format"}, exclude_none=True)
        return SpeechRequest.model_validate({**own, "input": "a", "voice": voice, "judge": judge})


@dataclass
class Ticket:
    """A book and what has become of it.

    owner: hash of whose it is. suffix: of its file. redo: lines to be said again. report: of `publish`.
    """

    id: str
    owner: str
    suffix: str
    asked: BookRequest
    created: int
    status: Status = "queued"
    redo: str | None = None
    said: int = 0
    total: int = 0
    message: str | None = None
    report: dict[str, Any] = field(default_factory=dict[str, Any])

    def told(self) -> dict[str, object]:
        """Return what its owner may know."""
        found = {key: self.report[key] for key in ("duration_s", "doubtful") if key in self.report}
        return {key: plain(value) for key, value in {
            "id": self.id, "object": "audio.book", "status": self.status, "created_at": self.created,
            "lines": {"said": self.said, "total": self.total}, "error": self.message,
            **self.asked.model_dump(exclude_none=True), **found,
        }.items()}  # fmt: skip


class Books:
    """All books of a service.

    Args:
        folder: where they are kept; made when the first one comes.
    """

    def __init__(self, folder: Path, speakers: Speakers, slots: Slots, threads: Executor) -> None:
        self._folder = folder.resolve()  # as errors name it
        self._speakers, self._slots, self._threads = speakers, slots, threads
        self._tickets, self._locks = dict[str, Ticket](), dict[str, FileLock]()
        self._news, self._opening = asyncio.Event(), asyncio.Semaphore(1)
        self._now: tuple[Ticket, asyncio.Task[None]] | None = None

    def _found(self) -> Iterator[Ticket]:
        """Yield the books of services that are gone, with their locks taken; those of others stay theirs."""
        for folder in sorted(path for path in self._folder.glob("*") if _ID.fullmatch(path.name)):
            try:
                lock = hold(folder, "Finding books")
            except (OSError, LlasaError) as error:
                _log.warning("Finding books: %s is passed over (%s).", folder, error)
                continue
            if (ticket := _ticket_in(folder)) is not None:
                self._locks[ticket.id] = lock
                yield ticket
                continue
            if not (folder / _TICKET).exists():  # the service was killed before it had taken the book
                shutil.rmtree(folder, ignore_errors=True)
            lock.release()

    def place(self, ticket: Ticket, suffix: str) -> Path:
        """Return the file of a book as sound or subtitles."""
        return self._folder / ticket.id / f"book.{suffix}"

    def of(self, key: str) -> list[Ticket]:
        """Return the books of a key, oldest first."""
        owner = _hashed(key)
        found = (ticket for ticket in self._tickets.values() if ticket.owner == owner)
        return sorted(found, key=lambda ticket: ticket.created)

    def find(self, id: str, key: str) -> Ticket | None:
        """Return a book, None if this key has none of that name."""
        ticket = self._tickets.get(id)
        return ticket if ticket is not None and ticket.owner == _hashed(key) else None

    async def add(self, data: bytes, suffix: str, asked: BookRequest, key: str) -> Ticket:
        """Keep a book to be read.

        Args:
            data: of its file. suffix: such as ".epub".

        Raises:
            InputError: it is no book, or too long. ConfigError: what is asked for is not there.
            EngineBusy: too many are kept.
        """
        if len(self._tickets) >= MOST_BOOKS or len(self.of(key)) >= MOST_OWN:
            found = f"{len(self.of(key))} of yours, {len(self._tickets)} in all"
            raise EngineBusy(f"Keeping a book: found {found}. Fetch and remove one, then ask again.")
        ticket = Ticket(secrets.token_hex(12), _hashed(key), suffix, asked, int(time.time()))
        self._tickets[ticket.id] = ticket  # without lines it is not begun
        try:
            await asyncio.to_thread(self._keep, ticket, data)
            async with self._opening:
                _, _, script = await asyncio.to_thread(self._opened, ticket)
            kept = replace(ticket, total=len(script))
            await asyncio.to_thread(self._write, kept)
            ticket.total = kept.total
        except BaseException as error:
            self._tickets.pop(ticket.id, None)
            await asyncio.to_thread(self._drop, ticket)
            if of_room(error):
                raise EngineBusy(_NO_ROOM) from error
            if isinstance(error, InputError | ConfigError):
                raise type(error)(self._shown(error)) from None
            raise
        self._news.set()
        return ticket

    def _shown(self, error: LlasaError) -> str:
        """Return what is said of an error, but for the place on this machine."""
        return str(error).replace(str(self._folder), "books")

    def _keep(self, ticket: Ticket, data: bytes) -> None:
        if ticket.suffix not in SUFFIXES:
            found = f"a file whose name ends in '{ticket.suffix[:20]}'"
            raise InputError(f"Reading the book: found {found}. Send {', '.join(SUFFIXES)}.")
        self._locks[ticket.id] = hold(self._folder / ticket.id, "Keeping a book")
        self._source(ticket).write_bytes(data)

    def _source(self, ticket: Ticket) -> Path:
        return self._folder / ticket.id / f"source{ticket.suffix}"

    def _write(self, ticket: Ticket) -> None:
        kept = {**vars(ticket), "asked": ticket.asked.model_dump()}
        replace_file(self._folder / ticket.id / _TICKET, json.dumps(plain(kept)).encode())

    def _drop(self, ticket: Ticket) -> None:
        shutil.rmtree(self._folder / ticket.id, ignore_errors=True)
        if lock := self._locks.pop(ticket.id, None):
            lock.release()

    async def again(self, ticket: Ticket, lines: str | None) -> None:
        """Say some lines of a book again, as "3,17-20"; without any, only those that are not said yet.

        Raises:
            ConfigError: no such lines, or it is not read to its end yet.
        """
        if ticket.status in ("queued", "reading"):
            raise ConfigError(f"{_AGAIN}: the book is not read to its end. Wait for that.")
        redo = None if lines is None else _listed(set(numbers_of(lines, ticket.total, _AGAIN)))
        asked = replace(ticket, redo=redo, status="queued", message=None, said=0)
        try:
            await asyncio.to_thread(self._write, asked)
        except ConfigError as error:
            if of_room(error):
                raise EngineBusy(_NO_ROOM) from error
            raise ConfigError(self._shown(error)) from None
        vars(ticket).update(vars(asked))
        self._news.set()

    async def remove(self, ticket: Ticket) -> None:
        """Stop reading a book and forget it."""
        self._tickets.pop(ticket.id, None)  # first, or it is begun again
        if self._now is not None and self._now[0] is ticket:
            task = self._now[1]
            task.cancel()
            await asyncio.wait([task])
        await asyncio.to_thread(self._drop, ticket)

    @asynccontextmanager
    async def reading(self, app: object = None) -> AsyncIterator[None]:
        """Read books inside, also those of a service that was stopped; also as an application's lifespan."""
        self._tickets |= {ticket.id: ticket for ticket in self._found()}
        task = asyncio.create_task(self._run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])
            while self._locks:
                self._locks.popitem()[1].release()

    async def _run(self) -> None:
        while True:
            self._news.clear()
            waiting = [one for one in self._tickets.values() if one.status == "queued" and one.total]
            for ticket in sorted(waiting, key=lambda one: one.created)[:1]:
                task = asyncio.create_task(self._follow(ticket))
                self._now = ticket, task
                try:
                    await asyncio.wait([task])
                finally:
                    task.cancel()
                    await asyncio.wait([task])
                    self._now = None
            if not waiting:
                await self._news.wait()

    async def _follow(self, ticket: Ticket) -> None:
        """Read one; whatever goes wrong is told to its owner."""
        ticket.status = "reading"
        try:
            await self._read(ticket)
            ticket.status, ticket.redo = "done", None
        except LlasaError as error:
            ticket.status, ticket.message = "failed", self._shown(error)
        except OSError as error:
            ticket.status, ticket.message = "failed", f"Keeping the book: {error.strerror}. Try it later."
        except asyncio.CancelledError:
            ticket.status = "queued"
            raise
        except Exception as error:  # the owner waits to be told
            ticket.status, ticket.message = "failed", bug(error)[0]
        if ticket.id in self._tickets:
            await _whole(asyncio.to_thread(self._write, ticket))

    async def _read(self, ticket: Ticket) -> None:
        book, speech, script = await asyncio.to_thread(self._opened, ticket)
        again = set(numbers_of(ticket.redo, len(script), _AGAIN)) if ticket.redo else set[int]()
        said, reading = list[Read](), self._reading(ticket, book, speech)
        try:
            with reading.held():
                lines = reading.lines(script, again)
                while len(said) < len(script):
                    said.append(await self._next(lines, ticket, speech))
                    ticket.said = len(said)
                made, path = speech.provenance, self.place(ticket, ticket.asked.response_format)
                ticket.report = await _whole(asyncio.to_thread(publish, path, book, said, made))
        finally:
            speech.cut()

    async def _next(self, lines: Iterator[Read], ticket: Ticket, speech: Speech) -> Read:
        async with AsyncExitStack() as stack:
            while True:
                try:
                    await stack.enter_async_context(self._slots.slot(ticket.owner))
                    break
                except EngineBusy:
                    await asyncio.sleep(BUSY_S)
            loop, how = asyncio.get_running_loop(), (lines, ticket, speech)
            return await _whole(loop.run_in_executor(self._threads, self._line, *how), speech.cut)

    def _line(self, lines: Iterator[Read], ticket: Ticket, speech: Speech) -> Read:
        one = next(lines)
        if speech.line.is_cut:  # perhaps only half of it was drawn: it is not said
            (self._lines(ticket) / f"{one.number:06}.json").unlink(missing_ok=True)
        return one

    def _lines(self, ticket: Ticket) -> Path:
        return self._folder / ticket.id / "lines"

    def _opened(self, ticket: Ticket) -> tuple[Book, Speech, list[Line]]:
        """Return a book, who reads it and its lines, once all of them can be said."""
        name = self._speakers.name(ticket.asked.model)
        judged = self._speakers.speakers[name].bundle.judge is not None
        speech = self._speakers.begin(ticket.asked.speech(ticket.asked.voice, judged))
        book = read_book(self._source(ticket))
        _check_size(book)
        script = lines_of(book, self._language(ticket, book, speech), {})
        if not 0 < len(script) <= MOST_LINES:
            raise InputError(f"Reading the book: found {len(script)} lines. Send 1 to {MOST_LINES}.")
        _check_chapters(script)
        self._reading(ticket, book, speech).check(script)
        for voice in {line.voice for line in script if line.voice is not None}:
            self._speakers.begin(ticket.asked.speech(voice, judged))  # has its speaker's consent
        return book, speech, script

    def _reading(self, ticket: Ticket, book: Book, speech: Speech) -> Reading:
        folder, asked, speaker = self._lines(ticket), ticket.asked, speech.speaker
        language = self._language(ticket, book, speech)
        voice = speaker.voice(speech.voice)
        return Reading(speaker, folder, voice, speech.effort, asked.seed, language, {})

    def _language(self, ticket: Ticket, book: Book, speech: Speech) -> str:
        first = " ".join((book.chapters[0].title, *book.chapters[0].paragraphs))
        return ticket.asked.language or book.language or speech.speaker.bundle.language(first)


def _ticket_in(folder: Path) -> Ticket | None:
    """Return the ticket of a folder, None if it is damaged or not there."""
    path = folder / _TICKET
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        ticket = Ticket(**{**kept, "asked": BookRequest.model_validate(kept["asked"])})
    except (OSError, ValueError, TypeError, KeyError) as error:
        _log.warning("Finding books: %s is damaged (%s) and is passed over.", path, error)
        return None
    if ticket.status == "reading":
        ticket.status = "queued"
    return ticket


def _check_size(book: Book) -> None:
    """Refuse a text that would take long to cut into lines."""
    length = sum(len(text) for one in book.chapters for text in (one.title, *one.paragraphs))
    if length > MOST_TEXT:
        found = f"found {length} characters"
        raise InputError(f"Reading the book: {found}. Send {MOST_TEXT} at most, and the rest as another.")


def _check_chapters(script: Sequence[Line]) -> None:
    """Refuse a chapter whose sound would not fit into memory: its loudness is that of all of it."""
    seconds = defaultdict[int, float](float)
    for line in script:
        seconds[line.chapter] += line.pause_s + len(line.text) / LETTERS_PER_S
    if max(seconds.values()) > MOST_CHAPTER_S:
        found = f"found a chapter of some {max(seconds.values()) / 3600:.1f} hours"
        raise InputError(
            f"Reading the book: {found}. Divide it by headings, {MOST_CHAPTER_S / 3600:g} h at most."
        )


def _listed(numbers: Collection[int]) -> str | None:
    return ",".join(map(str, sorted(numbers))) or None


async def _whole(work: Awaitable[T], cut: Callable[[], object] = lambda: None) -> T:
    """Return what some work in a thread gives; if this is cancelled, `cut` it and wait for its end."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        cut()
        await asyncio.wait([task])  # it may be writing
        raise


def _hashed(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()

"""Recordings with texts become shards of codes, in a folder that survives being killed at any moment.

Shard k covers the same rows of the source, whatever became of those before. Its files, its rejects and what
must not come twice are written first, its line of the index last; what no line names is made again.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from types import FrameType

from llasa.codec.base import Codec
from llasa.data.encode import Job, Kept, Made, Options, Tick, encode, header
from llasa.data.folder import REJECTS, Folder
from llasa.data.heldout import HeldOut, Rows, Survey, held_out, same, survey
from llasa.data.index import Split
from llasa.data.rejects import Reject
from llasa.data.seen import Seen
from llasa.data.shards import Header, Row
from llasa.errors import InputError, Interrupted

SEEN = "seen.sqlite"  # gone when all is done
JUDGED_FROM = 200  # rows before the share of rejects means anything


@dataclass(frozen=True)
class Progress:
    """How far it is. rows: done of `total`, `before` by earlier runs. speech_s: encoded by this one."""

    rows: int
    total: int
    before: int
    rejected: int
    speech_s: float
    elapsed_s: float


@dataclass(frozen=True)
class Prepared:
    """What is in the folder now. shards_before: by earlier runs. rejects: rows by reason."""

    folder: Path
    codec: str
    rows: int
    kept: int
    held_out: int
    speech_s: float
    shards: int
    shards_before: int
    rejects: dict[str, int]


Watch = Callable[[Progress], None]
Drive = Callable[[Iterator[Job], Tick], Iterable[Made]]


def prepare(
    source: Rows,
    out: str | Path,
    codec: Codec,
    options: Options | None = None,
    *,
    max_rejects: float = 0.2,
    drive: Drive | None = None,
    watch: Watch = lambda progress: None,
) -> Prepared:
    """Return what is in the folder `out` after all rows of a source are in its shards or in `rejects.jsonl`.

    Called again after a kill, a signal or a full disk, it goes on at the first missing shard; what comes out
    is the same to the byte.

    Args:
        source: of clips, or of codes. out: new, empty, or left by an earlier call.
        codec: what encodes. options: how.
        max_rejects: share of rows that may be rejects; judged from 200 rows on.
        drive: turns jobs into what became of them, in their order; in this process if None.
        watch: is told of progress, often.

    Raises:
        ConfigError: options, codec or source differ from the earlier call's, somebody else writes to the
            folder, or the disk is full. InputError: too many rejects, or nothing left. Interrupted: a signal.
    """
    options = options or Options()
    with (
        stoppable(f"Preparing '{out}'", "complete shards are kept") as check,
        closing(Folder(Path(out))) as folder,
    ):

        def told(step: Progress) -> None:
            check()
            watch(step)

        found = survey(source)
        held = held_out(options, found)
        folder.start(_facts(source, found, codec, options))
        before = len(folder.entries)
        if not folder.whole:
            run = _Run(folder, held, max_rejects, found.rows, told)
            jobs = _jobs(source, options.shard_rows, before)
            run.fill(jobs, header(codec), drive or partial(_here, codec=codec, options=options))
        (folder.path / SEEN).unlink(missing_ok=True)
        return _prepared(folder, codec.name, before)


def _facts(source: Rows, found: Survey, codec: Codec, options: Options) -> dict[str, object]:
    rows = {"kind": source.kind, "rows": found.rows, "digest": found.digest}
    return {"source": rows, "codec": asdict(header(codec)), "options": options.model_dump()}


def _here(jobs: Iterator[Job], tick: Tick, *, codec: Codec, options: Options) -> Iterator[Made]:
    return (encode(job, codec, options, tick) for job in jobs)


def _jobs(source: Rows, size: int, first: int) -> Iterator[Job]:
    rows = islice(iter(source.rows()), first * size, None)
    number = first
    while some := tuple(islice(rows, size)):
        yield Job(number, some)
        number += 1


class _Run:
    """One call's work: the shards from the first missing one on, and how far it is."""

    def __init__(self, folder: Folder, held: HeldOut, max_rejects: float, total: int, watch: Watch) -> None:
        self.folder, self.held, self.max_rejects = folder, held, max_rejects
        self.total, self.watch, self.began = total, watch, time.monotonic()
        self.rows = self.before = sum(entry.rows for entry in folder.entries)
        self.rejected = sum(entry.rejected for entry in folder.entries)
        self.speech_s, self.ahead, self.ahead_s = 0.0, 0, 0.0  # ahead: not in a written shard yet

    def fill(self, jobs: Iterator[Job], header: Header, drive: Drive) -> None:
        """Write the missing shards and end the index."""
        self._check_rejects()  # of an earlier call's shards, or it would pass where that stopped
        with closing(Seen(self.folder.path / SEEN, len(self.folder.entries))) as seen:
            for made in drive(jobs, self.tick):
                self._commit(made, seen, header)
                self._check_rejects()
        if self.rows == self.rejected:
            found = f"no row is left. {self._reasons()}" if self.rows else "the source has no rows."
            raise InputError(f"Preparing '{self.folder.path}': {found}")
        self.folder.finish()

    def tick(self, speech_s: float) -> None:
        """Tell that a row is done."""
        self.ahead, self.ahead_s = self.ahead + 1, self.ahead_s + speech_s
        self._tell()

    def _tell(self) -> None:
        done, speech_s = self.rows + self.ahead, self.speech_s + self.ahead_s
        elapsed_s = time.monotonic() - self.began
        self.watch(Progress(done, self.total, self.before, self.rejected, speech_s, elapsed_s))

    def _commit(self, made: Made, seen: Seen, header: Header) -> None:
        rows: dict[Split, list[Row]] = {"train": [], "heldout": []}
        rejects = list[Reject]()
        for one in (_unseen(one, seen, made.number) for one in made.rows):
            if isinstance(one, Reject):
                rejects.append(one)
            else:
                rows[self.held.split(one.row.text, one.row.speaker, one.split)].append(one.row)
        self.folder.write(made.number, rows, rejects, header, lambda: seen.commit(made.number + 1))
        self.rows, self.rejected = self.rows + len(made.rows), self.rejected + len(rejects)
        self.speech_s += self.folder.entries[-1].speech_s
        self.ahead, self.ahead_s = 0, 0.0
        self._tell()

    def _check_rejects(self) -> None:
        if self.rows >= JUDGED_FROM and self.rejected > self.max_rejects * self.rows:
            found = f"{self.rejected} of {self.rows} rows are rejects ({self.rejected / self.rows:.0%})"
            raise InputError(f"Preparing '{self.folder.path}': {found}. {self._reasons()}")

    def _reasons(self) -> str:
        told = ", ".join(f"{count} {reason}" for reason, count in self.folder.reasons().most_common(5))
        path = self.folder.path / REJECTS
        return f"Most are: {told}. See '{path}'; then correct the source, or allow more with --max-rejects."


def _unseen(one: Kept | Reject, seen: Seen, shard: int) -> Kept | Reject:
    """Return a row, or its reject if its id or its sound came before."""
    if isinstance(one, Reject):
        return one
    id = one.row.id
    name = b"id " + same(id).encode()
    if (first := seen.first(name)) is not None:
        such = "it" if first == id else f"'{first}', which differs in case or in how Unicode writes it,"
        return Reject(id, one.place, "duplicate-id", f"A row before has {such} for an id.")
    sound = b"sound " + one.sound
    if (first := seen.first(sound)) is not None:
        return Reject(id, one.place, "duplicate-audio", f"Its sound is that of '{first}'.")
    seen.add(name, id, shard)
    seen.add(sound, id, shard)
    return one


def _prepared(folder: Folder, codec: str, before: int) -> Prepared:
    entries = folder.entries
    held = sum(file.rows for entry in entries for file in entry.files if file.split == "heldout")
    return Prepared(
        folder.path, codec, sum(entry.rows for entry in entries), sum(entry.kept for entry in entries), held,
        round(sum(entry.speech_s for entry in entries), 3), len(entries), before,
        dict(folder.reasons().most_common()),
    )  # fmt: skip


@contextmanager
def stoppable(doing: str, kept: str) -> Iterator[Callable[[], None]]:
    """Let SIGTERM and SIGINT end the work at once: there is never anything to save.

    Gives what raises again: an exception in a callback of a C library, such as libsndfile's, is lost there.
    """
    stopped = list[Interrupted]()

    def check() -> None:
        if stopped:
            raise stopped[0]

    if threading.current_thread() is not threading.main_thread():
        yield check
        return

    def stop(number: int, frame: FrameType | None) -> None:
        found = f"stopped by {signal.Signals(number).name}, {kept}"
        stopped.append(Interrupted(f"{doing}: {found}. Run the same command again to go on."))
        check()

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield check
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

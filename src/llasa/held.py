"""A folder that one process at a time works in. Must not know: what is done there.

The system gives the lock back when the process ends, however it ends.
"""

import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from llasa.audio import drop_drafts
from llasa.errors import ConfigError


def hold(folder: Path, doing: str) -> FileLock:
    """Make a folder if need be, take its lock and remove what an earlier process only began to write.

    Args:
        doing: opens the message of an error.

    Returns:
        The lock, to be released from any thread.

    Raises:
        ConfigError: another process works there. OSError: the folder cannot be made or written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock, owner = FileLock(folder / ".lock", thread_local=False), folder / ".owner"
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        who = owner.read_text(encoding="utf-8") if owner.exists() else "another process"
        raise ConfigError(f"{doing}: {who} is writing there. Wait for it, or end it.") from error
    owner.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
    drop_drafts(folder)
    return lock


@contextmanager
def scratch(place: Path, doing: str) -> Iterator[Path]:
    """Give an empty folder beside a file or folder that is to be made; gone in the end, or by the next one.

    Raises:
        ConfigError: another process makes the same. OSError: as `hold`.
    """
    place = Path(os.path.abspath(place))  # `.` has no name of its own
    folder = place.with_name(f".{place.name}.part")
    folder.mkdir(exist_ok=True)  # in a folder that is there
    lock = hold(folder, doing)
    try:
        inside = folder / "made"
        shutil.rmtree(inside, ignore_errors=True)  # of a process that was killed
        inside.mkdir()
        yield inside
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        lock.release()

"""A folder that one process at a time works in. Must not know: what is done there.

The system gives the lock back when the process ends, however it ends.
"""

import os
import shutil
import socket
import stat
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
    try:
        drop_drafts(folder)
        owner.unlink(missing_ok=True)
        with owner.open("x", encoding="utf-8") as file:  # not through a link that somebody put there
            file.write(f"process {os.getpid()} on {socket.gethostname()}")
    except BaseException:
        lock.release()
        raise
    return lock


@contextmanager
def scratch(place: Path, doing: str) -> Iterator[Path]:
    """Give an empty folder beside a file or folder that is to be made; gone in the end, or by the next one.

    Raises:
        ConfigError: another process makes the same, or somebody else began to. OSError: as `hold`.
    """
    place = Path(os.path.abspath(place))  # `.` has no name of its own
    folder = place.with_name(f".{place.name}.part")
    try:
        folder.mkdir(0o700)  # in a folder that is there
    except FileExistsError:
        _check_own(folder, doing)
    lock = hold(folder, doing)
    try:
        inside = folder / "made"
        shutil.rmtree(inside, ignore_errors=True)  # of a process that was killed
        inside.mkdir()
        yield inside
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        lock.release()


def _check_own(folder: Path, doing: str) -> None:
    """Refuse what another user put there: they could change what is made in it."""
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or (os.name == "posix" and found.st_uid != os.geteuid()):
        raise ConfigError(f"{doing}: found '{folder}', which is not yours. Remove it, or name another place.")

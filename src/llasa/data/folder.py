"""The folder that one process prepares into: its lock, what it was begun with, and safe writing."""

import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

from llasa import config
from llasa.audio import replace_file
from llasa.data import index, shards
from llasa.data.index import Split
from llasa.data.rejects import Reject
from llasa.errors import BundleError, ConfigError
from llasa.held import hold
from llasa.shortage import of_room

REJECTS, RUN = "rejects.jsonl", "run.json"
_BLOCK = 4096  # bytes by which files grow
_FREE = f"Free {_BLOCK} bytes there and run the same command again"
_LIBRARIES = ("llasa", "numpy", "pyarrow", "soundfile", "soxr", "torch")


class Folder:
    """What a folder holds and how it grows. entries: its complete shards. whole: nothing is missing."""

    def __init__(self, path: Path) -> None:
        """Make the folder if need be, and take its lock.

        Raises:
            ConfigError: it cannot be written to, holds other things, or somebody else is writing to it.
        """
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._check_ours()
            self._lock = hold(path, f"Preparing '{path}'")
        except OSError as error:
            found = f"the system says: {error.strerror}"
            todo = _FREE if of_room(error) else "Name a folder that can be written to"
            raise ConfigError(f"Preparing '{path}': {found}. {todo}.") from error
        try:
            self._recover()
        except BaseException:
            self.close()
            raise

    def _check_ours(self) -> None:
        """Refuse a folder with other things in it, before anything is put there."""
        others = [name.name for name in self.path.iterdir() if not name.name.startswith(".")]
        if others and not (self.path / RUN).exists():
            found = f"it holds other things, such as '{others[0]}'"
            raise ConfigError(f"Preparing '{self.path}': {found}. Name an empty folder.")

    def _recover(self) -> None:
        """Forget what an earlier process did not finish."""
        found = index.load(self.path)
        self.entries, self.whole = list(found.entries), found.whole
        self._cut(index.NAME, found.end)
        self._cut(REJECTS, self.entries[-1].rejects_end if self.entries else 0)
        for file in (file for entry in self.entries for file in entry.files):
            path = self.path / file.name
            if not path.is_file() or path.stat().st_size != file.bytes:
                raise BundleError(
                    f"Preparing '{self.path}': shard '{file.name}' is gone or damaged. Start anew."
                )

    def _cut(self, name: str, size: int) -> None:
        path = self.path / name
        found = path.stat().st_size if path.exists() else 0
        if found < size:
            raise BundleError(f"Preparing '{self.path}': '{name}' is shorter than it was. Start anew.")
        if found > size:
            os.truncate(path, size)

    def start(self, facts: Mapping[str, object]) -> None:
        """Write down what the folder is made with, or compare with what it was begun with.

        Raises:
            ConfigError: it was begun with something else; says what. BundleError: its `run.json` is damaged.
        """
        path, facts = self.path / RUN, json.loads(json.dumps(facts))
        if not path.exists():
            made_by = {name: version(name) for name in _LIBRARIES} | {"python": sys.version.split()[0]}
            told = {"verb": "prepare", **facts, "made_by": made_by}
            return replace_file(path, json.dumps(told, indent=2, ensure_ascii=False).encode() + b"\n")
        try:
            was = cast(dict[str, Any], json.loads(path.read_bytes()))
        except (OSError, ValueError) as error:
            raise BundleError(f"Reading '{path}': it is damaged ({error}). Start anew.") from error
        changes = config.differences({key: was.get(key) for key in facts}, facts)
        if changes:
            todo = "Give the same again, or name an empty folder"
            raise ConfigError(
                f"Preparing '{self.path}': it was begun otherwise: {'; '.join(changes)}. {todo}."
            )

    def write(
        self,
        shard: int,
        rows: Mapping[Split, Sequence[shards.Row]],
        rejects: Sequence[Reject],
        header: shards.Header,
        before: Callable[[], None],
    ) -> None:
        """Add a shard: its files, its rejects, what `before` does, and then its line of the index.

        Raises:
            ConfigError: the disk is full; names the file and the bytes. What was there stays whole.
        """
        told = b"".join(_line(reject) for reject in rejects)
        start = self.entries[-1].rejects_end if self.entries else 0
        entry = shards.entry(self.path, shard, rows, header, len(rejects), start + len(told))
        self._append(REJECTS, told)
        before()
        self._sync()
        self._append(index.NAME, entry.line())
        self.entries.append(entry)

    def finish(self) -> None:
        """End the index."""
        self._append(index.NAME, index.last_line(len(self.entries)))
        self.whole = True

    def _append(self, name: str, data: bytes) -> None:
        path = self.path / name
        size = path.stat().st_size if path.exists() else 0
        try:
            with path.open("ab", buffering=0) as file:
                file.write(data)
                os.fsync(file.fileno())
            if path.stat().st_size != size + len(data):
                raise OSError(28, "No space left on device")
        except OSError as error:
            if path.exists():
                os.truncate(path, size)
            todo = f"Free {max(len(data), _BLOCK)} bytes there and run the same command again"
            raise ConfigError(f"Writing '{path}': the system says: {error.strerror}. {todo}.") from error

    def _sync(self) -> None:
        """Make sure that renamed files are still there after a power cut, where the system can."""
        if not hasattr(os, "O_DIRECTORY"):
            return
        descriptor = os.open(self.path, os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        except OSError as error:
            found = f"the system says: {error.strerror}"
            todo = _FREE if of_room(error) else "See to the disk and run the same command again"
            raise ConfigError(f"Writing '{self.path}': {found}. {todo}.") from error
        finally:
            os.close(descriptor)

    def reasons(self) -> Counter[str]:
        """Return how many rows were rejected, by reason."""
        if not self.entries:
            return Counter()
        with (self.path / REJECTS).open(encoding="utf-8") as lines:
            return Counter(json.loads(line)["reason"] for line in lines)

    def close(self) -> None:
        """Give the lock back."""
        self._lock.release()


def _line(reject: Reject) -> bytes:
    # Names of files may hold what UTF-8 cannot; the escapes that Python writes for it are JSON's as well.
    return json.dumps(reject.row(), ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"

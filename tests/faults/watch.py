"""One hook into a process: what it does is counted, and at one of these points a fault comes.

Points are those that Python's profiler sees, so no code is changed, and a number names the same point again.
"""

import errno
import io
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Any, Literal

# What changes a disk: of `os`, of open files, of safetensors' and torch's writers.
DISK = frozenset((
    "fsync", "mkdir", "rename", "replace", "rmdir", "serialize_file", "truncate", "unlink", "write",
    "write_end_of_file", "write_record",
))  # fmt: skip
GROWS = frozenset(("fsync", "mkdir", "replace", "write"))  # and says so itself when there is no room


Kind = Literal["any", "disk", "grows"]


@dataclass(frozen=True)
class Point:
    """Where a fault comes, and which.

    at: number of the point, from 1 on; 0 only counts. kind: `any` call, return or raise, in Python or in C;
    `disk`, before and after each change of the disk; `grows`, before each that needs room. after: a function
    before whose first call no point counts. signals: sent to this process; none: the error of a full disk.
    """

    at: int = 0
    kind: Kind = "any"
    after: str = ""
    signals: tuple[int, ...] = (signal.SIGKILL,)


class Watch:
    """Counts points of this thread, and lets the fault come.

    count: so far. calls: of the function `after`. asked: when the fault came. tell: is told both before it.
    """

    def __init__(self, point: Point, tell: Callable[[int, int], None]) -> None:
        self.point, self._tell = point, tell
        self.count = self.calls = 0
        self.asked: float | None = None

    def __enter__(self) -> "Watch":
        sys.setprofile(self._saw)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def _saw(self, frame: FrameType, event: str, of: Any) -> None:
        point = self.point
        if point.after:
            self.calls += event == "call" and frame.f_code.co_name == point.after
            if not self.calls:
                return
        if point.kind != "any" and not _changes(point.kind, event, of):
            return
        self.count += 1
        if self.count == point.at:
            self.asked = time.monotonic()
            self._tell(self.count, self.calls)
            if not point.signals:
                raise OSError(errno.ENOSPC, "No space left on device")
            for number in point.signals:
                os.kill(os.getpid(), number)


def _changes(kind: Kind, event: str, of: Any) -> bool:
    """Whether a point is a change of the disk, beside what is said to a terminal."""
    if event not in (("c_call", "c_return") if kind == "disk" else ("c_call",)):
        return False
    name, own = getattr(of, "__name__", ""), getattr(of, "__self__", None)
    if name not in (DISK if kind == "disk" else GROWS):
        return False
    if name == "write":  # to a file, not to memory
        return (
            isinstance(own, io.IOBase) and not isinstance(own, io.StringIO | io.BytesIO) and own not in _SAID
        )
    return not isinstance(own, str | bytes)  # which have a `replace` too


_SAID = (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)

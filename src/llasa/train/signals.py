"""What a running training is asked from outside: to stop when it can, to stop now, to save and go on."""

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from llasa.train import group

_HEARD = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class Signals:
    """Listens inside a `with` block of the main thread.

    TERM, and INT for the first time: stop after this step. INT after that: KeyboardInterrupt, at once.
    USR1: save, and go on.
    """

    def __init__(self) -> None:
        self.stop = self.save = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Signals":
        if threading.current_thread() is threading.main_thread():  # Python lets no other thread listen
            self._before = {number: signal.signal(number, self._hear) for number in _HEARD}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._before:
            signal.signal(*self._before.popitem())

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGUSR1:
            self.save = True
        elif number == signal.SIGINT and self.stop:
            raise KeyboardInterrupt
        else:
            self.stop = True
            # print() is not safe here: the signal may have come in the middle of one.
            os.write(2, b"\nFinishing this step, then saving. Ctrl-C again stops at once.\n")

    def take(self) -> tuple[bool, bool]:
        """Return (stop, save) as asked in any process; a save is asked for once."""
        stop, save = group.highest(self.stop, self.save)
        self.save = False
        return bool(stop), bool(save)

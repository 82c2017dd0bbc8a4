"""Where sound goes while it is made: a program that plays it, or standard output; whether it came in time."""

import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Protocol

from llasa.errors import ConfigError

if TYPE_CHECKING:
    from llasa.core import Audio

# Of raw samples: 16 bits, one channel, at the rate that goes into the braces.
PLAYERS = {
    "aplay": ("-q", "-t", "raw", "-f", "S16_LE", "-c", "1", "-r", "{}", "-"),
    "pw-cat": ("-p", "--format", "s16", "--channels", "1", "--rate", "{}", "-"),
    "paplay": ("--raw", "--format=s16le", "--channels=1", "--rate={}"),
    "ffplay": ("-nodisp", "-autoexit", "-loglevel", "error", "-f", "s16le", "-ar", "{}", "-i", "-"),
}


class Sink(Protocol):
    """Takes a sound piece by piece."""

    def push(self, audio: "Audio") -> None:
        """Take a piece."""
        ...

    def close(self) -> None:
        """End the sound."""
        ...


class Player:
    """A program that plays what it is given; giving it a piece never waits. ConfigError if it failed."""

    def __init__(self) -> None:
        self._name = self.check()
        self._pieces = SimpleQueue[bytes | None]()
        self._thread: Thread | None = None
        self._trouble: str | None = None

    @staticmethod
    def check() -> str:
        """Return the name of a program that is there; ConfigError if none is."""
        if found := next((name for name in PLAYERS if shutil.which(name)), None):
            return found
        raise ConfigError(f"Playing: found none of {', '.join(PLAYERS)}. Install one, or leave out --play.")

    def push(self, audio: "Audio") -> None:
        """Play a piece after those before it."""
        from llasa.audio import to_int16

        if self._thread is None:
            self._thread = Thread(target=self._play, args=(audio.sample_rate,), daemon=True)
            self._thread.start()
        self._pieces.put(to_int16(audio.samples).tobytes())

    def close(self) -> None:
        """Wait until all is played; ConfigError if the program failed."""
        if self._thread is None:
            return
        self._pieces.put(None)
        self._thread.join()
        if self._trouble:
            todo = "Check the sound card, or leave out --play"
            raise ConfigError(f"Playing with {self._name}: {self._trouble}. {todo}.")

    def _play(self, sample_rate: int) -> None:
        options = [option.format(sample_rate) for option in PLAYERS[self._name]]
        pipe = subprocess.PIPE
        try:
            with subprocess.Popen([self._name, *options], stdin=pipe, stderr=pipe) as program:
                said = self._feed(program)
            if program.returncode:
                last = said.decode(errors="replace").strip().splitlines()[-1:]
                self._trouble = last[0] if last else f"it ended with {program.returncode}"
        except OSError as error:
            self._trouble = str(error.strerror)

    def _feed(self, program: "subprocess.Popen[bytes]") -> bytes:
        """Hand on the pieces, and return what the program complained of."""
        assert program.stdin is not None
        try:
            while (data := self._pieces.get()) is not None:
                program.stdin.write(data)
                program.stdin.flush()
        except BrokenPipeError:  # it has ended; why is what it says
            pass
        return program.communicate()[1] if program.stdin.closed else program.communicate(b"")[1]


class Output:
    """Standard output, as a wav file; unless it is given whole, its header does not know its length."""

    def __init__(self, tags: Mapping[str, str], whole: bool) -> None:
        self._tags, self._whole = tags, whole
        self._encoder = None

    def push(self, audio: "Audio") -> None:
        """Write a piece."""
        from llasa.audio import Encoder

        if self._encoder is None:
            self._encoder = Encoder("wav", audio.sample_rate, self._whole, tags=self._tags)
        self._write(self._encoder.push(audio))

    def close(self) -> None:
        """Write what ends the file."""
        if self._encoder is not None:
            self._write(self._encoder.close())

    def _write(self, data: bytes) -> None:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()


class Watched:
    """Sound on its way, and when it came.

    first_s: from when this was made to the first piece. underruns: pieces that came after all before them
    would have been played, had playing begun with the first.
    """

    def __init__(self, sounds: "Iterable[Audio]") -> None:
        self._sounds, self._began = sounds, time.perf_counter()
        self.first_s, self.underruns = 0.0, 0

    def __iter__(self) -> "Iterator[Audio]":
        ends = None
        for piece in self._sounds:
            now = time.perf_counter()
            if ends is None:
                self.first_s, ends = now - self._began, now
            elif now > ends:
                self.underruns, ends = self.underruns + 1, now
            ends += piece.duration_s
            yield piece


def handed(sounds: "Iterable[Audio]", sinks: "Sequence[Sink]") -> "Audio":
    """Give every piece to every sink as it comes, and return the whole sound."""
    from llasa.spoken import concatenated

    def passing() -> "Iterator[Audio]":
        for piece in sounds:
            for sink in sinks:
                sink.push(piece)
            yield piece

    return concatenated(passing())

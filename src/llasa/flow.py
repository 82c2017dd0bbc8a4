"""Speech while it is made: segments piece by piece, codes in pieces that are worth decoding.

Must not know: search, judges, how prompts are made.
"""

import math
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from typing import TypeVar

from llasa.bundle import Bundle
from llasa.codec.base import Codec
from llasa.core import Audio, Candidate, Codes, Generation, Voice
from llasa.engines.base import Request
from llasa.errors import EngineError
from llasa.jobs import Ready, codes_per_s
from llasa.seams import join
from llasa.spoken import EDGE_SILENCE_S, Spoken, concatenated
from llasa.stream import FIRST_LOOK_AHEAD, decode_stream, held_back
from llasa.text.segment import Segment

# Seconds heard of the first piece and, at least, of the second; while one is played, a longer one is drawn.
FIRST_S, SECOND_S, MOST_S, GROWTH = 0.3, 0.2, 3.2, 1.5

T = TypeVar("T")
Part = Generator[Audio, None, Spoken]  # the sound of a segment, and what became of it


def flowing(parts: Generator[Part], told: Callable[[Spoken], None]) -> Iterator[Audio]:
    """Yield the sound of segments, piece by piece, with the pauses that their text asks for.

    Args:
        told: is given each segment that has ended.

    Raises:
        EngineError: the engine failed, or no segment has any sound.
    """
    pauses, silent = deque[float](), True

    def ended(part: Part) -> Iterator[Audio]:
        with closing(part):
            spoken = yield from part
        if spoken.candidate.audio is not None:
            pauses.append(spoken.segment.pause_s)
        told(spoken)

    with closing(parts):
        for piece in join(map(ended, parts), iter(pauses.popleft, None), max_silence_s=EDGE_SILENCE_S):
            silent = False
            yield piece
    if silent:
        raise EngineError("Speaking: no segment came out with any speech. Try another seed or voice.")


def heard(
    codec: Codec, voice: Voice | None, codes: Generator[Codes, None, T]
) -> Generator[Audio, None, tuple[T, Audio | None]]:
    """Yield the sound of codes while they come; return what they return, and all sound, None without any."""
    given, ended = list[Audio](), list[T]()

    def coming() -> Iterator[Codes]:
        ended.append((yield from codes))

    for piece in decode_stream(
        codec, coming(), voice.codes if voice else None, first_look_ahead=FIRST_LOOK_AHEAD
    ):
        given.append(piece)
        yield piece
    return ended[0], concatenated(given) if given else None


class Drawn:
    """Segments that are heard while they are drawn, the next one being drawn as soon as the last is.

    One request at a time, so a seed repeats.
    """

    def __init__(self, bundle: Bundle, segments: Sequence[Segment], jobs: Sequence[Ready]) -> None:
        self._bundle, self._total = bundle, len(jobs)
        self._waiting = deque(zip(segments, jobs, range(1, len(jobs) + 1), strict=True))
        self._request: Request | None = None

    def parts(self) -> Generator[Part]:
        """Yield the segments."""
        self._submit()
        try:
            while self._waiting:
                yield self._part(*self._waiting.popleft())
        finally:
            if self._request is not None:
                self._request.cancel()

    def _submit(self) -> None:
        if self._waiting:
            job = self._waiting[0][1]
            self._request = self._bundle.engine.submit(job.prompt, job.params)

    def _part(self, segment: Segment, job: Ready, number: int) -> Part:
        codec, said = self._bundle.codec, job.utterance
        made, sound = yield from heard(codec, said.voice, self._codes())
        candidate = Candidate(said, self._bundle.prompt.codes(made.ids), made.finish, audio=sound)
        return Spoken(segment, candidate, number, self._total, job.dropped, made.stats, job.params)

    def _codes(self) -> Generator[Codes, None, Generation]:
        request = self._request
        assert request is not None  # submitted before this segment's turn
        yield from pieces(
            request,
            self._bundle.prompt.codes,
            sizes(codes_per_s(self._bundle), held_back(self._bundle.codec)),
        )
        self._submit()
        return request.result()[0]


def sizes(rate: float, held: tuple[int, int]) -> Iterator[int]:
    """Yield how many codes to wait for before each piece is worth decoding.

    Args:
        rate: codes a second. held: codes that are held back before the first piece and later.
    """
    early, later = held
    yield early + math.ceil(FIRST_S * rate)
    size = later - early + SECOND_S * rate
    while True:
        yield math.ceil(min(size, MOST_S * rate))
        size *= GROWTH


def pieces(request: Request, codes: Callable[[list[int]], Codes], sizes: Iterator[int]) -> Iterator[Codes]:
    """Yield the codes of a request's only candidate, each once; what was given is not withdrawn.

    Args:
        codes: of drawn ids. sizes: codes in each piece, at least; the end may be shorter.

    Raises:
        EngineError: the engine failed.
    """
    size, waiting = next(sizes), list[int]()
    for step in request:
        # A loop is withdrawn as far as it has not been given.
        del waiting[max(len(waiting) - step.rollback, 0) :]
        waiting += step.ids
        if len(waiting) >= size:
            yield codes(waiting)
            size, waiting = next(sizes), []
    if waiting:
        yield codes(waiting)

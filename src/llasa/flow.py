"""Speech while it is drawn: codes in pieces that are worth decoding, segments one after another.

Must not know: search, judges, how prompts are made.
"""

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from llasa.bundle import Bundle
from llasa.core import Audio, Candidate, Codes
from llasa.engines.base import Request
from llasa.errors import EngineError
from llasa.jobs import Ready, codes_per_s
from llasa.seams import join
from llasa.spoken import EDGE_SILENCE_S, Spoken, concatenated
from llasa.stream import behind, decode_stream
from llasa.text.segment import Segment

# A first piece that is heard soon; while one is played, a longer one is drawn.
FIRST_S, MOST_S, GROWTH = 0.2, 3.2, 2
FIRST_LOOK_AHEAD = 10  # codes


class Flow:
    """Speaks segments, the next one as soon as the last is drawn: one request at a time, so a seed repeats.

    told: is given each segment that has ended.
    """

    def __init__(
        self,
        bundle: Bundle,
        segments: Sequence[Segment],
        jobs: Sequence[Ready],
        told: Callable[[Spoken], None],
    ) -> None:
        self._bundle, self._told = bundle, told
        self._waiting = deque(zip(segments, jobs, range(1, len(jobs) + 1), strict=True))
        self._total, self._pauses = len(jobs), deque[float]()
        self._request: Request | None = None

    def sounds(self) -> Iterator[Audio]:
        """Yield the sound, piece by piece.

        Raises:
            EngineError: the engine failed, or no segment has any sound.
        """
        silent = True
        self._submit()
        try:
            for piece in join(self._parts(), self._between(), max_silence_s=EDGE_SILENCE_S):
                silent = False
                yield piece
        finally:
            if self._request is not None:
                self._request.cancel()
        if silent:
            raise EngineError("Speaking: no segment came out with any speech. Try another seed or voice.")

    def _submit(self) -> None:
        if self._waiting:
            job = self._waiting[0][1]
            self._request = self._bundle.engine.submit(job.prompt, job.params)

    def _parts(self) -> Iterator[Iterator[Audio]]:
        while self._waiting:
            yield self._part(*self._waiting.popleft())

    def _part(self, segment: Segment, job: Ready, number: int) -> Iterator[Audio]:
        request, given = self._request, list[Audio]()
        assert request is not None  # submitted before this segment's turn
        voice = job.utterance.voice
        drawn = self._drawn(request)
        sounds = decode_stream(
            self._bundle.codec, drawn, voice.codes if voice else None, first_look_ahead=FIRST_LOOK_AHEAD
        )
        for piece in sounds:
            given.append(piece)
            yield piece
        if given:
            self._pauses.append(segment.pause_s)
        self._told(self._spoken(segment, job, number, request, given))

    def _drawn(self, request: Request) -> Iterator[Codes]:
        rate, late = codes_per_s(self._bundle), behind(self._bundle.codec)
        first, most = math.ceil(FIRST_S * rate), math.ceil(MOST_S * rate)
        yield from pieces(request, self._bundle.prompt.codes, first, most, late)
        self._submit()

    def _spoken(
        self, segment: Segment, job: Ready, number: int, request: Request, given: Sequence[Audio]
    ) -> Spoken:
        [made] = request.result()
        sound = concatenated(given) if given else None
        candidate = Candidate(job.utterance, self._bundle.prompt.codes(made.ids), made.finish, audio=sound)
        return Spoken(segment, candidate, number, self._total, job.dropped, made.stats, job.params)

    def _between(self) -> Iterator[float]:
        while True:
            yield self._pauses.popleft()


def pieces(
    request: Request, codes: Callable[[list[int]], Codes], first: int, most: int, late: int = 0
) -> Iterator[Codes]:
    """Yield the codes of a request's only candidate, each once; what was given is not withdrawn.

    Args:
        codes: of drawn ids. first: codes in the first piece. most: in any; pieces grow up to it.
        late: codes more in the first piece, as many as its decoder holds back.

    Raises:
        EngineError: the engine failed.
    """
    size, waiting = first, list[int]()
    for step in request:
        # A loop is withdrawn as far as it has not been given.
        del waiting[max(len(waiting) - step.rollback, 0) :]
        waiting += step.ids
        if len(waiting) >= size + late:
            yield codes(waiting)
            size, waiting, late = min(size * GROWTH, most), [], 0
    if waiting:
        yield codes(waiting)

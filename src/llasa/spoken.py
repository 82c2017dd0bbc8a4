"""A segment of a text, said, and how segments become one sound. Must not know: engines, prompts, codecs."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import tee

import numpy as np

from llasa.core import Audio, Candidate, SamplingParams
from llasa.errors import EngineError
from llasa.seams import join, kept
from llasa.search import Ranking
from llasa.text.segment import Segment

EDGE_SILENCE_S = 0.1  # kept at the ends of a segment: pauses are the text's business


@dataclass(frozen=True)
class Spoken:
    """One segment, said.

    candidate: its `audio` is None if it has no codes. number, total: which of how many segments, from 1.
    dropped: pieces of the text that could not be said. stats: the engine's seconds and counts, and `codec_s`;
    of a search, its seconds and counts. params: how it was drawn. ranking: all that was tried, if it was
    searched for.
    """

    segment: Segment
    candidate: Candidate
    number: int = 1
    total: int = 1
    dropped: tuple[str, ...] = ()
    stats: Mapping[str, float] = field(default_factory=dict[str, float])
    params: SamplingParams = field(default_factory=SamplingParams)
    ranking: Ranking | None = None

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a listener should know, one sentence each; nothing if all went well."""
        place, finish = f"Segment {self.number} of {self.total}", self.candidate.finish
        found = [f"{place}: could not say {' '.join(map(repr, self.dropped))}."] if self.dropped else []
        if self.candidate.audio is None:
            return (*found, f"{place}: no speech came ({finish}).")
        if self.ranking and self.ranking.judged[0].status == "bad":
            found.append(f"{place}: no candidate passed ({self.ranking.judged[0].reason}).")
        if self.ranking and (unsure := self.ranking.pace.get("blocks_unsure")):
            found.append(f"{place}: no candidate passed in {unsure:.0f} of its blocks.")
        return (*found, *([f"{place}: ended by {_ENDS[finish]}."] if finish in _ENDS else []))


_ENDS = {"length": "the length limit, words may be missing", "loop": "a loop, words may be missing"}


def voiced(spoken: Iterable[Spoken]) -> Iterator[Audio]:
    """Yield the sounds of segments as they come, with the pauses that their text asks for.

    Raises:
        EngineError: none of them has any sound.
    """
    heard, again = tee(one for one in spoken if one.candidate.audio is not None)
    sounds = ([one.candidate.audio] for one in heard if one.candidate.audio is not None)
    pauses = (one.segment.pause_s for one in again)
    silent = True
    for piece in join(sounds, pauses, max_silence_s=EDGE_SILENCE_S):
        silent = False
        yield piece
    if silent:
        raise EngineError("Speaking: no segment came out with any speech. Try another seed or voice.")


def shifts(spoken: Sequence[Spoken]) -> list[float]:
    """Return what to add to a time in each segment's own sound for its time in the joined sound, seconds."""
    found, at_s = list[float](), 0.0
    for one in spoken:
        if (audio := one.candidate.audio) is None:
            found.append(at_s)
            continue
        start, end = kept(audio, EDGE_SILENCE_S)
        found.append(at_s - start / audio.sample_rate)
        at_s += (end - start) / audio.sample_rate + one.segment.pause_s
    return found


def concatenated(pieces: Iterable[Audio]) -> Audio:
    """Return the pieces of a stream, at least one and all of one rate, as one sound."""
    parts = list(pieces)
    return Audio(np.concatenate([part.samples for part in parts]), parts[0].sample_rate)

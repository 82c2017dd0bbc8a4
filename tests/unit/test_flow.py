"""Speech while it is drawn: what is heard before the end, what is withdrawn, what comes of a failure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice, repeat
from pathlib import Path

import numpy as np
import pytest

from llasa.bundle import load_bundle
from llasa.codec.compact import CompactCodec
from llasa.core import Generation, Ids, SamplingParams
from llasa.engines.base import Step
from llasa.errors import EngineError
from llasa.flow import pieces, sizes
from llasa.spoken import Spoken
from llasa.stream import held_back
from llasa.synthesizer import Synthesizer
from tests.conftest import with_streaming

LENGTH = 120


@dataclass
class Drip:
    """A request that gives an id a step and counts them; `fails` after so many."""

    first_id: int
    fails: int | None = None
    given: int = 0
    cancelled: bool = False

    def __iter__(self) -> Iterator[Step]:
        for number in range(LENGTH):
            if number == self.fails:
                raise EngineError("Drawing: the plug was pulled.")
            self.given += 1
            yield Step(0, [self.first_id + number % 60], "stop" if number == LENGTH - 1 else None)

    def cancel(self, candidate: int | None = None) -> None:
        self.cancelled = True

    def result(self) -> list[Generation]:
        return [Generation([self.first_id + number % 60 for number in range(LENGTH)], "stop")]


@dataclass
class Taps:
    """An engine of such requests."""

    first_id: int
    fails: Sequence[int | None] = (None,)
    name: str = "taps"
    max_length: int = 4096
    concurrency: int = 1
    made: list[Drip] = field(default_factory=list)

    def submit(self, prompt: Ids, params: SamplingParams) -> Drip:
        self.made.append(Drip(self.first_id, self.fails[len(self.made) % len(self.fails)]))
        return self.made[-1]


def tapped(folder: Path, *fails: int | None) -> tuple[Synthesizer, Taps]:
    bundle = load_bundle(folder)
    engine = Taps(bundle.prompt.first_code_id, fails or (None,))
    return Synthesizer(bundle.with_engine(engine)), engine


def test_the_first_piece_is_heard_long_before_the_last_code(tiny_bundle: Path) -> None:
    speaker, engine = tapped(tiny_bundle)
    sounds = speaker.stream("The cat sat.")
    assert len(next(sounds).samples)
    assert engine.made[0].given < LENGTH / 2
    assert sum(len(piece.samples) for piece in sounds)


def test_a_codec_with_a_streaming_decoder_streams_by_it(tiny_bundle: Path, tmp_path: Path) -> None:
    speaker, engine = tapped(with_streaming(tiny_bundle, tmp_path / "bundle"))
    codec, spoken = speaker.bundle.codec, list[Spoken]()
    sounds = speaker.stream("The cat sat.", told=spoken.append)
    assert len(next(sounds).samples)
    assert engine.made[0].given == 8 + held_back(codec)[0]  # 0.3 s, and what is held back
    list(sounds)
    [one] = spoken
    context = one.candidate.utterance.voice and one.candidate.utterance.voice.codes
    assert isinstance(codec, CompactCodec) and codec.causal and one.candidate.audio
    said = one.candidate.audio.samples
    [whole] = codec.causal.decode([one.candidate.codes], context)
    [other] = codec.decode([one.candidate.codes], context)
    assert len(said) == len(whole.samples) == LENGTH * codec.hop_length
    error, apart = (float(np.square(said - sound.samples).sum()) for sound in (whole, other))
    assert 100 * error < apart


def test_the_next_segment_is_drawn_once_the_last_one_is(tiny_bundle: Path) -> None:
    speaker, engine = tapped(tiny_bundle)
    counts = [[one.given for one in engine.made] for _ in speaker.stream("The cat sat. It was happy!")]
    assert [0] not in counts and counts[-1] == [LENGTH, LENGTH]
    assert all(first == LENGTH for first, *others in counts if others)


def test_who_stops_listening_stops_the_drawing(tiny_bundle: Path) -> None:
    speaker, engine = tapped(tiny_bundle)
    sounds = speaker.stream("The cat sat. It was happy!")
    next(sounds)
    sounds.close()  # pyright: ignore
    assert engine.made[-1].cancelled


def test_a_failure_ends_the_sound_with_an_error(tiny_bundle: Path) -> None:
    speaker, _ = tapped(tiny_bundle, 60)
    heard = 0
    with pytest.raises(EngineError, match="plug"):
        for piece in speaker.stream("The cat sat."):
            heard += len(piece.samples)
    assert heard


def test_what_a_loop_withdraws_is_not_said_if_it_has_not_been() -> None:
    class Looping(Drip):
        def __iter__(self) -> Iterator[Step]:
            yield Step(0, [1, 2, 3])
            yield Step(0, [4, 4, 4])
            yield Step(0, [], "loop", rollback=5)

    def given(first: int, then: int) -> list[list[int]]:
        return list(pieces(Looping(0), lambda ids: list(ids), chain([first], repeat(then))))

    assert given(3, 6) == [[1, 2, 3]]
    assert given(4, 8) == [[1, 2, 3, 4, 4, 4]]
    assert given(50, 50) == [[1]]
    assert given(1, 2) == [[1, 2, 3], [4, 4, 4]]


def test_pieces_grow_while_those_before_are_played() -> None:
    assert list(islice(sizes(25, (10, 20)), 8)) == [18, 15, 23, 34, 51, 76, 80, 80]
    assert list(islice(sizes(50, (10, 20)), 3)) == [25, 20, 30]
    assert list(islice(sizes(25, (3, 3)), 3)) == [11, 5, 8]  # a streaming decoder holds back less

"""A source of rows that are known, and a codec without a model, for tests of preparing."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from llasa.core import Audio, Clip, Codes
from llasa.data.rejects import Reject
from llasa.data.sources.coded import Coded


@dataclass(frozen=True)
class Listed:
    """A source of these rows."""

    made: Sequence[Clip | Coded | Reject]
    kind: str = "listed"

    def rows(self) -> Iterator[Clip | Coded | Reject]:
        yield from self.made


class Plain:
    """A codec whose codes are the loudness of 40 ms."""

    sample_rate, codebook_size, hop_length = 16_000, 4096, 640

    def __init__(self, name: str = "plain@0") -> None:
        self.name = name

    def encode(self, audio: Sequence[Audio]) -> list[Codes]:
        return [self._codes(one.samples) for one in audio]

    def _codes(self, samples: np.ndarray) -> Codes:
        steps = samples[: self.code_count(len(samples)) * self.hop_length].reshape(-1, self.hop_length)
        return (np.abs(steps).mean(axis=1) * 4095).astype(int).tolist()

    def decode(self, codes: Sequence[Codes], context: Codes | None = None) -> list[Audio]:
        raise NotImplementedError

    def code_count(self, n_samples: int) -> int:
        return n_samples // self.hop_length

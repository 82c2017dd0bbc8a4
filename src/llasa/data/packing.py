"""Rows to batches of a token budget, by position: what is in batch i depends on (seed, i) alone.

A batch holds rows of about one length, each on a line of its own and padded on the right. A causal model
never looks to the right, so rows cannot see each other, whatever the attention kernel: no mask is needed, and
none is computed. Packing rows end to end needs a block-diagonal mask, whose empty blocks a dense kernel
computes too. What is padded is below 3% of a batch (`benchmarks/sft.py`).
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from llasa.core import Ids
from llasa.errors import ConfigError


class Order:
    """Which rows are drawn together: an epoch's rows in random order, cut into windows of a few batches.

    Every row is drawn `weights[row]` times an epoch, a fraction by chance. windows: an epoch has. batches: a
    window is cut into.
    """

    def __init__(
        self, lengths: np.ndarray, tokens: int, weights: np.ndarray, seed: int, window: int = 32
    ) -> None:
        """Take the mean lengths of rows [N] in ids, the ids of a batch, and the batches of a window at most.

        Raises:
            ConfigError: there is nothing to draw.
        """
        if not len(lengths) or not weights.sum() > 0:
            raise ConfigError("Ordering rows: there are none left to train on. Look at the rejects.")
        batches = max(1, round(float((lengths * weights).sum()) / tokens))
        self.weights, self.seed = weights, seed
        self.windows = max(1, round(batches / window))
        self.batches = max(1, round(batches / self.windows))
        self.drawn = lru_cache(maxsize=2)(self._drawn)

    @property
    def epoch(self) -> int:
        """Batches an epoch."""
        return self.windows * self.batches

    def place(self, batch: int) -> tuple[int, int, int]:
        """Return (epoch, window, batch in it) of the batch at a position in the run."""
        window, inside = divmod(batch, self.batches)
        return *divmod(window, self.windows), inside

    def rows(self, epoch: int, window: int) -> np.ndarray:
        """Return the rows of a window."""
        drawn = self.drawn(epoch)
        start, end = (len(drawn) * place // self.windows for place in (window, window + 1))
        return drawn[start:end] if end > start else drawn[:1]

    def _drawn(self, epoch: int) -> np.ndarray:
        random = np.random.default_rng((self.seed, epoch))
        times = np.floor(self.weights + random.random(len(self.weights))).astype(np.int64)
        drawn = np.repeat(np.arange(len(times), dtype=np.int64), times)
        return random.permutation(drawn) if len(drawn) else np.array([int(self.weights.argmax())])


def cut(lengths: Sequence[int] | np.ndarray, batches: int, random: np.random.Generator) -> list[list[int]]:
    """Return rows as batches of about as many ids, each of rows of about one length; batches in random order.

    Args:
        lengths: of rows, ids; at least one. batches: how many; with fewer rows, rows are used again.

    Returns:
        Positions in `lengths`; every row is in one batch.
    """
    lengths = np.asarray(lengths)
    order = np.resize(np.arange(len(lengths)), max(batches, len(lengths)))
    order = order[np.argsort(lengths[order], kind="stable")]
    filled, steps = np.cumsum(lengths[order]), np.arange(batches - 1)
    ends = np.searchsorted(filled, filled[-1] * (steps + 1) / batches) + 1
    # A row longer than its share must not leave the batches around it empty.
    ends = np.clip(np.maximum.accumulate(ends - steps), 1, len(order) - batches + 1) + steps
    parts = np.split(order, ends)
    return [parts[place].tolist() for place in random.permutation(batches)]


def padded(rows: Sequence[Ids], filler: int) -> np.ndarray:
    """Return rows as one array, int64 [B, longest], with `filler` to the right."""
    table = np.full((len(rows), max(map(len, rows))), filler, np.int64)
    for line, row in zip(table, rows, strict=True):
        line[: len(row)] = row
    return table


def waste(batches: Sequence[Sequence[int]]) -> float:
    """Return the share of padding in batches of rows of these lengths."""
    held = sum(max(lengths) * len(lengths) for lengths in batches)
    return 1 - sum(map(sum, batches)) / held

"""What was read lately, so that a prompt that begins the same is not read again. Knows no model, no request.

A prompt is read in blocks that end at fixed places, a pass each. What is kept of a block is therefore, bit
for bit, what reading it again would give: keeping changes how fast an answer comes and nothing else.

Shapes: P past ids of a prompt. A past is keys and values, each [1, heads, P, head width], layer by layer.
"""

from collections import OrderedDict
from itertools import pairwise

import torch
from torch import Tensor

from llasa.core import Ids

Past = list[tuple[Tensor, Tensor]]


class Prefixes:
    """Blocks of prompts, those used last; a block is known by all ids up to its end and who read them.

    reader: the number of an adapter; None is the model as it is.
    block: ids in a block; the last one of a prompt may be shorter. limit: ids kept in all.
    """

    def __init__(self, block: int, limit: int) -> None:
        self.block, self.limit, self.size = block, limit, 0
        self._kept: OrderedDict[tuple[int | None, tuple[int, ...]], Past] = OrderedDict()

    def blocks(self, length: int, start: int = 0) -> list[tuple[int, int]]:
        """Return (start, end) of the blocks of a prompt of `length` ids, from the end of one of them on."""
        first = (start // self.block + 1) * self.block
        return list(pairwise([start, *range(first, length, self.block), length])) if start < length else []

    def find(self, ids: Ids, reader: int | None = None) -> tuple[Past, int]:
        """Return the past of as many blocks, from the first on, as are kept, and how many ids they hold."""
        found: list[Past] = []
        length = 0
        for _, end in self.blocks(len(ids)):
            if (past := self._kept.get((reader, tuple(ids[:end])))) is None:
                break
            found.append(past)
            length = end
        layers = zip(*found, strict=True)
        return [
            (torch.cat([k for k, _ in layer], 2), torch.cat([v for _, v in layer], 2)) for layer in layers
        ], length

    def keep(self, ids: Ids, past: Past, reader: int | None = None) -> None:
        """Keep the blocks of a prompt, and forget those that were not used for longest."""
        # The first block is touched last: without it those after it would not be found.
        for start, end in reversed(self.blocks(len(ids))):
            if (name := (reader, tuple(ids[:end]))) not in self._kept:
                # Copies, since a slice would hold on to the whole.
                self._kept[name] = [(k[:, :, start:end].clone(), v[:, :, start:end].clone()) for k, v in past]
                self.size += end - start
            self._kept.move_to_end(name)
        while self.size > self.limit:
            _, dropped = self._kept.popitem(last=False)
            self.size -= dropped[0][0].shape[2]

    def clear(self) -> None:
        """Forget all."""
        self._kept.clear()
        self.size = 0

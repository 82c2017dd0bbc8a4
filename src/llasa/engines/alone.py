"""Rows that never share a pass: the slow reference that the engine's fast ways are held against.

What is computed for a row depends on its own ids only, bit for bit, since every pass has one row and none
knows of another: neither rounding nor the choice of a kernel can tell who else is in flight.
"""

import torch
from torch import Tensor, nn

from llasa.core import Ids
from llasa.engines.adapters import Adapter
from llasa.engines.backbone import Backbone, Read
from llasa.engines.head import Head
from llasa.engines.rows import Rows


class Alone:
    """A causal LM that takes a pass for each row: a `loop.Runner`."""

    def __init__(self, model: nn.Module) -> None:
        self._one = Backbone(model, sharing=False, fixed=False)
        self.vocab_size, self.device, self.sliced = self._one.vocab_size, self._one.device, self._one.sliced
        self._rows = list[tuple[Rows, list[Adapter | None]]]()

    def head(self, allowed: tuple[int, ...] | None) -> Head:
        """Return the head over some ids."""
        return self._one.head(allowed)

    def prefill(self, ids: Ids, adapter: Adapter | None = None) -> tuple[Read, int]:
        """Return the past of a prompt, and how many of its first ids were known from earlier prompts."""
        return self._one.prefill(ids, adapter)

    def add(self, past: Read, length: int, count: int) -> None:
        """Append rows; see `loop.Runner.add`."""
        for _ in range(count):
            self._one.reset()
            self._one.add(past, length, 1)
            self._rows.append((self._one.rows, self._one.adapters))

    def drop(self, row: int) -> None:
        """Remove a row; the last row takes its number."""
        self._rows[row] = self._rows[-1]
        self._rows.pop()

    def step(self, ids: Ids) -> Tensor:
        """Feed one id to each live row and return what heads read, [B, D]."""
        states = list[Tensor]()
        for (rows, adapters), token_id in zip(self._rows, ids, strict=True):
            self._one.rows, self._one.adapters = rows, adapters
            states.append(self._one.step([token_id]))
        return torch.cat(states)

    def reset(self) -> None:
        """Forget all rows and release their memory."""
        self._rows.clear()
        self._one.reset()

    def forget(self) -> None:
        """Release what is kept of earlier prompts."""
        self._one.forget()

    def close(self) -> None:
        """Leave the model as it was given."""
        self._one.close()

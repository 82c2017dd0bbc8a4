"""Decode steps of fixed shapes: on a GPU each is captured once as a CUDA graph and replayed.

A graph reads and writes fixed memory, so rows and columns come in buckets and what is not in use is padding:
a padded row sees nothing but its own newest column, and what it says is cut off. All that changes from step
to step is one tensor of numbers.

Shapes: B live rows, R >= B rows of the bucket, C columns of the bucket, D width.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llasa.core import Ids
from llasa.engines.rows import COLUMNS, Frame, Rows

_log = logging.getLogger(__name__)
# How far a captured step may be from an eager one, as norms: other kernels, other rounding.
_NEAR = {torch.float32: 1e-3, torch.float64: 1e-6}
_NEAR_ELSE = 0.03
_WARM = 2  # runs before a capture: libraries set themselves up

Trunk = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass
class _Graph:
    numbers: Tensor
    states: Tensor
    graph: "torch.cuda.CUDAGraph"


class Captured:
    """Steps of fixed shapes over rows whose memory keeps its place.

    trunk: ids and positions [R, 1] and mask [R, 1, 1, C] to what heads read, [R, D].
    trusted: False once a captured step was not what an eager one was; from then on it must not be used.
    """

    def __init__(self, trunk: Trunk, rows: Rows, device: torch.device) -> None:
        self._trunk, self._rows, self._device = trunk, rows, device
        self._graphs: dict[tuple[int, int], _Graph] = {}
        self._weights: Sequence[int] = ()
        self._buffers = 0
        self._pool = None
        self.trusted = True

    def step(self, ids: Ids, eager: Callable[[], Tensor]) -> Tensor:
        """Feed one id to each live row and return what heads read, [B, D].

        eager: takes the same step without fixed shapes; asked when a shape is met for the first time.
        """
        shape, numbers = self._shape(), self._numbers(ids)
        if self._device.type != "cuda":
            return self._run(shape, numbers)[: len(ids)]
        if self._buffers != self._rows.window.buffers:
            self._graphs.clear()
            self._buffers = self._rows.window.buffers
        if (found := self._graphs.get(shape)) is None:
            return self._first(shape, numbers, eager())
        found.numbers.copy_(numbers)
        found.graph.replay()
        return found.states[: len(ids)]

    def follow(self, weights: Sequence[int]) -> None:
        """Forget all graphs if the addresses of the weights are others than before."""
        if weights != self._weights:
            self._graphs.clear()
        self._weights = weights

    def _shape(self) -> tuple[int, int]:
        window = self._rows.window
        rows = 1 << (len(window.starts) - 1).bit_length()
        return rows, min(window.columns, (window.cursor // COLUMNS + 1) * COLUMNS)

    def _numbers(self, ids: Ids) -> Tensor:
        """Return ids, positions and first columns of R rows, then the cursor, [3 R + 1]."""
        window, padding = self._rows.window, self._shape()[0] - len(ids)
        numbers = [*ids, *[0] * padding, *self._rows.positions(), *[0] * padding]
        numbers += [*window.starts, *[window.cursor] * padding, window.cursor]
        return torch.tensor(numbers, device=self._device)

    def _run(self, shape: tuple[int, int], numbers: Tensor) -> Tensor:
        """Take the step and return what heads read, [R, D]; the host decides nothing in between."""
        ids, positions, starts = numbers[:-1].view(3, -1, 1)
        cursor = numbers[-1:]
        columns = torch.arange(shape[1], device=self._device)
        mask = ((columns >= starts) & (columns <= cursor))[:, None, None]
        self._rows.window.frame = Frame(*shape, cursor)
        try:
            return self._trunk(ids, positions, mask)
        finally:
            self._rows.window.frame = None

    def _first(self, shape: tuple[int, int], numbers: Tensor, expected: Tensor) -> Tensor:
        """Capture the step, see that it does what the eager one did, and return what that one said."""
        try:
            made = self._capture(shape, numbers)
            made.graph.replay()
            apart = float((made.states[: len(expected)] - expected).float().norm() / expected.float().norm())
        except RuntimeError as error:
            self._give_up(shape, f"it could not be captured: {error}")
            return expected
        if not apart <= _NEAR.get(expected.dtype, _NEAR_ELSE):
            self._give_up(shape, f"its states were {apart:.2g} apart from those of an eager step")
        else:
            self._graphs[shape] = made
        return expected

    def _capture(self, shape: tuple[int, int], numbers: Tensor) -> _Graph:
        aside = torch.cuda.Stream(self._device)
        aside.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(aside):
            for _ in range(_WARM):
                self._run(shape, numbers)
        torch.cuda.current_stream(self._device).wait_stream(aside)
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        # Other threads may decode sound on the same device meanwhile.
        with torch.cuda.graph(graph, self._pool, capture_error_mode="thread_local"):
            states = self._run(shape, numbers)
        return _Graph(numbers, states, graph)

    def _give_up(self, shape: tuple[int, int], reason: str) -> None:
        self.trusted = False
        self._graphs.clear()
        _log.warning(
            "A captured decode step of %d rows and %d columns was refused: %s. Steps run one kernel at a "
            "time from now on: slower, and right.",
            *shape,
            reason,
        )

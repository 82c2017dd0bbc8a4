"""The output head over the ids that may be drawn. Knows no sampling, requests or threads.

Shapes: B rows, A allowed ids, V vocabulary, D width.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from llasa.core import Ids
from llasa.engines.quantized import Int8Linear


class Head:
    """The output head over some ids only: state of the trunk in, logits of those ids out.

    ids: the allowed ids, ascending; None means all. int8: whether its own copy of the rows is in 8 bits.
    """

    def __init__(
        self,
        projection: nn.Linear | None,
        ids: Ids | None,
        width: int,
        device: torch.device,
        int8: bool = False,
    ) -> None:
        self.ids = ids
        self.width = len(ids) if ids is not None else width
        self._projection, self._int8 = projection, int8
        self._index = None if ids is None else torch.tensor(ids, device=device)
        self._columns = None if ids is None else {token_id: column for column, token_id in enumerate(ids)}
        self._version: tuple[int, int] | None = None

    def __call__(self, state: Tensor) -> Tensor:
        """Return logits, float32 [B, A]; `state` is [B, D], or [B, V] where the head is not told apart."""
        if self._projection is None:
            return (state if self._index is None else state[:, self._index]).float()
        return self._rows(self._projection)(state).float()

    def column(self, token_id: int) -> int | None:
        """Return the column of an id, None if it is not allowed."""
        return token_id if self._columns is None else self._columns.get(token_id)

    def token_ids(self, columns: list[int]) -> Ids:
        """Return the ids of some columns."""
        return columns if self.ids is None else [self.ids[column] for column in columns]

    def _rows(self, projection: nn.Linear) -> Callable[[Tensor], Tensor]:
        weight, bias = projection.weight, projection.bias
        # A policy in training changes under us: copy the rows again whenever its optimiser has written.
        version = (weight.data_ptr(), 0 if weight.is_inference() else weight._version)
        if version != self._version:
            if self._index is not None:
                weight, bias = weight[self._index], None if bias is None else bias[self._index]
            self._project = _int8(weight, bias) if self._int8 else partial(_linear, weight, bias)
            self._version = version
        return self._project


def _linear(weight: Tensor, bias: Tensor | None, state: Tensor) -> Tensor:
    return nn.functional.linear(state, weight, bias)


def _int8(weight: Tensor, bias: Tensor | None) -> Callable[[Tensor], Tensor]:
    rows = Int8Linear(weight, bias)
    return lambda state: rows(state.float())  # its sums are worth more than bfloat16 would leave of them

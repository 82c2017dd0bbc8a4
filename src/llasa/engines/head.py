"""The output head over the ids that may be drawn. Knows no sampling, requests or threads.

Shapes: B rows, A allowed ids, V vocabulary, D width.
"""

import torch
from torch import Tensor, nn

from llasa.core import Ids


class Head:
    """The output head over some ids only: state of the trunk in, logits of those ids out.

    ids: the allowed ids, ascending; None means all.
    """

    def __init__(
        self, projection: nn.Linear | None, ids: Ids | None, width: int, device: torch.device
    ) -> None:
        self.ids = ids
        self.width = len(ids) if ids is not None else width
        self._projection = projection
        self._index = None if ids is None else torch.tensor(ids, device=device)
        self._columns = None if ids is None else {token_id: column for column, token_id in enumerate(ids)}
        self._version: tuple[int, int] | None = None

    def __call__(self, state: Tensor) -> Tensor:
        """Return logits, float32 [B, A]; `state` is [B, D], or [B, V] where the head is not told apart."""
        if self._projection is None:
            return (state if self._index is None else state[:, self._index]).float()
        return nn.functional.linear(state, *self._weights(self._projection)).float()

    def column(self, token_id: int) -> int | None:
        """Return the column of an id, None if it is not allowed."""
        return token_id if self._columns is None else self._columns.get(token_id)

    def token_ids(self, columns: list[int]) -> Ids:
        """Return the ids of some columns."""
        return columns if self.ids is None else [self.ids[column] for column in columns]

    def _weights(self, projection: nn.Linear) -> tuple[Tensor, Tensor | None]:
        weight, bias = projection.weight, projection.bias
        if self._index is None:
            return weight, bias
        # A policy in training changes under us: copy the rows again whenever its optimiser has written.
        version = (weight.data_ptr(), 0 if weight.is_inference() else weight._version)
        if version != self._version:
            self._rows = weight[self._index], None if bias is None else bias[self._index]
            self._version = version
        return self._rows

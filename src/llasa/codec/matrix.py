"""Linear layers and convolutions over frames as one matrix in one dtype. Knows no network.

Shapes: B rows, N frames, D width.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Matrix:
    """A linear layer, or a convolution of `taps` neighbours, in one dtype."""

    weight: Tensor
    bias: Tensor | None = None
    taps: int = 1

    @classmethod
    def of(cls, layer: Any, dtype: torch.dtype) -> "Matrix":
        """Return the matrix of a `Linear` or of a `Conv1d` with stride 1 that keeps the length."""
        weight, bias = layer.weight.detach(), layer.bias
        taps = weight.shape[2] if weight.ndim == 3 else 1
        if weight.ndim == 3:
            weight = weight.transpose(1, 2).flatten(1)
        return cls(weight.to(dtype), None if bias is None else bias.detach().to(dtype), taps)

    def __call__(self, x: Tensor) -> Tensor:
        """[B, N, D] -> [B, N, D'], in the matrix's dtype."""
        x = x.to(self.weight.dtype)
        if self.taps > 1:
            reach = self.taps // 2
            x = F.pad(x, (0, 0, reach, reach)).unfold(1, self.taps, 1).transpose(2, 3).flatten(2)
        return F.linear(x, self.weight, self.bias)

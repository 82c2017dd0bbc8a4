"""How X-Codec2's latents become codes while it learns: spread first, soft at first, rounded in the end.

A fresh encoder's latents hardly move, so all of them round to the one code of a zero latent (43690 of 65,536)
and nothing pulls them apart. So the first batch sets `project_in` to give uncorrelated latents, and they are
normalised over each batch from then on; `fold` makes both part of `project_in`, and the model is a plain
`Xcodec2Model` again.

Shapes: B batch, N codes, D width, K dimensions of the grid.
"""

import copy
import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import torch
from torch import Tensor, nn

_LEAST = 1e-6  # share of the largest variance that a direction of the latents is held to have


class Rounding(nn.Module):
    """The training form of an `Xcodec2Quantizer`, which it holds and changes.

    whiten: normalise latents over each batch; else they are taken as they come.
    """

    mean: Tensor
    spread: Tensor

    def __init__(self, quantizer: Any, whiten: bool) -> None:
        super().__init__()
        self.quantizer = quantizer
        levels: list[int] = quantizer.quantizer.quantization_levels
        self.norm = nn.BatchNorm1d(len(levels), affine=False) if whiten else None
        places = [wanted_place(count) for count in levels]
        self.register_buffer("mean", torch.tensor([mean for mean, _ in places]), persistent=False)
        self.register_buffer("spread", torch.tensor([spread for _, spread in places]), persistent=False)

    def forward(self, hidden: Tensor, hardness: float) -> tuple[Tensor, Tensor]:
        """Return quantized latents [B, N, D] and codes [B, N] of hidden states [B, N, D].

        hardness: 0 leaves latents where they are, 1 rounds them; the gradient goes straight through.
        """
        with torch.autocast(hidden.device.type, enabled=False):
            latent = self.quantizer.project_in(hidden.float())
            if self.norm is not None:
                latent = self.norm(latent.transpose(1, 2)).transpose(1, 2) * self.spread + self.mean
            fsq = self.quantizer.quantizer
            bounded = fsq.bound(fsq.bound(latent))  # twice, as the released model does
            rounded = bounded.round()
            points = (bounded + hardness * (rounded - bounded).detach()) / (fsq.levels // 2)
            digits = rounded.detach().long() + fsq.levels // 2
            return self.quantizer.project_out(points), (digits * fsq.basis).sum(-1)

    @torch.no_grad()
    def spread_out(self, hidden: Tensor) -> None:
        """Set `project_in` so that these hidden states [B, N, D] give uncorrelated latents of variance 1."""
        layer = self.quantizer.project_in
        latent = layer(hidden.float()).flatten(0, 1).double()
        values, vectors = torch.linalg.eigh(torch.cov(latent.T))
        scale = values.clamp(min=_LEAST * float(values.max())).rsqrt()
        whitening = vectors @ torch.diag(scale) @ vectors.T
        layer.weight.copy_(whitening.to(layer.weight) @ layer.weight)
        layer.bias.copy_(whitening.to(layer.bias) @ (layer.bias - latent.mean(0).to(layer.bias)))

    @torch.no_grad()
    def folded(self) -> Any:
        """Return a copy of `project_in` that does what this one and the normalisation do together."""
        layer = copy.deepcopy(self.quantizer.project_in)
        if self.norm is None or self.norm.running_var is None or self.norm.running_mean is None:
            return layer
        scale = self.spread * (self.norm.running_var + self.norm.eps).rsqrt()
        layer.weight.mul_(scale[:, None])
        layer.bias.copy_((layer.bias - self.norm.running_mean) * scale + self.mean)
        return layer


def wanted_place(levels: int) -> tuple[float, float]:
    """Return the mean and deviation of a normal latent that uses three or more levels about equally."""
    low, high = (_unbound(_unbound(edge, levels), levels) for edge in _edges(levels))
    share = NormalDist().inv_cdf(1 - 1 / levels)
    return (low + high) / 2, (high - low) / (2 * share)


def _edges(levels: int) -> Sequence[float]:
    """Return the outermost thresholds of rounding."""
    lowest = -(levels // 2)
    return lowest + 0.5, lowest + levels - 1.5


def _unbound(value: float, levels: int, margin: float = 1e-3) -> float:
    """Undo `Xcodec2FiniteScalarQuantization.bound`."""
    reach = (levels - 1) * (1 + margin) / 2
    offset = 0.0 if levels % 2 else 0.5
    return math.atanh((value + offset) / reach) - math.atanh(offset / reach)

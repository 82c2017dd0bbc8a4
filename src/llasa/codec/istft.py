"""Short frames of sound, added up where they overlap: the end of an inverse STFT. Knows no network.

Shapes: B rows, F frames, K hops a window.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from llasa.codec.carried import Carried


def spectrum(magnitude: Tensor, phase: Tensor) -> Tensor:
    """Return the complex numbers of magnitudes and phases: `torch.polar`, some times as fast."""
    return torch.complex(magnitude * phase.cos(), magnitude * phase.sin())


def overlap_add(frames: Tensor, window: Tensor, hop: int, mask: Tensor | None, least: float) -> Tensor:
    """Return the sound whose windowed frames these are, as long as its frames are apart.

    Args:
        frames: [B, F, n_fft], not windowed yet.
        window: [n_fft], of synthesis and, in the energy that is divided by, of analysis.
        hop: samples between frames.
        mask: [B, F], 1 for real frames, 0 for padding; None where all are real.
        least: energy below which is not divided.

    Returns:
        [B, F * hop]: `(n_fft - hop) // 2` samples are cut off in front and the rest behind.
    """
    count, size = frames.shape[1], len(window)
    if mask is not None:
        frames = frames * mask[..., None]
    real = torch.ones_like(frames[:1, :, 0]) if mask is None else mask
    sound = (_added(frames, window, hop) / _energy(real, window, hop).clamp(min=least)).flatten(1)
    trim = (size - hop) // 2
    return sound[:, trim : trim + count * hop]


def added_on(frames: Tensor, window: Tensor, hop: int, least: float, carried: Carried) -> Tensor:
    """Return the samples [1, F * hop] that no frame to come changes, of a stream's next frames [1, F, n_fft].

    All joined are `overlap_add` of all frames, but for the `(n_fft - hop) // 2` samples in front and what
    follows the last frame's, which are not cut off.
    """
    behind = -(-((len(window) - hop) // 2) // hop) if carried.ended else 0
    hops = -(-len(window) // hop)
    real = F.pad(torch.ones_like(frames[..., :1]), (0, 0, 0, behind))
    frames = carried.around("frames", F.pad(frames, (0, 0, 0, behind)), hops - 1)
    real = carried.around("real frames", real, hops - 1)[..., 0]
    done = slice(hops - 1, real.shape[1])
    energy = _energy(real, window, hop)[:, done].clamp(min=least)
    return (_added(frames, window, hop)[:, done] / energy).flatten(1)


def _added(frames: Tensor, window: Tensor, hop: int) -> Tensor:
    """Return the sum of windowed frames [B, F, K * hop] where they overlap, [B, F + K - 1, hop]."""
    count, size = frames.shape[1], len(window)
    hops = -(-size // hop)
    missing = hops * hop - size
    pieces, windows = (F.pad(x, (0, missing)).unflatten(-1, (hops, hop)) for x in (frames, window))
    summed = frames.new_zeros(len(frames), count + hops - 1, hop)
    for k in range(hops):
        summed[:, k : k + count].addcmul_(pieces[:, :, k], windows[k])
    return summed


def _energy(mask: Tensor, window: Tensor, hop: int) -> Tensor:
    """Return the sum of squared windows over real frames, [B, F + K - 1, hop]."""
    squared = F.pad(window**2, (0, -len(window) % hop)).unflatten(0, (-1, hop))
    hops = len(squared)
    around = F.pad(mask, (hops - 1, hops - 1)).unfold(1, hops, 1)
    return (around[..., None] * squared.flip(0)).sum(2)

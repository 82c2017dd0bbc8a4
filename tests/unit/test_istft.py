"""Overlap-add equals torch's fold, row by row, and passes gradients."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from llasa.codec.istft import overlap_add, spectrum


def folded(frames: Tensor, window: Tensor, hop: int, least: float) -> Tensor:
    """Overlap-add as a definition: torch's fold of windowed frames over that of the squared window."""
    count, size = frames.shape[1], len(window)
    length = (count - 1) * hop + size
    summed, energy = (
        F.fold(x.mT, (1, length), (1, size), stride=(1, hop))[:, 0, 0]
        for x in (frames * window, (window**2).expand_as(frames))
    )
    trim = (size - hop) // 2
    sound = F.pad(summed / energy.clamp(min=least), (0, hop))
    return sound[:, trim : trim + count * hop]


@pytest.mark.parametrize("size, hop", [(640, 160), (16, 4), (12, 4), (10, 4), (4, 4)])
@pytest.mark.parametrize("count", [1, 2, 9])
def test_it_is_what_fold_gives(size: int, hop: int, count: int) -> None:
    frames, window = torch.randn(3, count, size), torch.hann_window(size)
    torch.testing.assert_close(
        overlap_add(frames, window, hop, None, 1e-3), folded(frames, window, hop, 1e-3), atol=1e-5, rtol=1e-4
    )


def test_a_padded_row_sounds_as_it_does_alone() -> None:
    frames, window = torch.randn(2, 9, 16), torch.hann_window(16)
    mask = torch.ones(2, 9)
    mask[1, 5:] = 0
    found = overlap_add(frames, window, 4, mask, 1e-3)
    torch.testing.assert_close(found[0], overlap_add(frames[:1], window, 4, None, 1e-3)[0])
    torch.testing.assert_close(found[1, :20], overlap_add(frames[1:, :5], window, 4, None, 1e-3)[0])


def test_gradients_are_those_of_fold() -> None:
    window, weights = torch.hann_window(16), torch.randn(2, 36)
    gradients = []
    start = torch.randn(2, 9, 16)
    for way in (lambda x: overlap_add(x, window, 4, None, 1e-3), lambda x: folded(x, window, 4, 1e-3)):
        frames = start.clone().requires_grad_()
        (way(frames) * weights).sum().backward()
        gradients.append(frames.grad)
    torch.testing.assert_close(*gradients)


def test_a_spectrum_has_the_magnitudes_and_phases_it_is_given() -> None:
    magnitude, phase = torch.rand(5, 7), 20 * torch.randn(5, 7)
    torch.testing.assert_close(spectrum(magnitude, phase), torch.polar(magnitude, phase))

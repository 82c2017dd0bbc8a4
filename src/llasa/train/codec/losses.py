"""What is wrong with a decoded sound: differences of log-mels, of spectra and of mels at many resolutions.

Shapes: B batch, T samples, M mel bands, F frames. All are means, and 0 for equal inputs.
"""

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor
from transformers.audio_utils import mel_filter_bank

STFT_SIZES = (128, 256, 512, 1024, 2048)
MEL_COUNTS = (5, 10, 20, 40, 80, 160, 320)
MEL_WINDOWS = (32, 64, 128, 256, 512, 1024, 2048)
_FAINTEST = 1e-5  # of a mel magnitude: differences below are not heard


def mel_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """Return L1 + 0.5 L2 + 0.3 L1 of frame differences of two log-mels [B, M, F], nats."""
    delta = (predicted.diff(dim=-1) - target.diff(dim=-1)).abs().mean()
    return (predicted - target).abs().mean() + 0.5 * (predicted - target).square().mean() + 0.3 * delta


def spectral_loss(predicted: Tensor, target: Tensor, sizes: Sequence[int] = STFT_SIZES) -> Tensor:
    """Return log-magnitude L1 plus spectral convergence of two waves [B, T] over windows of 8 to 128 ms;
    short ones tie pitch pulses.
    """
    total = predicted.new_zeros(())
    for size in sizes:
        a, b = (_power(x, size).clamp(min=1e-6).sqrt() for x in (predicted, target))
        total = total + (a.log() - b.log()).abs().mean() + (a - b).norm() / b.norm().clamp(min=1e-3)
    return total / len(sizes)


def multi_mel_loss(predicted: Tensor, target: Tensor, sample_rate: int) -> Tensor:
    """Return the L1 of log10-mels of two waves [B, T], summed over seven resolutions: 5 bands of 2 ms windows
    to 320 bands of 128 ms.

    Source: Descript Audio Codec, arXiv 2306.06546, section 3.4, with X-Codec2's resolutions.
    """
    total = predicted.new_zeros(())
    for bands, size in zip(MEL_COUNTS, MEL_WINDOWS, strict=True):
        filters = _filters(bands, size, sample_rate, str(predicted.device))
        a, b = (
            (_power(x, size).clamp(min=1e-12).sqrt().transpose(1, 2) @ filters).clamp(min=_FAINTEST).log10()
            for x in (predicted, target)
        )
        total = total + (a - b).abs().mean()
    return total


def matched(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
    """Return the L1 between critics' features of a decoded sound and of the real one, summed over layers."""
    parts = [(a.float() - b.float().detach()).abs().mean() for a, b in zip(found, wanted, strict=True)]
    return torch.stack(parts).sum()


def _power(wave: Tensor, size: int) -> Tensor:
    window = torch.hann_window(size, device=wave.device)
    spectrum = torch.stft(wave.float(), size, size // 4, window=window, return_complex=True)
    return torch.view_as_real(spectrum).square().sum(-1)


@cache
def _filters(bands: int, size: int, sample_rate: int, device: str) -> Tensor:
    import warnings

    with warnings.catch_warnings():  # narrow bands of short windows are empty, which is meant
        warnings.simplefilter("ignore")
        made = mel_filter_bank(
            size // 2 + 1, bands, 0.0, sample_rate / 2, sample_rate, norm="slaney", mel_scale="slaney"
        )
    return torch.tensor(made, dtype=torch.float32, device=device)

"""Kaldi's log-mel filter banks in torch: what the semantic encoder of X-Codec2 hears. Knows no model.

Shapes: T samples, F frames of 10 ms, P pairs of frames (20 ms). 16 kHz, 80 mel bands.
"""

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

SAMPLE_RATE = 16_000  # Hz
WINDOW, HOP, N_FFT, N_MELS = 400, 160, 512, 80  # samples, samples, samples, bands
LOWEST_HZ, HIGHEST_HZ = 20.0, 8000.0
PREEMPHASIS = 0.97
FULL_SCALE = 2.0**15  # Kaldi reads 16-bit integers


def stacked_features(wave: Tensor) -> Tensor:
    """Return pairs of normalised log-mel frames, a row for every 20 ms.

    Only frames that lie inside the wave are taken ("snip edges"), and an odd last one is left out. Each band
    has mean 0 and variance 1 over all frames, the left-out one included.

    Args:
        wave: [T] in [-1, 1], 16 kHz, float32, on any device.

    Returns:
        [P, 160] float32; no rows for less than 35 ms.

    Source: `compute-fbank-feats` of Kaldi as torchaudio's `compliance.kaldi.fbank` and transformers'
    `Xcodec2FeatureExtractor` use it.
    """
    if len(wave) < WINDOW + HOP:
        return wave.new_zeros(0, 2 * N_MELS)
    mel = log_mel(wave)
    mel = (mel - mel.mean(0)) / torch.sqrt(mel.var(0) + 1e-7)
    return mel[: len(mel) // 2 * 2].reshape(-1, 2 * N_MELS)


def log_mel(wave: Tensor) -> Tensor:
    """Return natural logarithms of mel power [F, 80], F = 1 + (T - 400) // 160, of a wave [T]."""
    frames = (wave * FULL_SCALE).unfold(0, WINDOW, HOP)
    frames = frames - frames.mean(1, keepdim=True)
    before = F.pad(frames[None], (1, 0), mode="replicate")[0, :, :-1]
    frames = (frames - PREEMPHASIS * before) * _window().to(wave.device)
    power = torch.fft.rfft(frames, N_FFT).abs() ** 2
    return (power @ _filters().to(wave.device)).clamp(min=torch.finfo(torch.float32).eps).log()


@cache
def _window() -> Tensor:
    """The Povey window: a Hann window to the power 0.85."""
    return torch.hann_window(WINDOW, periodic=False) ** 0.85


@cache
def _filters() -> Tensor:
    """Triangles on the mel scale, [N_FFT // 2 + 1, N_MELS]."""
    # In float32 as the reference: the normalisation of two frames nearly alike magnifies the last bit.
    lowest, highest = _mel(torch.tensor([LOWEST_HZ, HIGHEST_HZ], dtype=torch.float64)).tolist()
    edges = lowest + torch.arange(N_MELS + 2) * ((highest - lowest) / (N_MELS + 1))
    bins = _mel(torch.arange(N_FFT // 2 + 1) * (SAMPLE_RATE / N_FFT))[:, None]
    rise = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    fall = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    return torch.minimum(rise, fall).clamp(min=0)


def _mel(hz: Tensor) -> Tensor:
    return 1127.0 * torch.log(1.0 + hz / 700.0)

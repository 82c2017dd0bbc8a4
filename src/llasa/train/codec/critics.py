"""Discriminators of decoded sound, by periods, spectrograms and patches of log-mel; of least squares.

Each turns a batch into a list of (score, features). Shapes: B batch, T samples, M mel bands, F frames.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from llasa.train.codec.recipe import Critics

Opinion = tuple[Tensor, list[Tensor]]


class _Layers(nn.Module):
    """Convolutions with leaky rectifiers, and a last one to a score."""

    def __init__(self, layers: Sequence[nn.Conv2d], score: nn.Conv2d, slope: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(map(weight_norm, layers))
        self.score, self.slope = weight_norm(score), slope

    def forward(self, x: Tensor) -> Opinion:
        features = []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), self.slope)
            features.append(x)
        return self.score(x), features


class Period(nn.Module):
    """Sees every n-th sample in a column. [B, T]. Source: HiFi-GAN, arXiv 2010.05646, section 2.3."""

    def __init__(self, period: int, channels: int, most: int) -> None:
        super().__init__()
        self.period = period
        widths = [1, *(min(channels * 4**n, most) for n in range(4))]
        steps = [nn.Conv2d(a, b, (5, 1), (3, 1), (2, 0)) for a, b in pairwise(widths)]
        last = nn.Conv2d(widths[-1], widths[-1], (5, 1), 1, (2, 0))
        self.net = _Layers([*steps, last], nn.Conv2d(widths[-1], 1, (3, 1), 1, (1, 0)), 0.1)

    def forward(self, wave: Tensor) -> Opinion:
        padded = F.pad(wave[:, None], (0, -wave.shape[-1] % self.period), "reflect")
        return self.net(padded.unflatten(-1, (-1, self.period)))


class Spectrogram(nn.Module):
    """Sees the magnitudes of one FFT size with hop half of it. [B, T]."""

    window: Tensor

    def __init__(self, size: int, channels: int, most: int) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("window", torch.hann_window(size), persistent=False)
        widths = [channels, *(min(channels * 2 ** (n + 1), most) for n in range(3))]
        first = nn.Conv2d(1, channels, 5, 2, 2)
        down = [nn.Conv2d(a, b, 5, 2, 2) for a, b in pairwise(widths)]
        last = nn.Conv2d(widths[-1], widths[-1], 3, 1, 1)
        self.net = _Layers([first, *down, last], nn.Conv2d(widths[-1], 1, 3, 1, 1), 0.2)

    def forward(self, wave: Tensor) -> Opinion:
        with torch.autocast(wave.device.type, enabled=False):
            spectrum = torch.stft(
                wave.float(), self.size, self.size // 2, window=self.window, return_complex=True
            )
            power = torch.view_as_real(spectrum).square().sum(-1)
        return self.net(power.clamp(min=1e-9).sqrt()[:, None])


class Patches(nn.Module):
    """Sees log-mel [B, M, F], patch by patch."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        sizes = (1, width, 2 * width, 4 * width)
        layers = [nn.Conv2d(a, b, 5, stride=2, padding=2) for a, b in pairwise(sizes)]
        self.net = _Layers(layers, nn.Conv2d(sizes[-1], 1, 3, padding=1), 0.2)

    def forward(self, mel: Tensor) -> list[Opinion]:
        return [self.net(mel[:, None])]


class WaveCritics(nn.Module):
    """All periods and all spectrograms of the recipe. [B, T] -> one opinion each."""

    def __init__(self, sizes: Critics) -> None:
        super().__init__()
        periods = [Period(n, sizes.period_channels, sizes.period_most) for n in sizes.periods]
        spectrograms = [Spectrogram(n, sizes.channels, sizes.most) for n in sizes.fft_sizes]
        self.parts = nn.ModuleList([*periods, *spectrograms])

    def forward(self, wave: Tensor) -> list[Opinion]:
        return [part(wave) for part in self.parts]


def apart(real: Sequence[Opinion], fake: Sequence[Opinion]) -> Tensor:
    """Return how badly critics tell real (1) from decoded (0): 0.5 where they cannot, 0 at best.

    Source: least-squares GAN, arXiv 1611.04076.
    """
    parts = [
        (1 - r.float()).square().mean() + f.float().square().mean()
        for (r, _), (f, _) in zip(real, fake, strict=True)
    ]
    return torch.stack(parts).mean()


def unconvinced(fake: Sequence[Opinion]) -> Tensor:
    """Return how far decoded sound is from passing for real, summed over the critics."""
    return torch.stack([(1 - f.float()).square().mean() for f, _ in fake]).sum()


def features_of(opinions: Sequence[Opinion]) -> list[Tensor]:
    """Return the features of all critics in one list."""
    return [feature for _, features in opinions for feature in features]

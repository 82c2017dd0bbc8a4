"""The network of the compact codec: its sizes, layers and forward passes. Knows no files and no audio types.

Sound -> log-mel -> ConvNeXt encoder -> FSQ code -> ConvNeXt decoder -> log-mel -> vocoder with an
inverse-STFT head. Shapes: B batch, T samples, F mel frames, N codes, D width, M mel bands. Inside, frames go
before channels; given and returned is [B, channels, frames].

With `CompactConfig.ahead` decoder and vocoder are causal but for a few codes. They then speak a stream piece
by piece, each layer's last frames carried over (`Carried`), and what is said so is what is said at once.

Source: FSQ from arXiv 2309.15505; ConvNeXt blocks and the ISTFT head follow the idea of Vocos,
arXiv 2306.00814.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llasa.codec.carried import Carried, surrounded, turned_back
from llasa.codec.istft import added_on, overlap_add, spectrum

_LEAST_ENERGY = 1e-3


@dataclass(frozen=True)
class CompactConfig:
    """Sizes. mel_hop in samples; `strides` multiply to mel frames a code; levels of each FSQ dimension.

    mel_floor: natural log of the smallest mel magnitude kept (about -60 dB):
    below it bits go into inaudible noise.
    ahead: codes that the decoder sees before it speaks, and mel frames that the vocoder does, its inverse
    STFT aside; None where convolutions see as much of what comes as of what went.
    """

    sample_rate: int = 16000
    n_mels: int = 80
    n_fft: int = 1024
    mel_hop: int = 160
    mel_floor: float = -3.0
    strides: tuple[int, ...] = (2, 2)
    levels: tuple[int, ...] = (8, 8, 8, 8)
    encoder_widths: tuple[int, ...] = (192, 256)
    encoder_depths: tuple[int, ...] = (3, 4)
    decoder_widths: tuple[int, ...] = (320, 256, 192)
    decoder_depths: tuple[int, ...] = (5, 3, 3)
    vocoder_width: int = 256
    vocoder_depth: int = 6
    vocoder_n_fft: int = 640
    ahead: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.ahead is not None and [type(n) for n in self.ahead] != [int, int]:
            raise ValueError(f"ahead is {self.ahead}, not two whole numbers")

    @property
    def frames_per_code(self) -> int:
        """Mel frames a code."""
        return int(np.prod(self.strides))

    @property
    def hop_length(self) -> int:
        """Samples a code."""
        return self.mel_hop * self.frames_per_code

    @property
    def codebook_size(self) -> int:
        """Entries of the codebook."""
        return int(np.prod(self.levels))

    @property
    def view(self) -> int:
        """Codes on each side that a decoded code can depend on: what the convolutions reach, rounded up."""
        rate, reach = 1.0, 1.0 if self.ahead is None else 2.0
        for depth, stride in zip(self.decoder_depths, (*self.strides[::-1], 1), strict=True):
            reach += (self._side * depth + 1) / rate
            rate *= stride
        return int(np.ceil(reach + self.vocoder_view / rate))

    @property
    def vocoder_view(self) -> int:
        """Mel frames on each side that the vocoder's samples can depend on, rounded up."""
        return self._side * (self.vocoder_depth + 1) + 1 + -(-self.vocoder_n_fft // self.mel_hop)

    @property
    def _side(self) -> int:
        """Frames that a convolution of seven may see on one side: it keeps its width when it turns back."""
        return 3 if self.ahead is None else 6

    @property
    def trim(self) -> int:
        """Samples by which a frame's window reaches out on each side."""
        return (self.vocoder_n_fft - self.mel_hop) // 2

    @property
    def look_ahead(self) -> int:
        """Samples by which a stream's sound is behind its codes. Of a causal network only."""
        assert self.ahead is not None  # nothing else is streamed
        codes, frames = self.ahead
        return codes * self.hop_length + frames * self.mel_hop + self.trim


def mel_filters(config: CompactConfig) -> Tensor:
    """Return triangular filters on the HTK mel scale, [n_fft // 2 + 1, M], unnormalised."""
    edges_mel = torch.linspace(0, 2595 * np.log10(1 + config.sample_rate / 2 / 700), config.n_mels + 2)
    edges = 700 * (10 ** (edges_mel / 2595) - 1)
    bins = torch.linspace(0, config.sample_rate / 2, config.n_fft // 2 + 1)
    rise = (bins[:, None] - edges[None, :-2]) / (edges[1:-1] - edges[:-2])
    fall = (edges[None, 2:] - bins[:, None]) / (edges[2:] - edges[1:-1])
    return torch.minimum(rise, fall).clamp(min=0)


class LogMel(nn.Module):
    """Floored log-mel magnitudes: [B, T] -> [B, M, T // mel_hop]; T a multiple of mel_hop."""

    filters: Tensor
    window: Tensor

    def __init__(self, config: CompactConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("filters", mel_filters(config), persistent=False)
        self.register_buffer("window", torch.hann_window(config.n_fft), persistent=False)

    def forward(self, samples: Tensor) -> Tensor:
        c = self.config
        padded = F.pad(samples, ((c.n_fft - c.mel_hop) // 2, (c.n_fft - c.mel_hop + 1) // 2))
        spectrum = torch.stft(
            padded, c.n_fft, c.mel_hop, window=self.window, center=False, return_complex=True
        )
        mel = spectrum.abs().transpose(1, 2) @ self.filters
        return mel.clamp(min=float(np.exp(c.mel_floor))).log().transpose(1, 2)


class Conv(nn.Conv1d):
    """A convolution over frames that keeps their number and sees `ahead` frames to come; None: half of it."""

    def __init__(self, ins: int, outs: int, width: int, ahead: int | None, groups: int = 1) -> None:
        super().__init__(ins, outs, width, padding=width // 2 if ahead is None else 0, groups=groups)
        self.ahead = ahead

    def beside(self, x: Tensor, mask: Tensor | None, carried: Carried | None) -> tuple[Tensor, Tensor]:
        """Return frames and what this makes of them: of a stream those whose surroundings are there."""
        if self.ahead is None:
            return x, along(self, real(x, mask))
        before = self.kernel_size[0] - 1 - self.ahead
        joined = surrounded(carried, self, real(x, mask), before, self.ahead)
        if carried is not None:
            x = joined[:, before : max(before, joined.shape[1] - self.ahead)]
        return x, along(self, joined) if x.shape[1] else x.new_zeros(*x.shape[:2], self.out_channels)


class Apart(nn.ConvTranspose1d):
    """A transposed convolution, [B, F, D] -> [B, F * stride, D']; a causal one makes a stride of frames from
    a frame and the one before.
    """

    def __init__(self, ins: int, outs: int, stride: int, causal: bool) -> None:
        super().__init__(ins, outs, 2 * stride, stride, padding=0 if causal else stride // 2)
        self.causal = causal

    def beside(self, x: Tensor, mask: Tensor | None, carried: Carried | None) -> Tensor:
        """As `Conv.beside`, of which this needs no frames themselves."""
        if not self.causal:
            return apart(self, real(x, mask))
        x, stride = surrounded(carried, self, real(x, mask), 1), self.stride[0]
        return apart(self, x)[:, stride:-stride] if x.shape[1] > 1 else x.new_zeros(1, 0, self.out_channels)


def along(conv: nn.Conv1d, x: Tensor) -> Tensor:
    """Return the convolution of [B, F, D] over F, in the same layout.

    As an image one pixel high whose channels lie together in memory, so that nothing is transposed.
    """
    image, stride, padding = _image(x), (1, *conv.stride), (0, int(conv.padding[0]))
    return _rows(F.conv2d(image, conv.weight.unsqueeze(2), conv.bias, stride, padding, 1, conv.groups))


def apart(conv: nn.ConvTranspose1d, x: Tensor) -> Tensor:
    """Return the transposed convolution of [B, F, D] over F, as `along`."""
    image, stride, padding = _image(x), (1, *conv.stride), (0, int(conv.padding[0]))
    return _rows(F.conv_transpose2d(image, conv.weight.unsqueeze(2), conv.bias, stride, padding))


def _image(x: Tensor) -> Tensor:
    return x.contiguous().mT.unsqueeze(2)


def _rows(image: Tensor) -> Tensor:
    return image.squeeze(2).mT.contiguous()


def real(x: Tensor, mask: Tensor | None) -> Tensor:
    """Return [B, F, D] with zeros for padding: what a padded row sees when it is alone."""
    return x if mask is None else x * mask.to(x.dtype)


class ConvNeXt(nn.Module):
    """Depthwise convolution and pointwise MLP with a scaled skip. [B, F, D] -> [B, F, D]."""

    def __init__(self, width: int, scale: float, ahead: int | None = None) -> None:
        super().__init__()
        self.depthwise = Conv(width, width, 7, ahead, groups=width)
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)
        self.scale = nn.Parameter(torch.full((width,), scale))

    def forward(self, x: Tensor, mask: Tensor | None, carried: Carried | None = None) -> Tensor:
        x, y = self.depthwise.beside(x, mask, carried)
        return torch.addcmul(x, self.down(F.gelu(self.up(self.norm(y)))), self.scale)


class Stack(nn.Module):
    """ConvNeXt blocks of one width, in order. Mask [B, F, 1], or None where nothing is padded."""

    def __init__(self, width: int, ahead: Sequence[int | None]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(ConvNeXt(width, 1 / len(ahead), one) for one in ahead)

    def forward(self, x: Tensor, mask: Tensor | None, carried: Carried | None = None) -> Tensor:
        for block in self.blocks:
            x = block(x, mask, carried)
        return x


class Encoder(nn.Module):
    """Log-mel [B, M, F] -> latent [B, len(levels), N]; mask [B, 1, F]."""

    def __init__(self, config: CompactConfig) -> None:
        super().__init__()
        widths = (config.n_mels, *config.encoder_widths)
        self.strides = config.strides
        self.downs = nn.ModuleList(
            nn.Conv1d(a, b, 2 * s, stride=s, padding=s // 2)
            for a, b, s in zip(widths, widths[1:], config.strides, strict=False)
        )
        self.stacks = nn.ModuleList(
            Stack(w, [None] * d) for w, d in zip(config.encoder_widths, config.encoder_depths, strict=True)
        )
        self.norm = nn.LayerNorm(widths[-1])
        self.out = nn.Linear(widths[-1], len(config.levels))
        # Normalised latents spread over all levels; 0.8 keeps the outer ones as frequent as the inner ones.
        self.whiten = nn.BatchNorm1d(len(config.levels), affine=False)

    def forward(self, mel: Tensor, mask: Tensor) -> Tensor:
        x, mask = mel.mT, mask.mT
        for stride, down, stack in zip(self.strides, self.downs, self.stacks, strict=True):
            x, mask = along(down, x * mask), mask[:, ::stride]  # pyright: ignore[reportArgumentType]
            x = stack(x, mask)
        latent = self.out(self.norm(x)).mT
        return 0.8 * self.whiten(latent.float())


class FSQ(nn.Module):
    """Finite scalar quantization (arXiv 2309.15505): latent -> grid point in [-1, 1) and its index."""

    levels: Tensor
    basis: Tensor
    reach: Tensor
    offset: Tensor

    def __init__(self, levels: Sequence[int]) -> None:
        super().__init__()
        size = torch.tensor(levels)
        self.register_buffer("levels", size, persistent=False)
        self.register_buffer(
            "basis", torch.cumprod(torch.cat((torch.ones(1, dtype=torch.long), size[:-1])), 0), False
        )
        self.register_buffer("reach", (size - 1) * 1.001 / 2, persistent=False)
        self.register_buffer("offset", 0.5 * (size % 2 == 0), persistent=False)

    def forward(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Return (points [B, K, N] with straight-through gradient, codes [B, N])."""
        reach, offset = self.reach[:, None], self.offset[:, None]
        bounded = torch.tanh(latent + torch.atanh(offset / reach)) * reach - offset
        rounded = bounded + (bounded.round() - bounded).detach()
        digits = rounded.detach().round().long() + (self.levels // 2)[:, None]
        return rounded / (self.levels // 2)[:, None], (digits * self.basis[:, None]).sum(1)

    def points(self, codes: Tensor) -> Tensor:
        """Return the grid points [B, K, N] of codes [B, N]."""
        digits = codes[:, None] // self.basis[:, None] % self.levels[:, None]
        return (digits - (self.levels // 2)[:, None]) / (self.levels // 2)[:, None]


class Decoder(nn.Module):
    """Grid points [B, K, N] -> log-mel [B, M, F]; `features` are its trunk at code rate."""

    def __init__(self, config: CompactConfig) -> None:
        super().__init__()
        widths, strides = config.decoder_widths, config.strides[::-1]
        self.strides = strides
        first, *ahead = _spent(config.ahead and config.ahead[0], (1, *[3] * sum(config.decoder_depths)))
        # Only layers at the rate of codes look ahead: it is counted in codes.
        if any(ahead[config.decoder_depths[0] :]):
            raise ValueError(f"ahead {config.ahead} is more than the decoder's first layers see")
        self.embed = Conv(len(config.levels), widths[0], 3, first)
        shares = iter(ahead)
        self.stacks = nn.ModuleList(
            Stack(w, [next(shares) for _ in range(d)])
            for w, d in zip(widths, config.decoder_depths, strict=True)
        )
        self.ups = nn.ModuleList(
            Apart(a, b, s, config.ahead is not None)
            for a, b, s in zip(widths, widths[1:], strides, strict=False)
        )
        self.norm = nn.LayerNorm(widths[-1])
        self.out = nn.Linear(widths[-1], config.n_mels)

    def forward(
        self, points: Tensor, mask: Tensor | None, carried: Carried | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return (log-mel, features [B, D, N]); mask [B, 1, N], or None where nothing is padded.

        carried: of a stream whose next points these are, or None where they are all.
        """
        mask = None if mask is None else mask.mT
        x = points.mT.to(self.embed.weight.dtype)
        x = features = self.stacks[0](self.embed.beside(x, mask, carried)[1], mask, carried)
        for stride, up, stack in zip(self.strides, self.ups, self.stacks[1:], strict=True):
            x = up.beside(x, mask, carried)  # pyright: ignore[reportCallIssue]
            mask = None if mask is None else mask.repeat_interleave(stride, 1)
            x = stack(x, mask, carried)
        return self.out(self.norm(x)).mT, features.mT


class Vocoder(nn.Module):
    """Log-mel [B, M, F] -> samples [B, F * mel_hop], by an inverse STFT. Mask [B, 1, F] or None."""

    window: Tensor

    def __init__(self, config: CompactConfig) -> None:
        super().__init__()
        self.config = config
        first, *ahead = _spent(config.ahead and config.ahead[1], [3] * (config.vocoder_depth + 1))
        self.embed = Conv(config.n_mels, config.vocoder_width, 7, first)
        self.stack = Stack(config.vocoder_width, ahead)
        self.norm = nn.LayerNorm(config.vocoder_width)
        self.out = nn.Linear(config.vocoder_width, config.vocoder_n_fft + 2)
        self.register_buffer("window", torch.hann_window(config.vocoder_n_fft), persistent=False)

    def forward(self, mel: Tensor, mask: Tensor | None, carried: Carried | None = None) -> Tensor:
        c, columns = self.config, None if mask is None else mask.mT
        x = self.embed.beside(mel.mT - c.mel_floor, columns, carried)[1]
        x = self.stack(x, columns, carried)
        magnitude, phase = self.out(self.norm(x)).float().chunk(2, -1)
        frames = magnitude.new_zeros(len(x), 0, c.vocoder_n_fft)
        if x.shape[1]:  # there is no Fourier transform of nothing
            frames = torch.fft.irfft(spectrum(magnitude.clamp(max=6).exp(), phase), dim=-1)
        if carried:
            return added_on(frames, self.window, c.mel_hop, _LEAST_ENERGY, carried)
        return overlap_add(
            frames, self.window, c.mel_hop, None if mask is None else mask[:, 0], _LEAST_ENERGY
        )


def _spent(ahead: int | None, most: Sequence[int]) -> list[int | None]:
    """Return how far each layer looks ahead: the first ones as far as they can, until all is spent.

    Raises:
        ValueError: below 0, or more than the layers can see.
    """
    if ahead is None:
        return [None] * len(most)
    if not 0 <= ahead <= sum(most):
        raise ValueError(f"ahead {ahead} is not from 0 to {sum(most)}")
    return [min(one, max(0, ahead - sum(most[:n]))) for n, one in enumerate(most)]


def _turned_apart(weight: Tensor) -> Tensor:
    """Return the taps of a causal `Apart` for those of one that sees a frame to come."""
    half = weight.shape[-1] // 4
    made = F.pad(weight[..., half:], (0, half))
    made[..., half : 2 * half] += weight[..., :half]
    return made


class CompactModel(nn.Module):
    """The trainable network of the codec."""

    def __init__(self, config: CompactConfig) -> None:
        super().__init__()
        self.config = config
        self.log_mel = LogMel(config)
        self.encoder = Encoder(config)
        self.quantizer = FSQ(config.levels)
        self.decoder = Decoder(config)
        self.vocoder = Vocoder(config)

    def codes(self, samples: Tensor, mask: Tensor) -> Tensor:
        """Return codes [B, N] of samples [B, N * hop_length]; mask [B, 1, N]."""
        frames = mask.repeat_interleave(self.config.frames_per_code, -1)
        return self.quantizer(self.encoder(self.log_mel(samples), frames))[1]

    def samples(self, codes: Tensor, mask: Tensor | None, skip: int = 0) -> Tensor:
        """Return samples [B, (N - skip) * hop_length] of codes [B, N], without those of the first `skip`.

        mask: [B, 1, N], or None where no row is padded.
        """
        c = self.config
        mel, _ = self.decoder(self.quantizer.points(codes), mask)
        frames = None if mask is None else mask.repeat_interleave(c.frames_per_code, -1)
        # Of what is skipped the vocoder hears only as much as it can see.
        cut = max(0, skip * c.frames_per_code - c.vocoder_view)
        sound = self.vocoder(mel[..., cut:], None if frames is None else frames[..., cut:])
        return sound[:, skip * c.hop_length - cut * c.mel_hop :]

    def flowing(self, codes: Tensor, carried: Carried) -> Tensor:
        """Return samples [B, T] that can be said when codes [B, N] more have come; of a causal network only.

        Behind the end all `hop_length` samples a code have been given.
        """
        mel, _ = self.decoder(self.quantizer.points(codes), None, carried)
        return self.vocoder(mel, None, carried)

    def causal(self, ahead: tuple[int, int]) -> "CompactModel":
        """Return a copy whose decoder and vocoder look `CompactConfig.ahead` only, to be trained.

        Raises:
            ValueError: further than the first layers see.
        """
        made = CompactModel(replace(self.config, ahead=ahead))
        weights = self.state_dict()
        for name, layer in made.named_modules():
            if isinstance(layer, Conv) and layer.ahead is not None:
                weights[f"{name}.weight"] = turned_back(weights[f"{name}.weight"], layer.ahead)
            elif isinstance(layer, Apart):
                weights[f"{name}.weight"] = _turned_apart(weights[f"{name}.weight"])
        made.load_state_dict(weights)
        return made

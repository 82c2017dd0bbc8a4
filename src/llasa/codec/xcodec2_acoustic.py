"""The acoustic encoder of X-Codec2: a wave to a vector a code, with transformers' weights.

Most of its time goes into activations that are computed at twice the rate, to keep their harmonics from
folding back. Here the filters on both sides are matrices over blocks of samples, some channels at a time, so
that what lies between stays in the cache.

Shapes: C channels, T samples.

Source: transformers `models/xcodec2/modeling_xcodec2.py`, `Xcodec2Encoder`.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

_BLOCK = 32  # samples filtered by one row of a matrix
_HALO = 6  # samples more on both sides, at either rate: what the filters of 12 taps see
_CACHED = 1 << 17  # samples of all channels in work at a time on a CPU


class Smooth:
    """SnakeBeta at twice the rate between two low-pass filters: [C, T] -> [C, T]."""

    def __init__(self, native: Any, dtype: torch.dtype) -> None:
        device = native.act.alpha.device
        guard = _HALO // 2  # inputs nearer to the end are seen through the native filter's padding
        impulses = torch.eye(_BLOCK + 2 * (_HALO + guard), device=device)[None]
        first = 2 * (_HALO + guard) - _HALO
        spread = native.upsample(impulses)[0, guard:-guard, first : first + 2 * (_BLOCK + _HALO)]
        impulses = torch.eye(2 * (_BLOCK + _HALO), device=device)[None]
        gathered = native.downsample(impulses)[0, :, guard : guard + _BLOCK]
        self.up, self.down = spread.to(dtype).contiguous(), gathered.to(dtype).contiguous()
        self.pace = native.act.alpha.detach().exp()[:, None, None].to(dtype)
        self.depth = (1 / (native.act.beta.detach().exp() + native.act.no_div_by_zero))[:, None, None].to(
            dtype
        )

    def __call__(self, x: Tensor) -> Tensor:
        """[C, T] -> [C, T]."""
        step = max(1, _CACHED // x.shape[1]) if x.device.type == "cpu" else len(x)
        if step >= len(x):
            return self._part(x, slice(None))
        found = torch.empty_like(x)
        for start in range(0, len(x), step):
            part = slice(start, start + step)
            found[part] = self._part(x[part], part)
        return found

    def _part(self, x: Tensor, channels: slice) -> Tensor:
        length = x.shape[1]
        count = -(-length // _BLOCK)
        padded = F.pad(x, (_HALO, _HALO + count * _BLOCK - length), mode="replicate")
        wide = padded.unfold(1, _BLOCK + 2 * _HALO, _BLOCK) @ self.up  # [C, count, 2 * (_BLOCK + _HALO)]
        self._hold_ends(wide, length)
        wave = (wide * self.pace[channels]).sin_().square_()
        return (wide.addcmul_(wave, self.depth[channels]) @ self.down).flatten(1)[:, :length]

    def _hold_ends(self, wide: Tensor, length: int) -> None:
        """Beyond the ends the first and the last sample go on, as in the native filter."""
        count = wide.shape[1]
        wide[:, 0, :_HALO] = wide[:, 0, _HALO, None]
        ends = [2 * (length - n * _BLOCK) + _HALO for n in range(count)][-2:]
        last = wide[:, -1, ends[-1] - 1, None].clone()
        for n, end in zip(range(count)[-2:], ends, strict=True):
            wide[:, n, end:] = last


class Conv:
    """A convolution in one dtype: [C, T] -> [C', T']."""

    def __init__(self, native: Any, dtype: torch.dtype) -> None:
        self.weight, self.bias = native.weight.detach().to(dtype), native.bias.detach().to(dtype)
        self.steps = native.stride, native.padding, native.dilation

    def __call__(self, x: Tensor) -> Tensor:
        """[C, T] -> [C', T']."""
        return F.conv1d(x, self.weight, self.bias, *self.steps)


class Acoustic:
    """[T] -> [N, D], in one dtype."""

    def __init__(self, native: Any, dtype: torch.dtype) -> None:
        self._first, self._last = Conv(native.conv1, dtype), Conv(native.conv2, dtype)
        self._units = [
            [_unit(one, dtype) for one in (block.res_unit1, block.res_unit2, block.res_unit3)]
            for block in native.block
        ]
        self._downs = [(Smooth(block.snake1, dtype), Conv(block.conv1, dtype)) for block in native.block]
        self._smooth, self._dtype = Smooth(native.snake1, dtype), dtype

    def __call__(self, wave: Tensor) -> Tensor:
        """[T] float32 -> [N, D] float32."""
        x = self._first(wave[None].to(self._dtype))
        for units, (smooth, down) in zip(self._units, self._downs, strict=True):
            for first, wide, second, narrow in units:
                x = x + narrow(second(wide(first(x))))
            x = down(smooth(x))
        return self._last(self._smooth(x)).mT.float()


def _unit(native: Any, dtype: torch.dtype) -> tuple[Smooth, Conv, Smooth, Conv]:
    return (
        Smooth(native.snake1, dtype), Conv(native.conv1, dtype),
        Smooth(native.snake2, dtype), Conv(native.conv2, dtype),
    )  # fmt: skip

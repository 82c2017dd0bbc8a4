"""The decoder of X-Codec2 and NeuCodec: codes to sound, in padded batches, with transformers' weights.

Departs from the native forward in order only, not in what is computed:

- The native rotary embedding turns queries and keys of a head by one angle at all places, so their products
  do not know of it; it is left out.
- The two linear layers from levels to the first hidden state are one matrix.
- Frames go before channels throughout, and a convolution is a matrix over neighbours.

Where the dtype is bfloat16, matrices are; sums along the way, norms and the inverse STFT stay in float32.

Shapes: B rows, N codes, D width.

Source: transformers `models/xcodec2/modeling_xcodec2.py`, `Xcodec2Decoder`.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llasa.codec.istft import overlap_add, spectrum
from llasa.codec.matrix import Matrix

EPS, GROUPS = 1e-6, 32  # of every norm here; of the group norms
LOUDEST, LEAST_ENERGY = 1e2, 1e-11


@dataclass(frozen=True)
class GroupNorm:
    """A group norm over the real frames of a row, with SiLU behind it."""

    norm: nn.GroupNorm

    def __call__(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """[B, N, D] and mask [B, N, 1] -> [B, N, D], zeros for padding."""
        count = x.shape[1] if mask is None else mask.sum(1, keepdim=True)
        apart = x - self._mean(_masked(x, mask), count)
        scale = self.norm.weight * torch.rsqrt(self._mean(_masked(apart, mask).square(), count) + EPS)
        return _masked(F.silu(torch.addcmul(self.norm.bias, apart, scale)), mask)

    def _mean(self, x: Tensor, count: int | Tensor) -> Tensor:
        """Return the mean of each group at each of its channels, [B, 1, D]: sums along frames are fast."""
        groups = (x.sum(1, keepdim=True) / count).unflatten(2, (GROUPS, -1)).mean(3, keepdim=True)
        return groups.expand(-1, -1, -1, x.shape[2] // GROUPS).flatten(2)


def _masked(x: Tensor, mask: Tensor | None) -> Tensor:
    return x if mask is None else x * mask


class ResNet:
    """Two convolutions with a skip: [B, N, D] -> [B, N, D], float32."""

    def __init__(self, block: Any, dtype: torch.dtype) -> None:
        self.norms = GroupNorm(block.norm1), GroupNorm(block.norm2)
        self.convs = Matrix.of(block.conv1, dtype), Matrix.of(block.conv2, dtype)

    def __call__(self, x: Tensor, mask: Tensor | None) -> Tensor:
        inner = self.convs[0](self.norms[0](x, mask)).float()
        return x + self.convs[1](self.norms[1](inner, mask))


class Layer:
    """A transformer layer: [B, N, D] -> [B, N, D], float32."""

    def __init__(self, layer: Any, config: Any, dtype: torch.dtype) -> None:
        self.norms = layer.input_layernorm.weight, layer.post_attention_layernorm.weight
        self.eps, self.size, self.act = config.rms_norm_eps, config.head_dim, layer.mlp.activation_fn
        attention = layer.self_attn
        self.ins = [Matrix.of(one, dtype) for one in (attention.q_proj, attention.k_proj, attention.v_proj)]
        self.out = Matrix.of(attention.o_proj, dtype)
        self.up, self.down = Matrix.of(layer.mlp.fc1, dtype), Matrix.of(layer.mlp.fc2, dtype)
        self.shared = config.num_attention_heads != config.num_key_value_heads

    def __call__(self, x: Tensor, seen: Tensor | None) -> Tensor:
        """Seen: [B, 1, 1, N], False for padding, or None."""
        x = x + self._attend(self._norm(x, 0), seen)
        return x + self.down(self.act(self.up(self._norm(x, 1))))

    def _attend(self, x: Tensor, seen: Tensor | None) -> Tensor:
        query, key, value = (project(x).unflatten(2, (-1, self.size)).transpose(1, 2) for project in self.ins)
        heard = F.scaled_dot_product_attention(query, key, value, seen, enable_gqa=self.shared)
        return self.out(heard.transpose(1, 2).flatten(2))

    def _norm(self, x: Tensor, index: int) -> Tensor:
        weight = self.norms[index]
        return F.rms_norm(x, weight.shape, weight, self.eps).to(self.up.weight.dtype)


class Xcodec2Decoder:
    """Codes to sound, with the weights that the native model has now.

    Args:
        model: native model; in float32 most of its weights are shared, convolutions are copied.
        dtype: of the matrices: float32 or bfloat16.
    """

    def __init__(self, model: Any, dtype: torch.dtype) -> None:
        config, decoder = model.config, model.acoustic_decoder
        self._levels = model.quantizer.quantizer.codebook
        self._entry = _joined(model.quantizer.project_out, decoder.fc)
        self._embed = Matrix.of(decoder.embed, dtype)
        self._before = [ResNet(block, dtype) for block in decoder.prior_net]
        self._layers = [Layer(layer, config, dtype) for layer in decoder.layers]
        self._after = [ResNet(block, dtype) for block in decoder.post_net]
        self._norm, self._head = decoder.norm, decoder.head

    def __call__(self, codes: Tensor, mask: Tensor | None) -> Tensor:
        """Return samples [B, N * hop_length] of codes [B, N].

        mask: [B, N], 1 for codes and 0 for padding, which does not sound; None where nothing is padded.
        """
        columns = None if mask is None else mask[..., None]
        x = self._entry(self._levels[codes])
        x = self._embed(_masked(x, columns)).float()
        for block in self._before:
            x = block(x, columns)
        seen = None if mask is None else mask[:, None, None] > 0
        for layer in self._layers:
            x = layer(x, seen)
        for block in self._after:
            x = block(x, columns)
        return self._sound(self._norm(x), mask)

    def _sound(self, x: Tensor, mask: Tensor | None) -> Tensor:
        head = self._head
        magnitude, phase = head.linear(x).chunk(2, -1)
        frames = torch.fft.irfft(spectrum(magnitude.exp().clamp(max=LOUDEST), phase), head.n_fft)
        return overlap_add(frames, head.window, head.hop_length, mask, LEAST_ENERGY)


def _joined(first: nn.Linear, second: nn.Linear) -> Matrix:
    """Return one matrix for two linear layers, multiplied in float64."""
    one, two = first.weight.detach().double(), second.weight.detach().double()
    bias = two @ first.bias.detach().double() + second.bias.detach().double()
    return Matrix((two @ one).float(), bias.float())

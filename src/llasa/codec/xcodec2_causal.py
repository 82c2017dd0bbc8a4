"""A streaming decoder of X-Codec2 and NeuCodec: causal but for a few codes, each code computed once.

The weights are those of transformers' decoder, trained on from it. Differences from it: the first convolution
sees `ahead` codes to come and the others none; attention sees the last `window` codes; group norms are over
one frame. What a layer saw last, keys and values among it, is carried over from piece to piece (`Carried`).

Shapes: B rows, N codes, D width, T samples.

Source: the idea of XCodec2-S, Tian et al., *Llasa+* (arXiv 2508.06262); neither weights nor code are public.
"""

import copy
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from llasa.codec.carried import Carried, surrounded, turned_back
from llasa.codec.istft import added_on, overlap_add, spectrum
from llasa.codec.xcodec2_decoder import EPS, GROUPS, LEAST_ENERGY, LOUDEST
from llasa.errors import BundleError
from llasa.weights import not_finite


@dataclass(frozen=True)
class Reach:
    """How far it sees. ahead: codes to come, 0 to 3, the inverse STFT aside; window: codes of attention."""

    ahead: int = 3
    window: int = 250

    def __post_init__(self) -> None:
        whole = type(self.ahead) is int and type(self.window) is int
        if not whole or not 0 <= self.ahead <= 3 or self.window < 1:  # 3: half of the first convolution
            raise ValueError(f"ahead {self.ahead} is not from 0 to 3, or window {self.window} below 1")


class CausalDecoder(nn.Module):
    """Quantized latents [B, N, D] -> samples [B, N * hop_length].

    Args:
        native: transformers' decoder, used in place; see `made_causal`.
        reach: how far it sees.
    """

    def __init__(self, native: Any, reach: Reach) -> None:
        super().__init__()
        self.native, self.reach = native, reach

    @property
    def trim(self) -> int:
        """Samples by which a frame's window reaches out on each side."""
        return (self.native.head.n_fft - self.native.head.hop_length) // 2

    @property
    def look_ahead(self) -> int:
        """Samples by which a stream's sound is behind its codes."""
        return self.reach.ahead * self.native.head.hop_length + self.trim

    def forward(self, latents: Tensor, carried: Carried | None = None) -> Tensor:
        """Return samples; of a stream, whose next latents these are, those that no code to come changes."""
        net, dtype = self.native, self.native.fc.weight.dtype
        if dtype == torch.float32:  # or whatever training runs in
            x = self._heard(latents, carried)
        else:
            with torch.autocast(latents.device.type, dtype):
                x = self._heard(latents, carried)
        return self._sound(net.norm(x.float()), carried)

    def _heard(self, latents: Tensor, carried: Carried | None) -> Tensor:
        net = self.native
        x = _along(net.embed, net.fc(latents), carried, self.reach.ahead).float()
        for block in net.prior_net:
            x = _resnet(block, x, carried)
        for layer in net.layers:
            x = x + self._attended(layer.self_attn, layer.input_layernorm(x), carried)
            x = x + layer.mlp(layer.post_attention_layernorm(x))
        for block in net.post_net:
            x = _resnet(block, x, carried)
        return x

    def _attended(self, attention: Any, x: Tensor, carried: Carried | None) -> Tensor:
        before = self.reach.window - 1
        kept = torch.cat((attention.k_proj(x), attention.v_proj(x)), 2)
        kept = surrounded(carried, attention, kept, before)
        real = surrounded(carried, (attention, "real"), torch.ones_like(x[..., :1]), before)[..., 0] > 0
        query, key, value = (
            one.unflatten(2, (-1, attention.head_dim)).transpose(1, 2)
            for one in (attention.q_proj(x), *kept.chunk(2, 2))
        )
        # A query is at place `before` behind the first key that it sees.
        here = torch.arange(x.shape[1], device=x.device)[:, None]
        there = torch.arange(key.shape[2], device=x.device)
        seen = (there >= here) & (there <= here + before) & real[:, None, None]
        shared = attention.num_key_value_groups > 1
        heard = F.scaled_dot_product_attention(query, key, value, seen, enable_gqa=shared)
        return attention.o_proj(heard.transpose(1, 2).flatten(2))

    def _sound(self, x: Tensor, carried: Carried | None) -> Tensor:
        head = self.native.head
        with torch.autocast(x.device.type, enabled=False):
            magnitude, phase = head.linear(x).chunk(2, -1)
        frames = magnitude.new_zeros(len(x), 0, head.n_fft)
        if x.shape[1]:  # there is no Fourier transform of nothing
            frames = torch.fft.irfft(spectrum(magnitude.exp().clamp(max=LOUDEST), phase), head.n_fft)
        if carried is None:
            return overlap_add(frames, head.window, head.hop_length, None, LEAST_ENERGY)
        return added_on(frames, head.window, head.hop_length, LEAST_ENERGY, carried)

    def fast(self, dtype: torch.dtype) -> "CausalDecoder":
        """Return a copy for inference, its matrices in a dtype; sums, norms and the head stay in float32."""
        made = CausalDecoder(copy.deepcopy(self.native), self.reach).eval()
        for name, module in made.native.named_modules():
            if isinstance(module, nn.Linear | nn.Conv1d) and not name.startswith("head"):
                module.to(dtype)
        return made

    def save(self, folder: Path) -> None:
        """Write the folder that `load` reads."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self.native.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
        (folder / "config.json").write_text(json.dumps(asdict(self.reach), indent=1) + "\n", encoding="utf-8")


def made_causal(native: Any, reach: Reach) -> CausalDecoder:
    """Return a streaming decoder that begins from the weights of a whole one, which stays as it is."""
    made = CausalDecoder(copy.deepcopy(native), reach)
    with torch.no_grad():
        made.native.embed.weight.copy_(turned_back(native.embed.weight, reach.ahead))
        for block in (*made.native.prior_net, *made.native.post_net):
            for conv in (block.conv1, block.conv2):
                conv.weight.copy_(turned_back(conv.weight, 0))
    return made


def load(folder: Path, native: Any) -> CausalDecoder:
    """Return the streaming decoder of a folder. native: the decoder that it lies beside, of the same sizes.

    Raises:
        BundleError: a file is missing or damaged, or the weights do not fit exactly.
    """
    try:
        reach = Reach(**json.loads((folder / "config.json").read_text(encoding="utf-8")))
        made = CausalDecoder(copy.deepcopy(native), reach)
        made.native.load_state_dict(load_file(folder / "model.safetensors"))
        if odd := not_finite(made):
            raise ValueError(f"{len(odd)} weights are not finite, first {odd[0]}")
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
        raise BundleError(
            f"Loading the streaming decoder from '{folder}': {error}. Download it again, or train it: "
            "llasa train codec, with init and ahead."
        ) from error
    return made


def _resnet(block: Any, x: Tensor, carried: Carried | None) -> Tensor:
    inner = _along(block.conv1, _normed(block.norm1, x), carried)
    return x + _along(block.conv2, _normed(block.norm2, inner), carried)


def _normed(norm: nn.GroupNorm, x: Tensor) -> Tensor:
    """Return SiLU behind a group norm over the channels of each frame."""
    rows = F.group_norm(x.flatten(0, 1), GROUPS, norm.weight, norm.bias, EPS)
    return F.silu(rows).unflatten(0, x.shape[:2])


def _along(conv: nn.Conv1d, x: Tensor, carried: Carried | None, ahead: int = 0) -> Tensor:
    """Return the convolution of [B, N, D] over frames whose surroundings are there."""
    taps = conv.kernel_size[0]
    x = surrounded(carried, conv, x, taps - 1 - ahead, ahead)
    if x.shape[1] < taps:
        return x.new_zeros(len(x), 0, conv.out_channels)
    return F.conv1d(x.mT, conv.weight, conv.bias).mT

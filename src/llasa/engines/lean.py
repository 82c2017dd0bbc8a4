"""A Llama's layers for the new ids of each row: what transformers computes, in fewer operations.

A step of a small model takes less time than the calls of its modules; here are only their products and sums.
Must not know: prompts, requests, sampling.

Shapes: B rows, S new ids of each, D width, H heads of queries, K of keys and values, W head width, C columns
that rows see.

Source: transformers `models/llama/modeling_llama.py`.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.activations import SiLUActivation
from transformers.cache_utils import Cache
from transformers.models.llama import modeling_llama as llama

from llasa.engines.attention import attend
from llasa.engines.rows import Rows

# A trunk of these and nothing else is computed in full: no adapter, no linear layer in 8 bits.
_KNOWN = {
    llama.LlamaModel, llama.LlamaDecoderLayer, llama.LlamaAttention, llama.LlamaMLP, llama.LlamaRMSNorm,
    llama.LlamaRotaryEmbedding, nn.Embedding, nn.Linear, nn.ModuleList, nn.SiLU, SiLUActivation,
}  # fmt: skip


Linear = tuple[Tensor, Tensor | None]
Norm = tuple[Tensor, float]


@dataclass(frozen=True)
class Turn:
    """Cosines, and sines as halves that have changed places need them, [B, 1, S, W]."""

    cos: Tensor
    sin: Tensor

    @classmethod
    def of(cls, rotary: Any, x: Tensor, positions: Tensor) -> "Turn":
        """Return it for positions [B, S]; rotary: of a Llama. x: anything of the dtype that is turned."""
        cos, sin = (side[:, None] for side in rotary(x[:, None], positions))
        first, second = sin.chunk(2, -1)
        return cls(cos, torch.cat([-first, second], -1))


@dataclass(frozen=True)
class Layer:
    """A layer: to ask a module for a part of it costs as much as a product of a small model.

    number: which of the cache's layers is its own. width: W.
    """

    number: int
    width: int
    norms: tuple[Norm, Norm]
    query: Linear
    key: Linear
    value: Linear
    out: Linear
    gate: Linear
    up: Linear
    down: Linear
    scaling: float

    @classmethod
    def of(cls, number: int, layer: Any) -> "Layer":
        """Return it with the parameters that a layer of transformers has now."""
        of, mlp = layer.self_attn, layer.mlp
        parts = (of.q_proj, of.k_proj, of.v_proj, of.o_proj, mlp.gate_proj, mlp.up_proj, mlp.down_proj)
        query, key, value, out, gate, up, down = ((part.weight, part.bias) for part in parts)
        norms = norm_of(layer.input_layernorm), norm_of(layer.post_attention_layernorm)
        return cls(number, of.head_dim, norms, query, key, value, out, gate, up, down, of.scaling)

    def __call__(self, x: Tensor, turn: Turn, seen: Tensor | None, cache: Cache) -> Tensor:
        """Return what the next layer reads, [B * S, D].

        Args:
            x: the same of the layer before. seen: which columns ids see, [B, 1, S, C]; None for all.
        """
        x = x + self._attend(normed(x, self.norms[0]), turn, seen, cache)
        between = normed(x, self.norms[1])
        gated = F.silu(F.linear(between, *self.gate)) * F.linear(between, *self.up)
        return x + F.linear(gated, *self.down)

    def _attend(self, x: Tensor, turn: Turn, seen: Tensor | None, cache: Cache) -> Tensor:
        query, key, value = F.linear(x, *self.query), F.linear(x, *self.key), F.linear(x, *self.value)
        size = turn.cos.shape[2]
        both = self._heads(torch.cat([query, key], -1), size)
        both = torch.addcmul(both * turn.cos, both.roll(self.width // 2, -1), turn.sin)
        queries = query.shape[1] // self.width
        keys, values = cache.update(both[:, queries:], self._heads(value, size), self.number)
        read = attend(both[:, :queries].to(values.dtype), keys, values, seen, self.scaling)
        return F.linear(read.reshape(len(x), -1).to(x.dtype), *self.out)

    def _heads(self, x: Tensor, size: int) -> Tensor:
        """[B * S, H * W] -> [B, H, S, W]."""
        return x.view(len(x) // size, size, -1, self.width).transpose(1, 2)


class Lean:
    """A step of a trunk over its rows, with the parameters that it has when this is made."""

    def __init__(self, trunk: Any) -> None:
        self._layers = [Layer.of(number, layer) for number, layer in enumerate(trunk.layers)]
        self._embedding, self._norm = trunk.embed_tokens.weight, norm_of(trunk.norm)
        self._rotary, self._config = trunk.rotary_emb, trunk.config

    @classmethod
    def of(cls, trunk: Any) -> "Lean | None":
        """Return it for a trunk that it computes in full, else None."""
        fits = type(trunk) is llama.LlamaModel and all(map(_is_plain, trunk.modules()))
        return cls(trunk) if fits and len(trunk.layers) else None

    def __call__(self, ids: Tensor, positions: Tensor, mask: Tensor | None, rows: Rows) -> Tensor:
        """Return what heads read, [B * S, D].

        Args:
            ids, positions: [B, S]. mask: which columns ids see, [B, 1, S, C], or of one id [B, C]; None for
                all.
        """
        x = F.embedding(ids.flatten(), self._embedding)
        turn = Turn.of(self._rotary, x, positions)
        seen = mask if mask is None or mask.ndim == 4 else mask[:, None, None]
        for layer in self._layers[: self._config.num_hidden_layers]:
            x = layer(x, turn, seen, rows)
        return normed(x, self._norm)


def _is_plain(part: nn.Module) -> bool:
    """Tell whether a module computes what its class does: hooks of others must run."""
    hooked = part._forward_hooks or part._forward_pre_hooks or "forward" in vars(part)
    return type(part) in _KNOWN and not hooked


def norm_of(layer: Any) -> Norm:
    """Return the weight and epsilon of a norm of transformers."""
    return layer.weight, layer.variance_epsilon


def normed(x: Tensor, norm: Norm) -> Tensor:
    """Return it over its root mean square."""
    return F.rms_norm(x, norm[0].shape, *norm)

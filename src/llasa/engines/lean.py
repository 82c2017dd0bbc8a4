"""A Llama's layers for the new ids of each row: what transformers computes, in fewer operations.

A step of a small model takes less time than the calls of its modules; here are only their products and sums.
It computes transformers' Llama, and the one of `llama`.
Must not know: prompts, requests, sampling.

Shapes: B rows, S new ids of each, D width, H heads of queries, K of keys and values, W head width, C columns
that rows see.

Source: transformers `models/llama/modeling_llama.py`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.cache_utils import Cache

from llasa.engines.attention import WIDE, attend

# A trunk of these and nothing else is computed in full: no adapter, no linear layer in 8 bits. By name, since
# importing transformers' takes two seconds; who has one of its models has imported them.
_TRUNKS = ("transformers.models.llama.modeling_llama.LlamaModel", "llasa.engines.llama.Trunk")
_PARTS = (
    *(f"transformers.models.llama.modeling_llama.Llama{part}"
      for part in ("DecoderLayer", "Attention", "MLP", "RMSNorm", "RotaryEmbedding")),
    *(f"llasa.engines.llama.{part}" for part in ("DecoderLayer", "Attention", "Mlp", "Norm", "Rotary")),
    "transformers.activations.SiLUActivation",
)  # fmt: skip
_PLAIN = {nn.Embedding, nn.Linear, nn.ModuleList, nn.SiLU}

Linear = Callable[[Tensor], Tensor]
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

    number: which of the cache's layers is its own. width: W. wide: whether to attend in float32.
    """

    number: int
    width: int
    wide: bool
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
    def of(cls, number: int, layer: Any, wide: bool = False, called: bool = False) -> "Layer":
        """Return it with the parameters that a layer has now.

        Args:
            called: linear layers are called as modules, whatever they are.
        """
        of, mlp = layer.self_attn, layer.mlp
        parts = (of.q_proj, of.k_proj, of.v_proj, of.o_proj, mlp.gate_proj, mlp.up_proj, mlp.down_proj)
        query, key, value, out, gate, up, down = parts if called else map(linear_of, parts)
        norms = norm_of(layer.input_layernorm), norm_of(layer.post_attention_layernorm)
        return cls(number, of.head_dim, wide, norms, query, key, value, out, gate, up, down, of.scaling)

    def __call__(self, x: Tensor, turn: Turn, seen: Tensor | None, cache: Cache) -> Tensor:
        """Return what the next layer reads, [B * S, D].

        Args:
            x: the same of the layer before. seen: which columns ids see, [B, 1, S, C]; None for all.
        """
        x = x + self._attend(normed(x, self.norms[0]), turn, seen, cache)
        between = normed(x, self.norms[1])
        return x + self.down(F.silu(self.gate(between)) * self.up(between))

    def _attend(self, x: Tensor, turn: Turn, seen: Tensor | None, cache: Cache) -> Tensor:
        query, key, value = self.query(x), self.key(x), self.value(x)
        size = turn.cos.shape[2]
        both = self._heads(torch.cat([query, key], -1), size)
        both = torch.addcmul(both * turn.cos, both.roll(self.width // 2, -1), turn.sin)
        queries = query.shape[1] // self.width
        keys, values = cache.update(both[:, queries:], self._heads(value, size), self.number)
        if self.wide and isinstance(keys, Tensor):
            keys, values = keys.float(), values.float()
        read = attend(both[:, :queries].to(values.dtype), keys, values, seen, self.scaling)
        return self.out(read.reshape(len(x), -1).to(x.dtype))

    def _heads(self, x: Tensor, size: int) -> Tensor:
        """[B * S, H * W] -> [B, H, S, W]."""
        return x.view(len(x) // size, size, -1, self.width).transpose(1, 2)


class Lean:
    """A step of a trunk over its rows, with the parameters that it has when this is made.

    called: see `Layer.of`.
    """

    def __init__(self, trunk: Any, called: bool = False) -> None:
        wide = trunk.config._attn_implementation == WIDE
        self._layers = [Layer.of(n, layer, wide, called) for n, layer in enumerate(trunk.layers)]
        self._embedding, self._norm = trunk.embed_tokens.weight, norm_of(trunk.norm)
        self._rotary, self._config = trunk.rotary_emb, trunk.config

    @classmethod
    def of(cls, trunk: Any) -> "Lean | None":
        """Return it for a trunk that it computes in full, else None."""
        fits = is_llama(trunk) and all(_is_plain(part) for part in trunk.modules() if part is not trunk)
        return cls(trunk) if fits and len(trunk.layers) else None

    def __call__(self, ids: Tensor, positions: Tensor, mask: Tensor | None, rows: Cache) -> Tensor:
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


def is_llama(trunk: Any) -> bool:
    """Tell whether a trunk is a Llama's, and nothing derived from one."""
    return _name(trunk) in _TRUNKS


def _is_plain(part: nn.Module) -> bool:
    """Tell whether a module computes what its class does: hooks of others must run."""
    hooked = part._forward_hooks or part._forward_pre_hooks or "forward" in vars(part)
    return (type(part) in _PLAIN or _name(part) in _PARTS) and not hooked


def _name(part: Any) -> str:
    return f"{type(part).__module__}.{type(part).__qualname__}"


def linear_of(part: Any) -> Linear:
    """Return what a plain linear layer computes, without what a call of a module costs."""
    return partial(F.linear, weight=part.weight, bias=part.bias)


def norm_of(layer: Any) -> Norm:
    """Return the weight and epsilon of a norm."""
    return layer.weight, layer.variance_epsilon


def normed(x: Tensor, norm: Norm) -> Tensor:
    """Return it over its root mean square."""
    return F.rms_norm(x, norm[0].shape, *norm)

"""A Llama's trunk for one new id of each row: what transformers computes, in fewer operations.

A step of a small model takes less time than the calls of its modules; here are only their products and sums.
Must not know: prompts, requests, sampling.

Shapes: B rows, D width, H heads of queries, K of keys and values, W head width, C columns that rows see.

Source: transformers `models/llama/modeling_llama.py`.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.activations import SiLUActivation
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
class _Layer:
    """Weights of a layer: to ask a module for a part costs as much as a product of a small model."""

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
    def of(cls, layer: Any) -> "_Layer":
        of, mlp = layer.self_attn, layer.mlp
        parts = (of.q_proj, of.k_proj, of.v_proj, of.o_proj, mlp.gate_proj, mlp.up_proj, mlp.down_proj)
        query, key, value, out, gate, up, down = ((part.weight, part.bias) for part in parts)
        norms = _norm(layer.input_layernorm), _norm(layer.post_attention_layernorm)
        return cls(norms, query, key, value, out, gate, up, down, of.scaling)


class Lean:
    """A step of a trunk over its rows, with the parameters that it has when this is made."""

    def __init__(self, trunk: Any) -> None:
        self._layers = [_Layer.of(layer) for layer in trunk.layers]
        self._embedding, self._norm = trunk.embed_tokens.weight, _norm(trunk.norm)
        self._rotary, self._width = trunk.rotary_emb, trunk.layers[0].self_attn.head_dim
        self._config = trunk.config

    @classmethod
    def of(cls, trunk: Any) -> "Lean | None":
        """Return it for a trunk that it computes in full, else None."""
        fits = type(trunk) is llama.LlamaModel and all(map(_is_plain, trunk.modules()))
        return cls(trunk) if fits and len(trunk.layers) else None

    def __call__(self, ids: Tensor, positions: Tensor, mask: Tensor | None, rows: Rows) -> Tensor:
        """Return what heads read, [B, D].

        Args:
            ids, positions: [B, 1]. mask: which columns rows see, [B, C] or [B, 1, 1, C]; None for all.
        """
        x = F.embedding(ids[:, 0], self._embedding)
        turn = self._turn(x, positions)
        seen = mask if mask is None or mask.ndim == 4 else mask[:, None, None]
        for number, layer in enumerate(self._layers[: self._config.num_hidden_layers]):
            x = x + self._attend(number, layer, _normed(x, layer.norms[0]), turn, seen, rows)
            x = x + _mlp(layer, _normed(x, layer.norms[1]))
        return _normed(x, self._norm)

    def _turn(self, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return cosines, and sines as halves that have changed places need them, [B, 1, 1, W]."""
        cos, sin = (side[:, None] for side in self._rotary(x[:, None], positions))
        first, second = sin.chunk(2, -1)
        return cos, torch.cat([-first, second], -1)

    def _attend(
        self,
        number: int,
        layer: _Layer,
        x: Tensor,
        turn: tuple[Tensor, Tensor],
        seen: Tensor | None,
        rows: Rows,
    ) -> Tensor:
        query, key, value = F.linear(x, *layer.query), F.linear(x, *layer.key), F.linear(x, *layer.value)
        both = self._heads(torch.cat([query, key], -1))
        both = torch.addcmul(both * turn[0], both.roll(self._width // 2, -1), turn[1])
        queries = query.shape[1] // self._width
        keys, values = rows.update(both[:, queries:], self._heads(value), number)
        read = attend(both[:, :queries].to(values.dtype), keys, values, seen, layer.scaling)
        return F.linear(read.flatten(1).to(x.dtype), *layer.out)

    def _heads(self, x: Tensor) -> Tensor:
        """[B, H * W] -> [B, H, 1, W]."""
        return x.view(len(x), -1, 1, self._width)


def _is_plain(part: nn.Module) -> bool:
    """Tell whether a module computes what its class does: hooks of others must run."""
    hooked = part._forward_hooks or part._forward_pre_hooks or "forward" in vars(part)
    return type(part) in _KNOWN and not hooked


def _norm(layer: Any) -> Norm:
    return layer.weight, layer.variance_epsilon


def _normed(x: Tensor, norm: Norm) -> Tensor:
    return F.rms_norm(x, norm[0].shape, *norm)


def _mlp(layer: _Layer, x: Tensor) -> Tensor:
    return F.linear(F.silu(F.linear(x, *layer.gate)) * F.linear(x, *layer.up), *layer.down)

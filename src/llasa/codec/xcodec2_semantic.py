"""The semantic encoder of X-Codec2, w2v-BERT 2.0 up to the layer that is used: batches of padded rows.

With transformers' weights. Departs from the native forward in order only: what a query says to each distance
is computed once a distance and not once a place. Matrices are in one dtype, sums along the way in float32.

Shapes: B rows, P frames of 20 ms, D width, H heads.

Source: transformers `models/wav2vec2_bert/modeling_wav2vec2_bert.py` and `Xcodec2SemanticAdapter`.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from llasa.codec.matrix import Matrix


class Attention:
    """Self-attention that hears how far away a frame is: [B, P, D] -> [B, P, D]."""

    def __init__(self, native: Any, dtype: torch.dtype) -> None:
        self.ins = [Matrix.of(one, dtype) for one in (native.linear_q, native.linear_k, native.linear_v)]
        self.out, self.size = Matrix.of(native.linear_out, dtype), native.head_size
        self.distances = native.distance_embedding.weight.detach().to(dtype)

    def __call__(self, x: Tensor, places: Tensor, seen: Tensor | None) -> Tensor:
        """places [P, P]: which distance; seen [B, 1, 1, P]: False for padding, or None."""
        query, key, value = (project(x).unflatten(2, (-1, self.size)).transpose(1, 2) for project in self.ins)
        by_distance = (query @ self.distances.mT) * self.size**-0.5
        bias = by_distance.gather(3, places.expand(*query.shape[:2], -1, -1))
        if seen is not None:
            bias = bias.masked_fill(~seen, -torch.inf)
        return self.out(F.scaled_dot_product_attention(query, key, value, bias).transpose(1, 2).flatten(2))


class Convolution:
    """A gated convolution that sees no frame to come: [B, P, D] -> [B, P, D]."""

    def __init__(self, native: Any, dtype: torch.dtype) -> None:
        self.norms, self.act = (native.layer_norm, native.depthwise_layer_norm), native.activation
        self.enter, self.leave = (
            Matrix.of(one, dtype) for one in (native.pointwise_conv1, native.pointwise_conv2)
        )
        self.depthwise = native.depthwise_conv.weight.detach().to(dtype)[:, :, None]

    def __call__(self, x: Tensor, mask: Tensor | None) -> Tensor:
        x = self.norms[0](x)
        x = F.glu(self.enter(x if mask is None else x * mask), 2)
        # An image one pixel high whose channels lie together in memory: nothing is transposed.
        image = F.pad(x, (0, 0, self.depthwise.shape[3] - 1, 0)).mT[:, :, None]
        x = F.conv2d(image, self.depthwise, groups=len(self.depthwise))[:, :, 0].mT
        return self.leave(self.act(self.norms[1](x.float())))


class Layer:
    """A conformer layer: [B, P, D] -> [B, P, D], float32."""

    def __init__(self, native: Any, dtype: torch.dtype) -> None:
        self.attention = Attention(native.self_attn, dtype)
        self.convolution = Convolution(native.conv_module, dtype)
        self.norms = native.ffn1_layer_norm, native.self_attn_layer_norm, native.ffn2_layer_norm
        self.halves = [_half(ffn, dtype) for ffn in (native.ffn1, native.ffn2)]
        self.last = native.final_layer_norm

    def __call__(self, x: Tensor, places: Tensor, mask: Tensor | None, seen: Tensor | None) -> Tensor:
        x = x + self._half(0, self.norms[0](x))
        x = x + self.attention(self.norms[1](x), places, seen)
        x = x + self.convolution(x, mask)
        return self.last(x + self._half(1, self.norms[2](x)))

    def _half(self, index: int, x: Tensor) -> Tensor:
        up, act, down = self.halves[index]
        return 0.5 * down(act(up(x)))


def _half(native: Any, dtype: torch.dtype) -> tuple[Matrix, Any, Matrix]:
    up, down = native.intermediate_dense, native.output_dense
    return Matrix.of(up, dtype), native.intermediate_act_fn, Matrix.of(down, dtype)


class Semantic:
    """Features [B, P, 160] -> what is said in them [B, P, D], float32, adapter included."""

    def __init__(self, model: Any, dtype: torch.dtype) -> None:
        native, adapter, config = model.semantic_encoder, model.semantic_adapter, model.config
        self._entry = native.feature_projection
        self._layers = [Layer(layer, dtype) for layer in native.encoder.layers]
        convs = (adapter.conv1, adapter.conv2, adapter.conv3, adapter.conv4)
        self._adapter = [Matrix.of(conv, dtype) for conv in convs]
        sizes = config.semantic_model_config
        self._left, self._right = sizes.left_max_position_embeddings, sizes.right_max_position_embeddings

    def __call__(self, features: Tensor, mask: Tensor | None) -> Tensor:
        """mask: [B, P], 1 for frames and 0 for padding, or None."""
        columns, seen = (None, None) if mask is None else (mask[..., None], mask[:, None, None] > 0)
        here = torch.arange(features.shape[1], device=features.device)
        places = (here - here[:, None]).clamp(-self._left, self._right) + self._left
        x = self._entry(features)[0]
        for layer in self._layers:
            x = layer(x, places, columns, seen)
        return self._adapted(x, columns)

    def _adapted(self, x: Tensor, mask: Tensor | None) -> Tensor:
        first, second, third, last = (_masked(conv, mask) for conv in self._adapter)
        kept = first(x).relu()
        return last(third(second(kept).relu()) + kept)


def _masked(conv: Matrix, mask: Tensor | None) -> Any:
    return lambda x: conv(x if mask is None else x * mask).float()

"""How a model is brought to attend as `attention` does: under a name of its own in its config.

Models of transformers are told of it; where keys come as plain tensors, their own way to attend is used.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from llasa.engines.attention import WIDE, Held, Whole, attend
from llasa.engines.llama import Llama

_PLAIN = "llasa"
# Models that attend by scaled products and a mask of what came before, and by nothing else.
_SHARING = ("llama", "mistral", "qwen2", "qwen3", "smollm3")


def share_attention(model: nn.Module) -> bool:
    """Let a model attend to what rows share, and tell whether it can; elsewhere it attends as before."""
    config: Any = getattr(model, "config", None)
    types = set(getattr(config, "layer_types", None) or ["full_attention"])
    if getattr(config, "model_type", None) not in _SHARING or types != {"full_attention"}:
        return False
    if config._attn_implementation == "sdpa":
        _use(model, _PLAIN, _plain)
    return config._attn_implementation in (_PLAIN, WIDE)


def widen_attention(model: Any) -> None:
    """Let a bfloat16 model on a CPU keep its keys and values, and attend, in float32.

    The CPU kernel for one bfloat16 query is 3 to 8 times slower than the float32 one (measured: torch 2.13,
    AVX512-BF16).
    """
    if model.config._attn_implementation == "sdpa":
        _use(model, WIDE, _wide)


def is_wide(model: nn.Module) -> bool:
    """Tell whether keys and values are to be kept in float32."""
    return getattr(getattr(model, "config", None), "_attn_implementation", None) == WIDE


def _use(model: Any, name: str, attention: Callable[..., tuple[Tensor, None]]) -> None:
    if isinstance(model, Llama):
        model.config._attn_implementation = name
        return
    # On first use: importing it takes two seconds, and a Llama that is loaded to speak does without.
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    AttentionInterface.register(name, attention)
    AttentionMaskInterface.register(name, sdpa_mask)
    model.set_attn_implementation(name)


def _plain(
    module: nn.Module,
    query: Tensor,
    key: Tensor | Held | Whole,
    value: Tensor,
    mask: Tensor | None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    if isinstance(key, Tensor):
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(module, query, key, value, mask, **kwargs)[0], None
    return attend(query, key, value, mask, kwargs["scaling"]), None


def _wide(
    module: nn.Module,
    query: Tensor,
    key: Tensor | Held | Whole,
    value: Tensor,
    mask: Tensor | None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    keys = key.float() if isinstance(key, Tensor) else key
    output, _ = _plain(module, query.float(), keys, value.float(), mask, **kwargs)
    return output.to(query.dtype), None

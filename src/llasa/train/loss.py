"""The loss of a causal language model on its labels alone, in chunks: the table of logits is never whole.

It is computed inside the model's own forward, from its own head, and so holds under LoRA and DDP. Shapes: B
rows, S ids, D width, V vocabulary.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from llasa.errors import ConfigError
from llasa.prompt import IGNORED

CHUNK = 1 << 26  # logits at once: 346 positions of 193,800 ids, 268 MB in float32

# What other families do to logits behind the head.
SCALED = ("final_logit_softcapping", "logit_scale", "logits_scaling", "lm_head_multiplier")


class Deferred(nn.Linear):
    """A head whose projection the loss does, and only where there are labels; its weight is the model's."""

    def forward(self, input: Tensor) -> Tensor:
        """Return what came in, [B, S, D]."""
        return input


def in_chunks(model: Any, chunk: int = CHUNK) -> None:
    """Make a causal language model of transformers compute its loss in chunks; its logits then are no logits.

    Saving and loading it are as before. chunk: logits at once.

    Raises:
        ConfigError: its logits are not simply what its head gives.
    """
    head, settings = model.get_output_embeddings(), model.config.get_text_config()
    changed = [key for key in SCALED if getattr(settings, key, None) not in (None, 1, 1.0)]
    if type(head) is not nn.Linear or changed:
        found = f"{changed[0]} in its config" if changed else f"a head of {type(head).__name__}"
        raise ConfigError(
            f"Training a model of type '{settings.model_type}': found {found}, and the loss expects a linear "
            "head and nothing after it. Use a base such as Llama, Qwen or SmolLM2."
        )
    deferred = Deferred(head.in_features, head.out_features, head.bias is not None, device="meta")
    deferred.weight, deferred.bias = head.weight, head.bias
    model.set_output_embeddings(deferred)

    def loss(
        logits: Tensor, labels: Tensor, vocab_size: int, num_items_in_batch: Any = None, **_: Any
    ) -> Tensor:
        return label_loss(logits, labels, model.get_output_embeddings(), num_items_in_batch, chunk)

    model.loss_function = loss


def label_loss(
    hidden: Tensor, labels: Tensor, head: Any, count: Tensor | int | None = None, chunk: int = CHUNK
) -> Tensor:
    """Return the cross-entropy of the labelled ids, nats.

    Args:
        hidden: [B, S, D], what the head reads. labels: [B, S]; the one at s is told from hidden s - 1.
        head: has `weight` [V, D], maybe `bias` [V].
        count: what the sum is divided by; the labels if None. chunk: logits at once.
    """
    wanted = labels[:, 1:] != IGNORED
    told, names = hidden[:, :-1][wanted], labels[:, 1:][wanted]
    weight, bias = _whole(head.weight), _whole(head.bias)
    size = max(1, chunk // len(weight))
    if len(names) <= size:
        total = _summed(told, weight, bias, names)
    else:
        parts = zip(told.split(size), names.split(size), strict=True)
        # Logits of a chunk are computed again for its gradient instead of being kept.
        losses = [checkpoint(_summed, one, weight, bias, n, use_reentrant=False) for one, n in parts]
        total = torch.stack(losses).sum()
    return total / (max(1, len(names)) if count is None else count)


def _summed(hidden: Tensor, weight: Tensor, bias: Tensor | None, names: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(hidden, weight, bias).float(), names, reduction="sum")


def _whole(weight: Any) -> Any:
    """Return a parameter, gathered where FSDP holds a part of it."""
    from torch.distributed.tensor import DTensor

    return weight.full_tensor() if isinstance(weight, DTensor) else weight

"""The model as reinforcement learning is given it: what cannot be drawn cannot be learnt either.

TRL takes log-probabilities over a model's whole vocabulary, an engine draws from codes and the end marker. A
bias on the head, which is never saved, makes both the same. Must not know: rewards, recipes.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from llasa.errors import ConfigError, MissingExtra
from llasa.train.loss import SCALED

# Finite, since minus infinity times a probability of 0 is no number; its exponential is exactly 0, also where
# a large logit is added, and float16 holds it.
FORBIDDEN = -30_000.0


def speech_only(model: Any, allowed: Sequence[int]) -> None:
    """Leave a causal language model nothing to say but some ids. What is saved of it stays as it was.

    Args:
        model: of transformers.
        allowed: ids of codes and of the end marker.

    Raises:
        ConfigError: its logits are not simply what a linear head without bias gives.
    """
    head, settings = model.get_output_embeddings(), model.config.get_text_config()
    changed = [key for key in SCALED if getattr(settings, key, None) not in (None, 1, 1.0)]
    if type(head) is not nn.Linear or head.bias is not None or changed:
        kind = "a head with a bias" if type(head) is nn.Linear else f"a head of {type(head).__name__}"
        found = f"{changed[0]} in its config" if changed else kind
        raise ConfigError(
            f"Training a model of type '{settings.model_type}' by rewards: found {found}, and a linear head "
            "without bias is expected. Use a base such as Llama, Qwen or SmolLM2."
        )
    bias = torch.full((head.out_features,), FORBIDDEN, dtype=head.weight.dtype, device=head.weight.device)
    bias[list(allowed)] = 0.0
    del head._parameters["bias"]
    head.register_buffer("bias", bias, persistent=False)


def check_head(model: Any, head: nn.Module) -> None:
    """Refuse LoRA on the head, or a copy of it that is trained in its place: engine and loss read the head.

    Raises:
        ConfigError: the model's head is another than `head`.
    """
    if model.get_output_embeddings() is not head:
        raise ConfigError(
            "Reading [lora] of the recipe: found the head, or weights tied to it, among what is adapted. "
            "Leave lm_head and embed_tokens out, or train all weights."
        )


def lora_config(options: dict[str, Any] | None) -> Any:
    """Return peft's configuration, None for none.

    Raises:
        ConfigError: peft refuses the options. MissingExtra: it is not installed.
    """
    if options is None:
        return None
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise MissingExtra("Training with LoRA", "peft", "train") from error
    try:
        return LoraConfig(task_type="CAUSAL_LM", **options)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"Reading [lora] of the recipe: {error} See peft's LoraConfig.") from error

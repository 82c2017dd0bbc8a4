"""LoRA on a language model that is to be trained, seen to train all that is new in it."""

from collections.abc import Mapping
from typing import Any

import torch

from llasa.errors import ConfigError, MissingExtra
from llasa.train.loss import Deferred

_BOTH = 'lora.modules_to_save = ["embed_tokens", "lm_head"]'


def adapted(model: Any, options: Mapping[str, Any], seed: int, fresh: bool) -> Any:
    """Return a model with LoRA on it.

    Args:
        model: as `loss.in_chunks` leaves it. options: of peft's `LoraConfig`.
        fresh: whether rows of its vocabulary are new, and nothing has trained them yet.

    Raises:
        ConfigError: peft refuses the options, the head is adapted and not trained whole, or rows that are
            fresh would stay as they are. MissingExtra: peft is not installed.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise MissingExtra("Training with LoRA", "peft", "train") from error
    torch.manual_seed(seed)
    try:
        worn = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **options))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"Reading [lora] of the recipe: {error} See peft's LoraConfig.") from error
    head = worn.get_output_embeddings()
    # The loss projects with the weight of the head: what an adapter adds to its output would be lost.
    if not all(isinstance(one, Deferred) for one in getattr(head, "modules_to_save", {"": head}).values()):
        found = "found the head, or weights tied to it, among what is adapted"
        raise ConfigError(f"Reading [lora] of the recipe: {found}. Train both whole instead: {_BOTH}.")
    ends = (worn.get_input_embeddings(), head)
    if fresh and not all(any(p.requires_grad for p in end.parameters()) for end in ends):
        found = "the model's vocabulary has new rows, which this adapter would leave untrained"
        raise ConfigError(f"Training with LoRA: {found}. Add {_BOTH}, or train all weights.")
    return worn

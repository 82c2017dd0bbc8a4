"""Muon for the matrices of a language model's layers and AdamW for the rest, as one optimizer."""

from typing import Any

import torch
from torch import nn

from llasa.errors import ConfigError


class Muon(torch.optim.Optimizer):
    """Two optimizers behind one face: schedulers, checkpoints and trainers see one, with two groups."""

    def __init__(self, matrices: list[Any], rest: list[Any], lr: float, betas: tuple[float, float],
                 weight_decay: float) -> None:  # fmt: skip
        """Take the parameters of Muon, all of two dimensions, and those of AdamW."""
        super().__init__([{"params": matrices}, {"params": rest}], {"lr": lr})
        # This scale gives Muon's updates AdamW's size, so both share one learning rate.
        muon = torch.optim.Muon(matrices, lr, weight_decay, adjust_lr_fn="match_rms_adamw")
        adamw = torch.optim.AdamW(rest, lr, betas, weight_decay=weight_decay, fused=True)
        self._parts = (muon, adamw)
        for group, part in zip(self.param_groups, self._parts, strict=True):
            group |= {key: value for key, value in part.param_groups[0].items() if key != "params"}
        self._share()

    def _share(self) -> None:
        for group, part in zip(self.param_groups, self._parts, strict=True):
            part.param_groups, part.state = [group], self.state

    def step(self, closure: Any = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Update the parameters from their gradients; there is no closure."""
        for part in self._parts:
            part.step()

    def load_state_dict(self, state_dict: Any) -> None:
        """See `torch.optim.Optimizer`."""
        super().load_state_dict(state_dict)
        self._share()


def muon(model: nn.Module, args: Any) -> Muon:
    """Return the optimizer for a model, with the settings of transformers' `TrainingArguments`.

    Raises:
        ConfigError: the model has no trained matrices in layers of its own, as under LoRA.
    """
    named = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
    matrices = [w for name, w in named if w.ndim == 2 and "layers." in name and "lora_" not in name]
    if not matrices:
        found = "found no trained matrices in its layers"
        raise ConfigError(f"Setting up Muon: {found}. Leave muon out, and choose trainer.optim instead.")
    chosen = {id(weight) for weight in matrices}
    rest = [weight for _, weight in named if id(weight) not in chosen]
    return Muon(matrices, rest, args.learning_rate, (args.adam_beta1, args.adam_beta2), args.weight_decay)

"""What TRL's trainers are told: our defaults, a run's own, a recipe's words, and what must not change."""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import torch

from llasa.device import chosen_device, fastest_dtype
from llasa.errors import ConfigError
from llasa.train.group import sharded

DOING = "Reading [trainer] of the recipe"


def trl_arguments(
    make: Callable[..., Any], given: Mapping[str, Any], defaults: Mapping[str, Any], fixed: Mapping[str, Any],
    refused: Collection[str], out: Path, seed: int,
) -> Any:  # fmt: skip
    """Return the arguments that `make`, a class of TRL, makes of a recipe's [trainer].

    Args:
        given: the table. defaults: under it. fixed: over it. refused: keys that it may not have either.
        out: the run's folder.

    Raises:
        ConfigError: a key that is not the recipe's to say, weights that are sharded, or TRL refuses.
    """
    if odd := sorted({*fixed, *refused, "output_dir"} & given.keys()):
        todo = "which follows from out or from how a run is made. Leave it out."
        raise ConfigError(f"{DOING}: found {odd[0]}, {todo}")
    if sharded(given):
        raise ConfigError(f"{DOING}: weights are sharded, and whole ones are needed. Use DDP or LoRA.")
    device = chosen_device(None)
    own = {
        "bf16": fastest_dtype(device) is torch.bfloat16, "use_cpu": device.type == "cpu", "seed": seed,
        "output_dir": str(out / "checkpoints"),
    }  # fmt: skip
    try:
        return make(**{**defaults, **own, **given, **fixed})
    except (TypeError, ValueError, ImportError) as error:
        raise ConfigError(f"{DOING}: {error}. See TRL's {make.__name__}.") from error

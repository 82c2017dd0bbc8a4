"""What TRL's trainers are told: our defaults, a run's own, a recipe's words, and what must not change."""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, Field

from llasa import config
from llasa.device import chosen_device, fastest_dtype
from llasa.errors import ConfigError
from llasa.train.group import sharded
from llasa.train.panel import SamplesBlock


class TrlRecipe(BaseModel):
    """What recipes of TRL's trainers share.

    model: the bundle to start from, a folder or Hub id. codec: of a published model, see `load_bundle`. out:
    the run's folder. name: of the new bundle. dtype: of the weights that are written. lora: options of peft's
    `LoraConfig`. trainer: of TRL's own arguments.
    """

    model_config = config.STRICT
    model: str
    codec: str | None = None
    out: str
    name: str | None = None
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    seed: int = 0
    lora: dict[str, Any] | None = None
    samples: SamplesBlock | None = None
    trainer: dict[str, Any] = Field(default={})


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

"""What a trainer of transformers leaves: its weights, and the bundle that speaks with them.

Must not know: what was learnt from.
"""

import shutil
from pathlib import Path
from typing import Any

import torch

from llasa import shortage
from llasa.bundle import Bundle
from llasa.device import chosen_dtype
from llasa.engines.weights import load_model
from llasa.errors import BundleError
from llasa.export.hf import Changes, export_hf
from llasa.train.resume import damage

STATES = shutil.ignore_patterns(  # of a checkpoint, what is no weights
    "optimizer.pt",
    "optimizer.bin",  # this and the next: where weights are sharded
    "pytorch_model_fsdp.bin",
    "scheduler.pt",
    "rng_state*.pth",
    "trainer_state.json",
    "training_args.bin",
    "complete.json",
)


def write_result(
    trainer: Any, bundle: Bundle, out: Path, lora: bool, name: str | None, dtype: str, best: str | None = None
) -> Path:
    """Write `lm` or `adapter`, and `bundle`, in a run's folder; return the latter.

    Args:
        bundle: what was begun with. lora: whether an adapter was trained. name: of the new bundle.
        dtype: of the weights that are written. best: the checkpoint to take; the weights as they are if None.

    Raises:
        BundleError: that checkpoint is missing or damaged. ConfigError: the disk is full.
    """
    place = out / ("adapter" if lora else "lm")
    size = sum(p.nbytes for p in trainer.model.parameters() if p.requires_grad)
    with shortage.told(f"Writing the bundle in '{out}'", place, size):
        if best is None:
            trainer.save_model(str(place))
        if trainer.args.process_index == 0:
            _bundled(bundle, out, place, lora, name, dtype, best)
    return out / "bundle"


def _bundled(
    bundle: Bundle, out: Path, place: Path, lora: bool, name: str | None, dtype: str, best: str | None
) -> None:
    if best is not None:
        if found := damage(Path(best)):
            todo = "Put it back and run the same command again"
            raise BundleError(f"Writing the bundle from '{best}', which was chosen: {found}. {todo}.")
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(best, place, ignore=STATES)
    if not lora:
        model: Any = load_model(place, chosen_dtype(dtype, torch.device("cpu")))
        model.save_pretrained(place)
    changes = Changes(name=name, adapter=place) if lora else Changes(name=name, lm=place)
    export_hf(bundle, out / "bundle", changes, force=True)

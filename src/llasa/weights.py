"""Files of weights: which may be opened, the hash that names them, and whether their numbers are numbers.

Knows no model and no library that loads one.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

DRAFTS = "drafts"  # folder of draft modules in that of their language model
PICKLES = (".bin", ".pt", ".pth", ".ckpt")  # opening one can run code


def pickles(folder: Path) -> list[str]:
    """Return the names of the pickles in a folder, sorted."""
    return sorted(path.name for path in folder.glob("*") if path.suffix in PICKLES)


def sha256(files: Iterable[Path]) -> str:
    """Return the SHA-256 of the bytes of some files, one after another, in hex; 2.5 GB take about 2 s.

    Raises:
        OSError: one cannot be read.
    """
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def not_finite(model: Any) -> list[str]:
    """Return the names of the parameters of a torch module that hold NaN or infinity, sorted."""
    # A sum is quick and carries any NaN or infinity along; one that overflows gets a second look.
    named = model.named_parameters()
    suspects = [(name, weight) for name, weight in named if not _sum(weight).isfinite()]
    return sorted(name for name, weight in suspects if not weight.isfinite().all())


def _sum(weight: Any) -> Any:
    import torch

    return weight.sum(dtype=torch.float32)

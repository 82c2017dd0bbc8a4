"""Reads a pickled checkpoint and writes its tensors as safetensors: the only file that opens a pickle.

A program of its own, for a process of its own: `python -I unpickle.py SOURCE TARGET`. Imports nothing of this
package.
"""

import sys
import zipfile
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor


class Inert:
    """Stands in for any class or function that a checkpoint names beside its tensors: settings, callbacks.

    The real one is neither imported nor called, so the package it came from need not be there.
    """

    def __new__(cls, *_: object) -> "Inert":
        """Take any arguments."""
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        """Forget the state."""


class InertDict:
    """Stands in for a kind of dictionary: torch adds items to plain ones alone."""

    def __new__(cls, *_: object) -> dict:  # type: ignore[misc]
        """Return an empty dictionary."""
        return {}


def tensors(source: str) -> dict[str, Tensor]:
    """Return the tensors of a `torch.save` file: of its `state_dict` where it has one, else at the top."""
    zipped = zipfile.is_zipfile(source)
    names = torch.serialization.get_unsafe_globals_in_checkpoint(source) if zipped else []
    stand_ins: list[Any] = [(InertDict if name.lower().endswith("dict") else Inert, name) for name in names]
    with torch.serialization.safe_globals(stand_ins):
        content: Any = torch.load(source, map_location="cpu", weights_only=True, mmap=zipped)
    content = content.get("state_dict", content)
    return {name: value.contiguous() for name, value in content.items() if isinstance(value, Tensor)}


if __name__ == "__main__":
    save_file(tensors(sys.argv[1]), sys.argv[2])

"""Reads a pickled checkpoint and writes its tensors as safetensors: the only file that opens a pickle.

A program of its own, for a process of its own: `python -I unpickle.py SOURCE TARGET`. Imports nothing of this
package.
"""

import os
import re
import sys
import zipfile
from pathlib import Path
from types import TracebackType
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

    def __new__(cls, *_: object) -> dict:
        """Return an empty dictionary."""
        return {}


def tensors(source: str) -> dict[str, Tensor]:
    """Return the tensors of a `torch.save` file: of its `state_dict` where it has one, else at the top.

    Raises:
        ValueError: the file is damaged or holds no dictionary, or a tensor claims more than is stored.
    """
    zipped = zipfile.is_zipfile(source)
    if zipped:
        _check_records(source)
    names = torch.serialization.get_unsafe_globals_in_checkpoint(source) if zipped else []
    stand_ins: list[Any] = [(InertDict if name.lower().endswith("dict") else Inert, name) for name in names]
    with torch.serialization.safe_globals(stand_ins):
        content: Any = torch.load(source, map_location="cpu", weights_only=True, mmap=zipped)
    content = content.get("state_dict", content) if isinstance(content, dict) else content
    if not isinstance(content, dict):
        raise ValueError(f"it holds a {type(content).__name__}, no tensors by name")
    return _own({name: value for name, value in content.items() if isinstance(value, Tensor)})


def _check_records(source: str) -> None:
    with zipfile.ZipFile(source) as file:
        # torch stores as it is; what is compressed could unpack to any size.
        packed = [record.filename for record in file.infolist() if record.compress_type != zipfile.ZIP_STORED]
        if bad := packed[0] if packed else file.testzip():
            raise ValueError(f"it is damaged: {bad} is not as torch.save wrote it")


def _own(found: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors of which no two share memory, as safetensors wants them."""
    seen: set[int] = set()
    for name, tensor in found.items():
        stored = tensor.untyped_storage().nbytes()
        if tensor.numel() * tensor.element_size() > stored:
            raise ValueError(f"{name} claims {list(tensor.shape)}, but {stored} bytes are stored")
        shared = tensor.untyped_storage().data_ptr() in seen
        found[name] = tensor.clone() if shared else tensor.contiguous()
        seen.add(tensor.untyped_storage().data_ptr())
    return found


def _limit_memory(source: str) -> None:
    """Let this process have 4 GB and four times the file more than it has, where Linux tells."""
    pages = Path("/proc/self/statm")
    if not pages.is_file():
        return
    import resource

    used = int(pages.read_text().split()[0]) * resource.getpagesize()
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    if most == resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_AS, (used + 4 * os.path.getsize(source) + (4 << 30), most))


def _tell(kind: type[BaseException], error: BaseException, _: TracebackType | None) -> None:
    """Print one line: torch's own go on about its options."""
    named = re.search(r"GLOBAL (\S+)", str(error))
    first = next(iter(str(error).strip().splitlines()), "")
    said = f"it names {named[1]}, which could run" if named else f"{kind.__name__} {first}".strip()
    print(said, file=sys.stderr)


if __name__ == "__main__":
    sys.excepthook = _tell
    _limit_memory(sys.argv[1])
    save_file(tensors(sys.argv[1]), sys.argv[2])

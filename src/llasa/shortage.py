"""Whether an error says that memory or a disk ran out, in the words of all that say so here; and in ours.

Python, the system, torch and safetensors each have their own, and who loads a model wraps them in others.
"""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llasa.errors import ConfigError, LlasaError

_ADVICE = "Free them, or raise the limit, and run the same command again: what was saved before is whole."
_BLOCK = 4096  # bytes by which names and small files grow

_FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
_MEMORY = (
    "can't allocate memory", "Cannot allocate memory", "bad_alloc", f"(os error {errno.ENOMEM})",
    "MPS backend out of memory", "CUDA error: out of memory",  # the latter outside torch's own allocator
)  # fmt: skip


def of_room(error: BaseException) -> bool:
    """Return whether an error, or one that it comes from, says that a disk or a quota is full."""
    return any(map(_is_full, _causes(error)))


def of_memory(error: BaseException) -> bool:
    """Return whether an error, or one that it comes from, says that memory ran out, be it a GPU's."""
    return any(map(_is_memory, _causes(error)))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _is_full(error: BaseException) -> bool:
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in _FULL
    text = str(error)
    # torch's writer of archives forgets why it could not write; shutil's copies tell of several files.
    forgotten = "inline_container" in text or "iostream error" in text
    return forgotten or any(f"rror {n})" in text or f"[Errno {n}]" in text for n in _FULL)


def _is_memory(error: BaseException) -> bool:
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno == errno.ENOMEM
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return named or any(words in str(error) for words in _MEMORY)


def check_room(folder: Path, needed: int, doing: str) -> None:
    """Raise ConfigError if fewer than `needed` bytes are free where `folder` is."""
    missing = needed - shutil.disk_usage(folder).free
    if missing > 0:
        raise ConfigError(f"{doing}: it takes {needed} bytes, {missing} more than are free there. {_ADVICE}")


def full(doing: str, file: Path, size: int, needed: int) -> ConfigError:
    """Return the error of a file of `size` bytes that had no room; `needed` are still to be written."""
    there = next(folder for folder in file.parents if folder.exists())  # there may have been no room for one
    missing = needed - shutil.disk_usage(there).free
    if missing <= 0:  # room enough on the disk: it is a limit on the size of files, or a quota
        import resource  # not there on Windows, which has no such limits

        limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
        missing = size - limit if 0 < limit < size else size
    return ConfigError(
        f"{doing}: '{file.name}' had no room; at least {missing} bytes are missing there. {_ADVICE}"
    )


@contextmanager
def told(doing: str, place: Path, size: int = _BLOCK) -> Iterator[None]:
    """Turn an error of a full disk inside into ours; for work that needs no more than `size` bytes."""
    try:
        yield
    except LlasaError:
        raise
    except Exception as error:
        if not of_room(error):
            raise
        raise full(doing, Path(getattr(error, "filename", None) or place), size, size) from error

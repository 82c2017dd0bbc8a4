"""Whether an error says that memory or a disk ran out, in the words of all that say so here.

Python, the system, torch and safetensors each have their own, and who loads a model wraps them in others.
"""

import errno
from collections.abc import Iterator

_FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
_MEMORY = ("can't allocate memory", "Cannot allocate memory", "bad_alloc", f"(os error {errno.ENOMEM})")


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

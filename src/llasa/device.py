"""What the processor is good at, and which of its names a caller may give. Knows no model."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from llasa.errors import ConfigError

DTYPES = ("float32", "bfloat16", "float16", "float64")


def fastest_dtype(device: torch.device) -> torch.dtype:
    """Return the dtype that models run fastest in on a device, of float32 and bfloat16."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            fast = torch.cuda.is_bf16_supported(including_emulation=False)
    elif device.type == "cpu":
        features = torch.cpu.get_capabilities()
        fast = features.get("avx512_bf16") or features.get("amx_bf16")
    else:
        fast = True
    return torch.bfloat16 if fast else torch.float32


def chosen_device(device: str | torch.device | None) -> torch.device:
    """Return the device of a name; the GPU if there is one, else the CPU, if None.

    Raises:
        ConfigError: no such device, or not here.
    """
    try:
        found = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as error:  # the latter: torch built without that kind
        what = str(error).splitlines()[0].rstrip(".")
        raise ConfigError(
            f"Choosing the device '{device}': {what}. Choose one that 'llasa doctor' lists."
        ) from error
    return found


def chosen_dtype(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    """Return the dtype of a name; the fastest on the device if None.

    Raises:
        ConfigError: no such dtype, or none that models run in.
    """
    if dtype is None:
        return fastest_dtype(device)
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        known = f"{', '.join(DTYPES)}; the native engine also int8 and auto"
        raise ConfigError(f"Choosing the dtype: found '{name}'. Use one of: {known}.")
    return getattr(torch, name)


def set_own_threads(count: int) -> None:
    """Let torch work in so many threads for the calling thread, and in as many as before for all others."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    # What was set last holds for threads to come: they get back what they would have had.
    other = threading.Thread(target=torch.set_num_threads, args=(before,))
    other.start()
    other.join()


@contextmanager
def one_thread(wanted: bool = True) -> Iterator[None]:
    """Let torch work in the calling thread only, if wanted: what is small waits longer than it works."""
    before = torch.get_num_threads()
    if not wanted or before == 1:
        yield
        return
    set_own_threads(1)  # one that begins meanwhile is to have as many as ever
    try:
        yield
    finally:
        torch.set_num_threads(before)

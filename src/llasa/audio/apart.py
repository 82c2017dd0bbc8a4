"""Strangers' sound files, read in a process of their own: so much memory and time, and no file written.

Decoders of sound have had faults that a file can use; here such a file ends its own process.
"""

import json
import resource
import subprocess
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from llasa.audio.guarded import check_container, read
from llasa.core import Audio
from llasa.errors import InputError

MEMORY, SECONDS = 512 << 20, 10  # beyond what Python itself takes
_NAME = "the sound that was sent"
_DOING = f"Reading {_NAME}"
_PAGES = Path("/proc/self/statm")


def read_apart(data: bytes, min_s: float = 0.25, max_s: float = 60.0) -> Audio:
    """Return a sound file's sound; arguments and errors as for `audio.read`."""
    check_container(BytesIO(data), _NAME)  # what is no sound at all needs no process
    command = [sys.executable, "-m", __name__, str(min_s), str(max_s)]
    try:
        done = subprocess.run(command, input=data, capture_output=True, timeout=2 * SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise _refusal("it takes too long to read") from None
    head, _, body = done.stdout.partition(b"\n")
    told: dict[str, Any] = json.loads(head) if done.returncode == 0 and head else {"error": ""}
    if "error" in told:
        raise InputError(told["error"], told["reason"]) if told["error"] else _refusal("its reader failed")
    return Audio(np.frombuffer(body, np.float32), told["rate"])


def _refusal(found: str) -> InputError:
    return InputError(f"{_DOING}: {found}. Send another file, such as WAV.", "undecodable")


def _limit() -> None:
    """Bind this process; what it has so far is left to it."""
    if _PAGES.exists():  # elsewhere the limit of memory is not kept anyway
        taken = int(_PAGES.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, taken + MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main() -> None:
    """Read a file from stdin; write one line of JSON, and float32 samples behind it."""
    min_s, max_s = map(float, sys.argv[1:])
    data = BytesIO(sys.stdin.buffer.read())
    data.name = _NAME
    _limit()
    try:
        sound = read(data, min_s=min_s, max_s=max_s)
    except InputError as error:
        print(json.dumps({"error": str(error), "reason": error.reason}))
        return
    print(json.dumps({"rate": sound.sample_rate}), flush=True)
    sys.stdout.buffer.write(sound.samples.astype(np.float32).tobytes())


if __name__ == "__main__":
    main()

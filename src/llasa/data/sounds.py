"""The sound of a clip, cut out and checked, or the reason why it is of no use. Knows no codec.

Where a clip's sound may be is in `places.py`; what a file may be in `audio/guarded.py`.
"""

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import cast

import numpy as np

from llasa.audio import read
from llasa.core import Audio, Clip
from llasa.data.places import opened
from llasa.data.rejects import BadClip, Reason
from llasa.errors import InputError

MIN_S, MAX_S = 0.3, 60.0
FULL_SCALE = 0.999
MAX_CLIPPED = 0.01  # of the samples at full scale; more than that cannot be speech as it was spoken


def load(clip: Clip, *, min_s: float = MIN_S, max_s: float = MAX_S) -> Audio:
    """Return a clip's sound: only its part of the file is decoded, two channels are averaged.

    Args:
        min_s, max_s: shortest and longest clip taken, seconds.

    Returns:
        Samples [T] at the rate of the file.

    Raises:
        BadClip: it cannot be speech, or cannot be read; `reason` says which.
        MissingExtra: it is in a table, and pyarrow is not installed.
    """
    cut = {"start_s": clip.start_s, "end_s": clip.end_s}
    try:
        audio = read(opened(clip.audio), min_s=min_s, max_s=max_s, **cut)
    except BadClip:
        raise
    except InputError as error:
        raise BadClip(cast(Reason, error.reason), str(error)) from error
    share = clipped(audio)
    if share > MAX_CLIPPED:
        found = f"{share:.1%} of its samples are at full scale"
        raise BadClip("clipped", f"Reading audio from '{clip.audio}': {found}. Record it at a lower level.")
    return audio


def clipped(audio: Audio) -> float:
    """Return the share of samples at full scale or beyond, in [0, 1]."""
    return float(np.mean(np.abs(audio.samples) >= FULL_SCALE))


def fingerprint(clip: Clip) -> str:
    """Return the hash of a clip's bytes and its cut, in hex: two clips of one hash are the same sound.

    Raises:
        BadClip: the bytes cannot be read.
        MissingExtra: they are in a table, and pyarrow is not installed.
    """
    file = opened(clip.audio)
    content = _file_hash(file) if isinstance(file, str) else hashlib.sha256(file.read()).hexdigest()
    cut = "" if not clip.start_s and clip.end_s is None else f"{clip.start_s:.4f}-{clip.end_s}"
    return hashlib.sha256(f"{content} {cut}".encode()).hexdigest()


def _file_hash(path: str) -> str:
    try:
        facts = Path(path).stat()
        return _hashed(path, facts.st_size, facts.st_mtime_ns)
    except (OSError, ValueError) as error:
        reason = "missing" if isinstance(error, FileNotFoundError) else "unreadable"
        raise BadClip(reason, f"Reading audio from '{path}': {error}. Check the file.") from error


@lru_cache(maxsize=16)
def _hashed(path: str, size: int, changed_ns: int) -> str:
    """Return the SHA-256 of a file; remembered, because many clips may be cut out of one."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

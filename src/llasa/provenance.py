"""What says of a sound that no person spoke it: words in its file, and a watermark if one is installed.

A package offers a watermark as an entry point of the group `llasa.watermark`: a class, made anew for each
sound, whose `mark` is given the sound piece by piece. Must not know: codecs, engines, encodings.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import entry_points, version

import numpy as np

from llasa.core import Audio
from llasa.errors import ConfigError
from llasa.named import load_class

GROUP = "llasa.watermark"
SOURCE = "trainedAlgorithmicMedia"  # IPTC's word for what a trained model made
_DOING = "Loading the watermark"

Mark = Callable[[np.ndarray, int], np.ndarray]


def _unmarked(samples: np.ndarray, sample_rate: int) -> np.ndarray:
    return samples


@dataclass(frozen=True)
class Provenance:
    """Where one sound came from. tags: for its file, by FFmpeg's names."""

    tags: dict[str, str]
    _mark: Mark = field(default=_unmarked, repr=False)

    def mark(self, audio: Audio) -> Audio:
        """Return the next piece of the sound with its watermark.

        Raises:
            ConfigError: the watermark gave another number of samples.
        """
        marked = self._mark(audio.samples, audio.sample_rate)
        if marked.shape != audio.samples.shape:
            found = f"{marked.shape} for {audio.samples.shape} samples"
            raise ConfigError(f"Marking a sound: found {found}. Correct the watermark, or uninstall it.")
        return Audio(marked, audio.sample_rate)


def provenance(bundle: str, voice: str | None = None) -> Provenance:
    """Return what is told of a sound that a bundle is about to make.

    Raises:
        ConfigError: an installed watermark cannot be loaded, or there are several.
    """
    who = f", voice {voice}" if voice else ""
    comment = f"Synthetic speech ({SOURCE}): llasa {version('llasa')}, {bundle}{who}"
    kind = _watermark()
    return Provenance({"comment": comment}, kind().mark if kind else _unmarked)


def header() -> dict[str, str]:
    """Return the same for HTTP, where a format has no place for words."""
    return {"X-Synthetic-Speech": f"{SOURCE}; llasa/{version('llasa')}"}


@cache
def _watermark() -> type | None:
    found = list(entry_points(group=GROUP))
    if len(found) > 1:
        names = ", ".join(one.value for one in found)
        raise ConfigError(f"{_DOING}: found {len(found)} ({names}). Uninstall all but one.")
    return load_class(found[0].value, _DOING) if found else None

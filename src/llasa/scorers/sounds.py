"""The sounds scorers compare: a candidate's, its voice's, and what is worked out from a voice once.

Must not know: what is worked out.
"""

import hashlib
from collections.abc import Callable
from typing import Generic, TypeVar

import numpy as np

from llasa.codec.base import Codec
from llasa.core import Audio, Candidate, Voice
from llasa.errors import InputError

T = TypeVar("T")

_KEPT = 64


def sound_of(candidate: Candidate) -> Audio:
    """Return the sound of a candidate.

    Raises:
        InputError: it was not decoded, is empty or has samples that are not finite.
    """
    audio, found = candidate.audio, ""
    if audio is None or not len(audio.samples):
        found = "no audio"
    elif not np.isfinite(audio.samples).all():
        found = "samples that are not finite"
    if audio is None or found:
        doing = f"Judging '{candidate.utterance.id}' by its sound"
        raise InputError(f"{doing}: it has {found}. Decode its codes first.")
    return audio


def decoded(voice: Voice, codec: Codec) -> Audio:
    """Return the sound of the voice's codes: what the codec loses is lost here as in every candidate."""
    return codec.decode([voice.codes])[0]


def recorded(voice: Voice, codec: Codec) -> Audio:
    """Return the recording the voice was made from, or, if it was not kept, the sound of its codes."""
    return voice.reference or decoded(voice, codec)


class PerVoice(Generic[T]):
    """Remembers what `make` gave for each of the last 64 voices."""

    def __init__(self, make: Callable[[Voice], T]) -> None:
        self._make = make
        self._known: dict[tuple[object, ...], T] = {}

    def __call__(self, voice: Voice) -> T:
        """Return what `make` gives for the voice, made once."""
        key = (voice.name, voice.text, voice.codec, _digest(voice.reference), *voice.codes)
        if key not in self._known:
            if len(self._known) >= _KEPT:
                self._known.pop(next(iter(self._known)), None)
            self._known[key] = self._make(voice)
        return self._known[key]


def _digest(audio: Audio | None) -> bytes:
    if audio is None:
        return b""
    rate = audio.sample_rate.to_bytes(8, "little")
    return hashlib.sha256(np.ascontiguousarray(audio.samples).tobytes() + rate).digest()

"""What every recogniser does before it listens: check the clips, and hear each distinct one once.

Must not know: any recogniser.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from threading import Lock
from typing import Generic, TypeVar

import numpy as np

from llasa.core import Audio
from llasa.errors import InputError

T = TypeVar("T")


def checked(audio: Sequence[Audio], max_s: float | None = None) -> list[Audio]:
    """Return the clips with float32 samples [T], having refused those that nobody can listen to.

    Args:
        audio: any rates.
        max_s: the longest clip that the recogniser takes, seconds.

    Raises:
        InputError: a clip is empty, not mono, not finite or too long.
    """
    clips = [Audio(np.asarray(clip.samples, np.float32), clip.sample_rate) for clip in audio]
    for clip in clips:
        finite = bool(np.isfinite(clip.samples).all())
        if clip.samples.ndim != 1 or not clip.samples.size or not finite or clip.sample_rate <= 0:
            raise InputError(
                f"Recognising audio: found shape {clip.samples.shape} at {clip.sample_rate} Hz and finite "
                f"samples = {finite}. Give mono sound with at least one sample and no NaN or infinity."
            )
        if max_s is not None and clip.duration_s > max_s:
            raise InputError(
                f"Recognising audio: found a clip of {clip.duration_s:.1f} s; this recogniser hears at most "
                f"{max_s:g} s at once. Cut the clip."
            )
    return clips


class Memory(Generic[T]):
    """Remembers what was computed of the clips used last, by their samples and rate; thread-safe.

    size: clips remembered. batch, batch_s: the most clips, and seconds with padding, computed at once.
    hits, misses: clips that were known, and clips that had to be computed.
    """

    def __init__(self, size: int, batch: int = 16, batch_s: float = 120.0) -> None:
        self.size, self.batch, self.batch_s = size, batch, batch_s
        self.hits = self.misses = 0
        self._kept: OrderedDict[bytes, T] = OrderedDict()
        self._reading, self._computing = Lock(), Lock()

    def get(
        self, audio: Sequence[Audio], compute: Callable[[list[Audio]], Sequence[T | Exception]]
    ) -> list[T]:
        """Return a value for each clip, in order.

        Args:
            audio: as `checked` returns them.
            compute: clips of similar lengths -> a value each, called by one thread at a time. A value that is
                an exception is not remembered: it is raised once the other clips are computed.
        """
        keys = [_key(clip) for clip in audio]
        found, missing = self._look(dict(zip(keys, audio, strict=True)))
        if missing:
            with self._computing:
                # Another thread may have computed the same clips while this one waited.
                late, missing = self._look(missing)
                found |= late | self._compute(missing, compute)
        with self._reading:
            self.hits, self.misses = self.hits + len(keys) - len(missing), self.misses + len(missing)
        return [found[key] for key in keys]

    def _look(self, clips: Mapping[bytes, Audio]) -> tuple[dict[bytes, T], dict[bytes, Audio]]:
        """Return the values known of these clips, and the other clips."""
        with self._reading:
            found = {key: self._kept[key] for key in clips if key in self._kept}
            for key in found:
                self._kept.move_to_end(key)
        return found, {key: clip for key, clip in clips.items() if key not in found}

    def _compute(
        self, clips: Mapping[bytes, Audio], compute: Callable[[list[Audio]], Sequence[T | Exception]]
    ) -> dict[bytes, T]:
        values: dict[bytes, T] = {}
        failed: list[Exception] = []
        for keys in batches(clips, self.batch, self.batch_s):
            for key, value in zip(keys, compute([clips[key] for key in keys]), strict=True):
                if isinstance(value, Exception):
                    failed.append(value)
                else:
                    values[key] = value
                    self._keep(key, value)
        if failed:
            raise failed[0]
        return values

    def _keep(self, key: bytes, value: T) -> None:
        with self._reading:
            self._kept[key] = value
            while len(self._kept) > self.size:
                self._kept.popitem(last=False)


def batches(clips: Mapping[bytes, Audio], batch: int, batch_s: float) -> Iterator[list[bytes]]:
    """Yield the keys by length of clip: at most `batch` of them and, padded, `batch_s` seconds at once."""
    keys: list[bytes] = []
    for key in sorted(clips, key=lambda key: clips[key].duration_s):
        if keys and (len(keys) == batch or (len(keys) + 1) * clips[key].duration_s > batch_s):
            yield keys
            keys = []
        keys.append(key)
    if keys:
        yield keys


def _key(clip: Audio) -> bytes:
    return hashlib.sha256(clip.samples.tobytes() + clip.sample_rate.to_bytes(8, "little")).digest()

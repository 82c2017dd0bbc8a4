"""A stream of codes through a causal network, each computed once: what its layers keep between pieces.

Knows no network. Shapes: B rows, F frames, D width, N codes, T samples.
"""

from collections.abc import Callable, Hashable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from llasa.codec.base import Codec, check_codes
from llasa.core import Audio, Codes
from llasa.device import one_thread


class Carried:
    """The last frames that each layer has seen, for one stream; a layer is known by its key.

    ended: no frame comes any more, so what a layer would still wait for is silence.
    """

    def __init__(self) -> None:
        self.ended = False
        self._kept: dict[Hashable, Tensor] = {}

    def around(self, key: Hashable, x: Tensor, before: int, ahead: int = 0) -> Tensor:
        """Return new frames [B, F, D] behind those that were kept, zeros at first: [B, before + F', D].

        F' - ahead frames of it have `before` frames in front and `ahead` frames behind; after the end all.
        """
        kept = self._kept.get(key)
        if kept is None:
            kept = x.new_zeros(x.shape[0], before, x.shape[2])
        joined = torch.cat((kept, x, x.new_zeros(x.shape[0], ahead if self.ended else 0, x.shape[2])), 1)
        self._kept[key] = joined[:, max(0, joined.shape[1] - before - ahead) :]
        return joined


def surrounded(carried: Carried | None, key: Hashable, x: Tensor, before: int, ahead: int = 0) -> Tensor:
    """Return frames [B, F, D] with what is around them: of a stream see `Carried.around`, else zeros."""
    if carried is None:
        return F.pad(x, (0, 0, before, ahead))
    return carried.around(key, x, before, ahead)


def turned_back(taps: Tensor, ahead: int) -> Tensor:
    """Return the taps [.., K] of a convolution that sees `ahead` frames, made of one that sees K // 2:
    those further ahead fall to its last frame, as if what it shows went on.
    """
    half = taps.shape[-1] // 2
    made = F.pad(taps[..., : half + ahead + 1], (half - ahead, 0))
    made[..., -1] += taps[..., half + ahead + 1 :].sum(-1)
    return made


class CarriedStream:
    """A `DecodeStream` over a network that speaks codes piece by piece.

    Args:
        codec: whose codes these are.
        speak: the next codes [1, N] -> the samples [1, T] that no code to come changes.
        look_ahead: samples that they are behind.
        trim: samples of the network's sound before the first code's.
        context: codes of the voice, heard by the network before the first code; their sound is not given.

    Raises:
        InputError: a code of the context is outside the codebook.
    """

    def __init__(
        self,
        codec: Codec,
        speak: Callable[[Tensor, Carried], Tensor],
        look_ahead: int,
        trim: int,
        context: Codes,
    ) -> None:
        self.look_ahead = -(-look_ahead // codec.hop_length)
        self._codec, self._speak = codec, speak
        self._carried, self._owed = Carried(), 0
        self._dropped = trim + len(context) * codec.hop_length
        check_codes(codec, context)
        if context:
            self._sound(context)

    def push(self, codes: Codes) -> Audio:
        """See `DecodeStream`."""
        check_codes(self._codec, codes)
        self._owed += len(codes) * self._codec.hop_length
        return self._sound(codes) if codes else self._audio(np.zeros(0, np.float32))

    def close(self) -> Audio:
        """See `DecodeStream`."""
        self._carried.ended = True
        return self._sound([]) if self._owed else self._audio(np.zeros(0, np.float32))

    @torch.inference_mode()
    def _sound(self, codes: Codes) -> Audio:
        with one_thread():
            samples = self._speak(torch.tensor([codes], dtype=torch.long), self._carried)[0]
        dropped = min(self._dropped, len(samples))
        self._dropped -= dropped
        found = samples[dropped : dropped + self._owed].clamp(-1, 1).cpu().numpy()
        self._owed -= len(found)
        return self._audio(found)

    def _audio(self, samples: np.ndarray) -> Audio:
        return Audio(samples, self._codec.sample_rate)

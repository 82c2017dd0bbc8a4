"""The encoder of X-Codec2 and NeuCodec: waves and their features to codes, with transformers' weights.

Shapes: B rows, T samples, P frames of features, N codes, D width.

Source: transformers `models/xcodec2/modeling_xcodec2.py`, `Xcodec2Model.encode`.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from llasa.codec.batches import mask_of
from llasa.codec.xcodec2_acoustic import Acoustic
from llasa.codec.xcodec2_semantic import Semantic
from llasa.core import Codes

# How far the latents of a row may lie apart with and without company, against their own size: rounding in
# float32 moves them by some 1e-7 of it.
_NOISE = 4 * torch.finfo(torch.float32).eps


class Xcodec2Encoder:
    """Waves to codes, with the weights that the native model has now.

    Args:
        model: native model; in float32 most of its weights are shared, convolutions are copied.
        dtype: of matrices and filters. In bfloat16 some codes are others: those whose latent is near a
            threshold.
    """

    def __init__(self, model: Any, dtype: torch.dtype) -> None:
        self._semantic, self._acoustic = Semantic(model, dtype), Acoustic(model.acoustic_encoder, dtype)
        self._joint, self._quantizer, self._exact = model.fc_encoder, model.quantizer, dtype == torch.float32

    def __call__(self, waves: Sequence[Tensor], features: Sequence[Tensor]) -> list[Codes]:
        """Return the codes of each row; in float32 exactly those that it has alone.

        Padding is masked where rows share a batch: in the semantic encoder. The acoustic one, whose
        convolutions are busy with a single row and whose filters see its ends, has them one by one.

        Args:
            waves: [T] each. features: [P, D] each.
        """
        latents = self._latents(waves, features)
        found = [self._codes(one) for one in latents]
        if len(waves) > 1 and self._exact:
            for n, one in enumerate(latents):
                if self._near(one):
                    found[n] = self._codes(self._latents(waves[n : n + 1], features[n : n + 1])[0])
        return [codes.tolist() for codes in found]

    def _latents(self, waves: Sequence[Tensor], features: Sequence[Tensor]) -> list[Tensor]:
        """Return what is quantized, [N, D] a row, before its projection to the levels."""
        padded = nn.utils.rnn.pad_sequence(list(features), batch_first=True)
        said = self._semantic(padded, mask_of([len(one) for one in features], padded.device))
        rows = []
        for wave, frames, meant in zip(waves, features, said, strict=True):
            heard = self._acoustic(wave)
            count = min(len(heard), len(frames))  # NeuCodec's features are one shorter
            rows.append(self._joint(torch.cat((meant[:count], heard[:count]), 1)))
        return rows

    def _codes(self, latent: Tensor, shift: Tensor | float = 0.0) -> Tensor:
        fsq = self._quantizer.quantizer
        return fsq(fsq.bound(self._quantizer.project_in(latent) + shift))[1].long()

    def _near(self, latent: Tensor) -> bool:
        """Tell whether rounding might have chosen a code."""
        size = latent.norm(dim=1, keepdim=True) * self._quantizer.project_in.weight.norm(dim=1)
        return not torch.equal(*(self._codes(latent, shift) for shift in (-_NOISE * size, _NOISE * size)))

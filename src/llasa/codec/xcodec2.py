"""X-Codec2 behind the codec contract: an adapter over transformers' native `Xcodec2Model`, loaded strictly.

Knows no language model, no text and no Hub: `load` reads a local folder. Shapes: T samples, N codes.
"""

import hashlib
import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import SeamlessM4TFeatureExtractor, Xcodec2Config, Xcodec2Model

from llasa.audio import resample
from llasa.core import Audio, Codes
from llasa.errors import BundleError, InputError

_SAMPLE_RATE = 16_000  # Hz, of the semantic features
_FEATURE_HOP = 320  # samples a semantic feature: two stacked filter-bank frames of 10 ms
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")

log = logging.getLogger(__name__)


class Xcodec2Codec:
    """X-Codec2: 16 kHz speech to 50 codes a second of 65,536 entries, and back.

    Rows run one at a time. Attention, group norms and convolutions without a mask see a whole row, so padding
    would change its last codes, and even a batch of equal lengths may round a latent to the other side of a
    threshold.

    Args:
        model: the native model, float32; set to evaluation mode and used in place, on its own device.
        name: `kind@weights-hash`.

    Source: Ye et al., *Llasa* (arXiv 2502.04128), section 2; transformers `models/xcodec2`.
    """

    def __init__(self, model: Xcodec2Model, name: str) -> None:
        self.name = name
        self.sample_rate = model.config.sampling_rate
        self.hop_length = model.config.hop_length
        self.codebook_size = math.prod(model.config.quantization_levels)
        self._model: Any = model.eval()  # transformers types its outputs as unions
        self._features = SeamlessM4TFeatureExtractor(sampling_rate=self.sample_rate)

    @classmethod
    def load(cls, path: str | Path, device: str | None = None) -> "Xcodec2Codec":
        """Return the codec of a local folder in transformers' native layout, in float32.

        Args:
            path: folder with `config.json` and `model*.safetensors`.
            device: torch device; by default CUDA where there is one, else the CPU.

        Raises:
            BundleError: the folder has no safetensors weights, its configuration is not X-Codec2's, a file is
                damaged, or a tensor is missing, unexpected or of another shape.
        """
        folder = Path(path)
        files = _weight_files(folder)
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        log.info("X-Codec2 from '%s' runs on %s", folder, device)
        model = _load_model(folder, _read_config(folder)).to(device)
        return cls(model, f"xcodec2@{_weights_hash(files)}")

    def code_count(self, n_samples: int) -> int:
        """Return `floor(n_samples / hop_length) + 1`: an aligned clip gets one code of silence more."""
        return n_samples // self.hop_length + 1

    @torch.inference_mode()
    def encode(self, audio: Sequence[Audio]) -> list[Codes]:
        """Return the codes of each clip, exactly those of encoding it alone.

        The encoder is not causal: every code depends on the whole clip, so the codes of a cut clip are not
        a cut of its codes.

        Args:
            audio: clips of T samples each, ragged; another rate is resampled.

        Returns:
            `code_count(T)` codes for each clip, order kept.

        Raises:
            InputError: a clip is empty, not mono or not finite.

        Source: input padding as in X-Codec-2.0 and transformers' `Xcodec2FeatureExtractor`.
        """
        return [self._encode_one(wave) for wave in [self._wave(clip) for clip in audio]]

    @torch.inference_mode()
    def decode(self, codes: Sequence[Codes], context: Codes | None = None) -> list[Audio]:
        """Return the sound of each row, order kept, limited to [-1, 1].

        The decoder is not causal either: every sample depends on the whole row and on the context.

        Args:
            codes: rows of N codes each, ragged.
            context: codes decoded before each row and cut off afterwards.

        Returns:
            `N * hop_length` samples for each row; none for an empty row.

        Raises:
            InputError: a code is outside [0, codebook_size).
        """
        left = list(context or ())
        for row in (left, *codes):
            self._check_codes(row)
        return [self._decode_one(left, row) for row in codes]

    def _wave(self, clip: Audio) -> np.ndarray:
        samples = np.asarray(clip.samples, dtype=np.float32)
        finite = bool(np.isfinite(samples).all())
        if samples.ndim != 1 or not samples.size or not finite:
            raise InputError(
                f"Encoding with {self.name}: found samples of shape {samples.shape}, all finite: {finite}. "
                "Pass mono sound [T] of at least one sample, without NaN or infinity."
            )
        return resample(Audio(samples, clip.sample_rate), self.sample_rate).samples

    def _encode_one(self, wave: np.ndarray) -> Codes:
        wave = np.pad(wave, (0, self.code_count(len(wave)) * self.hop_length - len(wave)))
        features = self._features(
            np.pad(wave, self.hop_length // 2), sampling_rate=self.sample_rate, return_tensors="pt"
        )["input_features"]
        device = self._model.device
        output = self._model.encode(torch.from_numpy(wave).to(device)[None, None], features.to(device))
        return output.audio_codes[0, 0].tolist()

    def _check_codes(self, row: Codes) -> None:
        for position, code in enumerate(row):
            if not 0 <= code < self.codebook_size:
                raise InputError(
                    f"Decoding with {self.name}: found code {code} at position {position}, outside "
                    f"[0, {self.codebook_size}). Pass codes that this codec made."
                )

    def _decode_one(self, left: Codes, row: Codes) -> Audio:
        if not row:
            return Audio(np.zeros(0, dtype=np.float32), self.sample_rate)
        codes = torch.tensor([[[*left, *row]]], device=self._model.device)
        samples = self._model.decode(codes).audio_values[0, 0, len(left) * self.hop_length :]
        return Audio(samples.clamp(-1.0, 1.0).cpu().numpy(), self.sample_rate)


def _weight_files(folder: Path) -> list[Path]:
    files = sorted(folder.glob("model*.safetensors"))
    if files:
        return files
    pickles = sorted(file.name for file in folder.glob("*") if file.suffix in _PICKLES)
    found = f"only {', '.join(pickles)}, which can run code when opened" if pickles else "no weights"
    raise BundleError(
        f"Loading X-Codec2 from '{folder}': found {found}. Convert the checkpoint to transformers' native "
        "X-Codec2 layout with safetensors weights (model.safetensors) and load that folder."
    )


def _read_config(folder: Path) -> Xcodec2Config:
    try:
        content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if content.get("model_type") != "xcodec2":
            raise ValueError(f"model_type '{content.get('model_type')}'")
        config = Xcodec2Config.from_dict(content)
        if (config.hop_length, config.sampling_rate) != (_FEATURE_HOP, _SAMPLE_RATE):
            raise ValueError(f"hop {config.hop_length} at {config.sampling_rate} Hz")
    except (OSError, ValueError, AttributeError, StrictDataclassError) as error:
        raise BundleError(
            f"Reading X-Codec2's config.json in '{folder}': found {error}. Expected model_type 'xcodec2', "
            f"hop {_FEATURE_HOP} at {_SAMPLE_RATE} Hz; use a checkpoint in transformers' native layout."
        ) from error
    return config


def _load_model(folder: Path, config: Xcodec2Config) -> Any:
    try:
        loaded: Any = Xcodec2Model.from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            ignore_mismatched_sizes=True,  # reported below, with the other differences
            output_loading_info=True,
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise BundleError(
            f"Loading X-Codec2 weights from '{folder}': found {error}. Download or convert it again."
        ) from error
    model, report = loaded
    differences = [f"{kind} {sorted(map(str, keys))}" for kind, keys in report.items() if keys]
    if differences:
        raise BundleError(
            f"Loading X-Codec2 weights from '{folder}': found {'; '.join(differences)}. A model loaded "
            "in part gives wrong codes without a sign; convert it to transformers' native X-Codec2 layout."
        )
    return model


def _weights_hash(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:12]

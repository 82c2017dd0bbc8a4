"""X-Codec2 and NeuCodec behind the codec contract: transformers' native models, loaded strictly.

Knows no language model, no text and no Hub: `load` reads a local folder. Shapes: T samples, N codes.
"""

import copy
import json
import logging
import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import NeuCodecConfig, NeuCodecModel, Xcodec2Config, Xcodec2Model

from llasa.audio import resample
from llasa.codec.base import STREAMING, check_codes
from llasa.codec.batches import alike, mask_of
from llasa.codec.carried import Carried, CarriedStream
from llasa.codec.fbank import SAMPLE_RATE, stacked_features
from llasa.codec.xcodec2_causal import CausalDecoder
from llasa.codec.xcodec2_causal import load as load_causal
from llasa.codec.xcodec2_decoder import Xcodec2Decoder
from llasa.codec.xcodec2_encoder import Xcodec2Encoder
from llasa.core import Audio, Codes
from llasa.device import fastest_dtype
from llasa.errors import BundleError, InputError
from llasa.weights import PICKLES, not_finite, sha256

_HOP = 320  # samples a code before the encoder: two filter-bank frames of 10 ms at 16 kHz
KINDS: dict[str, tuple[Any, Any]] = {
    "xcodec2": (Xcodec2Config, Xcodec2Model),
    "neucodec": (NeuCodecConfig, NeuCodecModel),
}
# What transformers raises where a configuration or a tensor is none that it can work with.
DAMAGED = (
    OSError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError,
    SafetensorError, StrictDataclassError,
)  # fmt: skip
_MOST_CODES = 1 << 20  # the model holds a table of them
_AT_ONCE = {"cpu": 1024, "gpu": 16_384}  # codes in one batch

log = logging.getLogger(__name__)


class Xcodec2Codec:
    """X-Codec2: 16 kHz speech to 50 codes a second of 65,536 entries, and back; NeuCodec answers in 24 kHz.

    Rows of about one length share a batch, padded and masked. A batch may round a latent to the other side of
    a threshold, so a row that comes near to one is encoded again alone: codes do not depend on company.

    Args:
        model: the native model, float32; set to evaluation mode and used in place, on its own device.
            Decoding and encoding take the weights that it has when they are first called.
        name: `kind@weights-hash`.
        decode_dtype: of the matrices of the decoder, float32 or bfloat16; by default the faster one here.
            The inverse STFT is in float32 always. Sound in bfloat16 depends on company by as much as on
            rounding.
        encode_dtype: of the encoder. In bfloat16 some codes are others than in float32, and a row may have
            others alone.
        causal: the folder of its streaming decoder, read when a stream is opened; None where it has none.

    Source: Ye et al., *Llasa* (arXiv 2502.04128), section 2; transformers `models/xcodec2` and
    `models/neucodec`.
    """

    def __init__(
        self,
        model: Xcodec2Model | NeuCodecModel,
        name: str,
        decode_dtype: torch.dtype | None = None,
        encode_dtype: torch.dtype = torch.float32,
        causal: Path | None = None,
    ) -> None:
        config: Any = model.config
        neucodec = isinstance(model, NeuCodecModel)
        self.name = name
        self.sample_rate: int = config.output_sampling_rate if neucodec else config.sampling_rate
        self.input_rate = SAMPLE_RATE
        self.hop_length: int = config.hop_length
        self.codebook_size = math.prod(config.quantization_levels)
        self._extra = 0 if neucodec else 1
        self._causal_folder = causal
        self._model: Any = model.eval()  # transformers types its outputs as unions
        self.decode_dtype, self.encode_dtype = decode_dtype or fastest_dtype(self._model.device), encode_dtype
        cpu = self._model.device.type == "cpu"
        self._at_once = _AT_ONCE["cpu" if cpu else "gpu"]
        # Measured, one core, 2 to 8 rows of 25 to 100 codes in bfloat16: one by one takes half the time.
        self._decoded_at_once = 1 if cpu and self.decode_dtype == torch.bfloat16 else self._at_once

    @classmethod
    def load(
        cls,
        path: str | Path,
        device: str | None = None,
        decode_dtype: torch.dtype | None = None,
        encode_dtype: torch.dtype = torch.float32,
    ) -> "Xcodec2Codec":
        """Return the codec of a local folder in transformers' native layout, kept in float32.

        Args:
            path: folder with `config.json` and `model*.safetensors`, and maybe a folder `STREAMING`.
            device: torch device; by default CUDA where there is one, else the CPU.
            decode_dtype, encode_dtype: see the class.

        Raises:
            BundleError: the folder has no safetensors weights, its configuration is of no such codec, a file
                is damaged, or a tensor is missing, unexpected, of another shape or not finite.
        """
        folder = Path(path)
        files = _weight_files(folder)
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        config = read_config(folder)
        log.info("%s from '%s' runs on %s", config.model_type, folder, device)
        model = _load_model(folder, config).to(device)
        causal = folder / STREAMING if (folder / STREAMING).is_dir() else None
        return cls(model, f"{config.model_type}@{sha256(files)[:12]}", decode_dtype, encode_dtype, causal)

    @property
    def model(self) -> Any:
        """The native model itself: what training changes and export writes."""
        return self._model

    def code_count(self, n_samples: int) -> int:
        """Return how many codes `n_samples` at `sample_rate` become.

        X-Codec2: `floor(n / 320) + 1`; an aligned clip gets one code of silence more. NeuCodec, with n
        counted at 16 kHz: `floor(n / 320)`; what is left of a code is lost.
        """
        return self._count(-(-n_samples * self.input_rate // self.sample_rate))

    @torch.inference_mode()
    def encode(self, audio: Sequence[Audio]) -> list[Codes]:
        """Return the codes of each clip, exactly those of encoding it alone.

        The encoder is not causal: every code depends on the whole clip, so the codes of a cut clip are not
        a cut of its codes.

        Args:
            audio: clips of T samples each, ragged; resampled to `input_rate`, 16 kHz, in one step.

        Returns:
            `code_count(T)` codes for each clip, order kept.

        Raises:
            InputError: a clip is empty, not mono or not finite.
        """
        samples = [self._wave(clip) for clip in audio]
        codes: list[Codes] = [[] for _ in samples]
        for group in alike([self._count(len(one)) for one in samples], self._at_once):
            pairs = [self.inputs(torch.tensor(samples[n], device=self._model.device)) for n in group]
            for n, row in zip(group, self._encoder(*zip(*pairs, strict=True)), strict=True):
                codes[n] = row
        return codes

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
            check_codes(self, row)
        silence, start = np.zeros(0, np.float32), len(left) * self.hop_length
        sounds = [Audio(silence, self.sample_rate)] * len(codes)
        for group in alike([len(row) and len(left) + len(row) for row in codes], self._decoded_at_once):
            rows = [torch.tensor([*left, *codes[n]], device=self._model.device) for n in group]
            mask = mask_of([len(row) for row in rows], self._model.device)
            samples = self._decoder(nn.utils.rnn.pad_sequence(rows, batch_first=True), mask)
            for n, row, sound in zip(group, rows, samples.clamp(-1, 1).cpu().numpy(), strict=True):
                sounds[n] = Audio(sound[start : len(row) * self.hop_length].copy(), self.sample_rate)
        return sounds

    def streaming(self, context: Codes | None = None) -> CarriedStream | None:
        """See `SupportsStreaming`."""
        causal = self._causal
        if causal is None:
            return None
        return CarriedStream(self, self._flowing, causal.look_ahead, causal.trim, list(context or ()))

    @property
    def causal(self) -> "Xcodec2Codec | None":
        """This codec with its streaming decoder: what it decodes at once is what a stream of it sounds like.

        Raises:
            BundleError: a file is missing or damaged, or does not fit this codec.
        """
        return None if self._causal is None else self.spoken_by(self._causal)

    def spoken_by(self, decoder: CausalDecoder) -> "Xcodec2Codec":
        """Return this codec with another decoder, row by row."""
        twin = copy.copy(self)
        twin._causal_folder, twin._decoded_at_once = None, 1
        twin.__dict__["_decoder"] = lambda codes, mask: decoder(self._latents(codes))
        return twin

    @cached_property
    def _causal(self) -> CausalDecoder | None:
        if self._causal_folder is None:
            return None
        return load_causal(self._causal_folder, self._model.acoustic_decoder).fast(self.decode_dtype)

    def _flowing(self, codes: Tensor, carried: Carried) -> Tensor:
        assert self._causal is not None  # a stream of it was opened
        return self._causal(self._latents(codes.to(self._model.device)), carried)

    def _latents(self, codes: Tensor) -> Tensor:
        quantizer = self._model.quantizer
        return quantizer.project_out(quantizer.quantizer.codebook[codes])

    @cached_property
    def _encoder(self) -> Xcodec2Encoder:
        return Xcodec2Encoder(self._model, self.encode_dtype)

    @cached_property
    def _decoder(self) -> Xcodec2Decoder:
        return Xcodec2Decoder(self._model, self.decode_dtype)

    def inputs(self, wave: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the model is given for a wave [T] at `input_rate`: the padded wave and its features.

        X-Codec2's features see half a code of zeros on both sides, so there is one for each code of the
        padded wave. NeuCodec's do not, so there is one less, and the model drops the last code.

        Returns:
            [320 * (T // 320 + 1)] and [N, 160].

        Source: transformers' `Xcodec2FeatureExtractor` and `NeuCodecFeatureExtractor`.
        """
        wave = F.pad(wave, (0, _HOP - len(wave) % _HOP))
        margin = self._extra * _HOP // 2
        return wave, stacked_features(F.pad(wave, (margin, margin)))

    def _count(self, n_samples: int) -> int:
        return n_samples // _HOP + self._extra

    def _wave(self, clip: Audio) -> np.ndarray:
        samples = np.asarray(clip.samples, dtype=np.float32)
        finite = bool(np.isfinite(samples).all())
        if samples.ndim != 1 or not samples.size or not finite:
            raise InputError(
                f"Encoding with {self.name}: found samples of shape {samples.shape}, all finite: {finite}. "
                "Pass mono sound [T] of at least one sample, without NaN or infinity."
            )
        return resample(Audio(samples, clip.sample_rate), self.input_rate).samples


def _weight_files(folder: Path) -> list[Path]:
    files = sorted(folder.glob("model*.safetensors"))
    if files:
        return files
    inside = [folder] if folder.is_file() else sorted(folder.glob("*"))
    pickles = [file for file in inside if file.suffix in PICKLES]
    raise BundleError(
        f"Loading a codec from '{folder}': found "
        + (f"only {', '.join(file.name for file in pickles)}, which can run code when opened. "
           f"Convert it to safetensors: llasa codec convert '{pickles[0]}' -o FOLDER"
           if pickles
           else "no weights. Name a folder with config.json and model.safetensors.")
    )  # fmt: skip


def read_config(folder: Path) -> Any:
    """Return the configuration of a native folder.

    Raises:
        BundleError: it is missing, damaged, or of no codec that works as this one does.
    """
    try:
        content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        kind = content.get("model_type")
        if kind not in tuple(KINDS):
            raise ValueError(f"model_type {kind!r}")
        config = KINDS[kind][0].from_dict(content)
        rate = config.input_sampling_rate if kind == "neucodec" else config.sampling_rate
        if (math.prod(config.downsampling_ratios), rate) != (_HOP, SAMPLE_RATE):
            raise ValueError(f"hop {math.prod(config.downsampling_ratios)} at {rate} Hz")
        levels = config.quantization_levels
        if min(levels) < 2 or math.prod(levels) > _MOST_CODES:
            raise ValueError(f"quantization_levels {levels}")
    except DAMAGED as error:
        raise BundleError(
            f"Reading the codec's config.json in '{folder}': found {error}. Expected model_type "
            f"{' or '.join(map(repr, KINDS))} and hop {_HOP} at {SAMPLE_RATE} Hz. An older checkpoint of "
            f"X-Codec2 becomes such a folder with: llasa codec convert '{folder}' -o FOLDER"
        ) from error
    return config


def _load_model(folder: Path, config: Any) -> Any:
    try:
        loaded: Any = KINDS[config.model_type][1].from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            ignore_mismatched_sizes=True,  # reported below, with the other differences
            output_loading_info=True,
        )
    except DAMAGED as error:
        raise BundleError(
            f"Loading codec weights from '{folder}': found {error!r}. Download or convert it again."
        ) from error
    model, report = loaded
    differences = [_difference(kind, keys) for kind, keys in report.items() if keys]
    if differences:
        raise BundleError(
            f"Loading codec weights from '{folder}': found {'; '.join(differences)}. A model loaded in part "
            "gives wrong codes without a sign. Download it again, or, where these are older names: "
            f"llasa codec convert '{folder}' -o FOLDER"
        )
    if bad := not_finite(model):
        raise BundleError(
            f"Loading codec weights from '{folder}': found NaN or infinity in {', '.join(bad)}. "
            "Download or convert it again."
        )
    return model


def _difference(kind: str, keys: Any) -> str:
    if kind != "mismatched_keys":
        return f"{kind} {', '.join(sorted(map(str, keys)))}"
    shapes = (
        f"{name} of shape {list(found)}, expected {list(wanted)}" for name, found, wanted in sorted(keys)
    )
    return ", ".join(shapes)

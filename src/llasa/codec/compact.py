"""The compact codec: one FSQ codebook over mel frames, small enough to train on a CPU.

The `Codec` over `compact_network.CompactModel`: batches, files and refusals. Knows no language model.
"""

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from llasa.audio import resample
from llasa.codec.base import STREAMING, check_codes
from llasa.codec.batches import alike, mask_of
from llasa.codec.carried import CarriedStream
from llasa.codec.compact_network import CompactConfig, CompactModel
from llasa.core import Audio, Codes
from llasa.device import fastest_dtype, one_thread
from llasa.errors import BundleError, InputError
from llasa.weights import not_finite

PARTS = ("encoder", "decoder", "vocoder")
SCALE = ".scale_of_rows"
_ALONE = 128  # codes below which several threads would wait for each other longer than they work
_AT_ONCE = 512  # codes decoded in one batch; more leave the cache


def codec_name(folder: Path) -> str:
    """Return `compact@HASH`: the encoder alone says what a code means,
    so a decoder tuned later keeps the name.
    """
    return "compact@" + hashlib.sha256((folder / "encoder.safetensors").read_bytes()).hexdigest()[:12]


def packed(weights: Mapping[str, Tensor], smallest: int | None, steps: int = 127) -> dict[str, Tensor]:
    """Return weights in half precision, and those of at least `smallest` entries as int8 with a scale a
    row, from `-steps` to `steps`.
    """
    tensors: dict[str, Tensor] = {}
    for name, weight in weights.items():
        if smallest is not None and weight.ndim > 1 and weight.numel() >= smallest:
            scale = (weight.abs().amax(tuple(range(1, weight.ndim)), keepdim=True) / steps).clamp(min=1e-12)
            tensors[name], tensors[name + SCALE] = (weight / scale).round().to(torch.int8), scale.float()
        else:
            tensors[name] = weight.half() if weight.is_floating_point() else weight
    return tensors


def unpacked(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what `packed` was given, as far as it was kept."""
    weights = {k: v for k, v in tensors.items() if not k.endswith(SCALE)}
    return {k: v * tensors[k + SCALE] if k + SCALE in tensors else v for k, v in weights.items()}


def write(model: CompactModel, folder: Path, parts: Sequence[str]) -> None:
    """Write `config.json` and the named parts; the encoder in half precision, see `CompactCodec.save`.

    A streaming decoder's weights are rounded to 6 bits: no measure told the difference, and in a wheel, which
    is compressed, they take three quarters of the room.
    """
    steps = 127 if model.config.ahead is None else 31
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(asdict(model.config), indent=1) + "\n", encoding="utf-8")
    for part in parts:
        weights = model.get_submodule(part).state_dict()
        smallest = None if part == "encoder" else 4096
        save_file(packed(weights, smallest, steps), folder / f"{part}.safetensors")


def _read(folder: Path, parts: Sequence[str]) -> CompactModel:
    try:
        fields: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        sizes: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
        model = CompactModel(CompactConfig(**sizes))
        for part in parts:
            model.get_submodule(part).load_state_dict(unpacked(load_file(folder / f"{part}.safetensors")))
        if odd := not_finite(model):
            raise ValueError(f"{len(odd)} weights are not finite, first {odd[0]}")
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
        raise BundleError(
            f"Loading the compact codec from '{folder}': {error}. Reinstall or rebuild the bundle."
        ) from error
    return model


class CompactCodec:
    """A `Codec` over `CompactModel`. Length law: n samples become ceil(n / hop_length) codes; not causal.

    causal: the folder of its streaming decoder, read when a stream is opened; None where it has none.
    """

    def __init__(
        self, model: CompactModel, name: str = "compact@untrained", causal: Path | None = None
    ) -> None:
        self.model = model.eval()
        self.name = name
        self._causal_folder = causal
        self.sample_rate = model.config.sample_rate
        self.codebook_size = model.config.codebook_size
        self.hop_length = model.config.hop_length
        # Decoding in bfloat16 moves samples by about 1 % of their size and takes a third of the time at 16
        # rows. Encoding stays in float32: near a threshold a rounded latent is another code.
        self._decode_dtype = fastest_dtype(torch.device("cpu"))

    @classmethod
    def load(cls, folder: str | Path) -> "CompactCodec":
        """Return the codec of a folder with `config.json` and one safetensors file for each of `PARTS`, and
        maybe a folder `STREAMING`.

        Raises:
            BundleError: a file is missing or damaged, or the weights do not fit the config exactly.
        """
        folder = Path(folder)
        model = _read(folder, PARTS)
        causal = folder / STREAMING
        return cls(model, codec_name(folder), causal if causal.is_dir() else None)

    @classmethod
    def random(cls, seed: int = 0, config: CompactConfig | None = None) -> "CompactCodec":
        """Return an untrained codec, small unless `config` says otherwise: for tests."""
        small = CompactConfig(
            n_mels=40, encoder_widths=(16, 16), encoder_depths=(1, 1), decoder_widths=(16, 16, 16),
            decoder_depths=(1, 1, 1), vocoder_width=16, vocoder_depth=1, levels=(4, 4, 4),
        )  # fmt: skip
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(CompactModel(config or small))

    def save(self, folder: str | Path) -> None:
        """Write the folder that `load` reads.

        The encoder is kept in half precision, for its codes must stay; large matrices of the rest in 8 bits a
        weight. All is read back as float32.
        """
        write(self.model, Path(folder), PARTS)

    def streaming(self, context: Codes | None = None) -> CarriedStream | None:
        """See `SupportsStreaming`."""
        causal = self.causal
        if causal is None:
            return None
        config = causal.model.config
        heard = list(context or [])[-config.view :]
        return CarriedStream(causal, causal._decoding.flowing, config.look_ahead, config.trim, heard)

    @cached_property
    def causal(self) -> "CompactCodec | None":
        """This codec with its streaming decoder: what it decodes at once is what a stream of it sounds like.

        Raises:
            BundleError: a file is missing or damaged, or it is no streaming decoder of this codec.
        """
        if self._causal_folder is None:
            return None
        model = _read(self._causal_folder, PARTS[1:])
        config = model.config
        facts = (config.sample_rate, config.hop_length, config.levels)
        own = (self.sample_rate, self.hop_length, self.model.config.levels)
        if config.ahead is None or facts != own:
            found = f"ahead {config.ahead} and rate, hop and levels {facts}, the codec beside it has {own}"
            raise BundleError(
                f"Loading the streaming decoder from '{self._causal_folder}': found {found}. "
                "Train it again: llasa train codec, with init and ahead."
            )
        model.encoder, model.quantizer = self.model.encoder, self.model.quantizer
        return CompactCodec(model, self.name)

    def code_count(self, n_samples: int) -> int:
        """Return ceil(n_samples / hop_length)."""
        return -(-n_samples // self.hop_length)

    @torch.inference_mode()
    def encode(self, audio: Sequence[Audio]) -> list[Codes]:
        """See `Codec.encode`."""
        rows = [self._checked(clip) for clip in audio]
        counts = [self.code_count(len(row)) for row in rows]
        if not rows:
            return []
        batch = torch.zeros(len(rows), max(counts) * self.hop_length)
        for target, row in zip(batch, rows, strict=True):
            target[: len(row)] = torch.from_numpy(row)
        codes = self.model.codes(batch, self._mask(counts))
        return [row[:n].tolist() for row, n in zip(codes, counts, strict=True)]

    @torch.inference_mode()
    def decode(self, codes: Sequence[Codes], context: Codes | None = None) -> list[Audio]:
        """See `Codec.decode`."""
        head = list(context or [])[-self.model.config.view :]
        for row in (head, *codes):
            check_codes(self, row)
        silence = np.zeros(0, np.float32)
        sounds = [Audio(silence, self.sample_rate)] * len(codes)
        lengths = [len(row) for row in codes]
        for group in alike(lengths, _AT_ONCE):
            rows = [torch.tensor([*head, *codes[n]]) for n in group]
            mask = mask_of([len(row) for row in rows])
            batch = nn.utils.rnn.pad_sequence(rows, batch_first=True)
            with one_thread(batch.numel() < _ALONE):
                samples = self._decoding.samples(batch, mask if mask is None else mask[:, None], len(head))
            for n, sound in zip(group, samples.clamp(-1, 1).numpy(), strict=True):
                sounds[n] = Audio(sound[: lengths[n] * self.hop_length].copy(), self.sample_rate)
        return sounds

    @cached_property
    def _decoding(self) -> CompactModel:
        """The model as decoding uses it, with the weights that it has at the first call."""
        if self._decode_dtype == torch.float32:
            return self.model
        narrow = copy.deepcopy(self.model).to(self._decode_dtype)
        narrow.vocoder.window = self.model.vocoder.window  # what follows the last layer stays in float32
        return narrow

    def _mask(self, counts: Sequence[int]) -> Tensor:
        return (torch.arange(max(counts))[None, :] < torch.tensor(counts)[:, None])[:, None].float()

    def _checked(self, clip: Audio) -> np.ndarray:
        samples = np.asarray(clip.samples, np.float32)
        if samples.ndim != 1 or len(samples) == 0 or not np.isfinite(samples).all():
            raise InputError(
                f"Encoding audio: found shape {samples.shape} "
                f"and finite samples = {bool(np.isfinite(samples).all())}. "
                "Give mono sound with at least one sample and no NaN or infinity."
            )
        return np.asarray(resample(Audio(samples, clip.sample_rate), self.sample_rate).samples, np.float32)

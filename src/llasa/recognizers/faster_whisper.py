"""Whisper on CTranslate2, from a local folder: transcripts, sooner on a CPU.

It gives no likelihoods, for the engine tells those of words alone, without the end of the text; and no times,
for faster-whisper then listens again from the last word on, to silence. Knows no codec and no language model.

Source: SYSTRAN/faster-whisper; OpenNMT/CTranslate2, `models/whisper`.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llasa.audio import resample
from llasa.core import Audio
from llasa.device import chosen_device
from llasa.errors import BundleError, ConfigError, MissingExtra
from llasa.recognizers.base import TextForm, Transcript
from llasa.recognizers.cache import Memory, checked
from llasa.weights import sha256

FILES = (
    "model.bin",
    "config.json",
    "tokenizer.json",
)  # without the last one faster-whisper would download it
CONVERTER = "ct2-transformers-converter --copy_files tokenizer.json preprocessor_config.json"
WINDOW_S = 30.0  # what Whisper hears at once


class FasterWhisperRecognizer:
    """A `Recognizer` over faster-whisper: greedy transcripts."""

    text_form: TextForm = "written"

    def __init__(self, model: Any, name: str, language: str = "en") -> None:
        """Listen with `model`, a `faster_whisper.WhisperModel`.

        Args:
            language: of the speech, as in ISO 639-1.

        Raises:
            ConfigError: the model has no such language.
        """
        if language not in model.supported_languages:
            raise ConfigError(
                f"Listening with faster-whisper: found the language '{language}'. This checkpoint hears: "
                f"{', '.join(model.supported_languages)}."
            )
        self.name, self.language = name, language
        self._model = model
        self.transcripts: Memory[Transcript] = Memory(1024, 1, math.inf)

    @classmethod
    def load(
        cls, folder: str | Path, device: str | None = None, language: str = "en", dtype: str = "default"
    ) -> "FasterWhisperRecognizer":
        """Return the recogniser of a local folder in CTranslate2's layout; nothing is downloaded.

        Args:
            device: as `device.chosen_device`. dtype: CTranslate2's compute type, such as `int8`; by default
                that of the folder.

        Raises:
            MissingExtra: faster-whisper is not installed.
            BundleError: a file is missing or damaged.
            ConfigError: no such device or dtype, or the model has no such language.
        """
        try:
            from faster_whisper import WhisperModel  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise MissingExtra(
                "Listening with faster-whisper", error.name or "faster_whisper", "whisper"
            ) from error
        folder, place = Path(folder), chosen_device(device)
        doing = f"Loading faster-whisper from '{folder}'"
        if missing := [name for name in FILES if not (folder / name).is_file()]:
            todo = f"Convert a folder of transformers' layout with '{CONVERTER}'"
            raise BundleError(f"{doing}: found no {missing[0]}. {todo}.")
        try:
            model = WhisperModel(
                str(folder), device=place.type, device_index=place.index or 0, compute_type=dtype,
                local_files_only=True,
            )  # fmt: skip
        except ValueError as error:
            raise ConfigError(f"{doing}: {error} Name another device or dtype.") from error
        except Exception as error:  # tokenizers raises nothing narrower
            raise BundleError(f"{doing}: found {error}. Download or convert it again.") from error
        made = len(model.feature_extractor.mel_filters)
        if made != model.model.n_mels:
            found = f"features of {made} bands for a model of {model.model.n_mels}"
            raise BundleError(f"{doing}: found {found}. Add the model's own preprocessor_config.json.")
        return cls(model, f"faster-whisper@{sha256([folder / 'model.bin'])[:12]}", language)

    def transcribe(self, audio: Sequence[Audio]) -> list[Transcript]:
        """See `Recognizer.transcribe`. Clips beyond 30 s are heard in windows, as Whisper's authors do it."""
        return self.transcripts.get(checked(audio), lambda clips: [self._write(clip) for clip in clips])

    def _write(self, clip: Audio) -> Transcript:
        listens = self._model.feature_extractor
        samples = resample(clip, listens.sampling_rate).samples
        # In training, short clips ended in silence; the library would end them in zeros, which is noise.
        if len(samples) < listens.n_samples:
            samples = np.pad(samples, (0, listens.n_samples - len(samples)))
        # One temperature and no thresholds: nothing is drawn at random, and nothing said is thrown away.
        found, _ = self._model.transcribe(
            samples, language=self.language, beam_size=1, temperature=0.0,
            compression_ratio_threshold=None, log_prob_threshold=None, no_speech_threshold=None,
            condition_on_previous_text=False, without_timestamps=clip.duration_s <= WINDOW_S,
        )  # fmt: skip
        return Transcript(" ".join("".join(segment.text for segment in found).split()))

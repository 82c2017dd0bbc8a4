"""Whisper from a local folder: what was said, and how likely a text is, of one encoder pass.

Knows no codec and no language model of speech. Shapes: B batch, F encoder frames, D width, L tokens.

Source: A. Radford et al., *Robust Speech Recognition via Large-Scale Weak Supervision* (arXiv 2212.04356);
transformers `models/whisper`. The likelihood as a reward: arXiv 2509.18798.
"""

import copy
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import WhisperForConditionalGeneration, WhisperProcessor
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

from llasa.audio import resample
from llasa.core import Audio, Ids
from llasa.device import chosen_device, chosen_dtype
from llasa.errors import BundleError, ConfigError, InputError
from llasa.recognizers.base import TextForm, Transcript
from llasa.recognizers.cache import Memory, checked
from llasa.weights import pickles, sha256

BATCH = 8  # clips: each is 30 s to the model, however short
MULTILINGUAL = 51_865  # rows of a vocabulary; those of English alone have one less
UNSPACED = ("zh", "ja", "th", "lo", "my", "yue")  # languages where a transcript does not begin with a space


class WhisperRecognizer:
    """A `Recognizer` over transformers' Whisper: greedy transcripts and likelihoods of written texts."""

    text_form: TextForm = "written"

    def __init__(
        self, model: WhisperForConditionalGeneration, processor: WhisperProcessor, name: str,
        language: str = "en", remembered: int = 64,
    ) -> None:  # fmt: skip
        """Listen with `model`, where it is.

        Args:
            language: of the speech, as Whisper calls it: a code, or a name in English.
            remembered: clips whose encoder states are kept on the model's device; 7.7 MB each for the large
                model in float32.

        Raises:
            ConfigError: the model has no such language.
        """
        self.name = name
        self._model: Any = model.eval()  # transformers types its outputs as unions
        self._features: Any = processor.feature_extractor
        self._tokenizer: Any = processor.tokenizer
        known = TO_LANGUAGE_CODE.get(language.lower(), language.lower())
        self._settings: Any = self._completed(model.generation_config, known)
        many = self._settings.is_multilingual
        self._spoken = {"language": known, "task": "transcribe"} if many else {}
        self._before = "" if known in UNSPACED else " "
        asked = (f"<|{known}|>", "<|transcribe|>") if many else ()
        self._prompt: Ids = [self._id(name) for name in ("<|startoftranscript|>", *asked, "<|notimestamps|>")]
        self.states: Memory[Tensor] = Memory(remembered, BATCH)
        self.transcripts: Memory[Transcript] = Memory(1024, BATCH, math.inf)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        device: str | None = None,
        language: str = "en",
        dtype: str | None = "float32",
    ) -> "WhisperRecognizer":
        """Return the recogniser of a local folder in transformers' layout with safetensors weights.

        Args:
            device: as `device.chosen_device`. dtype: as `device.chosen_dtype`; only in float32 a clip scores
                the same alone and among others.

        Raises:
            BundleError: a file is missing or damaged, or a tensor is missing, unexpected or of another shape.
            ConfigError: no such device or dtype, or the model has no such language.
        """
        folder, place = Path(folder), chosen_device(device)
        chosen = chosen_dtype(dtype, place)
        files = sorted(folder.glob("*.safetensors"))
        try:
            if not files:
                raise OSError(_unsafe(folder) or "no *.safetensors there")
            processor = WhisperProcessor.from_pretrained(folder, local_files_only=True)
            loaded: Any = WhisperForConditionalGeneration.from_pretrained(
                folder, dtype=chosen, local_files_only=True, use_safetensors=True,
                ignore_mismatched_sizes=True, output_loading_info=True,
            )  # fmt: skip
            model, report = loaded
            if wrong := [f"{kind} {sorted(map(str, keys))}" for kind, keys in report.items() if keys]:
                raise OSError("; ".join(wrong))
            # Without its file, transformers gives an empty tokenizer and says nothing.
            start = processor.tokenizer.convert_tokens_to_ids("<|startoftranscript|>")
            if start != model.config.decoder_start_token_id:
                raise OSError("no tokenizer, or another model's")
        except (
            OSError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError,
            SafetensorError, StrictDataclassError,
        ) as error:  # fmt: skip
            todo = "Download it again, with config, tokenizer, preprocessor and model.safetensors"
            raise BundleError(f"Loading Whisper from '{folder}': found {error}. {todo}.") from error
        return cls(model.to(place), processor, f"whisper@{sha256(files)[:12]}", language)

    def transcribe(self, audio: Sequence[Audio]) -> list[Transcript]:
        """See `Recognizer.transcribe`. Greedy, text only; at most 30 s a clip."""
        return self.transcripts.get(self._checked(audio), self._write)

    def log_likelihood(self, audio: Sequence[Audio], texts: Sequence[str]) -> list[float]:
        """See `Recognizer.log_likelihood`. The mean over the text's tokens and the end of the text; the
        prompt (language, task, no timestamps) is given, not counted. -inf: more tokens than the model takes.
        """
        if len(audio) != len(texts):
            found = f"{len(audio)} clips and {len(texts)} texts"
            raise InputError(f"Scoring texts: found {found}. Give one text a clip.")
        clips, ids = self._checked(audio), [self._ids(text) for text in texts]
        scores = [-math.inf] * len(clips)
        room = self._model.config.max_target_positions + 1 - len(self._prompt)  # the end is not read
        order = sorted((i for i, row in enumerate(ids) if len(row) <= room), key=lambda i: len(ids[i]))
        for start in range(0, len(order), BATCH):
            part = order[start : start + BATCH]
            states = self.states.get([clips[i] for i in part], self._encode)
            for i, score in zip(part, self._forced(states, [ids[i] for i in part]), strict=True):
                scores[i] = score
        return scores

    def _completed(self, settings: Any, language: str) -> Any:
        """Return a copy with what folders without `generation_config.json`, or with an early one, lack."""
        settings = copy.deepcopy(settings)
        many = getattr(settings, "is_multilingual", None)
        settings.is_multilingual = self._model.config.vocab_size >= MULTILINGUAL if many is None else many
        known = self._id(f"<|{language}|>") if settings.is_multilingual else language == "en"
        if not known:
            hears = "others" if settings.is_multilingual else "English alone"
            raise ConfigError(
                f"Listening with Whisper: found the language '{language}'; this checkpoint hears {hears}. "
                "Name another language, such as en, or another checkpoint."
            )
        settings.lang_to_id = {f"<|{language}|>": self._id(f"<|{language}|>")}
        settings.task_to_id = {"transcribe": self._id("<|transcribe|>")}
        settings.no_timestamps_token_id = self._id("<|notimestamps|>")
        # Early checkpoints have others, which would be used where no language is asked for.
        settings.forced_decoder_ids = [[1, settings.no_timestamps_token_id]]
        # A time, which text must not hold, would also make transformers look for sound beyond the window.
        times = range(settings.no_timestamps_token_id + 1, self._model.config.vocab_size)
        settings.suppress_tokens = [*(settings.suppress_tokens or ()), *times]
        settings.num_beams, settings.do_sample = 1, False
        settings.max_length = settings.max_length or self._model.config.max_target_positions
        return settings

    def _id(self, name: str) -> Any:
        return self._tokenizer.get_added_vocab().get(name)

    def _checked(self, audio: Sequence[Audio]) -> list[Audio]:
        return checked(audio, max_s=self._features.chunk_length)

    def _ids(self, text: str) -> Ids:
        """Return the tokens of a text as Whisper would write it, and the end."""
        if not text.strip():
            raise InputError(f"Scoring texts: found {text!r}, which has no words. Give a text.")
        spaced = self._before + " ".join(text.split())
        return [
            *self._tokenizer.encode(spaced, add_special_tokens=False, split_special_tokens=True),
            self._tokenizer.eos_token_id,
        ]

    @torch.inference_mode()
    def _encode(self, clips: list[Audio]) -> list[Tensor]:
        """Return encoder states [F, D] of each clip."""
        rate = self._features.sampling_rate
        waves = [resample(clip, rate).samples for clip in clips]
        mel = self._features(waves, sampling_rate=rate, return_tensors="pt").input_features
        states = self._model.get_encoder()(mel.to(self._model.device, self._model.dtype)).last_hidden_state
        return [row.clone() for row in states]

    @torch.inference_mode()
    def _write(self, clips: list[Audio]) -> list[Transcript]:
        states = torch.stack(self.states.get(clips, self._encode))
        ids = self._model.generate(
            encoder_outputs=BaseModelOutput(last_hidden_state=states), generation_config=self._settings,
            **self._spoken, return_timestamps=False,
        )  # fmt: skip
        texts = self._tokenizer.batch_decode(ids, skip_special_tokens=True)
        return [Transcript(" ".join(text.split())) for text in texts]

    @torch.inference_mode()
    def _forced(self, states: Sequence[Tensor], ids: Sequence[Ids]) -> list[float]:
        """Return the mean log-probability of each row of ids, nats, given states [F, D] and the prompt."""
        n_prompt, device = len(self._prompt), self._model.device
        rows = [torch.tensor([*self._prompt, *row], device=device) for row in ids]
        # What follows a row's end is not seen from before it, so any id may stand there.
        padded = pad_sequence(rows, batch_first=True)
        found = self._model(
            encoder_outputs=BaseModelOutput(last_hidden_state=torch.stack(list(states))),
            decoder_input_ids=padded[:, :-1], use_cache=False,
        ).logits[:, n_prompt - 1 :].float()  # fmt: skip
        lost = F.cross_entropy(found.transpose(1, 2), padded[:, n_prompt:], reduction="none")
        return [-float(row[: len(own)].mean()) for row, own in zip(lost, ids, strict=True)]


def _unsafe(folder: Path) -> str:
    found = pickles(folder)
    return f"only {found[0]}, a pickle, which may run any code" if found else ""

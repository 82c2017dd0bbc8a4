"""Does a candidate sound like its voice: cosine of speaker embeddings. Must not know: text, other scorers."""

from collections.abc import Callable, Sequence
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from llasa.audio import SILENCE_PEAK, resample
from llasa.codec.base import Codec
from llasa.core import Audio, Candidate, Score
from llasa.errors import InputError, MissingExtra
from llasa.scorers.base import LARGE_MODEL, SMALL_MODEL
from llasa.scorers.checkpoints import Checkpoint, filled
from llasa.scorers.sounds import PerVoice, recorded, sound_of

Embed = Callable[[Sequence[Audio]], np.ndarray]
Low = Annotated[float | None, Field(ge=-1, lt=1)]

# The cosine that is worth 0. Of resemblyzer: other voices lie at 0.5 to 0.65, noise at 0.45. X-vectors differ
# by checkpoint, so all above 0 counts unless `low` is given.
LOW = {"resemblyzer": 0.4}


class Similarity:
    """Compares candidates with the recording of their voice, or its decoded codes if that was not kept.

    value: (cosine - low) / (1 - low), at least 0. measures: `sim`, the cosine. Less than 0.5 s, finished or
    not, is repeated to that length: it says little of the speaker.

    Source: resemblyzer: L. Wan et al., *Generalized end-to-end loss for speaker verification* (2017).
    X-vectors on WavLM: S. Chen et al. (2021), transformers `WavLMForXVector`.
    """

    name = "similarity"
    partial = True

    def __init__(
        self, codec: Codec, model: str = "resemblyzer", low: Low = None, device: str | None = None,
        kind: str = "WavLMForXVector", output: str = "embeddings",
    ) -> None:  # fmt: skip
        """Take what listens.

        Args:
            model: `resemblyzer`, or a folder with a checkpoint.
            low: the cosine that is worth 0, below 1; that of the model if None.
            device: of a checkpoint, as `device.chosen_device`.
            kind, output: the class of transformers that loads a checkpoint, and the field it compares: of a
                sound classifier, `AutoModelForAudioClassification` and `logits`.

        Raises:
            MissingExtra: resemblyzer is not installed. BundleError: the checkpoint is missing or damaged.
        """
        known = model == "resemblyzer"
        self.cost = SMALL_MODEL if known else LARGE_MODEL
        self.low = LOW.get(model, 0.0) if low is None else low
        self._embed: Embed = _resemblyzer() if known else Checkpoint(model, kind, output, device)
        self._own = PerVoice(lambda voice: self._embed([recorded(voice, codec)])[0])

    def score(self, candidates: Sequence[Candidate]) -> list[Score]:
        """See `Scorer.score`."""
        if not candidates:
            return []
        wanted = [self._wanted(candidate) for candidate in candidates]
        found = self._embed([sound_of(candidate) for candidate in candidates])
        return [self._score(*pair) for pair in zip(found, wanted, strict=True)]

    def _wanted(self, candidate: Candidate) -> np.ndarray:
        if candidate.utterance.voice is None:
            raise InputError(
                f"Judging '{candidate.utterance.id}' by its voice: it has none. Choose a voice, or leave the "
                "scorer 'similarity' out."
            )
        return self._own(candidate.utterance.voice)

    def _score(self, found: np.ndarray, wanted: np.ndarray) -> Score:
        sizes = float(np.linalg.norm(found) * np.linalg.norm(wanted))
        cosine = float(found @ wanted) / sizes if sizes else 0.0
        return Score(min(max((cosine - self.low) / (1 - self.low), 0.0), 1.0), {"sim": cosine})


def _resemblyzer() -> Embed:
    """Return clips -> embeddings [B, 256] of unit length; 0 where there is no sound."""
    try:
        import torch
        from resemblyzer import VoiceEncoder, preprocess_wav, wav_to_mel_spectrogram
        from resemblyzer.hparams import sampling_rate
    except ImportError as error:  # also of pkg_resources, which setuptools 81 dropped
        raise MissingExtra("Comparing voices", error.name or "resemblyzer", "eval") from error
    encoder = VoiceEncoder("cpu", verbose=False)

    def windows(clip: Audio) -> list[np.ndarray]:
        samples = resample(clip, sampling_rate).samples
        if np.abs(samples).max(initial=0) < SILENCE_PEAK:
            return []
        spoken: Any = preprocess_wav(samples)
        full = filled(Audio(spoken if len(spoken) else samples, sampling_rate)).samples
        spans, frames = encoder.compute_partial_slices(len(full), rate=1.3, min_coverage=0.75)
        mel = wav_to_mel_spectrogram(np.pad(full, (0, max(spans[-1].stop - len(full), 0))))
        return [mel[span] for span in frames]

    def embed(audio: Sequence[Audio]) -> np.ndarray:
        """As `VoiceEncoder.embed_utterance`, but the windows of all clips in one batch."""
        rows = [windows(clip) for clip in audio]
        ends = np.cumsum([len(row) for row in rows])
        every = [window for row in rows for window in row]
        with torch.inference_mode():
            found = encoder(torch.from_numpy(np.stack(every))).numpy() if every else np.zeros((0, 256))
        means = [part.mean(axis=0) if len(part) else np.zeros(256) for part in np.split(found, ends[:-1])]
        return np.stack([mean / max(float(np.linalg.norm(mean)), 1e-9) for mean in means])

    return embed

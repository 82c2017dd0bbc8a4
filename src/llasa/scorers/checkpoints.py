"""Published models of sound in transformers' layout, from local folders: clips in, outputs a clip.

Must not know: what the outputs mean. Shapes: T samples, K outputs.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llasa.audio import resample
from llasa.core import Audio
from llasa.device import chosen_device
from llasa.errors import BundleError, ScorerError
from llasa.hub import fetched

SHORTEST_S = 0.5  # of sound; less is repeated, for such models have layers that need some length
_BATCH = 8
_IN_TRAINING = (
    "objective.",
    "masked_spec_embed",
)  # weights that only training uses; some checkpoints lack them


def filled(audio: Audio, shortest_s: float = SHORTEST_S) -> Audio:
    """Return a sound repeated until it lasts `shortest_s`; the input itself if it does already."""
    wanted = round(shortest_s * audio.sample_rate)
    if len(audio.samples) >= wanted:
        return audio
    times = -(-wanted // max(len(audio.samples), 1))
    return Audio(np.tile(audio.samples, times)[:wanted], audio.sample_rate)


class Checkpoint:
    """A model that gives numbers for a clip, such as logits of labels or an embedding.

    labels: what its outputs are called, as its configuration says.
    """

    def __init__(self, folder: str | Path, kind: str, output: str, device: str | None = None) -> None:
        """Load it; no code of the folder is run.

        Args:
            folder: configuration, `preprocessor_config.json` and safetensors weights; or a Hub id.
            kind: the class of transformers that loads it. output: which field of what it gives.
            device: as `device.chosen_device`.

        Raises:
            BundleError: a file is missing or damaged, or weights do not fit.
        """
        import transformers
        from huggingface_hub.errors import StrictDataclassError
        from safetensors import SafetensorError

        doing, place = f"Loading the model '{folder}' as {kind}", chosen_device(device)
        self._output, again = output, "Give the folder of such a checkpoint, with model.safetensors."
        folder = fetched(folder)
        if not (folder / "config.json").is_file():
            raise BundleError(f"{doing}: found no config.json there. {again}")
        if not list(folder.glob("*.safetensors")):
            pickle = "only pytorch_model.bin, a pickle, which may run code"
            found = pickle if (folder / "pytorch_model.bin").is_file() else "no safetensors weights"
            todo = f"Load it with {kind}.from_pretrained where you trust it, and save_pretrained it anew"
            raise BundleError(f"{doing}: found {found}. {todo}.")
        try:
            extractor: Any = transformers.AutoFeatureExtractor
            self._features: Any = extractor.from_pretrained(folder, local_files_only=True)
            model, report = getattr(transformers, kind).from_pretrained(
                folder, dtype=torch.float32, local_files_only=True, use_safetensors=True,
                ignore_mismatched_sizes=True, output_loading_info=True,
            )  # fmt: skip
        except (
            OSError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError,
            SafetensorError, StrictDataclassError,
        ) as error:  # fmt: skip
            found = next(iter(str(error).splitlines()), type(error).__name__)
            raise BundleError(f"{doing}: {found} {again}") from error
        wrong = [str(key) for kind in ("missing_keys", "mismatched_keys") for key in report[kind]]
        if wrong := [key for key in wrong if not any(part in key for part in _IN_TRAINING)]:
            raise BundleError(f"{doing}: the weights lack {min(wrong)}, or have it in another shape. {again}")
        self._model: Any = model.eval().to(place)
        names: dict[int, str] = self._model.config.id2label
        self.labels = tuple(names[i] for i in sorted(names))

    def __call__(self, audio: Sequence[Audio]) -> np.ndarray:
        """Return the outputs [B, K] of clips of any rate; each equals that of the clip alone.

        Raises:
            ScorerError: an output is not finite.
        """
        clips = [filled(resample(clip, self._features.sampling_rate)) for clip in audio]
        rows: dict[int, np.ndarray] = {}
        for batch in _of_one_length(clips):
            rows |= dict(zip(batch, self._listen([clips[i] for i in batch]), strict=True))
        found = np.stack([rows[i] for i in range(len(clips))])
        if not np.isfinite(found).all():
            raise ScorerError(
                "Listening with a checkpoint: found outputs that are not finite. Check its weights."
            )
        return found

    @torch.inference_mode()
    def _listen(self, clips: Sequence[Audio]) -> np.ndarray:
        samples, rate = [clip.samples for clip in clips], clips[0].sample_rate
        features = self._features(samples, sampling_rate=rate, return_tensors="pt")
        outputs = self._model(**{key: value.to(self._model.device) for key, value in features.items()})
        return outputs[self._output].float().cpu().numpy()


def _of_one_length(clips: Sequence[Audio]) -> list[list[int]]:
    """Return numbers of clips that fit together without padding, which would change what is heard."""
    lengths: dict[int, list[int]] = {}
    for number, clip in enumerate(clips):
        lengths.setdefault(len(clip.samples), []).append(number)
    return [same[i : i + _BATCH] for same in lengths.values() for i in range(0, len(same), _BATCH)]

"""How natural a candidate sounds: the opinion score a model predicts. Must not know: text, other scorers."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from llasa.audio import resample
from llasa.core import Audio, Candidate, Score
from llasa.errors import ConfigError, MissingExtra, ScorerError
from llasa.scorers.base import LARGE_MODEL
from llasa.scorers.checkpoints import Checkpoint, filled
from llasa.scorers.sounds import sound_of

Opinions = Callable[[Sequence[Audio]], list[Mapping[str, float]]]

_DNSMOS_HZ = 16_000


class Naturalness:
    """Judges by a predicted mean opinion score.

    value: (mos - 1) / 4, within [0, 1]. measures: `mos`, from 1 to 5; with `dnsmos`, which hears noise and
    damage rather than odd speech, also its `mos_signal`, `mos_background` and `mos_p808`.

    Source: C. Reddy et al., *DNSMOS P.835* (2021), package speechmos. As a checkpoint, such as UTMOS:
    T. Saeki et al. (2022), a model with one output.
    """

    name = "naturalness"
    partial = True
    cost = LARGE_MODEL

    def __init__(self, model: str = "dnsmos", device: str | None = None) -> None:
        """Take what listens.

        Args:
            model: `dnsmos`, or a folder with a checkpoint of `AutoModelForAudioClassification` whose one
                output is the score.
            device: of a checkpoint, as `device.chosen_device`.

        Raises:
            MissingExtra: speechmos is not installed. BundleError: the checkpoint is missing or damaged.
            ConfigError: it has more than one output.
        """
        self._opinions = _dnsmos() if model == "dnsmos" else _checkpoint(model, device)

    def score(self, candidates: Sequence[Candidate]) -> list[Score]:
        """See `Scorer.score`."""
        if not candidates:
            return []
        found = self._opinions([sound_of(candidate) for candidate in candidates])
        return [_score(measures) for measures in found]


def _score(measures: Mapping[str, float]) -> Score:
    if not np.isfinite(measures["mos"]):
        raise ScorerError(f"Predicting an opinion score: found {measures['mos']}. Check the model.")
    return Score(min(max((measures["mos"] - 1) / 4, 0.0), 1.0), measures)


def _dnsmos() -> Opinions:
    try:
        from speechmos import dnsmos
    except ImportError as error:
        raise MissingExtra("Predicting naturalness", error.name or "speechmos", "eval") from error

    def opinion(clip: Audio) -> dict[str, float]:
        heard = filled(resample(clip, _DNSMOS_HZ))
        found: Any = dnsmos.run(np.clip(heard.samples, -1, 1), _DNSMOS_HZ)
        names = {"mos": "ovrl", "mos_signal": "sig", "mos_background": "bak", "mos_p808": "p808"}
        return {ours: float(found[f"{theirs}_mos"]) for ours, theirs in names.items()}

    return lambda audio: [opinion(clip) for clip in audio]


def _checkpoint(folder: str, device: str | None) -> Opinions:
    model = Checkpoint(folder, "AutoModelForAudioClassification", "logits", device)
    if len(model.labels) != 1:
        raise ConfigError(
            f"Predicting naturalness with '{folder}': it has {len(model.labels)} outputs. "
            "Give a checkpoint with one, the opinion score."
        )
    return lambda audio: [{"mos": float(row[0])} for row in model(audio)]

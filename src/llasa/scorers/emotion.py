"""Does a candidate sound as it was meant to: the probability a classifier gives an emotion.

Any label of any sound classifier will do. Must not know: text, other scorers.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from llasa.core import Audio, Candidate, Score
from llasa.errors import ConfigError, ScorerError
from llasa.scorers.base import LARGE_MODEL
from llasa.scorers.checkpoints import Checkpoint
from llasa.scorers.sounds import sound_of

Classifier = Callable[[Sequence[Audio]], Sequence[Mapping[str, float]]]


class Emotion:
    """Judges by the probability of one label.

    value: the probability. measures: it as `emotion.LABEL`. Unfinished candidates are judged as they are.
    """

    name = "emotion"
    partial = True
    cost = LARGE_MODEL

    def __init__(self, emotion: str, classifier: str | Classifier, device: str | None = None) -> None:
        """Take what is wanted and what listens.

        Args:
            emotion: a label of the classifier.
            classifier: a folder with a checkpoint of `AutoModelForAudioClassification`, or, in Python, what
                gives for clips a mapping of labels to probabilities each.
            device: of a checkpoint, as `device.chosen_device`.

        Raises:
            ConfigError: the checkpoint has no such label. BundleError: it is missing or damaged.
        """
        self.emotion = emotion
        if isinstance(classifier, str):
            loaded = Checkpoint(classifier, "AutoModelForAudioClassification", "logits", device)
            self._check(loaded.labels)
            classifier = _softmax(loaded)
        self._classify = classifier

    def score(self, candidates: Sequence[Candidate]) -> list[Score]:
        """See `Scorer.score`.

        Raises:
            ConfigError: the classifier gives no such label.
        """
        if not candidates:
            return []
        found = self._classify([sound_of(candidate) for candidate in candidates])
        return [self._score(probabilities) for probabilities in found]

    def _score(self, probabilities: Mapping[str, float]) -> Score:
        self._check(probabilities)
        value = float(probabilities[self.emotion])
        if not 0 <= value <= 1:
            found = f"found the probability {value} of '{self.emotion}'"
            raise ScorerError(f"Judging by emotion: {found}. Correct the classifier.")
        return Score(value, {f"emotion.{self.emotion}": value})

    def _check(self, labels: Iterable[str]) -> None:
        if self.emotion not in labels:
            known = ", ".join(labels)
            raise ConfigError(
                f"Judging by emotion: the classifier has no label '{self.emotion}'. Use one of: {known}."
            )


def _softmax(checkpoint: Checkpoint) -> Classifier:
    def classify(audio: Sequence[Audio]) -> list[dict[str, float]]:
        logits = checkpoint(audio).astype(np.float64)
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares = powers / powers.sum(axis=1, keepdims=True)
        return [dict(zip(checkpoint.labels, map(float, row), strict=True)) for row in shares]

    return classify

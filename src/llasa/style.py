"""`--style`: how something should be said, in words -> scorers to add to a rubric.

Must not know: how the scorers measure, where candidates come from.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from llasa import config
from llasa.errors import ConfigError
from llasa.scorers.prosody import AXES, numbers

EMOTION = "emotion"
_DOING = "Reading a style"


@dataclass(frozen=True)
class Style:
    """What was asked for. targets: by axis of `scorers.prosody.AXES`, numbers. emotion: a label, or empty."""

    targets: Mapping[str, float]
    emotion: str = ""


def parse_style(text: str) -> Style:
    """Return the style of words such as `rate=1.1,pitch_range=wide,energy=high,emotion=happy`.

    Args:
        text: `key=value`, separated by commas. Keys: `rate`, `pitch`, `pitch_range` and `pauses` (a word, or
            a ratio to the voice's own), `energy` (a word, or dB above it), `emotion` (a classifier's label).

    Raises:
        ConfigError: an unknown key (names the nearest), a key given twice, or a value that is not allowed
            (names those that are).
    """
    pairs = [part for part in text.split(",") if part.strip()]
    values = config.assignments(pairs)
    if not values:
        raise ConfigError(f"{_DOING}: found nothing in {text!r}. Write it as rate=1.1,pitch_range=wide.")
    if len(values) < len(pairs):
        raise ConfigError(f"{_DOING}: a key is given twice in {text!r}. Give each once.")
    for key in values:
        if key not in (*AXES, EMOTION):
            raise ConfigError(f"{_DOING}: {config.unknown(key, [*AXES, EMOTION])}")
    given, emotion = EMOTION in values, values.pop(EMOTION, "")
    if not isinstance(emotion, str) or (given and not emotion):
        raise ConfigError(
            f"{_DOING}: emotion: found {emotion!r}. Use a label of the classifier, such as happy."
        )
    return Style(numbers(values), emotion)


def parts(style: Style, classifier: str | None = None, weight: float = 1.0) -> list[dict[str, object]]:
    """Return the [[judge.scorers]] tables that steer by a style.

    Args:
        classifier: folder of an audio-classification checkpoint, which an emotion needs.
        weight: of each of them in the rubric.

    Raises:
        ConfigError: an emotion without a classifier.
    """
    tables: list[dict[str, object]] = []
    if style.targets:
        tables.append({"name": "prosody", "weight": weight, "targets": dict(style.targets)})
    if style.emotion:
        tables.append(
            {"name": "emotion", "weight": weight, "emotion": style.emotion, "classifier": classifier}
        )
    if style.emotion and not classifier:
        raise ConfigError(
            f"Steering by the emotion '{style.emotion}': no classifier is given. Download an "
            "audio-classification checkpoint and name its folder in a recipe: [style] classifier = FOLDER."
        )
    return tables

"""The scorer contract, and how a scorer named in TOML is made. Knows no concrete scorer, judge or search."""

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic import create_model

from llasa import config
from llasa.codec.base import Codec
from llasa.core import Candidate, Score
from llasa.errors import ConfigError
from llasa.recognizers.base import Recognizer
from llasa.text.reading import Reader

CODES, SOUND, SMALL_MODEL, LARGE_MODEL = range(4)  # what a scorer costs


class Scorer(Protocol):
    """Says what candidates are worth.

    name: what measures and recipes call it. partial: whether it may judge an unfinished candidate (finish
    `partial`). cost: `CODES` looks at codes only and is run before anything is decoded; `SOUND` is arithmetic
    on samples; `SMALL_MODEL`; `LARGE_MODEL`, or a request over a network. Cheap ones run first.
    """

    name: str
    partial: bool
    cost: int

    def score(self, candidates: Sequence[Candidate]) -> list[Score]:
        """Return one score a candidate, in order; each equals scoring the candidate alone.

        Args:
            candidates: all with codes; all with `audio` unless `cost` is `CODES`.

        Raises:
            InputError: a candidate, its voice or its text cannot be judged by this scorer.
            ScorerError: the scorer failed: there is no verdict.
        """
        ...


@dataclass(frozen=True)
class Parts:
    """What scorers are made of: a scorer's `__init__` parameter of one of these names is given the part.

    codec, reader: the bundle's. recognizer: by a name as in `recognizers.load_recognizer`; a scorer's own
    `recognizer` option is such a name.
    """

    codec: Codec
    reader: Reader
    recognizer: Callable[[str], Recognizer]


BUILT_IN = {
    "repetition": "llasa.scorers.checks:Repetition",
    "ending": "llasa.scorers.checks:Ending",
    "duration": "llasa.scorers.checks:Duration",
    "silence": "llasa.scorers.sound:Silence",
    "clipping": "llasa.scorers.sound:Clipping",
    "noise": "llasa.scorers.sound:Noise",
    "timbre": "llasa.scorers.sound:Timbre",
    "prosody": "llasa.scorers.prosody:Prosody",
    "similarity": "llasa.scorers.similarity:Similarity",
    "naturalness": "llasa.scorers.naturalness:Naturalness",
    "emotion": "llasa.scorers.emotion:Emotion",
    "wer": "llasa.scorers.wer:ErrorRate",
    "nll": "llasa.scorers.likelihood:Likelihood",
    "lm": "llasa.scorers.likelihood:ModelLikelihood",
}


def load_scorer(name: str, options: Mapping[str, object], parts: Parts) -> Scorer:
    """Return the scorer of a short name or `module:Class`.

    Its `__init__` takes plain values, which `options` gives, and any of `codec`, `reader`, `recognizer`.

    Raises:
        ConfigError: no such scorer, or an option is unknown, missing or wrong; names the nearest valid one.
        MissingExtra, BundleError: what the scorer itself needs is missing or damaged.
    """
    made = _class(name)
    doing = f"Making the scorer '{name}'"
    wanted = inspect.signature(made).parameters
    fields: dict[str, Any] = {
        key: (str if key == "recognizer" else Any if p.annotation is p.empty else p.annotation,
              ... if p.default is p.empty else p.default)
        for key, p in wanted.items() if key not in ("codec", "reader")
    }  # fmt: skip
    if "recognizer" in fields and fields["recognizer"][1] is ...:
        fields["recognizer"] = (str, "bundle")
    model = create_model(f"{made.__name__}Options", __config__=config.STRICT, **fields)
    checked = config.build(model, dict(options), doing)
    values: dict[str, Any] = {key: getattr(checked, key) for key in fields}
    if "recognizer" in values:
        values["recognizer"] = parts.recognizer(values["recognizer"])
    values |= {key: getattr(parts, key) for key in ("codec", "reader") if key in wanted}
    return made(**values)


def _class(name: str) -> type[Any]:
    path = BUILT_IN.get(name, name)
    module, _, attribute = path.partition(":")
    if not attribute:
        found = config.unknown(name, list(BUILT_IN)).replace("unknown key", "unknown scorer", 1)
        raise ConfigError(f"Making a scorer: {found} Or name a class as module:Class.")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"Making the scorer '{name}': {error}. Check the name and that it is installed."
        ) from error

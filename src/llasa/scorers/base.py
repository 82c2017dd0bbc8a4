"""The scorer contract, and how a scorer named in TOML is made. Knows no concrete scorer, judge or search."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Protocol

from pydantic import ConfigDict, Field, PydanticUserError, create_model

from llasa import config
from llasa.codec.base import Codec
from llasa.core import Candidate, Score
from llasa.errors import ConfigError
from llasa.named import load_class, require, signature
from llasa.recognizers.base import Recognizer
from llasa.text.reading import Reader

CODES, SOUND, SMALL_MODEL, LARGE_MODEL = range(4)  # what a scorer costs

Cost = Annotated[int, Field(ge=SOUND, le=LARGE_MODEL)]  # of a scorer that listens
Scale = Annotated[float, Field(gt=0, allow_inf_nan=False)]

_GIVEN = ("codec", "reader")


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
    "copied": "llasa.scorers.copied:Copied",
    "silence": "llasa.scorers.sound:Silence",
    "clipping": "llasa.scorers.sound:Clipping",
    "noise": "llasa.scorers.sound:Noise",
    "timbre": "llasa.scorers.sound:Timbre",
    "prosody": "llasa.scorers.prosody:Prosody",
    "similarity": "llasa.scorers.similarity:Similarity",
    "naturalness": "llasa.scorers.naturalness:Naturalness",
    "emotion": "llasa.scorers.emotion:Emotion",
    "manner": "llasa.scorers.manner:Manner",
    "wer": "llasa.scorers.wer:ErrorRate",
    "nll": "llasa.scorers.likelihood:Likelihood",
    "coverage": "llasa.scorers.coverage:Coverage",
    "hangup": "llasa.scorers.hangup:HangUp",
    "lm": "llasa.scorers.likelihood:ModelLikelihood",
}


def load_scorer(name: str, options: Mapping[str, object], parts: Parts) -> Scorer:
    """Return the scorer of a short name or `module:Class`.

    Its `__init__` takes plain values, which `options` gives, and any of `codec`, `reader`, `recognizer`.

    Raises:
        ConfigError: no such scorer, it lacks what a `Scorer` has, or an option is unknown, missing or wrong;
            names the nearest valid one.
        MissingExtra, BundleError: what the scorer itself needs is missing or damaged.
        ScorerError: the recogniser it asks for does not answer.
    """
    doing = f"Making the scorer '{name}'"
    made = load_class(_path(name), doing)
    wanted = signature(made, doing).parameters
    values = _values(wanted, options, doing)
    if values.get("recognizer") is not None:
        values["recognizer"] = parts.recognizer(values["recognizer"])
    values |= {key: getattr(parts, key) for key in _GIVEN if key in wanted}
    scorer = made(**values)
    check_scorer(scorer, doing)
    return scorer


def check_scorer(scorer: object, doing: str) -> None:
    """Check that an object has what a `Scorer` has.

    Raises:
        ConfigError: an attribute is missing or of another kind; names it.
    """
    require(scorer, doing, name=str, partial=bool, cost=int, score=Callable)


def _path(name: str) -> str:
    path = BUILT_IN.get(name, name)
    if ":" not in path:
        found = config.unknown(name, list(BUILT_IN)).replace("unknown key", "unknown scorer", 1)
        raise ConfigError(f"Making a scorer: {found} Or name a class as module:Class.")
    return path


def _values(
    wanted: Mapping[str, inspect.Parameter], options: Mapping[str, object], doing: str
) -> dict[str, Any]:
    """Return the options with the defaults, checked against what is wanted."""
    kinds = {p.kind for p in wanted.values()}
    own = {
        k: p for k, p in wanted.items() if k not in _GIVEN and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
    }
    fields = {key: _field(key, p) for key, p in own.items()}
    extra = "allow" if inspect.Parameter.VAR_KEYWORD in kinds else "forbid"
    rules = ConfigDict(**config.STRICT | {"extra": extra, "arbitrary_types_allowed": True})
    try:
        model = create_model("Options", __config__=rules, **fields)
    except (PydanticUserError, NameError, TypeError) as error:
        todo = "Name and annotate them as pydantic can check"
        raise ConfigError(f"{doing}: its options cannot be read ({error}). {todo}.") from error
    checked = config.build(model, dict(options), doing)
    return {key: getattr(checked, key) for key in fields} | (checked.model_extra or {})


def _field(key: str, wanted: inspect.Parameter) -> Any:
    default: Any = ... if wanted.default is wanted.empty else wanted.default
    if key == "recognizer":
        return str, "bundle" if default is ... else default
    return (Any if wanted.annotation is wanted.empty else wanted.annotation), default

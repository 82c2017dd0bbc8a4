"""Recognisers: sound to what was said. `load_recognizer` makes one from its name; each kind loads lazily."""

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from llasa.config import unknown
from llasa.errors import ConfigError
from llasa.recognizers.base import Recognizer


def _pocketsphinx(rest: str) -> Recognizer:
    from llasa.recognizers.pocketsphinx import PocketsphinxRecognizer

    return PocketsphinxRecognizer()


def _ctc(folder: str) -> Recognizer:
    from llasa.recognizers.ctc import CtcRecognizer

    return CtcRecognizer.load(folder)


def _whisper(folder: str) -> Recognizer:
    from llasa.recognizers.whisper import WhisperRecognizer

    return WhisperRecognizer.load(folder)


def _endpoint(place: str) -> Recognizer:
    from llasa.recognizers.endpoint import EndpointRecognizer

    url, _, model = place.partition("#")
    return EndpointRecognizer(url, model)


# how a name is written -> what makes the recogniser, given what stands behind the colon
KINDS: dict[str, Callable[[str], Recognizer]] = {
    "pocketsphinx": _pocketsphinx,
    "ctc:FOLDER": _ctc,
    "whisper:FOLDER": _whisper,
    "endpoint:URL#MODEL": _endpoint,
}


def load_recognizer(spec: str, named: Mapping[str, Callable[[], Recognizer]]) -> Recognizer:
    """Return a new recogniser.

    Args:
        spec: a key of `named`, one of `KINDS`, or `module:Class`, anyone's class made without arguments.
        named: what the caller offers under names of its own, such as a bundle's "starter".

    Raises:
        ConfigError: no such recogniser; names the nearest one.
        BundleError, MissingExtra: it is there, but damaged, or what it needs is not installed.
    """
    if spec in named:
        return named[spec]()
    kind, colon, rest = spec.partition(":")
    for pattern, make in KINDS.items():
        name, needs, _ = pattern.partition(":")
        if name == kind and bool(needs) == bool(colon) == bool(rest):
            return make(rest)
        if name == kind:
            raise ConfigError(f"Loading the recogniser '{spec}': found '{rest}'. Write it as {pattern}.")
    if not (kind and rest):
        what = unknown(spec, [*named, *KINDS]).replace("key", "recogniser", 1).replace("Keys", "Known", 1)
        raise ConfigError(f"Loading a recogniser: {what} Or name a class as module:Class.")
    return _anyones(kind, rest)()


def _anyones(module: str, name: str) -> Callable[[], Any]:
    try:
        found = getattr(importlib.import_module(module), name)
        inspect.signature(found).bind()
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        todo = "Give module:Class of a class that is installed and made without arguments"
        raise ConfigError(f"Loading the recogniser '{module}:{name}': {error}. {todo}.") from error
    return found

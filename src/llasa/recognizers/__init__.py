"""Recognisers: sound to what was said. `load_recognizer` makes one from its name; each kind loads lazily."""

import os
from collections.abc import Callable, Mapping
from typing import get_args

from llasa.config import unknown
from llasa.errors import ConfigError
from llasa.hub import fetched
from llasa.named import load_class, require, signature
from llasa.recognizers.base import Recognizer, TextForm


def _pocketsphinx(rest: str) -> Recognizer:
    from llasa.recognizers.pocketsphinx import PocketsphinxRecognizer

    return PocketsphinxRecognizer()


def _ctc(folder: str) -> Recognizer:
    from llasa.recognizers.ctc import CtcRecognizer

    return CtcRecognizer.load(folder)


def _whisper(place: str) -> Recognizer:
    from llasa.recognizers.whisper import WhisperRecognizer

    name, _, language = place.partition("#")
    return WhisperRecognizer.load(fetched(name), language=language or "en")


def _faster_whisper(place: str) -> Recognizer:
    from llasa.recognizers.faster_whisper import FasterWhisperRecognizer

    folder, _, language = place.partition("#")
    return FasterWhisperRecognizer.load(folder, language=language or "en")


def _endpoint(place: str) -> Recognizer:
    from llasa.recognizers.endpoint import KEY_VARIABLE, EndpointRecognizer

    url, _, model = place.partition("#")
    asked = EndpointRecognizer(url, model, os.environ.get(KEY_VARIABLE) or None)
    asked.reach()
    return asked


# how a name is written -> what makes the recogniser, given what stands behind the colon
KINDS: dict[str, Callable[[str], Recognizer]] = {
    "pocketsphinx": _pocketsphinx,
    "ctc:FOLDER": _ctc,
    "whisper:MODEL[#LANGUAGE]": _whisper,
    "faster-whisper:FOLDER[#LANGUAGE]": _faster_whisper,
    "endpoint:URL#MODEL": _endpoint,
}


def load_recognizer(spec: str, named: Mapping[str, Callable[[], Recognizer]]) -> Recognizer:
    """Return a new recogniser.

    Args:
        spec: a key of `named`, one of `KINDS`, or `module:Class`, anyone's class made without arguments. A
            MODEL is a folder or a Hub id, a LANGUAGE is English unless given. An endpoint is sent the key in
            the environment variable `LLASA_ENDPOINT_KEY`, if it is set.
        named: what the caller offers under names of its own, such as a bundle's "starter".

    Raises:
        ConfigError: no such recogniser (names the nearest one), or it lacks what a `Recognizer` has.
        BundleError, MissingExtra: it is there, but damaged, or what it needs is not installed.
        ScorerError: nobody listens at an endpoint.
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
    return _anyones(spec)


def _anyones(spec: str) -> Recognizer:
    doing = f"Loading the recogniser '{spec}'"
    made = load_class(spec, doing)
    try:
        signature(made, doing).bind()
    except TypeError as error:
        todo = "Give a class that is made without arguments"
        raise ConfigError(f"{doing}: {error}. {todo}.") from error
    found = made()
    require(found, doing, name=str, text_form=str, transcribe=Callable)
    if found.text_form not in get_args(TextForm):
        forms = ", ".join(get_args(TextForm))
        raise ConfigError(f"{doing}: found the text_form '{found.text_form}'. Use one of: {forms}.")
    return found

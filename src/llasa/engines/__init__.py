"""Engines: token ids to token ids. `load_engine` makes one from its name; each kind loads lazily."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from llasa.config import unknown
from llasa.engines.base import Engine
from llasa.errors import BundleError, ConfigError

KEY_VARIABLE = "LLASA_ENGINE_KEY"


@dataclass(frozen=True)
class Model:
    """What an engine is to run.

    folder: the language model in Hugging Face layout. vocab_size: ids lie below it. max_length: prompt and
    generated ids that it was trained for. names: of some ids, by which a file of another model is told.
    device, dtype: where and in what; the engine chooses if None. adapters: LoRA folders by the name that
    requests give.
    """

    folder: Path
    vocab_size: int
    max_length: int
    names: Mapping[int, str] = field(default_factory=dict[int, str])
    device: str | None = None
    dtype: str | None = None
    adapters: Mapping[str, Path] = field(default_factory=dict[str, Path])


def _native(rest: str, model: Model) -> Engine:
    from llasa.engines.native import NativeEngine

    return NativeEngine.load(model.folder, model.device, model.dtype, adapters=model.adapters)


def _reference(rest: str, model: Model) -> Engine:
    from llasa.engines.native import NativeEngine

    return NativeEngine.load(model.folder, model.device, model.dtype, adapters=model.adapters, mode="alone")


def _drafted(how: str, model: Model) -> Engine:
    from llasa.engines.native import NativeEngine
    from llasa.engines.verification import rule_of

    return NativeEngine.load(
        model.folder, model.device, model.dtype, adapters=model.adapters, rule=rule_of(how)
    )


def _gguf(file: str, model: Model) -> Engine:
    from llasa.engines.gguf import GgufEngine

    _refuse("gguf", model, "The file fixes them: export another one with: llasa export gguf --quant")
    engine = GgufEngine.load(file, max_length=model.max_length, names=model.names)
    if engine.vocab_size >= model.vocab_size:
        return engine
    engine.close()
    raise BundleError(
        f"Loading {file}: expected a model of {model.vocab_size} ids, as the tokenizer has, found "
        f"{engine.vocab_size}. Use a file made of this bundle: llasa export gguf"
    )


def _remote(place: str, model: Model) -> Engine:
    from llasa.engines.remote import RemoteEngine

    _refuse("remote", model, "Give them to the server when you start it")
    url, _, name = place.partition("#")
    key = os.environ.get(KEY_VARIABLE) or None
    return RemoteEngine(url, name, vocab_size=model.vocab_size, key=key)


# how a name is written -> what makes the engine, given what stands behind the colon
KINDS: dict[str, Callable[[str, Model], Engine]] = {
    "native": _native,
    "reference": _reference,
    "drafted:HOW": _drafted,
    "gguf:FILE": _gguf,
    "remote:URL#MODEL": _remote,
}


def load_engine(spec: str, model: Model) -> Engine:
    """Return a running engine.

    Args:
        spec: one of `KINDS`: in this process with PyTorch (`reference`: slowly, and the same to the bit
            whoever else is in flight; `drafted`: guessing ahead with draft modules, see
            `verification.rule_of`), in this process with llama.cpp, or a server, which is sent the key in the
            environment variable `LLASA_ENGINE_KEY`, if it is set.
        model: what it runs; a server runs what it was started with.

    Raises:
        ConfigError: no such engine, or it does not take a setting of the model.
        BundleError, MissingExtra: the model is damaged, or what the engine needs is not installed.
        EngineError: nobody listens at a URL.
    """
    kind, colon, rest = spec.partition(":")
    for pattern, make in KINDS.items():
        name, needs, _ = pattern.partition(":")
        if name == kind and bool(needs) == bool(colon) == bool(rest):
            return make(rest, model)
        if name == kind:
            raise ConfigError(f"Loading the engine '{spec}': found '{rest}'. Write it as {pattern}.")
    what = unknown(spec, list(KINDS)).replace("key", "engine", 1).replace("Keys", "Known", 1)
    raise ConfigError(f"Loading an engine: {what}")


def _refuse(kind: str, model: Model, todo: str) -> None:
    given = {"device": model.device, "dtype": model.dtype, "adapters": ", ".join(model.adapters)}
    for setting, value in given.items():
        if value:
            raise ConfigError(f"Loading the engine '{kind}': found {setting} '{value}'. {todo}.")

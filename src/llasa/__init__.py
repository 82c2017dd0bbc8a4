"""Text to speech in the manner of Llasa: text -> token ids -> codes -> sound.

The public names below are imported on first use, so that `import llasa` costs next to nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llasa.core import Audio as Audio
    from llasa.core import Voice as Voice
    from llasa.errors import BundleError as BundleError
    from llasa.errors import ConfigError as ConfigError
    from llasa.errors import EngineError as EngineError
    from llasa.errors import InputError as InputError
    from llasa.errors import LlasaError as LlasaError
    from llasa.errors import MissingExtra as MissingExtra
    from llasa.judge import Judge as Judge
    from llasa.judge import Rubric as Rubric
    from llasa.synthesizer import Synthesizer as Synthesizer
    from llasa.synthesizer import load as load

_HOMES = {
    "load": "synthesizer",
    "Synthesizer": "synthesizer",
    "Audio": "core",
    "Voice": "core",
    "Judge": "judge",
    "Rubric": "judge",
    "LlasaError": "errors",
    "ConfigError": "errors",
    "InputError": "errors",
    "BundleError": "errors",
    "EngineError": "errors",
    "MissingExtra": "errors",
}

__all__ = list(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'llasa' has no attribute '{name}'")
    return getattr(import_module(f"llasa.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(_HOMES)

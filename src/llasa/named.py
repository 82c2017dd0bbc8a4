"""Anyone's classes, named in a recipe as `module:Class`: loaded, and looked at before they are used.

Must not know: what they are for.
"""

import importlib
import inspect
from typing import Any

from llasa.errors import ConfigError, LlasaError


def load_class(path: str, doing: str) -> type[Any]:
    """Return the class that `module:Class` names; `doing` opens the message of an error.

    Raises:
        ConfigError: it is written otherwise, cannot be imported, or is no class.
    """
    module, _, name = path.partition(":")
    todo = "Name a class that is installed, as module:Class"
    if not all(part.isidentifier() for part in (*module.split("."), name)):
        raise ConfigError(f"{doing}: found '{path}'. {todo}.")
    try:
        found = getattr(importlib.import_module(module), name)
    except LlasaError:
        raise
    except Exception as error:  # running anyone's module can raise anything, and it is the user's to correct
        found = f"importing '{path}' gave {type(error).__name__}: {error}"
        raise ConfigError(f"{doing}: {found}. {todo}, and see that it runs.") from error
    if not isinstance(found, type):
        raise ConfigError(f"{doing}: '{path}' is a {type(found).__name__}, no class. {todo}.")
    return found


def signature(made: type[Any], doing: str) -> inspect.Signature:
    """Return what a class takes, with its annotations as types.

    Raises:
        ConfigError: Python cannot tell.
    """
    try:
        return inspect.signature(made, eval_str=True)
    except (TypeError, ValueError, NameError, AttributeError, SyntaxError) as error:
        todo = "Give it an __init__ in Python whose annotations can be read"
        raise ConfigError(f"{doing}: what {made.__name__} takes is not known ({error}). {todo}.") from error


def require(found: object, doing: str, **kinds: Any) -> None:
    """Check that an object has attributes of these kinds, as in `isinstance`.

    Raises:
        ConfigError: one is missing or of another kind; names it.
    """
    for key, kind in kinds.items():
        value = getattr(found, key, None)
        if not isinstance(value, kind):
            what = f"{type(found).__name__}.{key} is {value!r}" if hasattr(found, key) else f"no '{key}'"
            raise ConfigError(
                f"{doing}: found {what} in a {type(found).__name__}. Give it a '{key}': {kind.__name__}."
            )

"""TOML files and `field=value` words to frozen, strict pydantic models, and values back to TOML.

A model stands beside the code that uses it and sets `model_config = STRICT`; this file knows no model.
"""

import difflib
import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar, cast, get_args

from pydantic import BaseModel, ConfigDict, RootModel, ValidationError

from llasa.errors import ConfigError

STRICT = ConfigDict(frozen=True, extra="forbid", strict=True)

Model = TypeVar("Model", bound=BaseModel)


class _Strings(RootModel[dict[str, str]]):
    model_config = ConfigDict(frozen=True, strict=True)


def read(path: str | PathLike[str], model: type[Model]) -> Model:
    """Return the model kept in a TOML file.

    Raises:
        ConfigError: the file is missing or no TOML, or a key is unknown, missing or of a wrong value.
    """
    return build(model, table(path), f"Reading '{path}'")


def tables(path: str | PathLike[str], model: type[Model]) -> Model:
    """Return a model of those tables of a TOML file that it has fields for; others are somebody else's.

    Raises:
        ConfigError: as `read`, but for unknown top-level keys.
    """
    known = {key: value for key, value in table(path).items() if key in model.model_fields}
    return build(model, known, f"Reading '{path}'")


def strings(path: str | PathLike[str]) -> dict[str, str]:
    """Return a TOML file of strings under any keys.

    Raises:
        ConfigError: the file is missing or no TOML, or a value is no string.
    """
    return build(_Strings, table(path), f"Reading '{path}'").root


def table(path: str | PathLike[str], settings: Sequence[str] = ()) -> dict[str, Any]:
    """Return what a TOML file says, with `key=value` settings put over it.

    A dotted key reaches into tables; an item of a list is named by its `name` or number, as in
    `stages.vocoder.steps=500` or `data.0.path=speech`.

    Raises:
        ConfigError: the file is missing or no TOML, or a setting leads nowhere.
    """
    doing = f"Reading '{path}'"
    try:
        values = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{doing}: the system says: {error.strerror}. Check the path.") from error
    except ValueError as error:
        raise ConfigError(f"{doing}: it is no TOML file ({error}). Correct or replace it.") from error
    for key, value in assignments(settings).items():
        _put(values, key.split("."), value, f"{doing}, setting {key}")
    return values


def _put(holder: Any, keys: Sequence[str], value: object, doing: str) -> None:
    key: Any
    key, *rest = keys
    if isinstance(holder, list):
        named = [n for n, item in enumerate(holder) if isinstance(item, dict) and item.get("name") == key]  # pyright: ignore
        key = named[0] if named else int(key) if key.isdecimal() else len(holder)  # pyright: ignore
        if key >= len(holder):  # pyright: ignore
            raise ConfigError(
                f"{doing}: found no item '{keys[0]}' in the list. Use a name in it, or 0, 1 ..."
            )
    elif not isinstance(holder, dict):
        raise ConfigError(f"{doing}: '{key}' is to be in a table, but there is none. Correct the key.")
    elif rest:
        holder.setdefault(key, {})  # pyright: ignore
    if not rest:
        holder[key] = value
        return
    _put(holder[key], rest, value, doing)


def build(model: type[Model], values: object, doing: str) -> Model:
    """Return a model of these values; `doing` opens the message of an error.

    Raises:
        ConfigError: names each unknown key with the nearest valid one, each missing key and each wrong value.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        problems = [_problem(detail, model) for detail in error.errors()]
        raise ConfigError(f"{doing}: {' '.join(problems)}") from error


def changed(value: Model, changes: Mapping[str, object], doing: str) -> Model:
    """Return a copy of a model with some fields changed and checked; raises as `build`."""
    return build(type(value), value.model_dump() | dict(changes), doing)


def assignments(words: Sequence[str]) -> dict[str, object]:
    """Return the values of words like `top_k=50`; a value that is no TOML is taken as text.

    Raises:
        ConfigError: a word has no `=` or no field before it.
    """
    pairs = [word.partition("=") for word in words]
    for field, sign, _ in pairs:
        if not field.strip() or not sign:
            raise ConfigError(f"Reading a setting: found {field + sign!r}. Write it as field=value.")
    return {field.strip(): _value(text.strip()) for field, _, text in pairs}


def lines(values: Mapping[str, object]) -> str:
    """Return values as the lines of a TOML table; None is left out."""
    kept = {key: value for key, value in values.items() if value is not None}
    return "".join(f"{_key(key)} = {literal(value)}\n" for key, value in kept.items())


def literal(value: object) -> str:
    """Return a text, number, boolean, list or table as TOML writes it in one line."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_key(key)} = {literal(one)}" for key, one in value.items()) + " }"  # pyright: ignore
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(literal, value)) + "]"  # pyright: ignore
    if isinstance(value, float):
        return repr(value)  # nan and inf too
    # JSON's strings, integers and booleans are TOML's too, but for an unescaped DEL.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else literal(key)


def unknown(key: str, valid: Sequence[str]) -> str:
    """Return what an error says of a key that nobody knows."""
    near = difflib.get_close_matches(key, valid, n=1)
    return f"unknown key '{key}'. " + (f"Did you mean '{near[0]}'?" if near else f"Keys: {', '.join(valid)}.")


def differences(old: object, new: object) -> list[str]:
    """Return a line for each field that differs between two JSON-able values, named by its keys."""
    before, after = dict(_flat(old)), dict(_flat(new))
    names = [*before, *(name for name in after if name not in before)]
    told = [(name, _told(before, name), _told(after, name)) for name in names]
    return [f"{name}: was {_short(was)}, is {_short(now)}" for name, was, now in told if was != now]


def _flat(value: object, name: str = "") -> Iterator[tuple[str, object]]:
    if isinstance(value, dict) and value:
        for key, inner in cast(dict[str, object], value).items():
            yield from _flat(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list) and any(isinstance(inner, dict) for inner in cast(list[object], value)):
        for number, inner in enumerate(cast(list[object], value)):
            yield from _flat(inner, f"{name}.{number}")
    else:
        yield name, value


def _told(values: Mapping[str, object], name: str) -> str:
    return json.dumps(values[name], ensure_ascii=False) if name in values else "not set"


def _short(text: str) -> str:
    return text if len(text) <= 120 else f"{text[:117]}..."


def _value(text: str) -> object:
    try:
        found = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return found["value"] if len(found) == 1 else text


def _problem(detail: Any, model: type[BaseModel]) -> str:
    *parents, last = detail["loc"] or ("the table",)
    key = ".".join(map(str, (*parents, last)))
    if detail["type"] == "extra_forbidden":
        place = f"in [{'.'.join(map(str, parents))}] " if parents else ""
        return f"found {place}{unknown(str(last), list(_inner(model, parents).model_fields))}"
    if detail["type"] == "missing":
        return f"key '{key}' is missing. Add it."
    wanted = detail["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return f"found {key} = {repr(detail['input'])[:80]}. It {wanted}."


def _inner(model: type[BaseModel], parents: Sequence[object]) -> type[BaseModel]:
    for name in parents:
        if isinstance(name, str) and name in model.model_fields:
            kinds = (annotation := model.model_fields[name].annotation, *get_args(annotation))
            model = next((k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)), model)
    return model

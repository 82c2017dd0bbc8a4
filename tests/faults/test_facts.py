"""Going on with another recipe, other data or another tokenizer: each field alone is refused and told."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llasa import begun
from llasa.data.encode import Options
from llasa.errors import ConfigError
from llasa.train import grpo, sft
from tests.faults.works import GRPO, SFT

Reached = Callable[[int, int], None]
RECIPES = {"sft": (SFT, sft.read_recipe), "grpo": (GRPO, grpo.read_recipe)}


def fields(value: Any, name: str = "") -> Iterator[str]:
    """Yield the name of each value in tables within tables."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from fields(inner, f"{name}.{key}" if name else key)
    else:
        yield name


def changed(facts: dict[str, Any], name: str) -> dict[str, Any]:
    """Return facts of which one is another."""
    copy = json.loads(json.dumps(facts))
    place, (*path, last) = copy, name.split(".")
    for key in path:
        place = place[key]
    place[last] = "another" if place[last] != "another" else None
    return copy


@pytest.mark.fault("R17")
@pytest.mark.parametrize("verb", RECIPES)
def test_each_field_of_a_recipe(verb: str, tmp_path: Path, reached: Reached) -> None:
    text, read = RECIPES[verb]
    (tmp_path / "recipe.toml").write_text(text.format(material=tmp_path), encoding="utf-8")
    facts = {
        "recipe": read(tmp_path / "recipe.toml").model_dump(exclude={"out"}), "data": ["d"], "codec": "c",
        "weights": "w", "tokenizer": "t", "prompts": "p", "processes": 1,
    }  # fmt: skip
    refused(facts, tmp_path / "run", reached)


@pytest.mark.fault("R17")
def test_each_option_of_preparing(tmp_path: Path, reached: Reached) -> None:
    refused({"options": Options().model_dump()}, tmp_path / "run", reached)


def refused(facts: dict[str, Any], folder: Path, reached: Reached) -> None:
    begun.start(folder, facts)
    names = list(fields(facts))
    for name in names:
        with pytest.raises(ConfigError) as error:
            begun.start(folder, changed(facts, name))
        lines = str(error.value).splitlines()[1:-1]  # several of a list of tables
        assert lines and all(line.strip().startswith(name) and ": was " in line for line in lines)
    begun.start(folder, facts)
    reached(len(names), len(names))

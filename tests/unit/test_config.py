"""Strict reading of TOML and of `field=value` words."""

from pathlib import Path
from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from llasa import config
from llasa.errors import ConfigError


class Trainer(BaseModel):
    model_config = config.STRICT
    learning_rate: float = 1e-4
    steps: Annotated[int, Field(gt=0)] = 10


class Recipe(BaseModel):
    model_config = config.STRICT
    bundle: str
    trainer: Trainer = Trainer()
    extra: Trainer | None = None


def written(folder: Path, text: str) -> Path:
    path = folder / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_reads_values_and_defaults(tmp_path: Path):
    recipe = config.read(written(tmp_path, 'bundle = "starter"\n[trainer]\nsteps = 3'), Recipe)
    assert recipe == Recipe(bundle="starter", trainer=Trainer(steps=3))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('bundel = "starter"', "unknown key 'bundel'. Did you mean 'bundle'?"),
        ('bundle = "a"\n[trainer]\nleaning_rate = 1', "in [trainer] unknown key 'leaning_rate'. Did"),
        ('bundle = "a"\n[extra]\nstep = 1', "Did you mean 'steps'?"),
        ('bundle = "a"\nzzz = 1', "Keys: bundle, trainer, extra."),
        ("[trainer]", "key 'bundle' is missing"),
        ('bundle = "a"\n[trainer]\nsteps = 0', "found trainer.steps = 0. It should be greater than 0."),
        ('bundle = "a"\n[trainer]\nsteps = "3"', "found trainer.steps = '3'. It should be a valid integer."),
        ("bundle = 3", "It should be a valid string."),
        ("bundle = ", "it is no TOML file"),
    ],
)  # fmt: skip
def test_refuses_with_a_hint(tmp_path: Path, text: str, said: str):
    with pytest.raises(ConfigError) as error:
        config.read(written(tmp_path, text), Recipe)
    assert said in str(error.value)
    assert "recipe.toml" in str(error.value)


def test_strings_under_any_keys(tmp_path: Path):
    assert config.strings(written(tmp_path, 'ada = "EY D AH"')) == {"ada": "EY D AH"}
    with pytest.raises(ConfigError, match=r"recipe\.toml': found ada = 3\. It should be a valid string"):
        config.strings(written(tmp_path, "ada = 3"))


def test_missing_file(tmp_path: Path):
    with pytest.raises(ConfigError, match="No such file"):
        config.read(tmp_path / "none.toml", Recipe)


def test_models_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        Trainer().steps = 4


def test_changed_checks_again():
    assert config.changed(Trainer(), {"steps": 4}, "Changing") == Trainer(steps=4)
    with pytest.raises(ConfigError, match="Changing: found steps"):
        config.changed(Trainer(), {"steps": -1}, "Changing")


def test_assignments_have_the_types_of_toml():
    words = ["a=1", "b = 1e-5", "c=true", "d=some text", 'e="7"', "f=", "g=x=y", "h=1\ni=2"]
    found = {"a": 1, "b": 1e-5, "c": True, "d": "some text", "e": "7", "f": "", "g": "x=y", "h": "1\ni=2"}
    assert config.assignments(words) == found


@pytest.mark.parametrize("word", ["steps", "=3", ""])
def test_assignments_need_a_field(word: str):
    with pytest.raises(ConfigError, match="field=value"):
        config.assignments([word])


@given(st.text())
def test_any_value_is_read_or_text(value: str):
    assert set(config.assignments([f"field={value}"])) == {"field"}

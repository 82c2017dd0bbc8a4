"""Evaluation recipes: what they may say, and what is refused."""

from pathlib import Path

import pytest

from llasa.errors import ConfigError
from llasa.evaluate.plan import Plan, SetBlock, SystemBlock, checked, label, read_plan


def plan(*systems: dict, **rest: object) -> Plan:
    return checked(Plan.model_validate({"systems": list(systems), **rest}))


def test_two_lines_are_a_recipe(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text('[[systems]]\nbundle = "starter"\n')
    found = read_plan(tmp_path / "recipe.toml", ["takes=2", "sets=[{lines = 3}]"])
    assert [block.title for block in found.systems] == ["starter, effort 1"] and found.takes == 2
    assert [(block.title, block.lines) for block in found.sets] == [("built-in", 3)]


def test_what_systems_and_sets_are_called() -> None:
    wanted = {
        "starter, effort 1": {"bundle": "starter"},
        "run checkpoint-40, effort 4": {"bundle": "x/run", "checkpoint": "run/checkpoint-40", "effort": 4},
        "tts-1@localhost:8880": {"url": "http://localhost:8880/v1"},
        "recordings": {"recordings": "original"},
        "recordings, codec": {"recordings": "codec"},
        "mine": {"bundle": "starter", "name": "mine"},
    }
    assert [SystemBlock.model_validate(one).title for one in wanted.values()] == list(wanted)
    assert SetBlock(source="seedtts_testset/en/meta.lst").title == "en/meta"
    assert SetBlock(source="lines.txt").title == "lines"


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("bundle", "bundle"),
        ("whisper:models/large-v3#zh", "large-v3"),
        ("endpoint:http://localhost:8000/v1#whisper-1", "whisper-1"),
        ("my_module:Ears", "Ears"),
    ],
)
def test_what_recognisers_are_called(spec: str, name: str) -> None:
    assert label(spec) == name


@pytest.mark.parametrize(
    ("systems", "told"),
    [
        ([{"voice": "ada"}], "neither bundle, url nor recordings"),
        ([{"bundle": "starter", "url": "http://localhost/v1"}], "bundle and url"),
        ([{"url": "http://localhost/v1", "effort": 4}], "`effort`, which only one with `bundle` knows"),
        ([{"bundle": "starter", "fields": {}}], "`fields`, which only one with `url` knows"),
        ([{"bundle": "starter"}, {"bundle": "starter"}], "two systems are called 'starter, effort 1'"),
    ],
)
def test_tables_that_make_no_sense(systems: list[dict], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        plan(*systems)


def test_misspelt_keys_are_told(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text('[[systems]]\nbundel = "starter"\n')
    with pytest.raises(ConfigError, match="Did you mean 'bundle'"):
        read_plan(tmp_path / "recipe.toml")
    with pytest.raises(ConfigError, match="system says"):
        read_plan(tmp_path / "none.toml")

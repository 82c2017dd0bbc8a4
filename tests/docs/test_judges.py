"""The judges that pages show are made and judge; the scorer of docs/rewards.md is one."""

import re
from pathlib import Path

import pytest

import llasa

ROOT = Path(__file__).parents[2]
TEXT = "Hello there."


def block(page: str, language: str, holding: str) -> str:
    """Return the first block of a page in that language that holds some words."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found = re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return next(one for one in found if holding in one)


def measured(recipe: Path, n: int | None) -> dict[str, float]:
    """Return what the judge of a recipe measured of the best of so many candidates."""
    speaker = llasa.load()
    effort = speaker.effort(n, speaker.recipe(recipe))
    [segment] = speaker.receipt(TEXT, list(speaker.speak(TEXT, effort=effort)), effort).segments
    assert segment.value is not None and 0 < segment.value <= 1
    return dict(segment.measures)


def test_the_recipe_of_the_readme_leads_a_beam(tmp_path: Path):
    recipe = tmp_path / "mine.toml"
    recipe.write_text(block("README.md", "toml", "[[judge.scorers]]"), encoding="utf-8")
    assert any(name.startswith("second") for name in measured(recipe, None))


def test_the_reward_of_ones_own_judges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "my_module.py").write_text(block("docs/rewards.md", "python", "class Calm"), encoding="utf-8")
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(block("docs/rewards.md", "toml", "my_module:Calm"), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    assert any("level_sd_db" in name for name in measured(recipe, 2))

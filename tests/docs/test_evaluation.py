"""The recipes on docs/evaluation.md are recipes."""

import tomllib
from pathlib import Path

from llasa import config
from llasa.evaluate.plan import Plan, checked

PAGE = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")


def test_the_recipes_on_the_page_are_recipes() -> None:
    blocks = [block.partition("```")[0] for block in PAGE.split("```toml\n")[1:]]
    assert len(blocks) == 2
    values = tomllib.loads("\n".join(blocks))
    found = checked(config.build(Plan, values, "Reading the page"))
    assert len(found.systems) == 4 and len(found.sets) == 4

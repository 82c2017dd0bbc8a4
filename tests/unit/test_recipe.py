"""Recipes: what a [search] table becomes, and what is refused."""

from typing import Any, cast

import pytest

from llasa.beams import BeamSearch, Hybrid
from llasa.errors import ConfigError
from llasa.judge import Judge, JudgeBlock, PartBlock
from llasa.recipe import Recipe, SearchBlock, build_search
from llasa.recognizers.base import Recognizer
from llasa.scorers.base import Parts
from llasa.search import Adaptive, BestOfN, Fallback, Sample, Search
from llasa.text.reading import Reader
from tests.planted import PlantedCodec, oracle


def of_recipe(keys: dict[str, Any], effort: int | None = None, target: float | None = None) -> Search:
    def no_recognizer(name: str) -> Recognizer:
        raise ConfigError(name)

    recipe = Recipe(judge=JudgeBlock(scorers=[PartBlock(name="repetition")]), search=SearchBlock(**keys))
    parts = Parts(PlantedCodec(), cast(Reader, None), no_recognizer)
    return build_search(recipe, Judge(PlantedCodec(), oracle()), parts, effort, target)


def test_the_search_of_a_recipe() -> None:
    assert of_recipe({}) == BestOfN(8) and of_recipe({}, 3) == BestOfN(3)
    assert of_recipe({"target": 0.9}) == Adaptive(8, 4, 0.9) == of_recipe({"target": 0.1}, target=0.9)
    ladder = {"strategy": "fallback", "temperatures": [0.0, 1.0]}
    assert of_recipe(ladder, target=0.3) == Fallback((0.0, 1.0), 0.3)
    beam = of_recipe({"strategy": "beam", "width": 2})
    assert isinstance(beam, BeamSearch) and (beam.width, beam.until_s) == (2, None)
    hybrid = of_recipe({"strategy": "hybrid", "n": 5}), of_recipe({"strategy": "hybrid", "n": 5}, 3)
    assert [one.then.n for one in hybrid if isinstance(one, Hybrid)] == [5, 3]
    assert of_recipe({"strategy": "beam"}, 1) == Sample() == of_recipe(ladder, 1)


@pytest.mark.parametrize(
    ("strategy", "effort", "target", "named"),
    [
        ("beam", 4, None, "effort 4 .* 'beam', whose size is `width` and `branch`"),
        ("fallback", 8, None, "effort 8 .* 'fallback', whose size is `temperatures`"),
        ("beam", None, 0.9, "target 0.9 .* 'beam', which has no target"),
        ("beam", 1, 0.9, "target 0.9 .* 'beam', which has no target"),
        ("hybrid", 4, 0.0, "target 0 .* 'hybrid', which has no target"),
        ("beam", 0, None, "effort is 0"),
        ("fallback", 0, None, "effort is 0"),
        ("hybrid", 0, None, "n is 0"),
    ],
)
def test_what_a_strategy_cannot_follow_is_refused(
    strategy: str, effort: int | None, target: float | None, named: str
) -> None:
    with pytest.raises(ConfigError, match=named):
        of_recipe({"strategy": strategy}, effort, target)
    if target is not None:
        with pytest.raises(ConfigError, match=named):
            of_recipe({"strategy": strategy, "target": target}, effort)

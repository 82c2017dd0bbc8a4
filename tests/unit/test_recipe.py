"""Recipes: what a [search] table becomes, and what is refused."""

from typing import Any, cast

import pytest

from llasa.beams import AHEAD_S, BeamSearch, Committed, Hybrid
from llasa.errors import ConfigError
from llasa.judge import Judge, JudgeBlock, Part, PartBlock, Rubric
from llasa.recipe import Recipe, SearchBlock, build_search, build_streaming
from llasa.recognizers.base import Recognizer
from llasa.scorers.base import Parts, Scorer
from llasa.scorers.wer import ErrorRate
from llasa.search import Adaptive, BestOfN, Fallback, Sample, Search
from llasa.text.reading import Reader
from tests.planted import PlantedCodec, cheap_scorer, oracle


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
    blocks = {"strategy": "committed", "n": 5, "width": 2, "block_s": 0.4}
    committed = of_recipe(blocks), of_recipe(blocks, 3)
    found = [(one.n, one.width, one.block_s, one.ahead_s) for one in committed if isinstance(one, Committed)]
    assert found == [(5, 2, 0.4, AHEAD_S), (3, 2, 0.4, AHEAD_S)] and of_recipe(blocks, 1) == Sample()


class Hearing(ErrorRate):
    """Stands for one that hears words."""

    def __init__(self, partial: bool = True) -> None:
        self.name, self.cost, self.partial = "wer", 2, partial


@pytest.mark.parametrize(
    ("scorer", "n", "target", "keys"),
    [
        (Hearing(), 1, None, {}),
        (Hearing(), 4, 0.9, {}),
        (Hearing(), 4, None, {"target": 0.9}),
        (Hearing(), 4, None, {"strategy": "beam"}),
        (Hearing(), 4, None, {"strategy": "committed"}),
        (Hearing(partial=False), 4, None, {}),
        (oracle(), 4, None, {}),
    ],
)
def test_what_streams_commits_only_where_beginnings_are_heard(
    scorer: Scorer, n: int, target: float | None, keys: dict[str, Any]
) -> None:
    def streaming(scorer: Scorer, n: int, target: float | None, keys: dict[str, Any]) -> Search | None:
        recipe = Recipe(judge=JudgeBlock(scorers=[PartBlock(name="wer")]), search=SearchBlock(**keys))
        rubric = Rubric([Part(scorer), Part(cheap_scorer())])
        return build_streaming(recipe, Judge(PlantedCodec(), rubric), cast(Parts, None), n, target)

    found = streaming(Hearing(), 4, None, {})
    assert isinstance(found, Committed) and found.n == 4 and found.process.partial
    assert streaming(scorer, n, target, keys) is None


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
        ("committed", 0, None, "effort is 0"),
        ("committed", 4, 0.9, "target 0.9 .* 'committed', which has no target"),
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

"""A recipe's [judge], [process] and [search] tables -> judge and strategy; other tables are not looked at.

Must not know: texts, voices, command lines.
"""

from collections.abc import Callable
from dataclasses import dataclass
from os import PathLike
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from llasa import config
from llasa.beams import AHEAD_S, BLOCK_S, BeamSearch, Committed, Hybrid
from llasa.errors import ConfigError
from llasa.judge import Judge, JudgeBlock, PartBlock, build_judge
from llasa.scorers.base import Parts
from llasa.scorers.wer import ErrorRate
from llasa.search import BestOfN, Fallback, Progress, Search, search_for
from llasa.style import Style
from llasa.style import parts as parts_of

HELD_OUT = "held-out"  # what a bundle calls its second recogniser

Count = Annotated[int, Field(ge=1)]
Value = Annotated[float, Field(ge=0, le=1)]


class SearchBlock(BaseModel):
    """A [search] table. n: candidates of `best`, `hybrid` and `committed`, unless an effort is given.

    target: good enough to stop at, for `best` and `fallback`.
    width, branch, step_s, until_s: of the beam; for `hybrid` it ends at until_s seconds, then n candidates
    are completed. block_s, ahead_s: of `committed`, which keeps `width` beams too. temperatures: of the
    fallback ladder. temperature: of the candidates; the bundle's if None.
    """

    model_config = config.STRICT
    strategy: Literal["best", "beam", "hybrid", "committed", "fallback"] = "best"
    n: Count = 8
    target: Value | None = None
    width: Count = 4
    branch: Count = 4
    step_s: Annotated[float, Field(gt=0)] = 0.5
    until_s: Annotated[float | None, Field(gt=0)] = None
    block_s: Annotated[float, Field(gt=0)] = BLOCK_S
    ahead_s: Annotated[float, Field(ge=0)] = AHEAD_S
    temperatures: list[Annotated[float, Field(ge=0)]] = [0.4, 0.6, 0.8, 1.0]
    temperature: Annotated[float | None, Field(ge=0)] = None


class StyleBlock(BaseModel):
    """A [style] table. classifier: folder of an audio-classification checkpoint, which an emotion needs.

    weight: of each part of a style in the rubric.
    """

    model_config = config.STRICT
    classifier: str | None = None
    weight: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0


class Recipe(BaseModel):
    """How candidates are judged and searched for. process: judges unfinished candidates of a beam."""

    model_config = config.STRICT
    judge: JudgeBlock
    process: JudgeBlock | None = None
    search: SearchBlock = SearchBlock()
    style: StyleBlock = StyleBlock()


class _Written(Recipe):
    """A recipe as it stands in a file."""

    judge: JudgeBlock | None = None  # pyright: ignore[reportIncompatibleVariableOverride]
    search: SearchBlock | None = None  # pyright: ignore[reportIncompatibleVariableOverride]


@dataclass(frozen=True)
class Effort:
    """How speech is searched for: `Synthesizer.effort` makes one.

    deadline_s: for a whole text, or, as `deadline_x`, seconds of search a second of expected speech; no limit
    if both are None. temperature: of the candidates; the usual one if None. on_progress: told segment,
    segments and progress. recipe: what judge and search were made from, for the receipt. streaming: the
    search for what is heard meanwhile; `search` if None.
    """

    search: Search
    judge: Judge
    deadline_s: float | None = None
    deadline_x: float | None = None
    temperature: float | None = None
    on_progress: Callable[[int, int, Progress], None] | None = None
    recipe: Recipe | None = None
    streaming: Search | None = None


def read_recipe(path: str | PathLike[str], own: str | PathLike[str] | None = None) -> Recipe:
    """Return the recipe in a TOML file.

    Args:
        own: where to take [judge] from if the file has a [search] only.

    Raises:
        ConfigError: the file is missing or no TOML, there is no [judge], or a key is unknown or wrong.
    """
    written = config.tables(path, _Written)
    if written.judge is None and (own is None or written.search is None):
        raise ConfigError(f"Reading '{path}': found no [judge] table. Add one with its scorers.")
    judge = written.judge or read_recipe(own or path).judge
    search = written.search or SearchBlock()
    return Recipe(judge=judge, process=written.process, search=search, style=written.style)


def with_witness(recipe: Recipe) -> Recipe:
    """Return a recipe that holds the bundle's second recogniser out, unless it uses it or holds one out."""
    scorers = recipe.judge.scorers
    if any(part.held_out or (part.model_extra or {}).get("recognizer") == HELD_OUT for part in scorers):
        return recipe
    witness = {"name": "wer", "recognizer": HELD_OUT, "label": "second", "held_out": True}
    added = [*scorers, PartBlock.model_validate(witness)]
    return recipe.model_copy(update={"judge": recipe.judge.model_copy(update={"scorers": added})})


def with_style(recipe: Recipe, style: Style) -> Recipe:
    """Return a recipe that also judges by how close a candidate comes to a style.

    Raises:
        ConfigError: the style needs something that it does not name.
    """
    blocks = parts_of(style, recipe.style.classifier, recipe.style.weight)
    added = [
        config.build(PartBlock, block | {"label": f"style.{block['name']}"}, "Reading a style")
        for block in blocks
    ]
    judge = recipe.judge.model_copy(update={"scorers": [*recipe.judge.scorers, *added]})
    return recipe.model_copy(update={"judge": judge})


def build_search(
    recipe: Recipe,
    judge: Judge,
    parts: Parts,
    effort: int | None = None,
    target: float | None = None,
    waves: bool = False,
) -> Search:
    """Return the strategy of a recipe.

    Args:
        judge: of finished candidates; it also leads a beam if the recipe has no [process], and those of its
            parts that can judge beginnings lead `committed`.
        effort: candidates of `best` and `committed`, completions of `hybrid`; the recipe's `n` if None. The
            others draw as many as their own keys say: besides None they take 1, for one candidate.
        target: wins over the recipe's; not for beams of any kind, which do not draw until one is good.
        waves: draw candidates a few at a time even without a target, so that a deadline can stop them.

    Raises:
        ConfigError: a beam whose process judge cannot judge partial candidates, an effort below 1, or an
            effort or target that the strategy cannot follow.
    """
    block = recipe.search
    n = block.n if effort is None else effort
    target = block.target if target is None else target
    if block.strategy == "best":
        return search_for(n, target, waves)
    if target is not None and block.strategy != "fallback":
        found = f"the target {target:g} for the strategy '{block.strategy}', which has no target"
        raise ConfigError(f"Making a search: found {found}. Leave it out, or use 'best' or 'fallback'.")
    if block.strategy not in ("hybrid", "committed") and effort is not None:
        return _one_candidate(block, effort)
    if block.strategy == "fallback":
        return Fallback(tuple(block.temperatures), target)
    if block.strategy == "committed":
        return _committed(recipe, _of_beginnings(recipe, judge, parts), n) if n > 1 else search_for(n)
    process = build_judge(recipe.process, parts) if recipe.process else judge
    if block.strategy == "beam":
        return BeamSearch(block.width, block.branch, block.step_s, block.until_s, process=process)
    until_s = 2.0 if block.until_s is None else block.until_s
    return Hybrid(BeamSearch(block.width, block.branch, block.step_s, until_s, process=process), BestOfN(n))


def build_streaming(
    recipe: Recipe, judge: Judge, parts: Parts, n: int, target: float | None
) -> Search | None:
    """Return the search for what is heard meanwhile, None if the recipe's own is all there is.

    That is so for a strategy other than `best`, with a target, and where no part of the judge tells of a
    beginning which words were missed. Arguments and errors as for `build_search`.
    """
    able = [part.scorer for part in judge.rubric.parts if part.scorer.partial and not part.held_out]
    hears = recipe.process is not None or any(isinstance(scorer, ErrorRate) for scorer in able)
    aims = target is not None or recipe.search.target is not None
    if n == 1 or aims or not hears or recipe.search.strategy != "best":
        return None
    process = _of_beginnings(recipe, judge, parts)
    return _committed(recipe, process, n) if process.partial else None


def _of_beginnings(recipe: Recipe, judge: Judge, parts: Parts) -> Judge:
    return build_judge(recipe.process, parts) if recipe.process else judge.of_beginnings()


def _committed(recipe: Recipe, process: Judge, n: int) -> Committed:
    block = recipe.search
    return Committed(n, block.width, block.block_s, block.ahead_s, process=process)


def _one_candidate(block: SearchBlock, effort: int) -> Search:
    if effort > 1:
        keys = "`temperatures`" if block.strategy == "fallback" else "`width` and `branch`"
        found = f"the effort {effort} for the strategy '{block.strategy}', whose size is {keys}"
        raise ConfigError(f"Making a search: found {found}. Set those in [search] and leave the effort out.")
    return search_for(effort)

"""The reward recipes: each is understood, and each judge can be built of what is installed."""

from pathlib import Path

import pytest

from llasa.bundle import load_bundle
from llasa.errors import MissingExtra
from llasa.judge import PartBlock, build_judge
from llasa.recipe import read_recipe
from llasa.scorers.base import load_scorer
from llasa.train.grpo import arguments
from llasa.train.grpo import read_recipe as read_grpo
from tests.conftest import STARTER

RECIPES = Path(__file__).parents[2] / "recipes" / "grpo"
JUDGE = RECIPES / "judge.toml"
RUNS = sorted(path for path in RECIPES.glob("*.toml") if path != JUDGE)
ORIGINALS = {"llasa-grpo", "kartoffel", "cer", "multi-reward", "speaker", "emotion", "prosody"}
STEERED_BY_A_GATE = {"multi-reward", "speaker", "emotion", "prosody"}


@pytest.fixture(scope="module")
def bundle():
    return load_bundle(str(STARTER))


def options(part: PartBlock) -> dict[str, object]:
    return dict(part.model_extra or {})


def test_all_of_them_are_there() -> None:
    assert {path.stem for path in RUNS} >= ORIGINALS | {"starter"}


@pytest.mark.parametrize("path", [*RUNS, JUDGE], ids=lambda path: path.stem)
def test_each_judge_is_built(path: Path, bundle) -> None:
    block = read_recipe(path).judge
    left = [part for part in block.scorers if part.name != "emotion"]  # which needs a classifier
    try:
        judge = build_judge(block.model_copy(update={"scorers": left}), bundle.parts)
    except MissingExtra as missing:
        pytest.skip(str(missing))
    assert [part.name for part in judge.rubric.parts] == [part.label or part.name for part in left]


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_each_run_is_understood(path: Path, bundle, tmp_path: Path) -> None:
    pytest.importorskip("trl")
    recipe = read_grpo(path, [f"out={tmp_path}"])
    args = arguments(recipe, bundle)
    assert args.generation_batch_size % args.num_generations == 0
    assert {key: getattr(args, key) for key in recipe.trainer} == pytest.approx(recipe.trainer)


@pytest.mark.parametrize("name", sorted(STEERED_BY_A_GATE))
def test_what_rewards_a_voice_or_manner_gates_a_copied_prompt(name: str) -> None:
    gates = {part.name for part in read_recipe(RECIPES / f"{name}.toml").judge.scorers if part.gate}
    assert "copied" in gates


def test_each_reward_but_the_two_originals_holds_another_view_out() -> None:
    held = {path.stem for path in RUNS if any(part.held_out for part in read_recipe(path).judge.scorers)}
    assert held >= ORIGINALS - {"llasa-grpo", "kartoffel"}


def test_all_but_the_two_as_published_have_a_guard() -> None:
    guarded = {path.stem for path in RUNS if read_grpo(path).guard}
    assert guarded >= ORIGINALS - {"llasa-grpo", "kartoffel"}


def test_the_starters_recipe_has_the_guarded_judge() -> None:
    assert read_recipe(RECIPES / "starter.toml").judge == read_recipe(JUDGE).judge


def test_the_formulas_are_those_of_the_papers() -> None:
    first, second = (read_recipe(RECIPES / f"{name}.toml").judge for name in ("llasa-grpo", "kartoffel"))
    assert (first.combine, [part.weight for part in first.scorers]) == ("harmonic", [0.6, 0.4])
    wer, nll = map(options, first.scorers)
    assert wer["shape"] == "tanh" and wer["scale"] == pytest.approx(1 / 3) and nll["scale"] == 3.0
    assert (second.combine, [part.weight for part in second.scorers]) == ("mean", [0.5, 0.5])
    assert options(second.scorers[0])["scale"] == 1.0 and second.scorers[1].name == "hangup"


def test_the_emotion_recipe_takes_any_classifier(bundle, tmp_path: Path) -> None:
    """What the other test leaves out: its options are those of the scorer."""
    [emotion] = [
        part for part in read_recipe(RECIPES / "emotion.toml").judge.scorers if part.name == "emotion"
    ]
    with pytest.raises(Exception, match=r"no config\.json"):
        load_scorer("emotion", options(emotion) | {"classifier": str(tmp_path)}, bundle.parts)

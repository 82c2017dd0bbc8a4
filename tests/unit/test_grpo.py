"""Reinforcement learning from a recipe: what is refused, what is learnt, and that a stopped run goes on."""

import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from llasa import config
from llasa.bundle import load_bundle
from llasa.core import Candidate, Score
from llasa.errors import BundleError, ConfigError, InputError, ScorerError
from llasa.journal import keep_until
from llasa.train.grpo import Grpo, _Run, read_recipe, train
from llasa.train.result import write_result
from tests.faults.works import Low

LONGEST = 20
RECIPE = """
model = "{model}"
prompts = "{prompts}"
out = "{out}"
dtype = "float32"
[judge]
truncated = 0.3
[[judge.scorers]]
name = "tests.unit.test_grpo:{scorer}"
[trainer]
max_steps = 4
max_completion_length = 20
num_generations = 4
per_device_train_batch_size = 4
gradient_accumulation_steps = 2
learning_rate = 1e-3
warmup_steps = 0
temperature = 1.0
bf16 = false
report_to = "none"
save_steps = 2
"""


class Same(Low):
    """Likes all alike."""

    def score(self, candidates: Sequence[Candidate]) -> list[Score]:
        return [Score(0.5) for _ in candidates]


class Failing(Low):
    """Judges the voice that it is tried on, and nothing that is drawn."""

    def score(self, candidates: Sequence[Candidate]) -> list[Score]:
        if len(candidates[0].codes) <= LONGEST:
            raise ScorerError("no answer")
        return super().score(candidates)


class Broken(Low):
    """Judges nothing at all."""

    def score(self, candidates: Sequence[Candidate]) -> list[Score]:
        raise ScorerError("nobody is there")


class Picky(Low):
    """Has no verdict on every other candidate."""

    def score(self, candidates: Sequence[Candidate]) -> list[Score]:
        if any(len(one.codes) <= LONGEST and one.codes[0] % 2 for one in candidates):
            raise InputError("odd")
        return super().score(candidates)


class Lone(Low):
    """Judges the voice that it is tried on, and the first candidate of each text."""

    def __init__(self) -> None:
        self.seen = set[str]()

    def score(self, candidates: Sequence[Candidate]) -> list[Score]:
        voice = candidates[0].utterance.voice
        texts = [one.utterance.text for one in candidates if voice is None or one.codes != voice.codes]
        if len(texts) > 1 or self.seen.intersection(texts):
            raise InputError("seen")
        self.seen.update(texts)
        return super().score(candidates)


@pytest.fixture
def make(tiny_bundle, tmp_path):
    def made(scorer: str = "Low", out: str = "run", lines: str = "the cat\na hat\n", **changes: Any) -> Grpo:
        (tmp_path / "lines.txt").write_text(lines, encoding="utf-8")
        (tmp_path / "recipe.toml").write_text(
            RECIPE.format(
                model=tiny_bundle, prompts=tmp_path / "lines.txt", out=tmp_path / out, scorer=scorer
            ),
            encoding="utf-8",
        )
        settings = [f"{key.replace('__', '.')}={config.literal(value)}" for key, value in changes.items()]
        return read_recipe(tmp_path / "recipe.toml", settings)

    return made


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "lm" / "model.safetensors")


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()]


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_reward_on_codes_alone_rises(make, tmp_path):
    told = train(make(trainer__max_steps=20, trainer__learning_rate=5e-3, judge__truncated=0.0))
    rows = metrics(tmp_path / "run")
    rewards = [row["reward"] for row in rows]
    assert len(rewards) == 20 and sum(rewards[-4:]) / 4 > sum(rewards[:4]) / 4 + 0.05
    assert all(row["time/step_s"] > 0 and row["time/rollout_s"] > 0 for row in rows)
    assert told.steps == 20 and told.prompts == 2
    rolled = [json.loads(line) for line in (tmp_path / "run" / "rollouts.jsonl").read_text().splitlines()]
    assert len(rolled) == 20 * 8 and {one["step"] for one in rolled} == set(range(1, 21))
    first = [one["reward"] for one in rolled if one["step"] == 1]
    assert sum(first) / 8 == pytest.approx(rewards[0], abs=1e-6)
    assert told.bundle is not None and load_bundle(told.bundle).prompt.end_id
    assert not equal(weights(tmp_path / "run" / "bundle"), weights(Path(make().model)))


@pytest.mark.fault("R2")
def test_a_stopped_run_goes_on_bit_for_bit(make, tmp_path):
    whole = make(out="whole", trainer__save_steps=4)
    train(whole)

    class Stop(Exception):
        pass

    run = _Run(make())
    roll = run.roller.roll

    def until_the_third(prompts, place, vllm):
        if place.step == 3:
            raise Stop
        return roll(prompts, place, vllm)

    run.roller.roll = until_the_third
    with pytest.raises(Stop):
        run.train(False)
    run.engine.close()
    train(make())
    assert equal(weights(tmp_path / "run" / "bundle"), weights(tmp_path / "whole" / "bundle"))
    lines = [(tmp_path / name / "rollouts.jsonl").read_text("utf-8") for name in ("run", "whole")]
    assert lines[0] == lines[1] and lines[0].count("\n") == 32


@pytest.mark.fault("R10")
@pytest.mark.fault("R11")
def test_without_verdicts_nothing_is_learnt_and_the_run_stops(make, tmp_path):
    with pytest.raises(ScorerError, match=r"of 8 candidates of step 1 got no verdict \(.*no answer"):
        train(make("Failing", trainer__weight_decay=0.5))
    saved = load_file(tmp_path / "run" / "checkpoints" / "checkpoint-1" / "model.safetensors")
    before = weights(Path(make().model))
    assert equal({name: saved[name] for name in before}, before)


def test_an_error_gives_the_terminal_back(make, monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    run = _Run(make("Failing"))
    with pytest.raises(ScorerError):
        run.train(False)
    run.engine.close()
    assert run.board.bar is not None and not run.board.bar.live


def test_candidates_may_serve_several_steps(make, tmp_path):
    train(make(trainer__num_iterations=2))
    rolled = [json.loads(line) for line in (tmp_path / "run" / "rollouts.jsonl").read_text().splitlines()]
    assert [one["step"] for one in rolled] == [1] * 8 + [3] * 8
    assert [row["step"] for row in metrics(tmp_path / "run") if "loss" in row] == [1, 2, 3, 4]


@pytest.mark.fault("R11")
def test_some_candidates_may_stay_without_a_verdict(make, tmp_path):
    train(make("Picky", unjudged=0.6, trainer__max_steps=1))
    [row] = metrics(tmp_path / "run")
    assert 0 < row["rollouts/unjudged"] < 0.6 and row["grad_norm"] > 0


@pytest.mark.fault("R12")
def test_groups_of_which_none_ends_are_finite(make, tmp_path):
    train(make(trainer__max_completion_length=1, trainer__beta=0.0, trainer__max_steps=2))
    for row in metrics(tmp_path / "run"):
        assert math.isfinite(row["loss"]) and math.isfinite(row["grad_norm"])
        assert row["rollouts/unended"] > 0.99
    assert all(one.isfinite().all() for one in weights(tmp_path / "run" / "bundle").values())


@pytest.mark.fault("R12")
def test_groups_that_are_all_alike_teach_nothing(make, tmp_path):
    train(make("Same", judge__truncated=0.5, trainer__beta=0.0, trainer__max_steps=2))
    for row in metrics(tmp_path / "run"):
        assert row["frac_reward_zero_std"] == 1.0 and row["grad_norm"] == 0.0 and row["loss"] == 0.0
    assert equal(weights(tmp_path / "run" / "bundle"), weights(Path(make().model)))


@pytest.mark.fault("R12")
def test_a_group_with_a_single_verdict_teaches_nothing(make, tmp_path):
    lines = f"{'the cat ' * 7}\n{'a hat ' * 7}\n"  # so long that all end by themselves
    long = {"trainer__max_completion_length": 800}
    train(make("Lone", lines=lines, unjudged=0.8, trainer__beta=0.0, trainer__max_steps=1, **long))
    [row] = metrics(tmp_path / "run")
    assert row["rollouts/unjudged"] == 0.75 and row["grad_norm"] == 0.0 and row["loss"] == 0.0
    assert equal(weights(tmp_path / "run" / "bundle"), weights(Path(make().model)))


def test_an_adapter_is_learnt_and_merged(make, tmp_path):
    told = train(make(lora={"r": 4, "target_modules": ["q_proj", "v_proj"]}, trainer__learning_rate=0.02))
    assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").is_file()
    assert told.bundle is not None
    found, before = weights(told.bundle), weights(Path(make().model))
    changed = {name for name in before if not torch.equal(found[name], before[name])}
    assert changed and all("q_proj" in name or "v_proj" in name for name in changed)


def test_the_reference_says_what_the_policy_may_say(make):
    run = _Run(make(trainer__beta=0.1))
    trainer = run._trainer()
    ids = torch.arange(60, 90)[None]
    found = trainer.ref_model(ids).logits
    assert torch.equal(found.argmax(-1), trainer.model(ids).logits.argmax(-1))
    others = sorted(set(range(found.shape[-1])) - set(run.prompt.allowed_token_ids))
    assert float(found.detach().softmax(-1)[..., others].sum()) == 0.0
    run.engine.close()


class Vllm:
    """Draws as vLLM behind TRL would: by weights that it was handed, its own form of an answer."""

    def __init__(self, model: Any, generation_kwargs: dict[str, Any], **_: Any) -> None:
        self.model, self.handed = model, 0
        self.allowed = generation_kwargs["allowed_token_ids"]
        [self.end] = generation_kwargs["stop_token_ids"]
        self.mode = "colocate"
        self.asked: list[tuple[list[list[int]], int]] = []

    def sync_weights(self) -> None:
        self.handed += 1

    def generate(self, prompts: list[list[int]], num_generations: int, **_: Any) -> tuple[Any, ...]:
        self.asked.append((prompts, num_generations))
        draw = torch.Generator().manual_seed(len(self.asked))
        ids, told = [], []
        for prompt in prompts:
            length = int(torch.randint(1, 2 * LONGEST, (1,), generator=draw))
            picked = torch.randint(len(self.allowed), (length,), generator=draw).tolist()
            made = [self.allowed[i] for i in picked if self.allowed[i] != self.end]
            made += [self.end] if length % 2 or not made else []
            with torch.no_grad():
                logits = self.model(torch.tensor([prompt + made])).logits[0, len(prompt) - 1 : -1]
            ids.append(made)
            told.append([[float(row[i])] for row, i in zip(logits.log_softmax(-1), made, strict=True)])
        return None, ids, told, None


def test_vllm_draws_where_trl_has_it(make, tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(
        "trl.trainer.grpo_trainer.VLLMGeneration", lambda **given: made.append(Vllm(**given)) or made[0]
    )
    train(make(trainer__use_vllm=True, trainer__vllm_mode="colocate"))
    [vllm] = made
    assert vllm.handed == 4 == len(metrics(tmp_path / "run"))  # before each step
    assert all(len(prompts) == 8 and group == 4 for prompts, group in vllm.asked)
    assert all(prompts[0] == prompts[3] != prompts[4] for prompts, _ in vllm.asked)
    rows = [
        json.loads(line) for line in (tmp_path / "run" / "rollouts.jsonl").read_text("utf-8").splitlines()
    ]
    assert {row["finish"] for row in rows} == {"stop", "length"}
    assert max(row["codes"] for row in rows) <= LONGEST
    # What it says of its draws is what is learnt here: nothing to correct.
    ratios = [row["sampling/importance_sampling_ratio/mean"] for row in metrics(tmp_path / "run")]
    assert ratios == pytest.approx([1.0] * 4, abs=1e-3)


def test_a_vllm_that_is_not_there_is_named(make):
    with pytest.raises(ConfigError, match=r"vllm|vLLM"):
        train(make(trainer__use_vllm=True))


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"trainer__num_generations": 3}, "divisible"),
        ({"trainer__generation_kwargs": {"top_a": 1}}, "generation_kwargs"),
        ({"trainer__output_dir": "elsewhere"}, "output_dir"),
        ({"trainer__fsdp": True}, "weights are sharded"),
        ({"trainer__learningrate": 1.0}, "learningrate"),
        ({"voices": ["nobody"]}, "nobody"),
        ({"lines": "fine\n\nfine too\n"}, "line 2: it is empty"),
        ({"lines": "fine\n" + "and the cat sat on the mat " * 60}, "line 2"),
        ({"scorer": "Broken"}, "nobody is there"),
        ({"judge__scorers": [{"name": "similarity"}], "voices": []}, "voice"),
        ({"lora": {"rank": 4}}, "rank"),
        ({"guard": {"every": 2}}, r"guard\.recognizer"),
    ],
)
def test_what_cannot_work_is_refused_and_leaves_nothing(make, tmp_path, changes, found):
    with pytest.raises(ConfigError, match=found):
        train(make(**changes))
    assert not (tmp_path / "run").exists()


def test_an_adapter_on_the_head_is_refused_before_the_first_step(make, tmp_path):
    with pytest.raises(ConfigError, match="lm_head"):
        train(make(lora={"r": 4, "target_modules": ["q_proj", "lm_head"]}))
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"trainer__repetition_penalty": 1.1}, "other probabilities"),
        ({"trainer__num_iterations": 2, "trainer__steps_per_generation": 1}, ""),  # both within a step
        ({"trainer__num_iterations": 2}, "draws anew"),
        ({"trainer__steps_per_generation": 4}, "draws anew"),
    ],
)
def test_settings_that_are_not_what_they_seem_are_told(make, caplog, changes, found):
    with caplog.at_level("WARNING", "llasa.train.grpo"):
        train(make(**changes), dry_run=True)
    assert found in caplog.text and bool(found) == bool(caplog.records)


def test_a_chosen_checkpoint_that_is_gone_is_named(make, tmp_path):
    run = _Run(make())
    run.engine.close()
    (tmp_path / "lm").mkdir()
    first, gone = SimpleNamespace(process_index=0), tmp_path / "checkpoint-50"
    trainer = SimpleNamespace(args=first, model=torch.nn.Linear(1, 1))
    with pytest.raises(BundleError, match=r"checkpoint-50', which was chosen: its complete\.json is missing"):
        write_result(trainer, run.bundle, tmp_path, False, None, "float32", str(gone))
    assert (tmp_path / "lm").is_dir()


def test_without_guards_the_last_weights_are_written(make, tmp_path):
    run = _Run(make())
    run.engine.close()
    trainer = SimpleNamespace(
        state=SimpleNamespace(best_model_checkpoint=str(tmp_path / "chosen-before")),
        args=SimpleNamespace(process_index=0),
        model=torch.nn.Linear(1, 1),
        save_model=lambda place: shutil.copytree(run.lm, place),
    )
    assert equal(weights(run._write(trainer)), weights(Path(run.recipe.model)))


def test_rows_with_odd_separators_stay_one_row(tmp_path):
    rows = [json.dumps({"step": step, "text": "a\u2028b\x85c"}, ensure_ascii=False) for step in (1, 2, 3)]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows) + '\n{"step": 2, "te', encoding="utf-8")
    keep_until(tmp_path / "rows.jsonl", 2)
    assert (tmp_path / "rows.jsonl").read_text("utf-8") == f"{rows[0]}\n{rows[1]}\n"


def test_a_dry_run_writes_nothing(make, tmp_path):
    told = train(make(), dry_run=True)
    assert told.bundle is None and told.steps == 4 and not (tmp_path / "run").exists()

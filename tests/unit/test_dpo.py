"""Learning from preferences: what is learnt, that it can be stopped, and what is refused."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from llasa.bundle import load_bundle
from llasa.errors import ConfigError
from llasa.pairs import Side, Vote, paired, write_pairs, write_votes
from llasa.train.dpo import Batches, arguments, dataset, read_recipe, train
from llasa.train.preference import Preference

WORDS = ("cat", "hat", "mat", "rat", "bat", "fat", "man", "sun", "red", "big")
RECIPE = """
model = "{model}"
pairs = "{pairs}"
held_out = 0.3
out = "{out}"
dtype = "float32"
[trainer]
learning_rate = 3e-3
max_steps = 6
per_device_train_batch_size = 7
save_steps = 3
eval_steps = 3
logging_steps = 2
bf16 = false
report_to = "none"
"""


@pytest.fixture(scope="module")
def listened(tiny_bundle, tmp_path_factory):
    """Pairs of which the side with small codes is preferred, with a voice and without."""
    bundle, random = load_bundle(tiny_bundle), np.random.default_rng(0)
    codec, size = bundle.codec_name, bundle.codec.codebook_size

    def side(first: int) -> Side:
        codes = random.integers(first, first + 40, int(random.integers(8, 14)))
        return Side("tiny", codec, 0, 0, [int(code) for code in codes], "stop")

    folder = tmp_path_factory.mktemp("listened")
    pairs, votes = [], []
    for i, word in enumerate(WORDS):
        sides = [side(0), side(size - 40)]
        pair = paired(f"the {word} sat", "ada", "en", *sides[:: 1 if i % 2 else -1])
        pairs.append(pair)
        votes.append(Vote(pair.id, "a" if i % 2 else "b"))
    pairs.append(paired("one more", "ada", "en", side(0), side(0)))
    write_pairs(folder, pairs)
    write_votes(folder / "votes.jsonl", [*votes, Vote(pairs[-1].id, "same"), Vote("odd", "a")])
    return folder


def recipe(tiny_bundle, listened, out, *settings: str):
    path = out.with_suffix(".toml")
    path.write_text(RECIPE.format(model=tiny_bundle, pairs=listened, out=out), encoding="utf-8")
    return read_recipe(path, settings)


def rows_of(out) -> list[dict]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_what_is_preferred_is_learnt(tiny_bundle, listened, tmp_path):
    told = []
    found = train(recipe(tiny_bundle, listened, tmp_path / "run"), tell=told.append)
    assert found.bundle == tmp_path / "run" / "bundle" and told == [found.told]
    assert (found.told.train, found.told.held, found.told.rejected) == (7, 3, 0)
    assert found.told.left_out == {"same": 1, "bad": 0, "open": 0} and found.told.clashes["unknown"] == 1
    held = [row for row in rows_of(tmp_path / "run") if "eval_held_loss" in row]
    assert held[-1]["eval_rewards/accuracies"] == 1.0 and held[-1]["eval_rewards/margins"] > 0.1
    assert held[-1]["eval_held_loss"] < held[0]["eval_held_loss"] < np.log(2)
    rejects = (tmp_path / "run" / "rejects.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in rejects] == ["odd"]
    lm = load_file(tmp_path / "run" / "lm" / "model.safetensors")
    assert not any("bias" in name for name in lm)  # what limits the head is never saved
    assert load_bundle(tmp_path / "run" / "bundle").engine.max_length == 1024


@pytest.mark.fault("R2")
def test_a_stopped_run_ends_where_an_uninterrupted_one_ends(tiny_bundle, listened, tmp_path):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    train(recipe(tiny_bundle, listened, whole))
    shutil.copytree(whole, stopped)
    for name in ("checkpoints/checkpoint-6", "bundle", "lm"):
        shutil.rmtree(stopped / name)
    train(recipe(tiny_bundle, listened, stopped))
    one, other = (load_file(out / "lm" / "model.safetensors") for out in (whole, stopped))
    assert all(torch.equal(one[name], other[name]) for name in one)
    keys = {key for row in rows_of(stopped) for key in row}
    assert "tokens_per_s" in keys and not {"num_tokens", "eval_num_tokens"} & keys  # of each start alone
    with pytest.raises(ConfigError, match="other settings or data"):
        train(recipe(tiny_bundle, listened, stopped, "seed=1"))


def test_the_reference_may_stay_in_memory(tiny_bundle, listened, tmp_path):
    settings = ("trainer.max_steps=2", "trainer.eval_steps=2", "trainer.logging_steps=1")
    train(recipe(tiny_bundle, listened, tmp_path / "told", *settings))
    train(
        recipe(tiny_bundle, listened, tmp_path / "kept", *settings, "trainer.precompute_ref_log_probs=false")
    )
    one, other = (rows_of(tmp_path / name) for name in ("told", "kept"))
    for key in ("loss", "rewards/margins", "eval_held_loss", "logps/chosen", "entropy"):
        found = [[row[key] for row in rows if key in row] for rows in (one, other)]
        assert found[0] == pytest.approx(found[1], abs=1e-4) and found[0]


def test_an_adapter_learns_and_is_merged(tiny_bundle, listened, tmp_path):
    settings = ('lora.target_modules=["q_proj", "v_proj"]', "trainer.learning_rate=0.05")
    found = train(recipe(tiny_bundle, listened, tmp_path / "run", *settings))
    assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").is_file()
    assert rows_of(tmp_path / "run")[-2]["step"] == 6
    assert found.bundle is not None
    before, after = (load_file(folder / "lm" / "model.safetensors") for folder in (tiny_bundle, found.bundle))
    changed = {name for name in before if not torch.equal(before[name].float(), after[name].float())}
    assert changed and all("q_proj" in name or "v_proj" in name for name in changed)


def test_batches_hold_our_ids_and_no_others(tiny_bundle, listened, tmp_path):
    rows = [Preference("x", "x", [5, 6], [7, 8, 9], [10]), Preference("y", "y", [5], [7], [11, 12])]
    told = {"prompt_ids": [99], "chosen_ids": [98], "rejected_ids": [97], "ref_chosen_logps": -1.0}
    batch = Batches(0)([{**row, **told} for row in dataset(rows)])
    assert batch["input_ids"].tolist() == [
        [5, 6, 7, 8, 9], [5, 7, 0, 0, 0], [5, 6, 10, 0, 0], [5, 11, 12, 0, 0],
    ]  # fmt: skip
    assert batch["completion_mask"].sum(1).tolist() == [3, 1, 1, 2]
    assert batch["attention_mask"].sum(1).tolist() == [5, 2, 3, 3]
    assert batch["ref_chosen_logps"].tolist() == [-1.0, -1.0]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (("trainer.max_length=100",), "found max_length"),
        (("trainer.padding_free=true",), "found padding_free"),
        (("trainer.betta=1",), "betta"),
        (("held_out=0.01",), "Gather more votes"),
        (('votes=["none.jsonl"]',), "No such file"),
        (("trainer.sync_ref_model=true",), "sync_ref_model"),
        (('lora.target_modules=["lm_head"]',), "lm_head"),
    ],
)
def test_what_does_not_fit_is_refused(tiny_bundle, listened, tmp_path, settings, told):
    with pytest.raises(ConfigError, match=told):
        train(recipe(tiny_bundle, listened, tmp_path / "run", *settings))


def test_a_dry_run_trains_nothing(tiny_bundle, listened, tmp_path):
    found = train(recipe(tiny_bundle, listened, tmp_path / "run"), dry_run=True)
    assert found.bundle is None and found.told.train == 7
    assert not (tmp_path / "run" / "run.json").exists()


def test_the_best_by_held_out_pairs_can_be_kept(tiny_bundle, listened, tmp_path):
    args = arguments(recipe(tiny_bundle, listened, tmp_path / "run", "trainer.load_best_model_at_end=true"))
    assert args.metric_for_best_model == "eval_held_loss" and args.greater_is_better is False

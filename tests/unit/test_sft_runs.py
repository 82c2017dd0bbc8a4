"""Runs that train the language model: that go on, leave a bundle, and refuse what does not fit."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from llasa.bundle import load_bundle
from llasa.codec.compact import CompactCodec
from llasa.data.shards import Header, save
from llasa.errors import BundleError, ConfigError
from llasa.train.sft import read_recipe, train
from tests.unit.test_sft import CODES, said


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A codec and a folder prepared with it."""
    folder = tmp_path_factory.mktemp("corpus")
    codec = CompactCodec.random()
    codec.save(folder / "codec")
    header = Header(CompactCodec.load(folder / "codec").name, 25.0, CODES)
    save(
        folder / "prepared",
        {"train": [*said("ada", 40), *said("ben", 40)], "heldout": said("ada", 4) + said("ben", 4)},
        header,
    )
    return folder


RECIPE = """
codec = "{codec}"
data = "{data}"
out = "{out}"
dtype = "float32"
[scratch]
text = "characters"
hidden_size = 32
num_hidden_layers = 2
num_attention_heads = 2
max_length = 200
separator = " "
[rows]
tokens = 300
[trainer]
max_steps = 6
learning_rate = 5e-3
bf16 = false
save_steps = 3
eval_steps = 3
logging_steps = 2
"""


def recipe(corpus: Path, out: Path, *settings: str):
    text = RECIPE.format(codec=corpus / "codec", data=corpus / "prepared", out=out)
    path = out.with_suffix(".toml")
    path.write_text(text, encoding="utf-8")
    return read_recipe(path, settings)


MUON = ("optimizer.muon=true", "trainer.gradient_accumulation_steps=2")


@pytest.mark.fault("R2")
@pytest.mark.parametrize("settings", [(), pytest.param(MUON, marks=pytest.mark.slow)])
def test_a_stopped_run_ends_where_an_uninterrupted_one_ends(corpus, tmp_path, settings):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    train(recipe(corpus, whole, *settings))
    shutil.copytree(whole, stopped)
    for name in ("checkpoints/checkpoint-6", "bundle", "lm"):
        shutil.rmtree(stopped / name)
    metrics = stopped / "metrics.jsonl"
    metrics.write_text(f'{metrics.read_text()}{{"step": 6, "lo')
    train(recipe(corpus, stopped, *settings))
    one, other = (load_file(out / "lm" / "model.safetensors") for out in (whole, stopped))
    assert all(torch.equal(one[name], other[name]) for name in one)
    steps = [
        [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()]
        for out in (whole, stopped)
    ]
    assert steps[0] == steps[1]  # what was measured twice is told once


def test_a_run_leaves_a_bundle_and_tells_of_itself(corpus, tmp_path):
    found = train(recipe(corpus, tmp_path / "run", "trainer.max_steps=40", "trainer.eval_steps=20"))
    bundle = load_bundle(tmp_path / "run" / "bundle")
    assert found.bundle == bundle.folder and bundle.codec_name.startswith("compact@")
    assert bundle.engine.max_length == 200
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert losses[-1] < losses[0] - 0.3
    assert {"eval_held_loss", "eval_other_voice_loss"} <= {key for row in rows for key in row}
    assert all(row["tokens_per_s"] > 0 for row in rows if "loss" in row)
    assert (tmp_path / "run" / "metrics.png").stat().st_size > 5000
    assert (tmp_path / "run" / "preflight" / "0.wav").is_file()


BEST = ("trainer.load_best_model_at_end=true", "trainer.greater_is_better=true", "trainer.learning_rate=0.05")


def test_the_best_checkpoint_is_the_result_also_of_a_run_stopped_at_its_end(corpus, tmp_path):
    def made(out):
        train(recipe(corpus, out, *BEST))
        return load_file(out / "lm" / "model.safetensors")

    first = made(tmp_path / "run")
    best, last = (
        load_file(tmp_path / "run" / "checkpoints" / f"checkpoint-{step}" / "model.safetensors")
        for step in (3, 6)
    )
    shutil.rmtree(tmp_path / "run" / "bundle")
    again = made(tmp_path / "run")
    assert all(torch.equal(first[name], best[name]) for name in best)
    assert all(torch.equal(again[name], best[name]) for name in best)
    assert not all(torch.equal(last[name], best[name]) for name in best)


def test_the_best_of_what_is_not_measured_is_refused(corpus, tmp_path):
    with pytest.raises(ConfigError, match=r"found loss, and eval_held_loss, eval_other_voice_loss"):
        train(recipe(corpus, tmp_path / "a", *BEST, "trainer.metric_for_best_model=loss"))
    unseen = corpus / "no-heldout"
    save(unseen, {"train": said("ada", 4)}, Header(CompactCodec.load(corpus / "codec").name, 25.0, CODES))
    with pytest.raises(ConfigError, match="no held-out rows"):
        train(recipe(corpus, tmp_path / "b", *BEST, f"data={unseen}"))


@pytest.mark.slow
def test_lora_leaves_an_adapter_and_a_bundle_with_it_merged(corpus, tmp_path):
    train(recipe(corpus, tmp_path / "base"))
    made = recipe(corpus, tmp_path / "lora", "lora.r=4", 'lora.target_modules=["q_proj", "v_proj"]')
    base = str(tmp_path / "base" / "bundle")
    train(made.model_copy(update={"scratch": None, "codec": None, "model": base}))
    assert (tmp_path / "lora" / "adapter" / "adapter_model.safetensors").is_file()
    old, new = (load_file(tmp_path / n / "bundle/lm/model.safetensors") for n in ("base", "lora"))
    changed = {name for name in old if not torch.equal(old[name], new[name])}
    assert changed and all("q_proj" in name or "v_proj" in name for name in changed)


def test_what_does_not_fit_is_refused(corpus, tmp_path):
    with pytest.raises(ConfigError, match=r"per_device_train_batch_size.*rows\.tokens"):
        train(recipe(corpus, tmp_path / "a", "trainer.per_device_train_batch_size=4"))
    with pytest.raises(ConfigError, match=r"\[trainer\].*learnin_rate"):
        train(recipe(corpus, tmp_path / "b", "trainer.learnin_rate=4"))
    with pytest.raises(ConfigError, match="neither model nor"):
        train(recipe(corpus, tmp_path / "c").model_copy(update={"scratch": None}))
    with pytest.raises(BundleError, match="codec"):
        train(
            recipe(corpus, tmp_path / "d").model_copy(
                update={"scratch": None, "codec": None, "model": "starter"}
            )
        )
    with pytest.raises(ConfigError, match="voice_promt"):
        recipe(corpus, tmp_path / "e", "rows.voice_promt=1.0")
    with pytest.raises(ConfigError, match="'rows' is to be in a table"):
        recipe(corpus, tmp_path / "f", "out.rows=1.0")
    with pytest.raises(ConfigError, match="dtype"):
        recipe(corpus, tmp_path / "g", "dtype=float33")
    for setting in ("rows.speakers.ada=-1.0", "data={ speech = -1.0 }"):
        with pytest.raises(ConfigError, match="greater than or equal to 0"):
            recipe(corpus, tmp_path / "h", setting)
    with pytest.raises(ConfigError, match=r"max_steps is 'abc'\. Give a number"):
        train(recipe(corpus, tmp_path / "i", "trainer.max_steps=abc"))
    with pytest.raises(ConfigError, match="nobody in the data is called 'adda'"):
        train(recipe(corpus, tmp_path / "j", "rows.speakers.adda=2.0"))


def test_where_nothing_is_left_the_rejects_say_why(corpus, tmp_path):
    with pytest.raises(ConfigError, match="none left"):
        train(recipe(corpus, tmp_path / "run", "rows.max_length=5"), dry_run=True)
    rejects = (tmp_path / "run" / "rejects.jsonl").read_text().splitlines()
    assert len(rejects) == 80 and "more than max_length, 5" in rejects[0]


def test_what_was_found_is_told_before_training_and_nothing_is_trained_after_a_dry_run(corpus, tmp_path):
    told = []
    found = train(
        recipe(corpus, tmp_path / "run", "rows.max_length=40"), dry_run=True, tell=lambda *a: told.append(a)
    )
    assert told == [(found.report, 0)] and found.bundle is None
    assert not (tmp_path / "run" / "run.json").exists()


@pytest.mark.fault("R17")
def test_a_changed_recipe_does_not_go_on_unasked(corpus, tmp_path):
    train(recipe(corpus, tmp_path / "run", "trainer.max_steps=1"))
    with pytest.raises(ConfigError, match="learning_rate"):
        train(recipe(corpus, tmp_path / "run", "trainer.max_steps=1", "trainer.learning_rate=1e-3"))

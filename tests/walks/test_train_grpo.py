"""`llasa train grpo`: the command from a recipe to a bundle that speaks."""

import json

RECIPE = """
model = "{model}"
prompts = "lines.txt"
out = "run"
[judge]
truncated = 0.2
[[judge.scorers]]
name = "repetition"
[trainer]
max_steps = 2
max_completion_length = 20
num_generations = 4
per_device_train_batch_size = 8
gradient_accumulation_steps = 1
bf16 = false
[samples]
texts = ["Good morning."]
every = 2
"""


def test_a_bundle_is_trained_by_rewards_and_speaks(run, tiny_bundle, tmp_path):
    (tmp_path / "recipe.toml").write_text(RECIPE.format(model=tiny_bundle), encoding="utf-8")
    (tmp_path / "lines.txt").write_text("the cat\n\na hat\n", encoding="utf-8")
    refused = run("train", "grpo", "recipe.toml")
    assert refused.code == 2 and "line 2: it is empty" in refused.err and not (tmp_path / "run").exists()
    (tmp_path / "lines.txt").write_text("the cat\na hat\n", encoding="utf-8")
    looked = run("train", "grpo", "recipe.toml", "--dry-run")
    assert looked.code == 0 and "2 texts, 2 steps" in looked.err and not (tmp_path / "run").exists()
    made = run("train", "grpo", "recipe.toml", "--json")
    assert made.code == 0, made.err
    told = json.loads(made.out)
    assert told["steps"] == 2 and told["prompts"] == 2
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text("utf-8").splitlines()]
    assert [row["step"] for row in rows if "reward" in row] == [1, 2]
    assert {"judge/repetition.value", "time/exposed_s", "time/step_s", "rollouts/unended"} <= rows[0].keys()
    assert (tmp_path / "run" / "samples" / "step-2-0.wav").is_file()
    spoken = run("say", "Good morning.", "--bundle", told["output"], "-o", tmp_path / "out.wav")
    assert spoken.code == 0 and (tmp_path / "out.wav").is_file(), spoken.err
    again = run("train", "grpo", "recipe.toml", "--set", "trainer.learning_rate=0.1")
    assert again.code == 2 and "learning_rate" in again.err

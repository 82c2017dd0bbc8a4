"""Training on two processes, as torchrun starts them: what one learns, also after one of them is killed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from llasa.bundle import load_bundle
from llasa.data.shards import Header, save
from tests.conftest import Ran
from tests.unit.test_sft import said

Run = Callable[..., Ran]

# Plain gradient descent: what two sums of the same numbers differ by stays as small as it is.
SFT = """
model = "{model}"
data = "prepared"
out = "{out}"
dtype = "float32"
check_first_batch = false
[rows]
tokens = 300
[trainer]
max_steps = {steps}
logging_steps = 1
save_steps = 2
eval_strategy = "no"
optim = "sgd"
learning_rate = 0.1
lr_scheduler_type = "constant"
warmup_steps = 0
bf16 = false
report_to = "none"
gradient_accumulation_steps = {a_process}
"""
GRPO = """
model = "{model}"
prompts = "lines.txt"
out = "{out}"
dtype = "float32"
[judge]
truncated = 0.2
[[judge.scorers]]
name = "repetition"
[trainer]
max_steps = {steps}
save_steps = 2
max_completion_length = 20
num_generations = 4
per_device_train_batch_size = {a_process}
gradient_accumulation_steps = 1
optim = "sgd"
learning_rate = 0.1
warmup_steps = 0
bf16 = false
report_to = "none"
"""


SHARDED = ("--set", "trainer.fsdp=true")


@pytest.fixture(autouse=True)
def given(tiny_bundle: Path, tmp_path: Path) -> None:
    """What is learnt from: prepared rows, and lines."""
    bundle = load_bundle(tiny_bundle)
    header = Header(bundle.codec_name, 25.0, bundle.codec.codebook_size)
    save(tmp_path / "prepared", {"train": [*said("ada", 24), *said("ben", 24)]}, header)
    (tmp_path / "lines.txt").write_text("the cat\na hat\n", encoding="utf-8")


def recipe(folder: Path, text: str, out: str, **values: Any) -> tuple[str, ...]:
    """Write a recipe and return the words of the command that trains by it."""
    (folder / f"{out}.toml").write_text(text.format(out=out, **values), encoding="utf-8")
    return ("train", "sft" if text is SFT else "grpo", f"{out}.toml")


def settings(*values: str) -> tuple[str, ...]:
    return tuple(part for value in values for part in ("--set", value))


def started(folder: Path, words: tuple[str, ...]) -> subprocess.Popen[str]:
    module = "tests.sharded" if SHARDED[1] in words else "llasa.cli"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", module]
    own = {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])}
    return subprocess.Popen(
        [*torchrun, *words], cwd=folder, env={**os.environ, **own}, text=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip


def on_two(folder: Path, words: tuple[str, ...]) -> None:
    process = started(folder, words)
    _, complaint = process.communicate(timeout=300)
    assert process.returncode == 0, complaint[-3000:]


def killed(folder: Path, words: tuple[str, ...], out: Path) -> None:
    """Begin on two processes and kill the first one, which writes, once a checkpoint is whole."""
    process, began = started(folder, words), time.monotonic()
    while not (out / "checkpoints" / "checkpoint-2" / "complete.json").exists():
        assert process.poll() is None and time.monotonic() - began < 120
        time.sleep(0.005)
    os.kill(json.loads((out / "run.lock").read_text())["pid"], signal.SIGKILL)
    process.communicate(timeout=120)
    assert process.returncode != 0 and not (out / "bundle").exists()


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "bundle" / "lm" / "model.safetensors")


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def told(out: Path, key: str) -> list[float]:
    return [row[key] for row in lines(out / "metrics.jsonl") if key in row]


def moved(one: Path, two: Path, start: Path) -> tuple[float, float]:
    """Return how far training moved the weights of `one`, and how far off those of `two` are, at most."""
    first, second, begun = weights(one), weights(two), load_file(start / "lm" / "model.safetensors")
    far = max((first[name] - begun[name]).abs().max().item() for name in first)
    return far, max((first[name] - second[name]).abs().max().item() for name in first)


def test_two_processes_tune_as_one(run: Run, tiny_bundle: Path, tmp_path: Path):
    """Two processes of one batch a step and one of two batches: the same losses, the same weights."""
    on_two(tmp_path, recipe(tmp_path, SFT, "two", model=tiny_bundle, steps=4, a_process=1))
    alone = run(*recipe(tmp_path, SFT, "one", model=tiny_bundle, steps=4, a_process=2))
    assert alone.code == 0, alone.err
    one, two = (told(tmp_path / name, "loss") for name in ("one", "two"))
    assert len(one) == 4 and one[-1] < one[0] and two == pytest.approx(one, rel=1e-5)
    far, off = moved(tmp_path / "one", tmp_path / "two", tiny_bundle)
    assert far > 1e-3 and off < 1e-4 * far
    other = run("train", "sft", "two.toml")
    assert other.code == 2 and "processes: was 2, is 1" in other.err


@pytest.mark.slow
def test_two_processes_are_rewarded_as_one(run: Run, tiny_bundle: Path, tmp_path: Path):
    """Two processes of half a batch and one of a whole one: the same candidates, rewards and weights."""
    on_two(tmp_path, recipe(tmp_path, GRPO, "two", model=tiny_bundle, steps=4, a_process=4))
    alone = run(*recipe(tmp_path, GRPO, "one", model=tiny_bundle, steps=4, a_process=8))
    assert alone.code == 0, alone.err
    one, two = (lines(tmp_path / name / "rollouts.jsonl") for name in ("one", "two"))
    assert len(two) == 32 and one == two
    for key in ("reward", "loss"):
        assert told(tmp_path / "two", key) == pytest.approx(told(tmp_path / "one", key), rel=1e-3)
    far, off = moved(tmp_path / "one", tmp_path / "two", tiny_bundle)
    assert far > 1e-3 and off < 1e-4 * far


@pytest.mark.slow
def test_sharded_weights_learn_what_whole_ones_do(run: Run, tiny_bundle: Path, tmp_path: Path):
    """FSDP over two processes: each holds half of every matrix; losses, samples and weights as without it."""
    words = recipe(tmp_path, SFT, "parts", model=tiny_bundle, steps=4, a_process=1)
    samples = settings('samples.texts=["the cat"]', "samples.every=4")
    less = settings("trainer.fsdp_config.activation_checkpointing=true")
    on_two(tmp_path, (*words, *samples, *SHARDED, *less))
    state = tmp_path / "parts" / "checkpoints" / "checkpoint-4"
    assert (state / "pytorch_model_fsdp.bin").is_file()  # by FSDP, not beside it
    whole = run(*recipe(tmp_path, SFT, "whole", model=tiny_bundle, steps=4, a_process=2), *samples)
    assert whole.code == 0, whole.err
    one, two = (tmp_path / "whole", tmp_path / "parts")
    for key in ("loss", "sample_failures"):
        assert told(two, key) == pytest.approx(told(one, key), rel=1e-5) != []
    far, off = moved(one, two, tiny_bundle)
    assert far > 1e-3 and off < 1e-4 * far


ADAM = settings("trainer.optim=adamw_torch", "trainer.learning_rate=1e-3")  # which has a memory to be kept


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "a_process", "how"),
    [(SFT, 1, ADAM), (SFT, 1, (*ADAM, *SHARDED)), (GRPO, 4, ADAM)],
    ids=["sft", "sft sharded", "grpo"],
)
def test_killed_on_two_it_goes_on_on_two(
    tiny_bundle: Path, tmp_path: Path, text: str, a_process: int, how: tuple[str, ...]
):
    """SIGKILL in the middle: the same command ends with the weights of a run that nothing happened to."""
    given = {"model": tiny_bundle, "steps": 12, "a_process": a_process}
    on_two(tmp_path, (*recipe(tmp_path, text, "whole", **given), *how))
    words = (*recipe(tmp_path, text, "cut", **given), *how)
    killed(tmp_path, words, tmp_path / "cut")
    on_two(tmp_path, words)
    whole, cut = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert whole.keys() == cut.keys() and all(torch.equal(whole[name], cut[name]) for name in whole)
    steps = [[row["step"] for row in lines(tmp_path / n / "metrics.jsonl")] for n in ("whole", "cut")]
    assert steps[0] == steps[1]

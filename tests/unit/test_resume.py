"""Runs of transformers' Trainer: checkpoints are whole or not there; a stopped run ends like a whole one."""

import json
import logging
import os
import resource
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

from llasa.errors import ConfigError, Interrupted, TrainingError
from llasa.train import resume

STEPS = 10


class Rows(torch.utils.data.Dataset):
    """Random ids; `spoilt` rows would make the loss what they say."""

    def __len__(self) -> int:
        return 14

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        ids = torch.randint(32, (6,), generator=torch.Generator().manual_seed(index))
        return {"input_ids": ids, "labels": ids}


def model() -> LlamaForCausalLM:
    torch.manual_seed(1)
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=32, num_key_value_heads=1, attention_dropout=0.1, **sizes))


def trainer(folder: Path, *callbacks: TrainerCallback, **options) -> Trainer:
    settings = {"max_steps": STEPS, "save_steps": 4, "save_total_limit": 2} | options
    arguments = TrainingArguments(
        str(folder), per_device_train_batch_size=2, gradient_accumulation_steps=2, learning_rate=0.01, seed=5,
        logging_steps=1, report_to=[], disable_tqdm=True, use_cpu=True, **settings,
    )  # fmt: skip
    return Trainer(model(), arguments, train_dataset=Rows(), callbacks=[*callbacks])


class At(TrainerCallback):
    """Does something once, at the end of a step or before its update."""

    def __init__(self, step: int, what, early: bool = False) -> None:
        self.step, self.what, self.early = step, what, early

    def on_step_end(self, args, state, control, **kwargs):
        if not self.early and state.global_step == self.step:
            self.what()

    def on_step_begin(self, args, state, control, **kwargs):
        if self.early and state.global_step + 1 == self.step:
            self.what(kwargs["model"])


def killed() -> None:
    raise SystemExit


def weights(run: Trainer) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in run.model.parameters()])


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[Path, torch.Tensor]:
    folder = tmp_path_factory.mktemp("whole")
    run = trainer(folder)
    resume.train(run, folder)
    return folder, weights(run)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_checkpoints_are_sealed_and_old_ones_pruned(whole):
    folder, _ = whole
    assert names(folder) == ["checkpoint-10", "checkpoint-8"]
    body = json.loads((folder / "checkpoint-8" / "complete.json").read_text(encoding="utf-8"))
    assert {"model.safetensors", "optimizer.pt", "rng_state.pth", "trainer_state.json"} <= body[
        "sha256"
    ].keys()
    assert resume.newest_complete(folder) == folder / "checkpoint-10"


@pytest.mark.fault("R2")
def test_a_killed_run_goes_on_to_the_same_weights(tmp_path, whole):
    with pytest.raises(SystemExit):
        resume.train(trainer(tmp_path, At(6, killed)), tmp_path)
    again = trainer(tmp_path)
    resume.train(again, tmp_path)
    assert torch.equal(weights(again), whole[1])


@pytest.mark.fault("R15")
def test_a_signal_saves_and_stops(tmp_path, whole):
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted, match="after step 5 of 10"):
        resume.train(trainer(tmp_path, At(5, lambda: os.kill(os.getpid(), signal.SIGTERM))), tmp_path)
    assert resume.newest_complete(tmp_path) == tmp_path / "checkpoint-5"
    assert signal.getsignal(signal.SIGTERM) == before
    again = trainer(tmp_path)
    resume.train(again, tmp_path)
    assert torch.equal(weights(again), whole[1])


@pytest.mark.fault("R15")
def test_usr1_saves_and_goes_on(tmp_path, whole):
    run = trainer(tmp_path, At(7, lambda: os.kill(os.getpid(), signal.SIGUSR1)), save_total_limit=None)
    resume.train(run, tmp_path)
    assert names(tmp_path) == ["checkpoint-10", "checkpoint-4", "checkpoint-7", "checkpoint-8"]
    assert torch.equal(weights(run), whole[1])


def test_a_run_that_is_done_stays_as_it_is(whole):
    folder, expected = whole
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    again = trainer(folder)
    resume.train(again, folder)
    assert again.state.global_step == STEPS
    assert torch.equal(weights(again), expected)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_what_was_set_aside_gives_its_room_back(tmp_path):
    for name in ("aside-checkpoint-3", ".checkpoint-1.gone"):
        (tmp_path / name).mkdir()
    resume.train(trainer(tmp_path, max_steps=2, save_steps=2), tmp_path)
    assert names(tmp_path) == ["checkpoint-2"]


def sealed(folder: Path, step: int) -> Path:
    path = folder / f"checkpoint-{step}"
    (path / "inner").mkdir(parents=True)
    for name in ("model.safetensors", "optimizer.pt", "inner/shard"):
        (path / name).write_bytes(os.urandom(2000))
    resume.seal(path, step)
    return path


@pytest.mark.fault("R5")
@pytest.mark.parametrize(
    "harm",
    [
        lambda path: (path / "complete.json").unlink(),
        lambda path: (path / "complete.json").write_text("{}", encoding="utf-8"),
        lambda path: (path / "optimizer.pt").write_bytes(b"x" * 2000),
        lambda path: (path / "inner" / "shard").unlink(),
        lambda path: (path / "rng_state.pth").write_bytes(b"not of this run"),
        lambda path: os.truncate(path / "model.safetensors", 1999),
    ],
)
def test_what_is_not_whole_is_set_aside(tmp_path, harm, caplog):
    sealed(tmp_path, 90)
    harm(sealed(tmp_path, 100))
    with caplog.at_level(logging.WARNING):
        assert resume.newest_complete(tmp_path) == tmp_path / "checkpoint-90"
    assert "checkpoint-100' is set aside" in caplog.text
    assert names(tmp_path) == ["aside-checkpoint-100", "checkpoint-90"]


def test_nothing_whole_is_none(tmp_path):
    assert resume.newest_complete(tmp_path) is None
    (tmp_path / "checkpoint-1").mkdir()
    assert resume.newest_complete(tmp_path) is None


@pytest.mark.fault("R4")
def test_a_full_disk_is_told_and_the_one_before_stays(tmp_path, whole):
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]

    def fill() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))

    try:
        with pytest.raises(ConfigError, match=r"Saving step 8 .* had no room; .* \d+ bytes are missing"):
            resume.train(trainer(tmp_path, At(6, fill)), tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert names(tmp_path) == ["checkpoint-4"]
    again = trainer(tmp_path)
    resume.train(again, tmp_path)
    assert torch.equal(weights(again), whole[1])


def spoil(network: torch.nn.Module) -> None:
    network.model.norm.weight.register_hook(lambda gradient: gradient * float("nan"))


@pytest.mark.fault("R13")
def test_a_spoilt_update_is_left_out_and_its_batches_kept(tmp_path):
    handles = []

    def once(network) -> None:
        weight = network.model.norm.weight
        handles.append(weight.register_hook(lambda gradient: gradient * float("inf")))

    run = trainer(tmp_path, At(3, once, early=True), At(3, lambda: handles.pop().remove()))
    resume.train(run, tmp_path)
    assert weights(run).isfinite().all()
    kept = load_file(tmp_path / "spoilt" / "step-000000003-rank-0.safetensors")
    assert [kept[name].shape for name in ("0.input_ids", "1.labels")] == [(2, 6), (2, 6)]
    assert not any(handles)


@pytest.mark.fault("R13")
def test_three_spoilt_updates_in_a_row_end_the_run(tmp_path):
    run = trainer(tmp_path, At(5, spoil, early=True))
    with pytest.raises(TrainingError, match="up to step 7"):
        resume.train(run, tmp_path)
    assert weights(run).isfinite().all()
    assert resume.newest_complete(tmp_path) == tmp_path / "checkpoint-4"
    assert len(names(tmp_path / "spoilt")) == 3

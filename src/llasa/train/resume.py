"""Checkpoints of transformers' Trainer, and of TRL's, that are whole or not there, and runs that go on.

The library writes `checkpoint-N`; `Callback` then makes sure that it is on the disk and writes
`complete.json`, the SHA-256 of every file, last. Only what that lists is ever loaded: optimizer and random
numbers are pickles, read by the library with `weights_only=True`, and never those of another run.
"""

import logging
import re
import shutil
from collections import deque
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from llasa import shortage
from llasa.errors import Interrupted
from llasa.train import durable, finite, group
from llasa.train.signals import Signals
from llasa.weights import sha256

INDEX = "complete.json"
_WEIGHTS, _KEPT = "model.safetensors", "optimizer.pt"
_SMALL = 16_384  # bytes of any other file of a checkpoint, about
_ASIDE = "aside-"
_log = logging.getLogger(__name__)


def train(trainer: Trainer, folder: Path) -> None:
    """Train to the end in `folder`, which is the trainer's `output_dir`, from the newest whole checkpoint.

    SIGTERM or Ctrl-C ends it after a step, SIGUSR1 makes it save.

    Raises:
        Interrupted: a signal asked to stop; all is saved.
        TrainingError: three updates in a row were spoilt by NaN or infinity.
        ConfigError: the disk is full. Names the file and the bytes missing; what was saved before stays.
    """
    callback = Callback(folder)
    newest = newest_complete(folder)
    trainer.add_callback(callback)
    try:
        trainer.train(resume_from_checkpoint=str(newest) if newest else None)
    except Done:
        trainer.is_in_train = False
        if trainer.args.load_best_model_at_end and trainer.state.best_model_checkpoint:
            trainer._load_best_model()  # the library does it after the last step only
    except Exception as error:
        if not shortage.of_room(error):
            raise
        raise callback.disk_full(error) from error
    finally:
        callback.close()
        trainer.remove_callback(callback)


class Done(Exception):
    """Nothing is left to do after the checkpoint that was loaded; the library would take a step more."""


def newest_complete(folder: Path) -> Path | None:
    """Return the newest whole checkpoint of a run, or None.

    Newer ones that are not whole are set aside, out of the library's sight, until the run saves again; the
    log says why.
    """
    found = None
    if group.rank() == 0:
        for path in reversed(_checkpoints(folder)):
            problem = damage(path)
            if problem is None:
                found = path.name
                break
            _log.warning("Checkpoint '%s' is set aside: %s.", path, problem)
            aside = path.with_name(f"{_ASIDE}{path.name}")
            shutil.rmtree(aside, ignore_errors=True)
            durable.move(path, aside)
    name = group.from_first(found)
    return folder / name if name else None


def _checkpoints(folder: Path) -> list[Path]:
    """Return the folders that the library would take for checkpoints, oldest first."""
    found = [path for path in folder.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    return sorted(found, key=lambda path: int(path.name.split("-")[1]))


def damage(path: Path) -> str | None:
    """Return why a checkpoint is not whole, or None if it is."""
    index = durable.read_index(path / INDEX)
    if index is None or "sha256" not in index:
        return f"its {INDEX} is missing or damaged"
    there = _files(path)
    if strange := sorted(there.keys() ^ index["sha256"].keys()):
        return f"{strange[0]} is missing, or does not belong to it"
    damaged = next((name for name, file in there.items() if sha256([file]) != index["sha256"][name]), None)
    return damaged and f"{damaged} is not what was written"


def _files(path: Path) -> dict[str, Path]:
    files = {file.relative_to(path).as_posix(): file for file in sorted(path.rglob("*")) if file.is_file()}
    files.pop(INDEX, None)
    return files


def seal(path: Path, step: int) -> None:
    """Make what the library has written a whole checkpoint: on the disk, all files hashed, the index last."""
    files = _files(path)
    for file in files.values():
        durable.sync(file)
    for inner in (entry for entry in path.rglob("*") if entry.is_dir()):
        durable.sync(inner)
    sums = {name: sha256([file]) for name, file in files.items()}
    durable.write_index(path / INDEX, {"step": step, "sha256": sums})
    durable.sync(path.parent)


def _remove(folder: Path, paths: list[Path]) -> None:
    for path in paths:
        path.replace(folder / f".{path.name}.gone")  # so that no half of it is ever met
    for gone in folder.glob(".*checkpoint-*.gone"):
        shutil.rmtree(gone)


class Callback(TrainerCallback):
    """Seals checkpoints, prunes old ones, hears signals and leaves out spoilt updates.

    `train` uses it as it should be. It takes `save_total_limit` over from the library, which would remove an
    old checkpoint before the new one is known to be whole.
    """

    def __init__(self, folder: Path) -> None:
        """Take the trainer's `output_dir`."""
        self.folder, self._sizes = folder, dict[str, int]()
        self._signals, self._keep, self._in_a_row = Signals(), None, 0
        self._seen: deque[dict[str, Tensor]] = deque(maxlen=1)
        self._watch: Any = None

    def close(self) -> None:
        """Hear signals no more, and let the model go."""
        self._signals.__exit__(None, None, None)
        if self._watch is not None:
            self._watch.remove()
            self._watch = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Begin to watch, unless there is nothing left to do."""
        if state.global_step >= state.max_steps:
            raise Done
        self._keep, args.save_total_limit = args.save_total_limit or self._keep, None
        self._seen = deque(maxlen=args.gradient_accumulation_steps)
        self._watch = kwargs["model"].register_forward_pre_hook(self._note, with_kwargs=True)
        self._signals.__enter__()

    def _note(self, model: torch.nn.Module, positional: tuple[Any, ...], named: dict[str, Any]) -> None:
        if model.training and torch.is_grad_enabled():
            self._seen.append({name: value for name, value in named.items() if isinstance(value, Tensor)})

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Drop gradients that hold NaN or infinity, keep the batches, and stop after three in a row."""
        if args.fp16:  # its gradients overflow as a matter of course, and its scaler leaves those steps out
            return
        bad, step = finite.spoilt(kwargs["model"].parameters()), state.global_step + 1
        self._in_a_row = self._in_a_row + 1 if bad else 0
        if bad:
            _log.warning("Step %d is left out: its gradient is no number.", step)
            kwargs["optimizer"].zero_grad(set_to_none=True)
            self._keep_batches(step)
        finite.stop_if_lost(self.folder, step, self._in_a_row)

    def _keep_batches(self, step: int) -> None:
        (self.folder / "spoilt").mkdir(parents=True, exist_ok=True)
        batches = {
            f"{i}.{name}": value for i, batch in enumerate(self._seen) for name, value in batch.items()
        }
        own = {name: value.detach().contiguous().clone() for name, value in batches.items()}
        save_file(own, self.folder / "spoilt" / f"step-{step:09d}-rank-{group.rank()}.safetensors")

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Save and stop as asked; look for room before the library writes."""
        stop, save = self._signals.take()
        control.should_save = control.should_save or stop or save
        control.should_training_stop = control.should_training_stop or stop
        self._check_room(state, control, kwargs)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Look for room before the library writes."""
        self._check_room(state, control, kwargs)

    def _check_room(self, state: TrainerState, control: TrainerControl, parts: dict[str, Any]) -> None:
        if not control.should_save or not state.is_world_process_zero:
            return
        _remove(self.folder, [*self.folder.glob(f"{_ASIDE}checkpoint-*")])
        # At least this is written: what is learnt, and what the optimizer keeps for it.
        learnt = sum(p.nbytes for p in parts["model"].parameters() if p.requires_grad)
        kept = [value for slots in parts["optimizer"].state.values() for value in slots.values()]
        self._sizes = {_WEIGHTS: learnt, _KEPT: sum(v.nbytes for v in kept if isinstance(v, Tensor))}
        shortage.check_room(self.folder, sum(self._sizes.values()), self._doing(state.global_step))

    def _doing(self, step: int) -> str:
        return f"Saving step {step} in '{self.folder}'"

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Seal what the library has written, then remove what is not needed any more."""
        group.wait_for_all()  # each process writes its own random numbers
        if state.is_world_process_zero:
            seal(self.folder / f"checkpoint-{state.global_step}", state.global_step)
            self._prune(state)
        group.wait_for_all()

    def _prune(self, state: TrainerState) -> None:
        best = Path(state.best_model_checkpoint).name if state.best_model_checkpoint else None
        old = _checkpoints(self.folder)[: -self._keep] if self._keep else []
        _remove(self.folder, [path for path in old if path.name != best])

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Tell a run that was stopped from one that is done; Interrupted."""
        stopped = bool(group.highest(self._signals.stop)[0])
        self.close()
        if stopped and state.global_step < state.max_steps:
            raise Interrupted(
                f"Training in '{self.folder}': stopped as asked after step {state.global_step} of "
                f"{state.max_steps}, which is saved. Run the same command to go on."
            )

    def disk_full(self, error: Exception) -> Exception:
        """Remove the checkpoint that there was no room for, and return the error that says so."""
        drafts = [path for path in _checkpoints(self.folder) if not (path / INDEX).exists()]
        if not drafts:  # it was no checkpoint, but what tells of the run
            beside = [path for path in self.folder.parent.iterdir() if path.is_file()]
            newest = max(beside, key=lambda path: path.stat().st_mtime_ns, default=self.folder)
            return shortage.full(f"Training in '{self.folder.parent}'", newest, _SMALL, _SMALL)
        written = {file: file.stat() for path in drafts for file in _files(path).values()}
        # safetensors removes what it could not finish; torch's writer and Python leave it.
        newest = max(written, key=lambda file: written[file].st_mtime_ns, default=None)
        name = _WEIGHTS if newest is None or isinstance(error, SafetensorError) else newest.name
        step = drafts[-1].name.split("-")[1] if drafts else "0"
        left = sum(self._sizes.values()) - sum(stat.st_size for stat in written.values())
        size = self._sizes.get(name, _SMALL)
        # Before they go: the writer may still hold what it wrote, and its room would not be free at once.
        told = shortage.full(self._doing(int(step)), self.folder / name, size, left)
        for path in drafts:
            shutil.rmtree(path)
        return told

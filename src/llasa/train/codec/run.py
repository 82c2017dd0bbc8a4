"""One training run of a codec: sources, stages in order, the codec's folder and a report of it.

The same call goes on where a stopped run stands. `OUT/codec` is the result; `OUT/stages/NAME` holds the
states of a stage, `OUT/tensorboard` what was seen and heard, `OUT/report.json` and `.png` how good it is.
"""

import json
import os
import shutil
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import torch
from torch import nn

from llasa import begun as runs
from llasa import shortage
from llasa.audio import replace_file
from llasa.codec.base import Codec
from llasa.core import Audio
from llasa.device import chosen_device
from llasa.recognizers import load_recognizer
from llasa.recognizers.base import Recognizer
from llasa.train.codec import panel, roundtrip
from llasa.train.codec.crops import Crops, Material, Shape, gather, whole, write_rejects
from llasa.train.codec.panel import Panel, draw_report
from llasa.train.codec.recipe import AnyRecipe, CompactRecipe, Stage, Xcodec2Recipe
from llasa.train.codec.roundtrip import RoundTrip, measure
from llasa.train.group import join_group, own_device, wait_for_all
from llasa.train.loop import Plan, Task, fit
from llasa.weights import sha256


class Trainee(Protocol):
    """A codec in training; `compact.CompactTrainee` and `xcodec2.Xcodec2Trainee` are such."""

    def shape(self, stage: Stage) -> Shape:
        """Return the shape of a stage's batches."""
        ...

    def task(self, stage: Stage, train: Crops, held: Crops) -> Task:
        """Return what a stage does to it."""
        ...

    def codec(self) -> Codec:
        """Return a codec of what it has learnt so far."""
        ...

    def save(self, folder: Path) -> Codec:
        """Write its folder and return the codec that was read back from it."""
        ...


def train(recipe: AnyRecipe, changed_ok: bool = False) -> RoundTrip | None:
    """Run all stages, write the codec and return its round trip of held-out clips.

    changed_ok: go on although the recipe or its data are not what the run began with.

    Returns:
        None in the processes beside the first.

    Raises:
        ConfigError, InputError, BundleError: see `recipe.read`, `crops.gather` and the codec's `load`.
    """
    rank = join_group()
    out, device = Path(recipe.out), chosen_device(recipe.device or own_device())
    material = gather(recipe.data)
    torch.manual_seed(recipe.seed)
    trainee = _trainee(recipe, material, device)
    runs.start(out, _facts(recipe, material), changed_ok)
    if rank == 0:
        write_rejects(out / "rejects.jsonl", material.rejects)
    wait_for_all()
    listen = _Listener(recipe, material, trainee, out)
    if rank == 0:
        listen.check()
    for number in range(len(recipe.stages)):
        _run_stage(recipe, number, material, trainee, listen, rank)
    if rank:
        return None
    return listen.finish(_save(trainee, out / "codec"))


def _facts(recipe: AnyRecipe, material: Material) -> dict[str, object]:
    """Return all that decides what is learnt."""
    names = ("init", "vocoder", "semantic", "perceptual")
    folders = {name: getattr(recipe, name, None) for name in names}
    hashes = {
        name: sha256(sorted(Path(folder).glob("*.safetensors"))) for name, folder in folders.items() if folder
    }
    said = recipe.model_dump(exclude={"out", "device", "report"})
    return {"recipe": said, "data": material.digest, "phones": material.phones, "weights": hashes}


def _trainee(recipe: AnyRecipe, material: Material, device: torch.device) -> Trainee:
    if isinstance(recipe, CompactRecipe):
        from llasa.train.codec.compact import CompactTrainee

        return CompactTrainee(recipe, material.phones, device)
    from llasa.train.codec.xcodec2 import Xcodec2Trainee

    return Xcodec2Trainee(recipe, device)


def _run_stage(
    recipe: AnyRecipe, number: int, material: Material, trainee: Trainee, listen: "_Listener", rank: int
) -> None:
    stage, phones = recipe.stages[number], material.phones
    shape, seed = trainee.shape(stage), f"{recipe.seed} {stage.name}"
    torch.manual_seed(zlib.crc32(seed.encode()))  # new critics are the same, whatever came before
    train = Crops(material.train, shape, phones, f"{seed} {rank}", recipe.level)
    held = Crops(material.held, shape, phones, f"{seed} held", recipe.level)
    if rank == 0:
        held.one(0)  # sound of no use is told now, not at the first validation
    task = _Watched(trainee.task(stage, train, held), lambda step: listen(number, step))
    plan = Plan(stage.steps, seed=recipe.seed, validate_every=stage.validate_every)
    try:
        fit(task, Path(recipe.out) / "stages" / stage.name, plan)
    finally:
        if rank == 0:
            rejects = [*material.rejects, *train.bad, *held.bad]
            write_rejects(Path(recipe.out) / "rejects.jsonl", rejects)


def _save(trainee: Trainee, folder: Path) -> Codec:
    """Write the codec's folder, whole or not at all."""
    draft, aside = folder.with_name(".codec.part"), folder.with_name(".codec.old")
    for left in (draft, aside):
        shutil.rmtree(left, ignore_errors=True)
    with shortage.told(f"Writing the codec in '{folder.parent}'", folder):
        codec = trainee.save(draft)
        if folder.exists():
            os.replace(folder, aside)
        os.replace(draft, folder)
    shutil.rmtree(aside, ignore_errors=True)
    return codec


class _Watched:
    """A task whose validations are also listened to."""

    def __init__(self, task: Task, listen: Callable[[int], Mapping[str, float]]) -> None:
        self._task, self._listen, self._done = task, listen, 0
        self.modules: dict[str, nn.Module] = task.modules
        self.optimizers: dict[str, torch.optim.Optimizer] = task.optimizers

    def step(self, index: int) -> Mapping[str, float]:
        """See `Task`."""
        self._done = index + 1
        return self._task.step(index)

    def validate(self) -> Mapping[str, float]:
        """See `Task`."""
        return dict(self._task.validate()) | dict(self._listen(self._done))


class _Listener:
    """Measures round trips of held-out clips while a run goes on, and at its end."""

    def __init__(self, recipe: AnyRecipe, material: Material, trainee: Trainee, out: Path) -> None:
        self.recipe, self.material, self.trainee, self.out = recipe, material, trainee, out
        self._recognizer: Recognizer | None = None

    def check(self) -> None:
        """Raise what would otherwise be raised after hours: a package or a recogniser is not there."""
        roundtrip.check_installed()
        panel.check_installed(self.recipe.report.tensorboard)
        if name := self.recipe.report.recognizer:
            self._recognizer = load_recognizer(name, {})

    def __call__(self, number: int, step: int) -> Mapping[str, float]:
        """Return what is measured at a validation, which may be nothing."""
        stage, block = self.recipe.stages[number], self.recipe.report
        last = step == stage.steps
        if not (last or step % (stage.validate_every * block.every) == 0) or not self._has_sound(number):
            return {}
        found, pairs = self._round_trip(self.trainee.codec(), block.clips)
        measures = {f"copy_{name}": value for name, value in found.measures.items()}
        with (
            shortage.told(f"Drawing samples in '{self.out}'", self.out / "samples"),
            Panel(self.out, stage.name, block.tensorboard) as panel,
        ):
            panel.show(step, measures, pairs)
        return measures

    def finish(self, codec: Codec) -> RoundTrip:
        """Measure the finished codec and write the report."""
        found, pairs = self._round_trip(codec, self.recipe.report.final_clips)
        replace_file(self.out / "report.json", json.dumps(found.report(), indent=1).encode() + b"\n")
        logs = {
            stage.name: self.out / "stages" / stage.name / "metrics.jsonl" for stage in self.recipe.stages
        }
        with shortage.told(f"Drawing the report in '{self.out}'", self.out / "report.png"):
            draw_report(self.out / "report.png", found, logs, pairs[0])
        return found

    def _has_sound(self, number: int) -> bool:
        """Before its vocoder has learnt anything a compact codec gives noise."""
        begun = self.recipe.stages[: number + 1]
        return (
            self.recipe.init is not None
            or getattr(self.recipe, "vocoder", None) is not None
            or isinstance(self.recipe, Xcodec2Recipe)
            or any("vocoder" in stage.train for stage in begun)
        )

    def _round_trip(self, codec: Codec, count: int) -> tuple[RoundTrip, list[tuple[Audio, Audio]]]:
        with torch.random.fork_rng():
            return measure(codec, whole(self.material.held, count, self.recipe.level), self._recognizer)

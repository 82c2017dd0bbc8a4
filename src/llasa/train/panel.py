"""What is seen of a run while it goes: progress, tokens a second, spoken samples with their WER, and plots.

A callback of transformers' trainer. Must not know: how rows are made, how a model is trained.
"""

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel, Field
from transformers import TrainerCallback
from transformers.integrations.integration_utils import TensorBoardCallback

from llasa import audio, config
from llasa.bundle import Bundle
from llasa.core import Candidate, Utterance
from llasa.engines.adapters import merged
from llasa.errors import LlasaError
from llasa.journal import append, keep_until
from llasa.scorers.wer import ErrorRate
from llasa.spoken import Spoken, concatenated
from llasa.synthesizer import Synthesizer
from llasa.train.bar import Bar
from llasa.train.start import with_model

PLOTTED = ("loss", "eval_held_loss", "eval_other_voice_loss", "sample_wer")
PREFERRED = tuple(f"{kind}rewards/{name}" for kind in ("", "eval_") for name in ("accuracies", "margins"))


class Counted(Protocol):
    """Batches of a known size."""

    def tokens(self, index: int) -> int:
        """Return the ids of a batch that are no padding."""
        ...


class SamplesBlock(BaseModel):
    """What is said while training. every: steps between. recognizer: tells what was said; the bundle's own if
    None and it has one. voice: the bundle's default if None. temperature: the bundle's if None.
    """

    model_config = config.STRICT
    texts: list[str] = Field(min_length=1)
    every: int = Field(default=500, gt=0)
    recognizer: str | None = None
    voice: str | None = None
    temperature: float | None = Field(default=None, ge=0)


class Speaker:
    """Says the sample texts with the current weights."""

    def __init__(self, bundle: Bundle, block: SamplesBlock, folder: Path) -> None:
        self.bundle, self.block, self.folder = bundle, block, folder
        name = block.recognizer or ("bundle" if "bundle" in bundle.manifest.recognizers else None)
        self.rate = ErrorRate(bundle.recognizer(name), bundle.reader) if name else None

    def say(self, lm: Path, step: int) -> tuple[dict[str, float], list[Path]]:
        """Return measures and the sound files of the texts; what fails is counted, not raised.

        lm: the folder that the weights were saved in.
        """
        place = self.folder / f"step-{step}"
        if (lm / "adapter_config.json").is_file():
            adapted, lm = lm, place.with_name("merged")
            shutil.rmtree(lm, ignore_errors=True)
            merged(self.bundle.folder / self.bundle.manifest.lm.path, adapted, lm)
        synthesizer = Synthesizer(with_model(self.bundle, lm, self.folder / "bundle"))
        chosen: dict[str, Any] = (
            {} if self.block.temperature is None else {"temperature": self.block.temperature}
        )
        failed, errors, paths = 0, [], []
        for number, text in enumerate(self.block.texts):
            try:
                spoken = list(synthesizer.speak(text, self.block.voice, **chosen))
            except LlasaError:
                failed, errors = failed + 1, [*errors, 1.0]
                continue
            failed += any(one.candidate.finish != "stop" for one in spoken)
            errors.append(self._rate(spoken))
            paths += _write(spoken, place.with_name(f"step-{step}-{number}.wav"))
        measures = {"sample_failures": failed / len(self.block.texts)}
        if self.rate is not None:
            measures["sample_wer"] = sum(errors) / len(errors)
        return measures, paths

    def _rate(self, spoken: Sequence[Spoken]) -> float:
        """Return the error rate over the segments of a text, each by its length; silence is a rate of 1."""
        if self.rate is None:
            return 0.0
        total, weight = 0.0, 0.0
        for one in spoken:
            said = Utterance("sample", one.segment.text, None, one.candidate.utterance.language)
            words = max(1, len(one.segment.text.split()))
            heard = one.candidate.audio is not None
            score = (
                self.rate.score([Candidate(said, [], "stop", None, one.candidate.audio)])[0]
                if heard
                else None
            )
            names = ("per", "cer", "wer")
            found = next((score.measures[n] for n in names if n in score.measures), 1.0) if score else 1.0
            total, weight = total + found * words, weight + words
        return total / max(1.0, weight)


def _write(spoken: Sequence[Spoken], path: Path) -> list[Path]:
    sounds = [one.candidate.audio for one in spoken if one.candidate.audio is not None]
    if not sounds:
        return []
    audio.write(path, concatenated(iter(sounds)))
    return [path]


class Panel(TrainerCallback):
    """Shows the run on standard error, and keeps `metrics.jsonl` and `metrics.png` in its folder."""

    def __init__(self, folder: Path, batches: Counted, speaker: Speaker | None) -> None:
        self.folder, self.batches, self.speaker = folder, batches, speaker
        self.trainer: Any = None  # set once it is made; it reports what the panel measures
        self.seen, self.since, self.tokens = 0, time.monotonic(), 0
        self.bar: Bar | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """See `TrainerCallback`."""
        self.seen, self.since, self.tokens = state.global_step, time.monotonic(), 0
        if not state.is_world_process_zero:
            return
        keep_until(self.folder / "metrics.jsonl", state.global_step)
        self.bar = Bar(state.global_step, state.max_steps)

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """See `TrainerCallback`."""
        share = args.gradient_accumulation_steps * args.world_size
        if state.is_world_process_zero:
            first = (state.global_step - 1) * share
            self.tokens += sum(self.batches.tokens(first + place) for place in range(share))
            if self.bar is not None:
                self.bar.move(state.global_step)
        if self.speaker is not None and state.global_step % self.speaker.block.every == 0:
            self._speak(self.speaker, state, control, model)

    def _speak(self, speaker: Speaker, state: Any, control: Any, model: Any) -> None:
        began, lm = time.monotonic(), speaker.folder / "lm"
        # By all processes, as each may hold a part of the weights; nobody's upload.
        self.trainer.save_model(str(lm), _internal_call=True)
        if not state.is_world_process_zero:
            return
        measures, paths = speaker.say(lm, state.global_step)
        told = control.should_log
        self.trainer.log(measures)
        control.should_log = told  # the library takes what it just logged for this step's own log
        to_board(self.trainer, paths, state.global_step)
        model.train()
        self.since += time.monotonic() - began  # speaking is not training

    def on_log(
        self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **_: Any
    ) -> None:
        """See `TrainerCallback`."""
        # The library sums up each start by itself, as if it were the run.
        if not state.is_world_process_zero or not logs or "train_runtime" in logs:
            return
        # Some trainers of TRL count ids anew at each start.
        counts = {key: value for key, value in logs.items() if not key.endswith("num_tokens")}
        row = {"step": state.global_step, **counts}
        if "loss" in logs and state.global_step > self.seen:
            rate = self.tokens / max(1e-9, time.monotonic() - self.since)
            row["tokens_per_s"] = round(rate, 1)
            self.seen, self.since, self.tokens = state.global_step, time.monotonic(), 0
        append(self.folder / "metrics.jsonl", [row])
        self._show(row)

    def _show(self, row: Mapping[str, Any]) -> None:
        shown = " ".join(f"{key} {value:.4g}" for key, value in row.items() if _is_shown(key, value))
        if shown and self.bar is not None:
            self.bar.tell(row["step"], shown)

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """See `TrainerCallback`."""
        self.since = time.monotonic() if not self.tokens else self.since

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """See `TrainerCallback`."""
        if self.bar is not None:
            self.bar.close()
        if state.is_world_process_zero:
            plot(self.folder / "metrics.jsonl", self.folder / "metrics.png")


def _is_shown(key: str, value: Any) -> bool:
    known = (*PLOTTED, *PREFERRED, "tokens_per_s", "sample_failures", "learning_rate")
    return key in known and isinstance(value, int | float)


def to_board(trainer: Any, paths: Sequence[Path], step: int) -> None:
    """Give sounds to TensorBoard, if the run reports to it."""
    boards = [one for one in trainer.callback_handler.callbacks if isinstance(one, TensorBoardCallback)]
    for board in (one.tb_writer for one in boards if one.tb_writer is not None):
        for number, path in enumerate(paths):
            sound = audio.read(path, min_s=0.0, max_s=600.0)
            board.add_audio(f"sample/{number}", sound.samples[None], step, sound.sample_rate)


def plot(metrics: Path, image: Path) -> None:
    """Draw losses and sample WER over steps; nothing where nothing was measured."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = (
        [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
        if metrics.is_file()
        else []
    )
    drawn = {key: [(row["step"], row[key]) for row in rows if key in row] for key in PLOTTED}
    figure, (losses, words) = pyplot.subplots(2, 1, figsize=(8, 7), sharex=True)
    for key, points in drawn.items():
        if points:
            axis = words if key == "sample_wer" else losses
            axis.plot(
                *zip(*points, strict=True),
                label=key.replace("_", " "),
                marker="." if len(points) < 60 else "",
            )
    for axis, unit in ((losses, "nats a code"), (words, "error rate of samples")):
        axis.set_ylabel(unit)
        axis.grid(alpha=0.3)
        if axis.has_data():
            axis.legend()
    words.set_xlabel("step")
    figure.tight_layout()
    figure.savefig(image, dpi=120)
    pyplot.close(figure)

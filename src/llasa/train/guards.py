"""Keeps reinforcement learning honest: measures a held-out panel, stops what drifts, chooses what to keep.

The panel is measured before the first update and every so many steps. The run stops when one guard trips
twice running, and the best checkpoint is the one with the fewest errors among those where none tripped; the
reward has no say. Must not know: rewards, how a model is trained.
"""

import json
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import Field
from transformers import TrainerCallback

from llasa import journal
from llasa.core import plain
from llasa.errors import ConfigError
from llasa.synthesizer import Synthesizer
from llasa.train import group
from llasa.train.limits import Change, LimitsBlock, changes, measured
from llasa.train.resume import Done
from llasa.train.witness import Line, Witness, WitnessBlock, line_of

ROWS, LINES = "panel.jsonl", "panel-lines.jsonl"
_log = logging.getLogger(__name__)
Row = dict[str, Any]


class GuardBlock(WitnessBlock):
    """A [guard] table.

    every: steps between measurements. patience: so often in a row one guard trips before the run stops.
    """

    every: int = Field(default=50, ge=1)
    patience: int = Field(default=2, ge=1)
    limits: LimitsBlock = LimitsBlock()


class Guards(TrainerCallback):
    """Measures the panel while a trainer of transformers runs; its rows are in `panel.jsonl` of the run."""

    def __init__(
        self,
        block: GuardBlock,
        folder: Path,
        speak: Callable[[], Synthesizer],
        judge: object = None,
    ) -> None:
        """Take what to measure, and with what.

        Args:
            folder: the run's.
            speak: gives a synthesizer that speaks with the current weights, while nothing else is in flight.
            judge: what steers, so that the panel does not listen with it; one without a `rubric`, such as one
                that is far away, cannot be looked into, which is warned of.

        Raises:
            ConfigError, MissingExtra, BundleError: see `Witness`.
        """
        self.block, self.folder, self._speak = block, folder, speak
        self.witness = Witness(block, speak().bundle, getattr(judge, "rubric", None))
        self.rows = journal.read(folder / ROWS)

    @property
    def chosen(self) -> int | None:
        """The step whose weights are best by the panel; 0 is the start. None: nothing was measured."""
        return max((row["step"] for row in self.rows if row["chosen"]), default=None)

    @property
    def stopped(self) -> list[str]:
        """The guards that ended the run; empty while it may go on."""
        return self.rows[-1]["stopped"] if self.rows else []

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any, **_: Any) -> None:
        """Measure the start, or take up again what was measured until the step that is gone on from.

        Raises:
            Done: the guards have ended the run before. ConfigError: what they measured of its start is gone.
        """
        self._take_up(state.global_step)
        if not self.rows and state.global_step:
            raise ConfigError(
                f"Guarding the run in '{self.folder}' from step {state.global_step} on: found no measurement "
                f"of its start in {ROWS}. Begin the run again, or leave [guard] out."
            )
        if not self.rows:
            self._measure(state.global_step, model)
        self._choose(args, state)
        if self.stopped:
            raise Done

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any, **_: Any) -> None:
        """Measure when it is time; save what is best so far; stop what has drifted."""
        step = state.global_step
        if (step % self.block.every and step < state.max_steps) or self.rows[-1]["step"] == step:
            return
        row = self._measure(step, model)
        self._choose(args, state)
        control.should_save = control.should_save or row["chosen"] or bool(row["stopped"])
        control.should_training_stop = control.should_training_stop or bool(row["stopped"])

    def _take_up(self, step: int) -> None:
        """Forget what a killed run measured after the step it goes on from."""
        self.rows = [row for row in journal.read(self.folder / ROWS) if row["step"] <= step]
        kept = {row["step"] for row in self.rows}
        lines = [row for row in journal.read(self.folder / LINES) if row["step"] in kept]
        self._start = [line_of(row) for row in lines if row["step"] == 0]
        if self.rows and not self._start:
            raise ConfigError(
                f"Guarding the run in '{self.folder}': {LINES} tells nothing of its start. Begin it again."
            )
        if self.rows and self.rows[0]["by"] != self.witness.by:
            found = f"the start was measured by {self.rows[0]['by']}, and now it is {self.witness.by}"
            raise ConfigError(
                f"Guarding the run in '{self.folder}': {found}. Install or name the same again."
            )
        if group.rank() == 0:
            journal.keep_until(self.folder / ROWS, step)
            journal.keep_until(self.folder / LINES, max(kept, default=-1))  # none whose row never came

    def _measure(self, step: int, model: Any) -> Row:
        """Return the row of a step, which the first process measures and all get."""
        told = self._measured(step, model) if group.rank() == 0 else None
        row = json.loads(group.from_first(told) or "")
        self.rows.append(row)
        return row

    def _measured(self, step: int, model: Any) -> str:
        began, training = time.monotonic(), model.training
        model.eval()
        try:
            lines = self.witness.listen(self._speak())
        finally:
            model.train(training)
        if step == 0:
            self._start = lines
        row = self._row(step, lines) | {"seconds": round(time.monotonic() - began, 2)}
        # The row comes last: where it stands, its lines do too.
        journal.append(self.folder / LINES, [{"step": step, **asdict(line)} for line in lines])
        journal.append(self.folder / ROWS, [row])
        self._show(row)
        return json.dumps(plain(row))

    def _row(self, step: int, lines: Sequence[Line]) -> Row:
        limits = self.block.limits
        row: Row = {"step": step}
        for name, found in measured(lines).items():
            row |= {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}
        moved = changes(self._start, lines, limits) if step else {}
        tripped = [name for name, change in moved.items() if change.tripped]
        recent = [set(one["tripped"]) for one in self.rows[len(self.rows) - self.block.patience + 1 :]]
        enough = len(recent) == self.block.patience - 1
        stopped = sorted(set(tripped).intersection(*recent)) if enough else []
        lowest = min((one["wer"] for one in self.rows if not one["tripped"]), default=math.inf)
        return row | {
            "unjudged": sum(line.status == "unjudged" for line in lines) / len(lines),
            "tripped": tripped,
            "stopped": stopped,
            "chosen": not tripped and row["wer"] < lowest,
            "changes": {name: _facts(change) for name, change in moved.items()},
            "why": [_told(name, moved[name]) for name in tripped],
            "by": self.witness.by,
        }

    def _choose(self, args: Any, state: Any) -> None:
        """Tell the trainer which checkpoint is best, so that it is kept."""
        best = next((row for row in reversed(self.rows) if row["chosen"]), None)
        if best is not None and best["step"]:
            state.best_metric, state.best_global_step = best["wer"], best["step"]
            state.best_model_checkpoint = str(Path(args.output_dir) / f"checkpoint-{best['step']}")

    def _show(self, row: Mapping[str, Any]) -> None:
        failed = f"{row['failures']:.1%} of lines failed"
        _log.info("Panel at step %d: error rate %.3f, %s.", row["step"], row["wer"], failed)
        for why in row["why"]:
            _log.warning("Panel at step %d: %s.", row["step"], why)
        if row["stopped"]:
            names = " and ".join(row["stopped"])
            _log.warning("Training stops: %s went too far %d times running.", names, self.block.patience)


def _told(name: str, change: Change) -> str:
    """Return in words how a measure moved and how far it may."""
    found = change.found
    bounds = [f"{bound:+.3g}" for bound in (change.least, change.most) if math.isfinite(bound)]
    interval = f"{found.low:+.3g} to {found.high:+.3g}"
    return f"{name} moved by {found.value:+.3g} ({interval}), allowed is {' to '.join(bounds)}"


def _facts(change: Change) -> dict[str, Any]:
    bounds = {"least": change.least, "most": change.most}
    return asdict(change.found) | {key: one if math.isfinite(one) else None for key, one in bounds.items()}

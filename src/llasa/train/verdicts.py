"""What a step without verdicts means: nothing is learnt from it, and too many of them stop a run.

A callback of transformers' trainer.
"""

from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from llasa.errors import ScorerError
from llasa.train.rollout import Roller


class Verdicts(TrainerCallback):
    """Leaves out the update of a step that is not judged well enough, saves, and stops the run."""

    def __init__(self, roller: Roller, limit: float, folder: Path) -> None:
        """Take the share of a step's candidates that may stay without a verdict, and the run's folder."""
        self.roller, self.limit, self.folder = roller, limit, folder
        self.trainer: Any = None  # set once it is made
        self._failed = ""

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
        """See `TrainerCallback`."""
        unjudged, total, reason = self._counted()
        if unjudged > self.limit * total or unjudged == total:
            # Without gradients an optimizer moves nothing: neither by momentum nor by weight decay.
            parts["optimizer"].zero_grad(set_to_none=True)
            found = (
                f"{unjudged} of {total} candidates of step {state.global_step + 1} got no verdict ({reason})"
            )
            self._failed = f"Judging candidates: {found}"

    def _counted(self) -> tuple[int, int, str]:
        """Return over all processes how many candidates have no verdict, of how many; why, of one here."""
        rolled = self.roller.rolled
        reasons = [one.judged.reason for one in rolled if one.judged.status == "unjudged"]
        accelerator = self.trainer.accelerator
        here = torch.tensor([len(reasons), len(rolled)], device=accelerator.device)
        unjudged, total = accelerator.reduce(here, "sum").tolist()
        return unjudged, total, reasons[0] if reasons else "in another process"

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """See `TrainerCallback`."""
        if self._failed:
            control.should_save = control.should_training_stop = True

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Tell a run that ended for want of verdicts from one that is done; ScorerError."""
        if self._failed:
            todo = (
                "Its update was left out and all is saved. See that the judge works, and run the same command"
            )
            raise ScorerError(f"{self._failed}. {todo} in '{self.folder}' again.")

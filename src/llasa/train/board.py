"""What is seen of a reinforcement run: a line of numbers, two files of rows, and what the model says.

A callback of transformers' trainer. Must not know: how candidates are drawn and judged.
"""

import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from accelerate.utils import gather_object
from transformers import TrainerCallback

from llasa import audio
from llasa.errors import LlasaError
from llasa.journal import append, keep_until
from llasa.spoken import concatenated, voiced
from llasa.synthesizer import Synthesizer
from llasa.train.bar import Bar
from llasa.train.panel import SamplesBlock, to_board
from llasa.train.rollout import Rolled, Roller, resting

METRICS, ROLLOUTS = "metrics.jsonl", "rollouts.jsonl"
SHOWN = {
    "reward": "reward", "reward_std": "spread", "rollouts/unended": "unended", "entropy": "entropy",
    "kl": "KL", "time/step_s": "s a step",
}  # fmt: skip


class Board(TrainerCallback):
    """Shows the run on standard error and keeps its rows.

    trainer: to be set once it is made; it reports what is measured here.
    """

    def __init__(
        self, folder: Path, roller: Roller, speak: Callable[[], Synthesizer], samples: SamplesBlock | None
    ) -> None:
        """Take the run's folder, and what gives a synthesizer with the current weights."""
        self.folder, self.roller, self.speak, self.samples = folder, roller, speak, samples
        codec = speak().bundle.codec
        self.codes_per_s = codec.sample_rate / codec.hop_length
        self.trainer: Any = None
        self.bar: Bar | None = None
        self._began, self._steps = 0.0, list[float]()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """See `TrainerCallback`."""
        if not state.is_world_process_zero:
            return
        for name in (METRICS, ROLLOUTS):
            keep_until(self.folder / name, state.global_step)
        self.bar = Bar(state.global_step, state.max_steps)

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """See `TrainerCallback`."""
        self._began = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """See `TrainerCallback`."""
        self._steps.append(time.perf_counter() - self._began)
        drawn = [self._row(one) for one in self.roller.rolled if one.step == state.global_step]
        drawn = gather_object(drawn)  # those of all processes, in order
        if not state.is_world_process_zero:
            return
        append(self.folder / ROLLOUTS, drawn)
        if self.bar is not None:
            self.bar.move(state.global_step)
        if self.samples is not None and state.global_step % self.samples.every == 0:
            self._say(self.samples, state.global_step)

    def _row(self, one: Rolled) -> Mapping[str, Any]:
        """Return a candidate as `rollouts.jsonl` holds it."""
        made, score = one.judged.candidate, one.judged.score
        said = made.utterance
        return {
            "step": one.step, "group": one.group, "candidate": one.candidate, "text": said.text,
            "voice": said.voice.name if said.voice else None, "language": said.language,
            "finish": made.finish, "codes": len(made.codes), "duration_s": len(made.codes) / self.codes_per_s,
            "reward": one.reward, "status": one.judged.status, "reason": one.judged.reason,
            "measures": dict(score.measures) if score else {},
        }  # fmt: skip

    def _say(self, block: SamplesBlock, step: int) -> None:
        """Write the sample texts as the model says them now; what cannot be said leaves no file."""
        chosen: dict[str, Any] = {} if block.temperature is None else {"temperature": block.temperature}
        (self.folder / "samples").mkdir(parents=True, exist_ok=True)
        paths: list[Path] = []
        with resting(self.trainer.model):
            synthesizer = self.speak()
            for number, text in enumerate(block.texts):
                path = self.folder / "samples" / f"step-{step}-{number}.wav"
                try:
                    spoken = synthesizer.speak(text, block.voice, **chosen)
                    audio.write(path, concatenated(voiced(spoken)))
                except LlasaError as error:
                    print(f"step {step}: sample {number} could not be said: {error}", file=sys.stderr)
                    continue
                paths.append(path)
        to_board(self.trainer, paths, step)

    def on_log(
        self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **_: Any
    ) -> None:
        """See `TrainerCallback`."""
        if not state.is_world_process_zero or not logs or not self._steps:
            return
        row = {"step": state.global_step, **logs, "time/step_s": sum(self._steps) / len(self._steps)}
        self._steps.clear()
        append(self.folder / METRICS, [row])
        shown = " ".join(f"{name} {row[key]:.3g}" for key, name in SHOWN.items() if row.get(key) is not None)
        if self.bar is not None:
            self.bar.tell(row["step"], shown)

    def close(self) -> None:
        """Give the terminal back, however the run ended."""
        if self.bar is not None:
            self.bar.close()

"""Folders of training runs that never ran, for what reads them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llasa import audio
from tests.conftest import clip

TEXTS = ("Hello there.", "A rather longer line is said here, and nobody hurries through it at all.")
LIMITS = {"wer": (None, 0.0), "rate": (-0.05, 0.05), "rate_change": (None, 0.02), "failures": (None, 0.0)}


def write_grpo(
    folder: Path, steps: int = 40, hurry: float = 0.0, unended: float = 0.02, panel: bool = True
) -> Path:
    """Write what a reinforcement run leaves, about as it would look, and return its folder.

    Args:
        hurry: how much faster long texts are said at the end than at the start. unended: share, at the end.
    """
    folder.mkdir(parents=True, exist_ok=True)
    recipe = {
        "model": "starter", "out": "run", "samples": {"texts": list(TEXTS), "every": 10},
        "guard": {"every": 10, "limits": {"rate": 0.05}}, "trainer": {"max_steps": steps, "beta": 0.04},
    }  # fmt: skip
    (folder / "run.json").write_text(
        json.dumps({"began": "2020-01-01T00:00:00Z", "facts": {"recipe": recipe}, "versions": {"trl": "1"}})
    )
    random = np.random.default_rng(0)
    write_rows(folder / "metrics.jsonl", [_metrics(step, steps, random) for step in range(1, steps + 1)])
    drawn = [
        _rollout(step, steps, n, hurry, unended, random) for step in range(1, steps + 1) for n in range(16)
    ]
    write_rows(folder / "rollouts.jsonl", drawn)
    if panel:
        write_rows(folder / "panel.jsonl", panel_rows(steps, hurry))
    (folder / "samples").mkdir(exist_ok=True)
    for step in range(0, steps + 1, 10):
        for number in range(len(TEXTS)):
            audio.write(folder / "samples" / f"step-{step}-{number}.wav", clip(0.3, seed=number))
    return folder


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows, one a line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _metrics(step: int, steps: int, random: np.random.Generator) -> dict[str, Any]:
    done = step / steps
    return {
        "step": step, "reward": 0.5 + 0.3 * done + random.normal(0, 0.03), "reward_std": 0.1,
        "frac_reward_zero_std": 0.1, "loss": random.normal(0, 0.01), "entropy": 4.0 - done, "kl": 0.1 * done,
        "learning_rate": 1e-6, "judge/wer.value": 0.5 + 0.4 * done, "judge/nll.value": 0.6 + 0.1 * done,
        "time/rollout_s": 3.0, "time/judge_s": 1.0, "time/exposed_s": 0.2, "time/step_s": 5.0,
        "rollouts/unended": 0.02, "rollouts/unjudged": 0.0,
    }  # fmt: skip


def _rollout(
    step: int, steps: int, n: int, hurry: float, unended: float, random: np.random.Generator
) -> dict[str, Any]:
    done, letters = step / steps, int(random.integers(15, 200))
    rate = 14 * (1 + hurry * done * letters / 200) * np.exp(random.normal(0, 0.05))
    ended = random.random() > unended * done
    wer = float(random.beta(1, 6))
    return {
        "step": step, "group": n // 8, "candidate": n % 8, "text": "a" * letters, "voice": "rufus",
        "language": "en", "finish": "stop" if ended else "length", "codes": 100,
        "duration_s": letters / rate, "reward": float(np.exp(-3 * wer)) if ended else 0.0,
        "status": "scored" if ended else "bad", "reason": "" if ended else "did not end by itself (length)",
        "measures": {"wer": wer, "wer.value": float(np.exp(-wer)), "repetition.value": 1.0} if ended else {},
    }  # fmt: skip


def panel_rows(steps: int, hurry: float) -> list[dict[str, Any]]:
    """Return the rows of a panel that stops where `hurry` is above the limit."""
    rows: list[dict[str, Any]] = []
    for step in range(0, steps + 1, 10):
        values = {
            "wer": 0.3 - 0.1 * step / steps, "rate": 13.0, "rate_change": 0.03 + hurry * step / steps,
            "similarity": 0.8, "mos": 3.1, "pitch_range": 4.0, "failures": 0.05,
        }  # fmt: skip
        row: dict[str, Any] = {"step": step, "by": {"unit": "characters"}, "unjudged": 0.0}
        for name, value in values.items():
            row |= {name: value, f"{name}_low": 0.95 * value, f"{name}_high": 1.05 * value}
        moved = hurry * step / steps
        tripped = ["rate_change"] if moved > 0.1 else []
        stopped = tripped if rows and rows[-1]["tripped"] else []
        changes = {
            name: {"value": 0.0, "low": -0.01, "high": 0.01, "least": least, "most": most}
            for name, (least, most) in LIMITS.items()
        }
        why = [f"rate_change moved by {moved:+.3g}, allowed is +0.02"] if tripped else []
        row |= {"tripped": tripped, "stopped": stopped, "why": why, "chosen": not tripped}
        rows.append(row | {"changes": changes if step else {}})
        if stopped:
            break
    return rows


def write_sft(folder: Path) -> Path:
    """Write what a supervised run leaves: losses and the error rate of its samples."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"step": step, "loss": 6 - step / 20, "learning_rate": 1e-4} for step in range(1, 40)]
    write_rows(folder / "metrics.jsonl", [*rows, {"step": 40, "eval_held_loss": 4.2, "sample_wer": 0.4}])
    return folder

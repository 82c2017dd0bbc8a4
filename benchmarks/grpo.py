"""A GRPO step here against plain TRL: transformers' generation, and a reward that is asked one by one.

Same weights, prompts, sizes and judge, whose answers take 50 ms in the median and 2 s at the 99th percentile,
as a service's. Steps alternate; the ratio's interval is a bootstrap over the pairs.

    python benchmarks/early.py early && python benchmarks/grpo.py early --prompts recipes/artifacts/codes
"""

import argparse
import hashlib
import json
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback

from llasa.core import Candidate, Judged
from llasa.judge import Judge, JudgeBlock, PartBlock, build_judge
from llasa.train.grpo import Grpo, _Run
from llasa.train.rollout import Rolled

MEDIAN_S, TAIL_S = 0.05, 2.0
SIGMA = np.log(TAIL_S / MEDIAN_S) / 2.3263  # of the normal distribution's 99th percentile
SCORERS = [PartBlock(name="repetition"), PartBlock(name="duration")]


class Distant:
    """A judge behind a network: an answer takes its time, which the candidate's codes decide."""

    concurrency = 16

    def __init__(self, judge: Judge) -> None:
        self.inner = judge

    def judge(self, candidates: Sequence[Candidate], held_out: bool = False) -> list[Judged]:
        """Return the verdicts, late."""
        for one in candidates:
            seed = hashlib.blake2b(repr(one.codes).encode(), digest_size=4).digest()
            time.sleep(np.random.default_rng(list(seed)).lognormal(np.log(MEDIAN_S), SIGMA))
        return self.inner.judge(candidates)


class Turns(TrainerCallback):
    """Lets trainers in several threads take a step in turn, and notes what each step took, in seconds."""

    lock, turn = threading.Condition(), 0

    def __init__(self, number: int, count: int) -> None:
        self.number, self.count, self.took = number, count, list[float]()

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Wait for the turn."""
        with Turns.lock:
            Turns.lock.wait_for(lambda: Turns.turn == self.number)
        self.began = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Give the turn away."""
        self.took.append(time.perf_counter() - self.began)
        with Turns.lock:
            Turns.turn = (self.number + 1) % self.count
            Turns.lock.notify_all()


def main() -> None:
    """Run both, compare, check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--prompts", required=True)
    parser.add_argument("--steps", type=int, default=8, help="pairs; the first is warm-up")
    parser.add_argument("--groups", type=int, default=8)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        ours, mine = own(args, Path(scratch) / "own")
        plain, rewards = serial(args, Path(scratch) / "plain")
        turns = [Turns(number, 2) for number in range(2)]
        for trainer, turn in zip((ours, plain), turns, strict=True):
            trainer.add_callback(turn)
        threads = [threading.Thread(target=trainer.train) for trainer in (ours, plain)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    report(turns, mine, rewards)


def recipe(args: argparse.Namespace, out: Path) -> Grpo:
    """Return the same recipe for both."""
    return Grpo(
        model=args.model, prompts=args.prompts, judge=JudgeBlock(scorers=SCORERS), out=str(out),
        trainer={
            "max_steps": args.steps, "num_generations": 8, "per_device_train_batch_size": 16,
            "gradient_accumulation_steps": max(1, args.groups // 2), "beta": 0.0, "temperature": 0.8,
            "save_strategy": "no", "report_to": "none", "max_completion_length": 250,
        },
    )  # fmt: skip


def own(args: argparse.Namespace, out: Path) -> tuple[Any, dict[str, Any]]:
    """Return our trainer, and what it notes: candidates and seconds."""
    run = _Run(recipe(args, out))
    noted: dict[str, Any] = {"rolled": [], "exposed": [], "inner": run.judge}
    run.roller._judge = Distant(run.judge)  # pyright: ignore
    roll = run.roller.roll

    def noting(prompts: Any, place: Any, vllm: Any) -> Any:
        rolled, spent = roll(prompts, place, vllm)
        noted["rolled"] += rolled
        noted["exposed"].append(spent.exposed_s)
        return rolled, spent

    run.roller.roll = noting
    out.mkdir()
    return run._trainer(), noted


def serial(args: argparse.Namespace, out: Path) -> tuple[Any, list[float]]:
    """Return TRL's trainer as it comes, with a reward function that asks for one completion after another."""
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl.trainer.grpo_trainer import GRPOTrainer

    run = _Run(recipe(args, out))
    tokenizer = AutoTokenizer.from_pretrained(run.lm)
    read = type(tokenizer).__call__

    def named(self: Any, text: list[str], **options: Any) -> Any:
        """Read prompts by name, so that both have the very same ids."""
        known = all(name in run.order for name in text)
        return (
            {"input_ids": [run.prompts.job(name).prompt for name in text]}
            if known
            else read(self, text, **options)
        )

    tokenizer.__class__ = type("Named", (type(tokenizer),), {"__call__": named})
    judge = Distant(build_judge(run.recipe.judge, run.bundle.parts))
    rewards: list[float] = []

    def reward(prompts: list[str], completion_ids: list[list[int]], **_: Any) -> list[float | None]:
        found: list[float | None] = []
        for name, ids in zip(prompts, completion_ids, strict=True):
            ended = ids[-1] == run.prompt.end_id
            codes = run.prompt.codes(ids[:-1] if ended else ids)
            [judged] = judge.judge(
                [Candidate(run.prompts.job(name).utterance, codes, "stop" if ended else "length")]
            )
            found.append(judged.score.value if judged.score else 0.0)
        rewards.extend(value or 0.0 for value in found)
        return found

    data = Dataset.from_dict({"prompt": run.order})
    return GRPOTrainer(run.model, reward, run.args, data, processing_class=tokenizer), rewards


def report(turns: Sequence[Turns], noted: dict[str, Any], rewards: Sequence[float]) -> None:
    """Print seconds a step, their ratio with its interval, the exposed share, and whether rewards agree."""
    ours, plain = (np.array(turn.took[1:]) for turn in turns)
    ratios = plain / ours
    draws = np.random.default_rng(0).choice(ratios, (10_000, len(ratios)))
    low, high = np.percentile(np.median(draws, 1), [2.5, 97.5])
    shares = np.array(noted["exposed"][1:]) / ours
    rolled: list[Rolled] = noted["rolled"]
    again = [noted["inner"].judge([one.judged.candidate])[0].score.value for one in rolled]
    worst = max(abs((one.reward or 0.0) - value) for one, value in zip(rolled, again, strict=True))
    told = {
        "pairs": len(ratios), "own_s": float(np.median(ours)), "trl_s": float(np.median(plain)),
        "ratio": float(np.median(ratios)), "ratio_low": low, "ratio_high": high,
        "exposed": float(shares.mean()), "exposed_most": float(shares.max()), "worst_difference": worst,
        "own_reward": float(np.mean(again)), "trl_reward": float(np.mean(rewards)),
        "own_unended": float(np.mean([one.judged.candidate.finish != "stop" for one in rolled])),
    }  # fmt: skip
    print(json.dumps({key: round(float(value), 6) for key, value in told.items()}, indent=1))


if __name__ == "__main__":
    main()

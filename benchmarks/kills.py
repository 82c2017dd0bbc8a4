"""Runs that are killed: does each go on by itself, and end with the very weights of one that was left alone?

ours: `loop.fit`. callback: transformers' Trainer through `train/resume.py`. sft: `llasa train sft` of a small
model from nothing on made-up shards, up to the bundle.
stock: the same Trainer with `resume_from_checkpoint=True` once there is a checkpoint, for contrast.

Each trial is a fresh folder: a child is killed with SIGKILL, then another runs the same command. `random`: at
a random time of a run that saves after each step. `inside`: after one of the writes, fsyncs, renames and
removals that its saves consist of, spread evenly over the run.

One parent imports everything and forks the children, so that a trial costs its steps and not the imports.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

from llasa.train import checkpoint, resume
from llasa.train.loop import Plan, fit

Contender = Callable[[Path, int], None]  # (folder, steps) -> trains to the end and writes folder/final
WIDTH = 96  # a save then takes about as long as some steps


@dataclass(frozen=True)
class Outcome:
    """How a trial ended: `equal`, `different`, or `dead` with what it said last; where it was killed."""

    kind: str
    place: str
    said: str = ""


def ids(index: int) -> torch.Tensor:
    return torch.randint(256, (4, 24), generator=torch.Generator().manual_seed(index))


def network() -> LlamaForCausalLM:
    torch.manual_seed(1)
    sizes: dict[str, Any] = {"hidden_size": WIDTH, "intermediate_size": 2 * WIDTH, "num_hidden_layers": 2}
    heads: dict[str, Any] = {"num_attention_heads": 4, "num_key_value_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=256, attention_dropout=0.1, **sizes, **heads))


class Task:
    """A little Llama with dropout, as a task of `loop.fit`."""

    def __init__(self) -> None:
        self.model = network()
        self.modules: dict[str, nn.Module] = {"model": self.model}
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            "adamw": torch.optim.AdamW(self.model.parameters(), 1e-3)
        }

    def step(self, index: int) -> Mapping[str, float]:
        self.model.train()
        batch = torch.randint(256, (4, 24))
        loss = self.model(input_ids=batch, labels=batch).loss
        self.optimizers["adamw"].zero_grad()
        loss.backward()
        self.optimizers["adamw"].step()
        return {"loss": loss.item()}

    def validate(self) -> Mapping[str, float]:
        return {}


class Rows(torch.utils.data.Dataset):
    """Rows of random ids, the same in each run; an epoch is shorter than a run."""

    def __len__(self) -> int:
        return 22

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": ids(index)[0], "labels": ids(index)[0]}


def trainer(folder: Path, steps: int) -> Trainer:
    arguments = TrainingArguments(
        str(folder), max_steps=steps, save_steps=1, save_total_limit=2, per_device_train_batch_size=4,
        learning_rate=1e-3, logging_steps=5, report_to=[], disable_tqdm=True, use_cpu=True, seed=3,
    )  # fmt: skip
    return Trainer(network(), arguments, train_dataset=Rows())


def weights_of(run: Trainer) -> Mapping[str, torch.Tensor]:
    return cast(nn.Module, run.model).state_dict()


def ours(folder: Path, steps: int) -> None:
    task = Task()
    fit(task, folder, Plan(steps, seed=3, validate_every=5, save_every_s=0.0))
    finish(folder, task.model.state_dict())


def callback(folder: Path, steps: int) -> None:
    run = trainer(folder, steps)
    resume.train(run, folder)
    finish(folder, weights_of(run))


def stock(folder: Path, steps: int) -> None:
    run = trainer(folder, steps)
    run.train(resume_from_checkpoint=any(folder.glob("checkpoint-*")) or None)
    finish(folder, weights_of(run))


def sft(folder: Path, steps: int) -> None:
    from safetensors.torch import load_file

    from llasa.train.sft import read_recipe, train

    corpus, path = folder.parent / "corpus", folder.with_suffix(".toml")
    if not corpus.exists():
        build_corpus(corpus)
    path.write_text(RECIPE.format(corpus=corpus, out=folder / "run", steps=steps), encoding="utf-8")
    train(read_recipe(path))
    finish(folder, load_file(folder / "run" / "bundle" / "lm" / "model.safetensors"))


RECIPE = """
codec = "{corpus}/codec"
data = "{corpus}/prepared"
out = "{out}"
[scratch]
text = "characters"
hidden_size = 96
num_hidden_layers = 2
num_attention_heads = 4
max_length = 200
[rows]
tokens = 300
[trainer]
max_steps = {steps}
save_steps = 1
eval_steps = 5
logging_steps = 5
"""


def build_corpus(folder: Path) -> None:
    """Write a codec of random weights and a prepared folder of made-up codes."""
    from llasa.codec.compact import CompactCodec
    from llasa.data.shards import Header, Row, save

    CompactCodec.random().save(folder / "codec")
    codec, draw = CompactCodec.load(folder / "codec"), random.Random(0)
    rows = [
        Row(f"{speaker}-{i}", "some words to say", speaker, "en", 1.0, draw.choices(range(64), k=25))
        for speaker in ("ada", "ben")
        for i in range(40)
    ]
    save(
        folder / "prepared",
        {"train": rows[:70], "heldout": rows[70:]},
        Header(codec.name, 25.0, codec.codebook_size),
    )


def finish(folder: Path, weights: Mapping[str, torch.Tensor]) -> None:
    """Write the hash of the final weights."""
    digest = hashlib.sha256()
    for _, value in sorted(weights.items()):
        digest.update(value.detach().flatten().view(torch.uint8).numpy().tobytes())
    (folder / "final").write_text(digest.hexdigest(), encoding="utf-8")


def child(contender: Contender, folder: Path, steps: int, before: Callable[[], None] = lambda: None) -> int:
    """Fork a child that calls `before` and trains; return its process id."""
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        folder.mkdir(parents=True, exist_ok=True)
        log = os.open(folder / "said", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        before()
        contender(folder, steps)
        code = 0
    except BaseException as error:  # the child's edge: all of it is the trial's result
        os.write(2, f"\n{type(error).__name__}: {' '.join(str(error).split())[:300]}\n".encode())
    finally:
        os._exit(code)


class Operations:
    """Counts a process's file operations, all of which a save consists of; kills it after one of them."""

    def __init__(self, tally: Path, kill_after: int = 0) -> None:
        self.tally, self.kill_after, self.count = tally, kill_after, 0

    def watch(self) -> None:
        for name in ("mkdir", "fsync", "replace", "rename", "unlink", "rmdir"):
            setattr(os, name, self._counted(name, getattr(os, name)))
        for module, name in ((torch, "save"), (checkpoint, "save_file"), (json, "dump"), (json, "dumps")):
            setattr(module, name, self._counted(name, getattr(module, name)))

    def _counted(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def operation(*arguments: Any, **named: Any) -> Any:
            result = original(*arguments, **named)
            self.count += 1
            if self.count == self.kill_after or not self.kill_after:
                self.tally.write_text(f"{self.count} {name}", encoding="utf-8")
            if self.count == self.kill_after:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return operation


class Bench:
    """The trials of one contender."""

    def __init__(self, name: str, folder: Path, steps: int) -> None:
        self.name, self.folder, self.steps = name, folder / name, steps
        self.contender: Contender = CONTENDERS[name]
        whole, began = self.folder / "whole", time.monotonic()
        if self._wait(child(self.contender, whole, steps)):
            raise SystemExit(f"{name} fails when left alone: {last_said(whole)}")
        self.took_s = time.monotonic() - began
        self.expected = (whole / "final").read_text(encoding="utf-8")
        counting = Operations(self.folder / "operations")
        self._wait(child(self.contender, self.folder / "counted", steps, counting.watch))
        self.operations = int((self.folder / "operations").read_text(encoding="utf-8").split()[0])

    @staticmethod
    def _wait(process: int) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])

    def random(self, number: int, draw: random.Random) -> Outcome:
        """Kill at a random time, then run on."""
        after_s = draw.uniform(0.1, 0.95) * self.took_s
        while True:
            folder = self.folder / f"random-{number}"
            process = child(self.contender, folder, self.steps)
            time.sleep(after_s)
            os.kill(process, signal.SIGKILL)
            if self._wait(process) == -signal.SIGKILL and not (folder / "final").exists():
                return self._go_on(folder, f"{after_s:.2f} s")
            shutil.rmtree(folder)  # it was quicker than the clock
            after_s *= draw.uniform(0.5, 0.95)

    def inside(self, number: int, of: int) -> Outcome:
        """Kill after one of the operations of its saves, then run on."""
        folder, place = self.folder / f"inside-{number}", self.folder / "place"
        first = self.operations // self.steps  # about one save: what follows has something to go back to
        after = first + (self.operations - first) * (2 * number + 1) // (2 * of)
        self._wait(child(self.contender, folder, self.steps, Operations(place, after).watch))
        return self._go_on(folder, place.read_text(encoding="utf-8"))

    def _go_on(self, folder: Path, place: str) -> Outcome:
        code = self._wait(child(self.contender, folder, self.steps))
        if code:
            return Outcome("dead", place, last_said(folder) or f"exit code {code}")
        same = (folder / "final").read_text(encoding="utf-8") == self.expected
        shutil.rmtree(folder)
        return Outcome("equal" if same else "different", place)


def last_said(folder: Path) -> str:
    """Return the last line that the children of a trial said."""
    said = (folder / "said").read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return said[-1] if said else ""


CONTENDERS: dict[str, Contender] = {"ours": ours, "callback": callback, "sft": sft, "stock": stock}


def table(results: Mapping[str, Mapping[str, list[Outcome]]]) -> Iterator[str]:
    """Yield the lines of a report."""
    yield f"{'contender':10} {'killed':8} {'runs':>5} {'equal':>6} {'different':>10} {'dead':>5}"
    for name, kinds in results.items():
        for kind, outcomes in kinds.items():
            counts = Counter(outcome.kind for outcome in outcomes)
            yield (
                f"{name:10} {kind:8} {len(outcomes):5} {counts['equal']:6} {counts['different']:10} "
                f"{counts['dead']:5}"
            )
    for name, kinds in results.items():
        said = Counter(outcome.said for outcomes in kinds.values() for outcome in outcomes if outcome.said)
        for line, count in said.most_common(4):
            yield f"{name}: {count} x {line[:150]}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--contenders", nargs="+", default=[*CONTENDERS], choices=[*CONTENDERS])
    parser.add_argument("--random", type=int, default=20, help="Runs killed at a random time.")
    parser.add_argument("--inside", type=int, default=16, help="Runs killed inside a save.")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="Write all outcomes there.")
    options = parser.parse_args()
    torch.set_num_threads(1)  # and no thread of the parent is missed in a forked child
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in options.contenders:
            bench, draw = Bench(name, Path(folder), options.steps), random.Random(options.seed)
            results[name] = {
                "random": [bench.random(i, draw) for i in range(options.random)],
                "inside": [bench.inside(i, options.inside) for i in range(options.inside)],
            }
            print(*table({name: results[name]}), sep="\n", file=sys.stderr, flush=True)
    print(*table(results), sep="\n")
    if options.json:
        outcomes = {n: {k: [asdict(o) for o in found] for k, found in r.items()} for n, r in results.items()}
        options.json.write_text(json.dumps(outcomes, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

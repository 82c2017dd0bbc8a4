"""How fast supervised training is: `llasa train sft` against two other ways to feed transformers' trainer.

padded: a row of 2,048 ids for each utterance, as zhenye234/LLaSA_training does. trl: TRL's SFTTrainer with
its own packing (best fit decreasing, 2,048 ids). ours: batches of rows of like length. Rows are 6-10 s at 50
codes a second with their text. Contenders take turns on the same rows and weights, so that whatever else the
machine does falls on all alike; useful tokens are ids that are no padding, a second is one of this process's
own computing. Before that: the loss of the same rows is the same in all, packed as unpacked, and four batches
of one learn what one batch of four learns.
"""

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from trl import SFTConfig, SFTTrainer

from llasa.data.packing import cut, padded, waste
from llasa.prompt import IGNORED
from llasa.train.loss import in_chunks

TEXT = 128  # ids of text and markers
LONGEST = 2048
Example = dict[str, list[int]]


def utterances(count: int, codes: int, seed: int) -> list[Example]:
    """Return rows: 60-110 ids of text, unlearnt, then 6-10 s of codes and the end marker."""
    random = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        text = random.integers(1, TEXT, random.integers(60, 111)).tolist()
        said = [*random.integers(TEXT, TEXT + codes, random.integers(300, 501)).tolist(), 0]
        rows.append({"input_ids": text + said, "labels": [IGNORED] * len(text) + said})
    return rows


def model(codes: int, width: int, layers: int) -> Any:
    """Return the same untrained Llama each time."""
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=TEXT + codes, hidden_size=width, intermediate_size=width * 11 // 4, eos_token_id=0,
            num_hidden_layers=layers, num_attention_heads=width // 64, num_key_value_heads=width // 64,
            max_position_embeddings=LONGEST, tie_word_embeddings=True, bos_token_id=None, pad_token_id=0,
        )
    )  # fmt: skip


def collated(rows: Sequence[Example], length: int | None = None) -> dict[str, torch.Tensor]:
    """Return rows as tensors, padded to the longest, or to `length` with the mask that this takes there."""
    more = [] if length is None else [[0] * length]
    ids = torch.from_numpy(padded([row["input_ids"] for row in rows] + more, 0))[: len(rows)]
    labels = torch.from_numpy(padded([row["labels"] for row in rows] + more, IGNORED))[: len(rows)]
    mask = torch.arange(ids.shape[1]) < torch.tensor([len(row["input_ids"]) for row in rows])[:, None]
    return {"input_ids": ids, "labels": labels} | ({} if length is None else {"attention_mask": mask.long()})


class Clock(TrainerCallback):
    """Takes the time of steps after the first; its own computing time, not that of others."""

    def __init__(self) -> None:
        self.at: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Note the time."""
        self.at.append(time.process_time())


def settings(folder: str, steps: int, bf16: bool, **more: Any) -> dict[str, Any]:
    """Return what all trainers are told."""
    return {
        "output_dir": folder, "max_steps": steps, "use_cpu": not torch.cuda.is_available(), "bf16": bf16,
        "report_to": [], "save_strategy": "no", "disable_tqdm": True, "logging_steps": 1,
        "lr_scheduler_type": "constant", "learning_rate": 1e-4, "remove_unused_columns": False,
        "train_sampling_strategy": "sequential", "label_names": ["labels"], **more,
    }  # fmt: skip


def timed(trainer: Any) -> tuple[float, list[float]]:
    """Train and return seconds but for the first step's, and losses."""
    clock = Clock()
    trainer.add_callback(clock)
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    return clock.at[-1] - clock.at[0], losses


class Bench:
    """The three ways to train, on the same rows."""

    def __init__(self, args: argparse.Namespace, folder: str) -> None:
        self.args, self.folder = args, folder
        words = Tokenizer(models.WordLevel({str(i): i for i in range(TEXT + args.codes)}, unk_token="1"))
        self.tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="0", pad_token="0")

    def new(self) -> Any:
        """Return a model to train."""
        return model(self.args.codes, self.args.width, self.args.layers)

    def padded(self, rows: Sequence[Example]) -> float:
        """Return useful tokens a second with rows of 2,048 ids, as many to a batch as fit the budget."""
        per = max(1, self.args.tokens // LONGEST)
        steps = len(rows) // per
        made = TrainingArguments(
            **settings(self.folder, steps, self.args.bf16, per_device_train_batch_size=per)
        )
        data: Any = list(rows)
        trainer = Trainer(self.new(), made, train_dataset=data, data_collator=lambda r: collated(r, LONGEST))
        seconds, _ = timed(trainer)
        return sum(len(row["input_ids"]) for row in rows[per : per * steps]) / seconds

    def ours(self, rows: Sequence[Example]) -> float:
        """Return useful tokens a second with batches of rows of like length."""
        lengths = [len(row["input_ids"]) for row in rows]
        parts = cut(lengths, max(2, round(sum(lengths) / self.args.tokens)), np.random.default_rng(0))
        made = TrainingArguments(
            **settings(self.folder, len(parts), self.args.bf16, per_device_train_batch_size=1)
        )
        data: Any = [collated([rows[place] for place in part]) for part in parts]
        trained = self.new()
        in_chunks(trained)
        trainer = Trainer(trained, made, train_dataset=data, data_collator=lambda batches: batches[0])
        seconds, _ = timed(trainer)
        return sum(lengths[place] for part in parts[1:] for place in part) / seconds

    def trl(self, rows: Sequence[Example]) -> float:
        """Return useful tokens a second with TRL's packing."""
        per = max(1, self.args.tokens // LONGEST)
        given = settings(self.folder, -1, self.args.bf16, per_device_train_batch_size=per, num_train_epochs=1)
        made = SFTConfig(**given, packing=True, max_length=LONGEST, gradient_checkpointing=False)
        data = Dataset.from_list(list(rows))
        trainer = SFTTrainer(self.new(), made, train_dataset=data, processing_class=self.tokenizer)
        packs = trainer.train_dataset
        seconds, _ = timed(trainer)
        return sum(len(packs[place]["input_ids"]) for place in range(per, len(packs))) / seconds


def same_loss(bench: Bench, rows: Sequence[Example]) -> dict[str, float]:
    """Return the greatest relative differences between losses, and between weights after a step."""
    losses: dict[str, float] = {}
    plain, chunked = bench.new().eval(), bench.new().eval()
    in_chunks(chunked, chunk=100 * (TEXT + bench.args.codes))
    with torch.no_grad():
        losses["padded"] = float(plain(**collated(rows, LONGEST)).loss)
        losses["ours"] = float(chunked(**collated(rows)).loss)
        total = sum((row["labels"].__len__() - row["labels"].count(IGNORED)) for row in rows)
        alone = [float(chunked(**collated([row]), num_items_in_batch=total).loss) for row in rows]
        losses["ours, one by one"] = sum(alone)
    made = SFTConfig(
        **settings(bench.folder, 1, False, per_device_train_batch_size=1, learning_rate=0.0),
        packing=True, max_length=LONGEST, gradient_checkpointing=False,
    )  # fmt: skip
    data = Dataset.from_list([{key: list(value) for key, value in row.items()} for row in rows])
    losses["trl"] = timed(
        SFTTrainer(bench.new(), made, train_dataset=data, processing_class=bench.tokenizer)
    )[1][0]
    reference = losses["padded"]
    found = {f"loss, {name} against padded": abs(value / reference - 1) for name, value in losses.items()}
    return found | {"weights, 4x1 against 1x4": accumulated(bench, rows)}


def accumulated(bench: Bench, rows: Sequence[Example]) -> float:
    """Return the greatest difference of weights after one update, relative to the greatest change."""
    after = []
    for data, steps in (([collated(rows)], 1), ([collated([row]) for row in rows], len(rows))):
        trained = bench.new()
        in_chunks(trained)
        given = settings(bench.folder, 1, False, per_device_train_batch_size=1, optim="sgd")
        made = TrainingArguments(**given | {"gradient_accumulation_steps": steps, "learning_rate": 0.1})
        whole: Any = data
        timed(Trainer(trained, made, train_dataset=whole, data_collator=lambda batches: batches[0]))
        after.append(torch.cat([weight.detach().flatten() for weight in trained.parameters()]))
    before = torch.cat([weight.detach().flatten() for weight in bench.new().parameters()])
    return float((after[0] - after[1]).abs().max() / (after[0] - before).abs().max())


def interval(ratios: Sequence[float], draws: int = 2000) -> tuple[float, float, float]:
    """Return the median of ratios and its bootstrap interval of 95 %."""
    drawn = np.random.default_rng(0).choice(np.asarray(ratios), (draws, len(ratios)))
    low, high = np.quantile(np.median(drawn, axis=1), (0.025, 0.975))
    return float(np.median(ratios)), float(low), float(high)


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--codes", type=int, default=4096, help="entries of the codebook")
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--tokens", type=int, default=4096, help="ids of a batch, padding with them")
    parser.add_argument("--rows", type=int, default=36, help="utterances a turn")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(args, folder)
        found = same_loss(bench, utterances(4, args.codes, 99))
        for name, value in found.items():
            print(f"{name}: {value:.1e}", flush=True)
        contenders: dict[str, Callable[[Sequence[Example]], float]] = {
            "ours": bench.ours, "trl": bench.trl, "padded": bench.padded,
        }  # fmt: skip
        speeds: dict[str, list[float]] = {name: [] for name in contenders}
        for turn in range(args.turns):
            rows = utterances(args.rows, args.codes, turn)
            for name, run in contenders.items():
                speeds[name].append(run(rows))
            told = ", ".join(f"{name} {all_[-1]:.0f}" for name, all_ in speeds.items())
            print(f"turn {turn + 1}: useful tokens a second: {told}", flush=True)
    lengths = [len(row["input_ids"]) for row in utterances(2000, args.codes, 0)]
    parts = cut(lengths[:300], round(sum(lengths[:300]) / args.tokens), np.random.default_rng(0))
    print(f"padding of ours, in a window: {waste([[lengths[i] for i in part] for part in parts]):.2%}")
    for other in ("padded", "trl"):
        ratios = [a / b for a, b in zip(speeds["ours"], speeds[other], strict=True)]
        median, low, high = interval(ratios)
        print(f"ours against {other}: {median:.2f} times [{low:.2f}, {high:.2f}]")
    print(
        json.dumps(
            {
                "speeds": speeds,
                "differences": found,
                "torch": torch.__version__,
                "machine": platform.machine(),
            }
        )
    )


if __name__ == "__main__":
    main()

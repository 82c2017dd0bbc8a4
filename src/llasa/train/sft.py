"""Supervised training of a language model to speak: a recipe and prepared folders to a bundle that talks.

transformers' Trainer does the training, on whatever accelerate finds; here is what it is given.
"""

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, Field
from torch import Tensor

from llasa import config
from llasa.audio import replace_file
from llasa.begun import start
from llasa.bundle import Bundle
from llasa.data.index import Split
from llasa.data.packing import cut
from llasa.data.rejects import Reject
from llasa.data.shards import Shards
from llasa.device import chosen_device, fastest_dtype
from llasa.errors import ConfigError
from llasa.train.chat import ChatBlock, chat_rows
from llasa.train.group import sharded
from llasa.train.lora import adapted
from llasa.train.loss import in_chunks
from llasa.train.panel import Panel, SamplesBlock, Speaker
from llasa.train.preflight import Report, check, preflight
from llasa.train.result import write_result
from llasa.train.rows import Batches, Corpus, Example, Rows, RowsBlock, Share, tensors
from llasa.train.start import Start, starting_bundle
from llasa.weights import sha256

Track = Callable[[Sequence[int]], Iterator[int]]
Tell = Callable[[Report, int], None]
START = "start"  # folder of what is trained, where that had to be made
HELD_OUT = 64  # rows whose loss is told, at most
# Of Llasa's own training (zhenye234/LLaSA_training), but for the rate, which suits fine-tuning a small set.
DEFAULTS: dict[str, Any] = {
    "learning_rate": 5e-5, "warmup_steps": 0.03, "lr_scheduler_type": "cosine", "weight_decay": 0.01,
    "adam_beta2": 0.95, "max_grad_norm": 1.0, "logging_steps": 10, "save_steps": 500,
    "eval_strategy": "steps", "eval_steps": 500,
    "save_total_limit": 2, "report_to": "tensorboard",
    "ddp_find_unused_parameters": False,
}  # fmt: skip
# What follows from how batches are made.
FIXED: dict[str, Any] = {
    "per_device_train_batch_size": 1, "per_device_eval_batch_size": 1, "remove_unused_columns": False,
    "train_sampling_strategy": "sequential", "disable_tqdm": True, "label_names": ["labels"],
    "dataloader_drop_last": False, "prediction_loss_only": True,
}  # fmt: skip


class OptimizerBlock(BaseModel):
    """muon: for the matrices of the layers, and AdamW for the rest, at one learning rate."""

    model_config = config.STRICT
    muon: bool = False


class Sft(Start):
    """A recipe of `llasa train sft`.

    data: prepared folders, with how often each is drawn where that is not once. out: the run's folder.
    name: of the new bundle. dtype: of the weights that are written. check_first_batch: whether a suspect
    first batch stops the run. skip_bad: leave damaged shards out. lora: options of peft's `LoraConfig`.
    trainer: of transformers' `TrainingArguments`.
    """

    data: str | list[str] | dict[str, Share]
    out: str
    name: str | None = None
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    check_first_batch: bool = True
    skip_bad: bool = False
    rows: RowsBlock = RowsBlock()
    lora: dict[str, Any] | None = None
    chat: ChatBlock | None = None
    optimizer: OptimizerBlock = OptimizerBlock()
    samples: SamplesBlock | None = None
    trainer: dict[str, Any] = Field(default={})

    def folders(self) -> dict[str, float]:
        """Return the prepared folders with their weights."""
        if isinstance(self.data, dict):
            return self.data
        return dict.fromkeys([self.data] if isinstance(self.data, str) else self.data, 1.0)


@dataclass(frozen=True)
class Trained:
    """What came of a run. report: of the first batch. bundle: what speaks; None after a dry run.

    rejected: rows that could not be used. first: whether this is the first of the processes.
    """

    report: Report
    bundle: Path | None
    rejected: int
    first: bool


def read_recipe(path: str | os.PathLike[str], settings: Sequence[str] = ()) -> Sft:
    """Return the recipe of a TOML file, with `key=value` settings over it; a dotted key reaches into a table.

    Raises:
        ConfigError: no such file, or a key that is unknown, missing or of a wrong value.
    """
    return config.build(Sft, config.table(path, settings), f"Reading '{path}'")


def train(
    recipe: Sft, dry_run: bool = False, changed_ok: bool = False, track: Track = iter,
    tell: Tell = lambda report, rejected: None,
) -> Trained:  # fmt: skip
    """Train a language model; called again, a stopped run goes on.

    Args:
        dry_run: only look at the first batch. changed_ok: go on although the recipe or the data changed.
        track: may show how far the rows are read. tell: gets the report and the rows that cannot be used
            before training begins; in the first of the processes only.

    Raises:
        ConfigError: the recipe does not fit, or the first batch is suspect.
        BundleError: a model, codec or shard is damaged, or they do not fit each other.
        Interrupted: a signal asked to stop; the same call goes on.
    """
    out = Path(recipe.out)
    out.mkdir(parents=True, exist_ok=True)
    args = _arguments(recipe, out)
    with args.main_process_first(local=False):
        bundle = starting_bundle(recipe, out / START)
    run = _Run(recipe, out, args, bundle, track)
    if not dry_run:
        start(out, run.facts(), changed_ok)
    report, first = run.look(), args.process_index == 0
    if first:
        tell(report, len(run.rejects))
    if recipe.check_first_batch:
        check(report, out / "preflight")
    return Trained(report, None if dry_run else run.train(), len(run.rejects), first)


def _arguments(recipe: Sft, out: Path) -> Any:
    from transformers import TrainingArguments
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    if fixed := sorted(FIXED.keys() & recipe.trainer.keys()):
        found = f"found trainer.{fixed[0]}, which follows from how batches are made"
        raise ConfigError(f"Reading the recipe: {found}. Leave it out; rows.tokens is the size of a batch.")
    device = chosen_device(None)
    own: dict[str, Any] = {
        "bf16": fastest_dtype(device) is torch.bfloat16,
        "use_cpu": device.type == "cpu",
        "seed": recipe.seed,
    }
    _check_numbers(recipe.trainer)
    if recipe.trainer.get("load_best_model_at_end"):
        own["metric_for_best_model"] = "eval_held_loss"
    values: dict[str, Any] = DEFAULTS | own | recipe.trainer | FIXED
    values["output_dir"] = str(out / "checkpoints")
    try:
        return TrainingArguments(**values)
    except (TypeError, ValueError, ImportError) as error:
        raise ConfigError(
            f"Reading [trainer] of the recipe: {error}. See transformers' TrainingArguments."
        ) from error


def _check_numbers(trainer: dict[str, Any]) -> None:
    """Refuse words for numbers, which `TrainingArguments` takes as they are."""
    from transformers import TrainingArguments

    numbers = {one.name for one in fields(TrainingArguments) if type(one.default) in (int, float)}
    odd = [key for key in numbers & trainer.keys() if not isinstance(trainer[key], int | float)]
    if odd:
        raise ConfigError(f"Reading [trainer] of the recipe: {odd[0]} is {trainer[odd[0]]!r}. Give a number.")


def _check_speakers(stressed: Mapping[str, float], corpus: Corpus) -> None:
    if missing := sorted(stressed.keys() - {name for _, name in corpus.names}):
        raise ConfigError(
            f"Reading rows.speakers of the recipe: nobody in the data is called '{missing[0]}'. Correct it."
        )


class _Run:
    """One run: what it reads, what it trains, what it writes."""

    def __init__(self, recipe: Sft, out: Path, args: Any, bundle: Bundle, track: Track) -> None:
        self.recipe, self.out, self.args, self.bundle = recipe, out, args, bundle
        weights = recipe.folders()
        self.sources = [self._shards(folder, "train") for folder in weights]
        corpus = Corpus(list(zip(self.sources, weights.values(), strict=True)), recipe.rows)
        _check_speakers(recipe.rows.speakers, corpus)
        self.rejects: list[Reject] = []
        try:
            self.rows = self._rows(corpus, track)
            self.batches = self._batches()
            self.held = self._held_out()
        finally:  # where nothing is left, they say why
            if args.process_index == 0:
                _write_rejects(self.rejects, out / "rejects.jsonl")
        self._check_best()

    def _shards(self, folder: str, split: Split) -> Shards:
        return Shards(Path(folder), split, codec=self.bundle.codec_name, skip_bad=self.recipe.skip_bad)

    def _rows(self, corpus: Corpus, track: Track) -> Rows:
        bundle = self.bundle

        def form(text: str, language: str) -> str:
            return bundle.form(text, language).text

        rows = Rows(corpus, bundle.prompt, form, self.recipe.rows, bundle.max_length, track)
        self.rejects += rows.rejects
        return rows

    def _batches(self) -> Batches:
        """Return the batches of the whole run, and tell the trainer how many steps they are."""
        chat, args = self.recipe.chat, self.args
        share = chat.share if chat else 0.0
        lm = self.bundle.folder / self.bundle.manifest.lm.path
        talk = chat_rows(Path(chat.data), lm, self.rows.max_length, self.rejects) if chat else []
        order = self.rows.order(self.recipe.seed, 1.0 - share)
        a_step = args.gradient_accumulation_steps * args.world_size
        if args.max_steps <= 0:
            args.max_steps = max(1, math.ceil(order.epoch * args.num_train_epochs / a_step))
        return Batches(self.rows, order, args.max_steps * a_step, talk, share)

    def look(self) -> Report:
        """Return what the first batch shows."""
        from llasa.engines.weights import load_model

        self.model: Any = load_model(self.bundle.folder / self.bundle.manifest.lm.path, torch.float32)
        if not sharded(self.recipe.trainer):  # a part of it may be all that fits
            self.model.to(self.args.device)
        return preflight(self.model, self.batches, self.bundle, self.out / "preflight")

    def train(self) -> Path:
        """Train to the end and return the folder of the new bundle."""
        from transformers import PrinterCallback, Trainer

        from llasa.train import resume

        in_chunks(self.model)
        model, lora = self.model, self.recipe.lora
        if lora is not None:
            model = adapted(model, lora, self.recipe.seed, fresh=self.bundle.folder == self.out / START)
        samples, held = self.recipe.samples, self.held
        speaker = Speaker(self.bundle, samples, self.out / "samples") if samples else None
        panel = Panel(self.out, self.batches, speaker)
        self.args.eval_strategy = self.args.eval_strategy if held else "no"
        trainer = Trainer(
            model, self.args, data_collator=_only, train_dataset=self.batches, eval_dataset=held or None,
            callbacks=[panel], optimizers=(self._optimizer(model), None),
        )  # fmt: skip
        trainer.remove_callback(PrinterCallback)  # the panel shows it
        panel.trainer = trainer
        resume.train(trainer, self.out / "checkpoints")
        return self._write(trainer)

    def _optimizer(self, model: Any) -> Any:
        from llasa.train.optimizer import muon

        return muon(model.to(self.args.device), self.args) if self.recipe.optimizer.muon else None

    def _held_out(self) -> dict[str, Any]:
        """Return unseen rows after a voice of their speaker, and after another speaker's."""
        weights = self.recipe.folders()
        sources = [(source, 1.0) for folder in weights if len(source := self._shards(folder, "heldout"))]
        if not sources:
            return {}
        block = self.recipe.rows.model_copy(update={"learn_prompt": False})
        rows = self._rows(Corpus(list(sources), block), iter)
        found = {"held": held_out(rows, other=False), "other_voice": held_out(rows, other=True)}
        return {name: batched(examples, rows) for name, examples in found.items() if examples}

    def _check_best(self) -> None:
        """Refuse to choose the best checkpoint by what is not measured."""
        wanted, known = self.args.metric_for_best_model, [f"eval_{name}_loss" for name in self.held]
        if wanted is not None and f"eval_{wanted.removeprefix('eval_')}" not in known:
            found = f"found {wanted}, and {', '.join(known) or 'no held-out rows, so nothing,'} is measured"
            todo = "Correct trainer.metric_for_best_model, or prepare with --held-out"
            raise ConfigError(f"Choosing the best checkpoint: {found}. {todo}.")

    def facts(self) -> dict[str, Any]:
        """Return what must not change while a run goes on."""
        tokenizer = self.bundle.folder / self.bundle.manifest.lm.path / "tokenizer.json"
        return {
            "recipe": self.recipe.model_dump(exclude={"out"}),
            "data": [source.digest for source in self.sources],
            "codec": self.bundle.codec_name,
            "tokenizer": sha256([tokenizer]),
            "processes": self.args.world_size,
        }

    def _write(self, trainer: Any) -> Path:
        """Write the trained weights, and the bundle that speaks with them."""
        trainer.model.config.use_cache = True
        recipe = self.recipe
        return write_result(
            trainer, self.bundle, self.out, recipe.lora is not None, recipe.name, recipe.dtype
        )


def held_out(rows: Rows, other: bool) -> list[Example]:
    """Return whole rows after a voice: their own speaker's, or another's; few, of all speakers in turn."""
    speakers = list(rows.kin)
    built: list[Example] = []
    random = np.random.default_rng(1)
    for number in range(HELD_OUT if len(speakers) > other else 0):
        turn, speaker = divmod(number, len(speakers))
        voices = rows.kin[speakers[(speaker + other) % len(speakers)]]
        index, own = rows.kin[speakers[speaker]], turn + 1 < len(rows.kin[speakers[speaker]])
        if not own or turn + 1 >= len(voices):
            continue
        target = rows.piece(rows.corpus[int(index[turn])], None, random)
        voice = rows.piece(rows.corpus[int(voices[turn + 1])], None, random, rows.block.prompt_codes)
        example = rows.prompt.example(*target, *voice)
        if len(example[0]) <= rows.max_length:
            built.append(example)
    return built


def batched(examples: Sequence[Example], rows: Rows) -> list[dict[str, Tensor]]:
    """Return rows as batches of about as many ids as those of training."""
    lengths = [len(ids) for ids, _ in examples]
    count = max(1, round(sum(lengths) / rows.block.tokens))
    parts = cut(lengths, count, np.random.default_rng(0))
    return [tensors([examples[place] for place in part], rows.prompt) for part in parts]


def _only(items: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return the one batch of a list: the data set holds batches."""
    return items[0]


def _write_rejects(rejects: Sequence[Reject], path: Path) -> None:
    replace_file(path, "".join(json.dumps(one.row()) + "\n" for one in rejects).encode())

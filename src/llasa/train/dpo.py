"""Learning from preferences: pairs of sounds, and votes on them, to a bundle that speaks like the better one.

TRL's DPOTrainer does the training, as it is; here is what it is given. Rafailov et al., Direct Preference
Optimization, arXiv 2305.18290.
"""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import Field

from llasa import config, shortage
from llasa.audio import replace_file
from llasa.begun import start
from llasa.bundle import load_bundle
from llasa.engines.native import NativeEngine
from llasa.engines.weights import load_model
from llasa.errors import ConfigError, MissingExtra
from llasa.pairs import VOTES, decide, read_pairs
from llasa.prompt import SPEECH_END
from llasa.train.arguments import TrlRecipe, trl_arguments
from llasa.train.panel import Panel, Speaker
from llasa.train.policy import check_head, lora_config, speech_only
from llasa.train.preference import Preference, Preferences, preferences, split
from llasa.train.result import write_result
from llasa.weights import sha256

DEFAULTS: dict[str, Any] = {
    "learning_rate": 1e-6, "beta": 0.1, "per_device_train_batch_size": 8, "per_device_eval_batch_size": 8,
    "lr_scheduler_type": "constant_with_warmup", "warmup_steps": 0.1, "max_grad_norm": 1.0,
    "num_train_epochs": 1, "logging_steps": 5, "save_steps": 100, "save_total_limit": 2,
    "eval_strategy": "steps", "eval_steps": 20, "report_to": "tensorboard",
    "precompute_ref_log_probs": True,  # once for each pair, and no second model stays in memory
    "gradient_checkpointing": False, "ddp_find_unused_parameters": False,
}  # fmt: skip
# What follows from how rows are made: none is longer than the model was trained for.
FIXED: dict[str, Any] = {
    "max_length": None, "remove_unused_columns": False, "disable_tqdm": True, "prediction_loss_only": True,
}  # fmt: skip
# Of these the trainer would want text, or another loss than of the ids.
REFUSED = ("padding_free", "pad_token", "truncation_mode", "dataset_num_proc", "model_init_kwargs")
COLUMNS = ("prompt_ids", "chosen_ids", "rejected_ids")


class Dpo(TrlRecipe):
    """A recipe of `llasa train dpo`; see `TrlRecipe`. trainer: of TRL's `DPOConfig`.

    pairs: a folder of `llasa evaluate ab`. votes: files, one a voter; the folder's own if empty.
    held_out: share of the texts whose pairs are only measured.
    """

    pairs: str
    votes: list[str] = Field(default=[])
    held_out: float = Field(default=0.1, ge=0, lt=1)


@dataclass(frozen=True)
class Told:
    """What a run is made of. train, held: pairs with a better side. left_out: see `Preferences`.

    clashes: see `pairs.Decided`. rejected: pairs that cannot be used.
    """

    train: int
    held: int
    left_out: dict[str, int]
    clashes: dict[str, int]
    rejected: int


@dataclass(frozen=True)
class Trained:
    """What came of a run. bundle: what speaks; None after a dry run. first: of the processes."""

    bundle: Path | None
    told: Told
    first: bool


def read_recipe(path: str | os.PathLike[str], settings: Sequence[str] = ()) -> Dpo:
    """Return the recipe of a TOML file, with `key=value` settings over it; a dotted key reaches into a table.

    Raises:
        ConfigError: no such file, or a key that is unknown, missing or of a wrong value.
    """
    return config.build(Dpo, config.table(path, settings), f"Reading '{path}'")


def train(
    recipe: Dpo,
    dry_run: bool = False,
    changed_ok: bool = False,
    tell: Callable[[Told], None] = lambda _: None,
) -> Trained:
    """Train a language model on preferences; called again, a stopped run goes on.

    Args:
        dry_run: only make the rows. changed_ok: go on although the recipe or the votes changed.
        tell: gets what the run is made of before training begins, in the first of the processes only.

    Raises:
        ConfigError: the recipe does not fit, no pair has a better side, or the disk is full.
        BundleError: the model is damaged. MissingExtra: TRL or peft is not installed.
        Interrupted: a signal asked to stop; the same call goes on.
    """
    run = _Run(recipe)
    first = run.args.process_index == 0
    if first:
        tell(run.told)
    return Trained(None if dry_run else run.train(changed_ok), run.told, first)


def arguments(recipe: Dpo) -> Any:
    """Return TRL's arguments of a recipe.

    Raises:
        ConfigError: TRL refuses them, or they do not go with rows of ids. MissingExtra: it is not installed.
    """
    try:
        from trl.trainer.dpo_config import DPOConfig
    except ImportError as error:
        raise MissingExtra("Training on preferences", "trl", "train") from error
    own: dict[str, Any] = {}
    if recipe.trainer.get("load_best_model_at_end"):
        own |= {"metric_for_best_model": "eval_held_loss", "greater_is_better": False}
    if not recipe.held_out:
        own["eval_strategy"] = "no"
    return trl_arguments(
        DPOConfig, recipe.trainer, DEFAULTS | own, FIXED, REFUSED, Path(recipe.out), recipe.seed
    )


class _Run:
    """One run: what is learnt from, what is trained, what is written."""

    def __init__(self, recipe: Dpo) -> None:
        self.recipe, self.out = recipe, Path(recipe.out)
        self.args = arguments(recipe)
        self.bundle = load_bundle(recipe.model, codec=recipe.codec)
        self.lm = self.bundle.folder / self.bundle.manifest.lm.path
        self.model = self._loaded()
        self.head = self.model.get_output_embeddings()
        self._read()

    def _loaded(self) -> Any:
        """Return the model to begin with, which can say nothing but speech."""
        model: Any = load_model(self.lm, torch.float32).to(self.args.device)  # pyright: ignore
        speech_only(model, self.bundle.prompt.allowed_token_ids)
        return model

    def _read(self) -> None:
        """Make the rows, and keep beside the run what cannot be used."""
        recipe = self.recipe
        pairs = read_pairs(Path(recipe.pairs))
        files = [Path(file) for file in recipe.votes] or [Path(recipe.pairs) / VOTES]
        decided = decide(pairs, files)
        engine = NativeEngine(self.model, max_length=self.bundle.max_length, concurrency=1)
        try:
            found = preferences(pairs, decided.choices, self.bundle.with_engine(engine))
        finally:
            engine.close()
        self.train_rows, self.held_rows = split(found.rows, recipe.held_out, recipe.seed)
        counts = len(self.train_rows), len(self.held_rows), found.left_out
        self.told = Told(*counts, decided.clashes, len(found.rejects))
        if self.args.process_index == 0:
            self.out.mkdir(parents=True, exist_ok=True)
            odd = [*decided.problems, *found.rejects]
            text = "".join(json.dumps(one.row(), ensure_ascii=False) + "\n" for one in odd)
            replace_file(self.out / "rejects.jsonl", text.encode())
        self._check(found)

    def _check(self, found: Preferences) -> None:
        if not self.train_rows or (self.recipe.held_out and not self.held_rows):
            parts = f"{len(self.train_rows)} to learn from and {len(self.held_rows)} to hold out"
            counts = ", ".join(f"{count} {name}" for name, count in found.left_out.items())
            raise ConfigError(
                f"Reading the votes on '{self.recipe.pairs}': of the pairs with a better side, {parts}; "
                f"left out {counts}; {len(found.rejects)} cannot be used, see rejects.jsonl. Gather "
                "more votes, or set held_out to what leaves some of both."
            )

    def facts(self) -> dict[str, Any]:
        """Return what must not change while a run goes on."""
        rows = json.dumps([asdict(row) for row in (*self.train_rows, *self.held_rows)])
        return {
            "recipe": self.recipe.model_dump(exclude={"out"}),
            "weights": sha256(sorted(self.lm.glob("*.safetensors"))),
            "tokenizer": sha256([self.lm / "tokenizer.json"]),
            "codec": self.bundle.codec_name,
            "pairs": hashlib.sha256(rows.encode()).hexdigest(),
            "processes": self.args.world_size,
        }

    def train(self, changed_ok: bool) -> Path:
        """Train to the end and return the folder of the new bundle."""
        from llasa.train import resume

        start(self.out, self.facts(), changed_ok)
        trainer = self._trainer()
        resume.train(trainer, self.out / "checkpoints")
        lora = self.recipe.lora is not None
        return write_result(trainer, self.bundle, self.out, lora, self.recipe.name, self.recipe.dtype)

    def _trainer(self) -> Any:
        from datasets import disable_progress_bars
        from transformers import AutoTokenizer, PrinterCallback
        from transformers.utils.logging import disable_progress_bar
        from trl.trainer.dpo_trainer import DPOTrainer

        disable_progress_bar()
        disable_progress_bars()  # of ids that TRL makes of empty text
        tokenizer = AutoTokenizer.from_pretrained(self.lm, local_files_only=True, trust_remote_code=False)
        tokenizer.eos_token = SPEECH_END
        samples = self.recipe.samples
        speaker = Speaker(self.bundle, samples, self.out / "samples") if samples else None
        panel = Panel(self.out, _Size(self.train_rows, self.args.per_device_train_batch_size), speaker)
        lora = lora_config(self.recipe.lora)
        # With an adapter the reference is the model without it; with log-probabilities told before, none.
        alone = lora is not None or self.args.precompute_ref_log_probs
        held = {"held": dataset(self.held_rows)} if self.held_rows else None
        try:
            # TRL keeps them in files.
            with shortage.told(f"Making rows for the run in '{self.out}'", self.out):
                trainer = DPOTrainer(
                    self.model, None if alone else self._loaded(), self.args,
                    Batches(self.bundle.prompt.end_id), dataset(self.train_rows), held, tokenizer,
                    callbacks=[panel], peft_config=lora,
                )  # fmt: skip
        except (ValueError, NotImplementedError) as error:  # settings that do not go together
            raise ConfigError(f"Reading [trainer] of the recipe: {error} See TRL's DPOConfig.") from error
        trainer.remove_callback(PrinterCallback)  # the panel shows it
        check_head(trainer.accelerator.unwrap_model(trainer.model), self.head)
        panel.trainer = trainer
        return trainer


class Batches:
    """Rows to a batch of TRL's, from ids that were built here.

    TRL makes ids of the text in its own columns; that text is empty, and what it made of it is replaced.
    """

    def __init__(self, pad_id: int) -> None:
        """Take the id of what is masked out."""
        from trl.trainer.dpo_trainer import DataCollatorForPreference

        self._collate = DataCollatorForPreference(pad_id)

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Return a batch: the preferred sides of all rows, then the others."""
        return self._collate([{**row, **dict(zip(COLUMNS, row["ids"], strict=True))} for row in rows])


def dataset(rows: Sequence[Preference]) -> Any:
    """Return rows as the trainer wants them: empty text, and ids in a column of ours."""
    from datasets import Dataset

    empty = [""] * len(rows)
    ids = [[row.prompt, row.chosen, row.rejected] for row in rows]
    return Dataset.from_dict({"prompt": empty, "chosen": empty, "rejected": empty, "ids": ids})


class _Size:
    """How large batches are, for the panel; which rows one has, the trainer decides."""

    def __init__(self, rows: Sequence[Preference], batch: int) -> None:
        ids = sum(2 * len(row.prompt) + len(row.chosen) + len(row.rejected) for row in rows)
        self._mean = round(ids / len(rows) * min(batch, len(rows)))

    def tokens(self, index: int) -> int:
        """Return the ids of a batch, on average."""
        return self._mean

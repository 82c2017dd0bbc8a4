"""Reinforcement learning of a language model by the judge that search uses: a recipe to a bundle that talks.

TRL's GRPOTrainer does the training, as it is; here is what it is given. Shao et al., DeepSeekMath (GRPO).
"""

import hashlib
import logging
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import Field

from llasa import config
from llasa.begun import start
from llasa.bundle import Bundle, load_bundle
from llasa.engines.native import NativeEngine
from llasa.engines.weights import load_model
from llasa.errors import ConfigError, MissingExtra
from llasa.export.hf import Changes, export_hf
from llasa.judge import JudgeBlock, build_judge
from llasa.prompt import SPEECH_END
from llasa.remote_judge import RemoteBlock, build_remote
from llasa.synthesizer import Synthesizer
from llasa.train import reward
from llasa.train.arguments import TrlRecipe, trl_arguments
from llasa.train.board import Board
from llasa.train.group import own_device
from llasa.train.guards import GuardBlock, Guards
from llasa.train.logprobs import share_prompts
from llasa.train.policy import check_head, lora_config, speech_only
from llasa.train.prompts import Prompts, read_texts
from llasa.train.result import write_result
from llasa.train.rollout import Roller
from llasa.train.scoring import Judging, check_judge
from llasa.train.verdicts import Verdicts
from llasa.weights import sha256

DEFAULTS: dict[str, Any] = {
    "learning_rate": 1e-5, "beta": 0.04, "num_generations": 8,
    "per_device_train_batch_size": 16, "gradient_accumulation_steps": 4,
    "lr_scheduler_type": "constant_with_warmup", "warmup_steps": 0.03, "max_grad_norm": 1.0,
    "logging_steps": 1, "save_steps": 50, "save_total_limit": 2, "report_to": "tensorboard",
    "gradient_checkpointing": False, "ddp_find_unused_parameters": False,
}  # fmt: skip
# What follows from how candidates are drawn; prompts come in an order of ours, which goes on over epochs.
FIXED: dict[str, Any] = {
    "remove_unused_columns": False, "shuffle_dataset": False, "disable_tqdm": True, "eval_strategy": "no",
}  # fmt: skip
# Ways of drawing that the engine here does not know, and what the recipe says itself.
REFUSED = (
    "output_dir",
    "min_p",
    "generation_kwargs",
    "use_transformers_continuous_batching",
    "cache_implementation",
)

_log = logging.getLogger(__name__)


class Grpo(TrlRecipe):
    """A recipe of `llasa train grpo`; see `TrlRecipe`. trainer: of TRL's `GRPOConfig`.

    prompts: a file of one text a line, or a prepared folder. language: of the lines; as for any text if None.
    voices: names, drawn at random; the bundle's default voice if None, prompts without a voice if empty.
    remote: services that run the judge. guard: what stops a run and chooses the weights that are kept; the
    last ones without it. unjudged: share of a step's candidates that may stay without a verdict.
    """

    prompts: str
    language: str | None = None
    voices: list[str] | None = None
    judge: JudgeBlock
    remote: RemoteBlock | None = None
    guard: GuardBlock | None = None
    unjudged: float = Field(default=0.05, ge=0, lt=1)


@dataclass(frozen=True)
class Trained:
    """What came of a run. bundle: what speaks; None after a dry run. prompts: texts. steps: of the whole run.

    first: whether this is the first of the processes.
    """

    bundle: Path | None
    prompts: int
    steps: int
    first: bool


def read_recipe(path: str | os.PathLike[str], settings: Sequence[str] = ()) -> Grpo:
    """Return the recipe of a TOML file, with `key=value` settings over it; a dotted key reaches into a table.

    Raises:
        ConfigError: no such file, or a key that is unknown, missing or of a wrong value.
    """
    return config.build(Grpo, config.table(path, settings), f"Reading '{path}'")


def train(recipe: Grpo, dry_run: bool = False, changed_ok: bool = False) -> Trained:
    """Train a language model by rewards; called again, a stopped run goes on.

    Args:
        dry_run: only make all parts and look at the prompts. changed_ok: go on although the recipe or the
            data changed.

    Raises:
        ConfigError: the recipe does not fit, or prompts cannot be said: names their rows.
        BundleError: the model is damaged. MissingExtra: TRL, peft, or what a scorer needs is not installed.
        ScorerError: too many candidates of a step got no verdict; all is saved, the same call goes on.
        Interrupted: a signal asked to stop; the same call goes on.
    """
    run = _Run(recipe)
    try:
        bundle = None if dry_run else run.train(changed_ok)
    finally:
        run.engine.close()
    return Trained(bundle, len(run.prompts.texts), run.args.max_steps, run.args.process_index == 0)


def arguments(recipe: Grpo, bundle: Bundle) -> Any:
    """Return TRL's arguments of a recipe.

    Raises:
        ConfigError: TRL refuses them, or candidates are not drawn that way here.
        MissingExtra: TRL is not installed.
    """
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # of `rollout_func`, whose contract is tested
    try:
        from trl.trainer.grpo_config import GRPOConfig
    except ImportError as error:
        raise MissingExtra("Training by rewards", "trl", "train") from error
    defaults = DEFAULTS | {"max_completion_length": bundle.max_length}
    fixed = FIXED | (_vllm(bundle) if recipe.trainer.get("use_vllm") else {})
    return trl_arguments(GRPOConfig, recipe.trainer, defaults, fixed, REFUSED, Path(recipe.out), recipe.seed)


def _vllm(bundle: Bundle) -> dict[str, Any]:
    """Return what lets vLLM draw what the engine could: codes, until the end marker."""
    allowed, end = bundle.prompt.allowed_token_ids, bundle.prompt.end_id
    return {"generation_kwargs": {"allowed_token_ids": list(allowed), "stop_token_ids": [end]}}


class _Run:
    """One run: what draws, what judges, what is learnt, what is written."""

    def __init__(self, recipe: Grpo) -> None:
        self.recipe, self.out = recipe, Path(recipe.out)
        bundle = load_bundle(recipe.model, own_device(), codec=recipe.codec)
        self.args, self.prompt = arguments(recipe, bundle), bundle.prompt
        self.lm = bundle.folder / bundle.manifest.lm.path
        self.model: Any = load_model(self.lm, torch.float32).to(self.args.device)  # pyright: ignore
        self.head = self.model.get_output_embeddings()
        speech_only(self.model, self.prompt.allowed_token_ids)
        self.model.generation_config.eos_token_id = self.prompt.end_id  # what tells TRL an ended completion
        together = self.args.generation_batch_size // self.args.world_size
        self.engine = NativeEngine(
            self.model, max_length=bundle.max_length, concurrency=together, name="policy"
        )
        self.bundle = bundle.with_engine(self.engine)
        try:
            self._prepare()
        except BaseException:
            self.engine.close()
            raise

    def _prepare(self) -> None:
        """Make judge and prompts, and see that all of them can be used."""
        recipe, args = self.recipe, self.args
        self._warn()
        sampling = {
            "temperature": float(args.temperature), "top_p": float(args.top_p), "top_k": max(0, args.top_k),
            "repetition_penalty": float(args.repetition_penalty), "loop_guard": False, "logprobs": False,
        }  # fmt: skip
        texts = read_texts(Path(recipe.prompts), recipe.language)
        self.prompts = Prompts(self.bundle, texts, recipe.voices, sampling)
        self.order = self.prompts.order(self._count(), recipe.seed)
        # Those of a prepared folder have been looked at before, and there may be a million.
        self.prompts.check(None if Path(recipe.prompts).is_file() else self.order)
        self.judge = self._judge()
        check_judge(self.judge, self.prompts.job(self.order[0]).utterance, self.bundle.codec)
        self.roller = Roller(
            self.engine, self.prompt.codes, self.prompt.end_id, self.judge, self.prompts.job, recipe.seed
        )
        # Before anything is written: a recipe that is refused here can be corrected and begun again.
        self.lora, block = lora_config(recipe.lora), recipe.guard
        self.guards = Guards(block, self.out, self.speak, self.judge) if block else None

    def _warn(self) -> None:
        """Tell of settings that may be meant, and are not what they seem."""
        args = self.args
        if args.top_p < 1 or args.top_k > 0 or args.repetition_penalty != 1:
            _log.warning(
                "Ids are drawn by other probabilities than are learnt (top_p, top_k, repetition_penalty)."
            )
        if args.gradient_accumulation_steps % (args.steps_per_generation * args.num_iterations):
            _log.warning(
                "Candidates serve several steps (steps_per_generation, num_iterations): a stopped run that "
                "goes on between two drawings draws anew, and ends a little different from a whole one."
            )

    def _judge(self) -> Judging:
        if self.recipe.remote is None:
            return build_judge(self.recipe.judge, self.bundle.parts)
        judge = build_remote(self.recipe.remote)
        judge.check(self.recipe.judge, self.bundle.codec_name)
        return judge

    def speak(self) -> Synthesizer:
        """Return what speaks with the weights as they are now, while nothing is in flight."""
        self.engine.forget()  # fused optimizers leave no trace in weights that they change
        return Synthesizer(self.bundle)

    def _count(self) -> int:
        """Return how many prompts the whole run takes, and settle how many steps it has."""
        args = self.args
        a_time = args.generation_batch_size // args.num_generations
        steps = args.steps_per_generation * args.num_iterations / args.gradient_accumulation_steps
        if args.max_steps <= 0:
            found = math.ceil(len(self.prompts.texts) / a_time * args.num_train_epochs)
            args.max_steps = max(1, math.ceil(found * steps))
        return math.ceil(args.max_steps / steps) * a_time

    def facts(self) -> dict[str, Any]:
        """Return what must not change while a run goes on."""
        return {
            "recipe": self.recipe.model_dump(exclude={"out"}),
            "weights": sha256(sorted(self.lm.glob("*.safetensors"))),
            "tokenizer": sha256([self.lm / "tokenizer.json"]),
            "codec": self.bundle.codec_name,
            "prompts": hashlib.sha256("\n".join(self.order).encode()).hexdigest(),
            "processes": self.args.world_size,
        }

    def train(self, changed_ok: bool) -> Path:
        """Train to the end and return the folder of the new bundle."""
        from llasa.train import resume

        start(self.out, self.facts(), changed_ok)
        trainer = self._trainer()
        try:
            resume.train(trainer, self.out / "checkpoints")
        finally:
            self.board.close()
        return self._write(trainer)

    def _trainer(self) -> Any:
        from datasets import Dataset
        from transformers import AutoTokenizer, PrinterCallback
        from trl.trainer.grpo_trainer import GRPOTrainer

        tokenizer = AutoTokenizer.from_pretrained(self.lm, local_files_only=True, trust_remote_code=False)
        tokenizer.eos_token = SPEECH_END  # what ends a completion
        self.board = board = Board(self.out, self.roller, self.speak, self.recipe.samples)
        verdicts = Verdicts(self.roller, self.recipe.unjudged, self.out)
        # The board first: neither the panel's seconds nor an error of the others are part of its step.
        callbacks = [board, verdicts, *([self.guards] if self.guards else [])]
        try:
            trainer = GRPOTrainer(
                self.model, reward.judge, self.args, Dataset.from_dict({"prompt": self.order}),
                processing_class=tokenizer, callbacks=callbacks, peft_config=self.lora,
                rollout_func=self.roller,
            )  # fmt: skip
        except (ValueError, NotImplementedError, ImportError, ConnectionError) as error:
            raise ConfigError(f"Setting up TRL's trainer: {error} Change [trainer] or [lora].") from error
        trainer.remove_callback(PrinterCallback)  # the board shows it
        check_head(trainer.accelerator.unwrap_model(trainer.model), self.head)
        bonus = self.args.use_adaptive_entropy or self.args.entropy_coef != 0
        share_prompts(self.model, self.args.temperature, entropy_grad=bonus)
        if trainer.ref_model is not None:
            reference = trainer.accelerator.unwrap_model(trainer.ref_model)
            speech_only(reference, self.prompt.allowed_token_ids)
            share_prompts(reference, self.args.temperature)
        board.trainer = verdicts.trainer = trainer
        return trainer

    def _write(self, trainer: Any) -> Path:
        """Write the weights that the guards chose, or the last ones, and the bundle that speaks with them."""
        # Without guards a state may still tell what those chose that a recipe has lost since.
        recipe, best = self.recipe, trainer.state.best_model_checkpoint if self.guards else None
        if self.guards is not None and self.guards.chosen == 0:
            _log.warning("The panel found nothing better than the start: the bundle speaks as it did.")
            if self.args.process_index == 0:
                export_hf(self.bundle, self.out / "bundle", Changes(name=recipe.name), force=True)
            return self.out / "bundle"
        lora = recipe.lora is not None
        return write_result(trainer, self.bundle, self.out, lora, recipe.name, recipe.dtype, best)

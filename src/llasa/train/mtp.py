"""Training of draft modules (Llasa+): the model stays as it is, and they learn to guess what it will say.

The same call goes on where a stopped run stands. `OUT/bundle` is the result, a bundle with the drafts beside
its language model, `OUT/drafts` they alone; `OUT/state` holds the states, `OUT/report.json` how many guesses
would be accepted on held-out rows, `OUT/rejects.jsonl` the rows of no use.

Source: Tian et al., *Llasa+*, arXiv 2508.06262, and ASLP-lab/LLaSA_Plus: a frozen model, the sum of the
modules' cross-entropies.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, Field
from torch import Tensor, nn

from llasa import begun as runs
from llasa import config, shortage
from llasa.audio import replace_file
from llasa.bundle import Bundle, load_bundle
from llasa.core import SamplingParams
from llasa.data.index import Split
from llasa.data.shards import Shards
from llasa.device import chosen_device, fastest_dtype
from llasa.engines.drawing import Settings, shares
from llasa.engines.head import Head
from llasa.engines.mtp import Drafts, check_trunk, read_drafts, write_drafts
from llasa.engines.weights import load_model
from llasa.errors import InputError
from llasa.export.hf import Changes, export_hf
from llasa.prompt import IGNORED
from llasa.train.codec.crops import write_rejects
from llasa.train.group import average_gradients, join_group, own_device, processes, rank
from llasa.train.loop import Plan, fit, rate_at
from llasa.train.loss import label_loss
from llasa.train.rows import Batches, Corpus, Rows, RowsBlock, Share
from llasa.train.sft import batched, held_out
from llasa.weights import sha256

SAVE_EVERY_S = 60.0
MEASURED = 256  # positions whose distributions are compared at once


class Mtp(BaseModel):
    """A recipe of `llasa train mtp`.

    model: what they guess for: a bundle, a folder or Hub id. codec: of a model in the published layout.
    data: prepared folders, as for `llasa train sft`. modules: how many, one id each. drafts: what they begin
    with, a folder or a file of the published layout, in place of new ones. learning_rate: its peak.
    """

    model_config = config.STRICT
    model: str = "starter"
    codec: str | None = None
    data: str | list[str] | dict[str, Share]
    out: str
    modules: int = Field(default=2, ge=1, le=8)
    drafts: str | None = None
    steps: int = Field(ge=1)
    learning_rate: float = Field(default=1e-4, gt=0, allow_inf_nan=False)
    warmup: int = Field(default=200, ge=1)
    rows: RowsBlock = RowsBlock()
    validate_every: int = Field(default=250, ge=1)
    skip_bad: bool = False
    seed: int = 0
    device: str | None = None

    def folders(self) -> dict[str, float]:
        """Return the prepared folders with their weights."""
        if isinstance(self.data, dict):
            return self.data
        return dict.fromkeys([self.data] if isinstance(self.data, str) else self.data, 1.0)


def read_recipe(path: Path, settings: Sequence[str] = ()) -> Mtp:
    """Return the recipe of a TOML file, with `key=value` settings over it; a dotted key reaches into a table.

    Raises:
        ConfigError: no such file, or a key that is unknown, missing or of a wrong value.
    """
    return config.build(Mtp, config.table(path, settings), f"Reading '{path}'")


class MtpTask:
    """Trains drafts of a frozen model; see `loop.Task`.

    held: unseen batches. sampling: how their acceptance is measured. tokens: ids a step, on this process.
    """

    def __init__(
        self, model: Any, drafts: Drafts, batches: Batches, held: Sequence[Mapping[str, Tensor]],
        sampling: SamplingParams, *, steps: int, learning_rate: float = 1e-4, warmup: int = 200,
    ) -> None:  # fmt: skip
        self.model, self.drafts = model.eval().requires_grad_(False), drafts
        self.batches, self.held, self.sampling, self.steps = batches, held, sampling, steps
        self.learning_rate, self.warmup = learning_rate, warmup
        self.modules: dict[str, nn.Module] = {"drafts": drafts}
        adamw = torch.optim.AdamW(drafts.parameters(), learning_rate, (0.9, 0.98), weight_decay=0.01)
        self.optimizers: dict[str, torch.optim.Optimizer] = {"adamw": adamw}

    def step(self, index: int) -> Mapping[str, float]:
        """See `Task`."""
        optimizer = self.optimizers["adamw"]
        for group in optimizer.param_groups:
            group["lr"] = self.learning_rate * rate_at(index, self.steps, self.warmup)
        place = index * processes() + rank()
        losses = self._losses(self.batches[place])[1]
        optimizer.zero_grad(set_to_none=True)
        torch.stack(losses).sum().backward()
        average_gradients(self.drafts.parameters())
        nn.utils.clip_grad_norm_(self.drafts.parameters(), 1.0)
        optimizer.step()
        told = {f"loss_{number}": loss.item() for number, loss in enumerate(losses, 1)}
        return told | {"tokens": float(self.batches.tokens(place))}

    def _losses(self, batch: Mapping[str, Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Return what the head reads of the model and of each module, [B, S, D], and the modules' losses."""
        ids, labels = (batch[key].to(self.model.device) for key in ("input_ids", "labels"))
        with torch.autocast(ids.device.type, torch.bfloat16, enabled=self.model.dtype == torch.bfloat16):
            with torch.no_grad():
                hidden = self.model.model(input_ids=ids, use_cache=False).last_hidden_state
            guessed = self.drafts(hidden, self.model.model.rotary_emb)
            head = self.model.get_output_embeddings()
            losses = [
                label_loss(one[:, : ids.shape[1] - ahead], labels[:, ahead:], head)
                for ahead, one in enumerate(guessed, 1)
            ]
        return [hidden, *guessed], losses

    @torch.no_grad()
    def validate(self) -> Mapping[str, float]:
        """Return losses on held-out rows, and the share of guesses that exact verification would accept.

        A guess is held against what the model says of the same place, given what was really said before it.
        """
        sums, counts = dict[str, float](), dict[str, int]()
        for batch in self.held:
            states, losses = self._losses(batch)
            labels = batch["labels"].to(states[0].device)
            for number, loss in enumerate(losses, 1):
                accepted = self._accepted(states, labels, number)
                found = {f"held_loss_{number}": loss, f"held_accepted_{number}": accepted.mean()}
                for name, value in found.items():
                    sums[name] = sums.get(name, 0.0) + float(value) * len(accepted)
                    counts[name] = counts.get(name, 0) + len(accepted)
        return {name: value / counts[name] for name, value in sums.items()}

    def _accepted(self, states: Sequence[Tensor], labels: Tensor, number: int) -> Tensor:
        """Return how likely the guesses of a module are to be accepted, one for each learnt place."""
        # What is guessed `number` + 1 ids ahead, the model says `number` places later, one id ahead.
        places = labels[:, number + 1 :] != IGNORED
        true = states[0][:, number:-1][places]
        guessed = states[number][:, : -number - 1][places]
        head = Head(
            self.model.get_output_embeddings(), sorted(self.sampling.allowed_token_ids or ()),
            self.model.config.vocab_size, true.device,
        )  # fmt: skip
        pairs = zip(true.split(MEASURED), guessed.split(MEASURED), strict=True)
        return torch.cat([self._overlap(head(one), head(other)) for one, other in pairs])

    def _overlap(self, true: Tensor, guessed: Tensor) -> Tensor:
        settings = Settings.of([self.sampling] * len(true), true.device)
        return torch.minimum(shares(true, settings), shares(guessed, settings)).sum(-1)


def train(recipe: Mtp, changed_ok: bool = False) -> Mapping[str, float] | None:
    """Train, write the bundle with its drafts and return what `MtpTask.validate` measures.

    changed_ok: go on although the recipe or its data are not what the run began with.

    Returns:
        None in the processes beside the first.

    Raises:
        ConfigError: the recipe does not fit. InputError: nothing is held out to measure on.
        BundleError: a model, codec, shard or draft is damaged, or they do not fit each other.
        Interrupted: a signal asked to stop; the same call goes on.
    """
    join_group()
    out, bundle = Path(recipe.out), load_bundle(recipe.model, codec=recipe.codec)
    lm = bundle.folder / bundle.manifest.lm.path
    device = chosen_device(recipe.device or own_device())
    model: Any = load_model(lm, fastest_dtype(device)).to(device)  # pyright: ignore[reportArgumentType]
    check_trunk(model.model, "Training drafts")
    rows, unseen = _rows(recipe, bundle, "train"), _rows(recipe, bundle, "heldout")
    held = _held(recipe, unseen)
    facts = {
        "recipe": recipe.model_dump(exclude={"out", "device"}),
        "data": [source.digest for source in rows.corpus.sources if isinstance(source, Shards)],
        "model": sha256(sorted(lm.glob("*.safetensors"))),
    }
    runs.start(out, facts, changed_ok)
    if not rank():
        write_rejects(out / "rejects.jsonl", [*rows.rejects, *unseen.rejects])
    torch.manual_seed(recipe.seed)
    begin = Path(recipe.drafts) if recipe.drafts else None
    drafts = read_drafts(begin, model) if begin else Drafts.fresh(model.model, recipe.modules)
    drafts = drafts.float().requires_grad_(True)  # steps of bfloat16 would be lost in rounding
    batches = Batches(rows, rows.order(recipe.seed), recipe.steps * processes())
    task = MtpTask(
        model, drafts, batches, held, _sampling(bundle), steps=recipe.steps,
        learning_rate=recipe.learning_rate, warmup=recipe.warmup,
    )  # fmt: skip
    fit(task, out / "state", Plan(recipe.steps, recipe.seed, recipe.validate_every, SAVE_EVERY_S))
    return None if rank() else _finish(recipe, task, bundle)


def _rows(recipe: Mtp, bundle: Bundle, split: Split) -> Rows:
    weights = recipe.folders()
    sources = [
        (Shards(Path(folder), split, codec=bundle.codec_name, skip_bad=recipe.skip_bad), weight)
        for folder, weight in weights.items()
    ]
    block = recipe.rows.model_copy(update={"learn_prompt": False}) if split == "heldout" else recipe.rows

    def form(text: str, language: str) -> str:
        return bundle.form(text, language).text

    return Rows(Corpus(sources, block), bundle.prompt, form, block, bundle.max_length)


def _sampling(bundle: Bundle) -> SamplingParams:
    """Return how the bundle draws unless told otherwise, as far as one place can tell."""
    own = bundle.sampling
    params = SamplingParams(temperature=own.temperature, top_p=own.top_p, top_k=own.top_k)
    return bundle.prompt.constrain(params)


def _held(recipe: Mtp, rows: Rows) -> list[dict[str, Tensor]]:
    """Return unseen rows after a voice of their speaker, and after another speaker's."""
    examples = [one for other in (False, True) for one in held_out(rows, other)]
    if not examples:
        found = f"{len(rows.corpus)} held-out rows, none of a speaker with another row"
        raise InputError(
            f"Training drafts on '{', '.join(recipe.folders())}': found {found}. Hold out more: "
            "llasa prepare --held-out."
        )
    return batched(examples, rows)


def _finish(recipe: Mtp, task: MtpTask, bundle: Bundle) -> Mapping[str, float]:
    """Write the drafts, how well they guess, and the bundle that has them."""
    out, measures = Path(recipe.out), dict(task.validate())
    shutil.rmtree(out / "drafts", ignore_errors=True)
    lm = load_model(bundle.folder / bundle.manifest.lm.path, "auto")
    size = sum(p.nbytes for model in (lm, task.drafts) for p in model.parameters())
    with shortage.told(f"Writing the bundle in '{out}'", out / "drafts", size):
        write_drafts(task.drafts.to(lm.dtype), out / "drafts")
        replace_file(out / "report.json", json.dumps(measures, indent=1).encode() + b"\n")
        export_hf(bundle, out / "bundle", Changes(drafts=out / "drafts"), force=True)
    return measures

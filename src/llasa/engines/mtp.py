"""Draft modules (Llasa+): guesses of the ids after the next one, from the pass that the next one is drawn of.

A module reads what the head reads, or what the module before it made, through an RMSNorm, a linear layer and
a Llama layer with a past of its own; the head is the model's. None of them reads the id that was drawn, so
all of them belong to the model's own pass. Weights have the names of the published checkpoint.
Knows no sampling, requests or threads.

Shapes: B rows, S ids of each, D width.

Source: Tian et al., *Llasa+*, arXiv 2508.06262, and ASLP-lab/LLaSA_Plus. Modules begin here as what the head
reads now (see `Drafts.fresh`), there from random numbers.
"""

import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.cache_utils import Cache

from llasa.engines.lean import Layer, Turn, is_llama, linear_of, norm_of, normed
from llasa.errors import BundleError
from llasa.weights import not_finite

_FILE = "model.safetensors"
_MODULE = re.compile(r"mtp_([1-9]\d?)_")
_BACKBONE = "llm."  # the published file holds the frozen model, too


class Drafts(nn.Module):
    """The modules, chained. count: how many; the first guesses the id after the next one."""

    def __init__(self, config: Any, count: int) -> None:
        """Make untrained modules for a Llama of this config."""
        from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRMSNorm

        super().__init__()
        self.count, width = count, config.hidden_size
        for number in range(count):
            layer = config.num_hidden_layers + number
            self.add_module(f"mtp_{number + 1}_block", LlamaDecoderLayer(config, layer))
            self.add_module(f"mtp_{number + 1}_proj", nn.Linear(width, width))
            norm = LlamaRMSNorm(width, config.rms_norm_eps)
            self.add_module(f"mtp_{number + 1}_local_RMSNorm", norm)

    @classmethod
    def fresh(cls, trunk: Any, count: int) -> "Drafts":
        """Return modules that at first hand on what they read: what heads know, they begin with."""
        made = cls(trunk.config, count).to(trunk.device)
        for norm, linear, block in made.parts():
            nn.init.constant_(norm.weight, trunk.norm.weight.detach().float().square().mean().sqrt().item())
            nn.init.eye_(linear.weight)
            for last in (block.self_attn.o_proj, block.mlp.down_proj):
                nn.init.zeros_(last.weight)
            for bias in (linear.bias, block.self_attn.o_proj.bias, block.mlp.down_proj.bias):
                if bias is not None:
                    nn.init.zeros_(bias)
        return made

    def parts(self) -> list[tuple[Any, Any, Any]]:
        """Return norm, linear layer and Llama layer of each module."""
        names = ("local_RMSNorm", "proj", "block")
        rows = [[getattr(self, f"mtp_{i + 1}_{name}") for name in names] for i in range(self.count)]
        return [(norm, linear, block) for norm, linear, block in rows]

    def forward(self, hidden: Tensor, rotary: Any) -> list[Tensor]:
        """Return what the head reads of each module, from what it reads of the model, [B, S, D]."""
        positions = torch.arange(hidden.shape[1], device=hidden.device)[None]
        turn, made = rotary(hidden, positions), list[Tensor]()
        for norm, linear, block in self.parts():
            hidden = block(linear(norm(hidden)), position_embeddings=turn)
            made.append(hidden)
        return made


class Guesser:
    """The modules beside the live rows of a trunk, with the parameters that they have when this is made.

    count: of modules.
    """

    def __init__(self, drafts: Drafts, trunk: Any) -> None:
        self.count, self._rotary = drafts.count, trunk.rotary_emb
        first = trunk.config.num_hidden_layers
        self._modules = [
            (norm_of(norm), linear_of(linear), Layer.of(first + number, block))
            for number, (norm, linear, block) in enumerate(drafts.parts())
        ]

    def __call__(self, x: Tensor, positions: Tensor, seen: Tensor | None, cache: Cache) -> list[Tensor]:
        """Return what the head reads of each module, [B * S, D], and let the cache hold their pasts.

        Args:
            x: what it reads of the trunk, [B * S, D]. positions: [B, S]. seen: which columns ids see,
                [B, 1, S, C]; None for all.
        """
        turn, made = Turn.of(self._rotary, x, positions), list[Tensor]()
        for norm, linear, layer in self._modules:
            x = layer(linear(normed(x, norm)), turn, seen, cache)
            made.append(x)
        return made


def write_drafts(drafts: Drafts, folder: Path) -> None:
    """Write them as a folder for `read_drafts`; it is made."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: weight.detach().cpu().contiguous() for name, weight in drafts.state_dict().items()}
    save_file(weights, folder / _FILE)
    width = weights["mtp_1_proj.weight"].shape[0]
    facts = {"modules": drafts.count, "hidden_size": width}
    (folder / "config.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def read_drafts(place: Path, model: Any) -> Drafts:
    """Return the drafts of a model, where it is and in its dtype.

    Args:
        place: a folder of `write_drafts`, or a file of the published layout, whose backbone is not read.
        model: a Llama of transformers.

    Raises:
        BundleError: there are none, they are damaged, or they do not fit the model.
    """
    doing = f"Loading the drafts in '{place}'"
    check_trunk(getattr(model, "model", model), doing)
    weights = _weights(place if place.suffix == ".safetensors" else place / _FILE, doing)
    numbers = {int(found[1]) for name in weights if (found := _MODULE.match(name))}
    with torch.device("meta"):
        drafts = Drafts(model.config, max(numbers, default=1))
    _check(drafts, weights, doing)
    drafts.load_state_dict(weights, assign=True)
    if odd := not_finite(drafts):
        raise BundleError(f"{doing}: {len(odd)} weights are not finite, first {odd[0]}. Fetch them again.")
    return drafts.to(device=model.device, dtype=model.dtype).eval().requires_grad_(False)


def check_trunk(trunk: Any, doing: str) -> None:
    """Refuse a model that draft modules cannot follow; BundleError."""
    if not is_llama(trunk):
        found = f"found a model of {type(trunk).__name__}"
        raise BundleError(f"{doing}: {found}. Drafts are layers of a Llama: use a Llama, or no drafts.")


def _weights(file: Path, doing: str) -> dict[str, Tensor]:
    if not file.is_file():
        todo = "Train them: llasa train mtp recipes/mtp/starter.toml"
        raise BundleError(f"{doing}: there is no file {file.name}. {todo}.")
    try:
        weights = load_file(file)
    except (OSError, SafetensorError) as error:
        raise BundleError(f"{doing}: {error}. Fetch them again.") from error
    return {name: weight for name, weight in weights.items() if not name.startswith(_BACKBONE)}


def _check(drafts: Drafts, weights: dict[str, Tensor], doing: str) -> None:
    expected = {name: weight.shape for name, weight in drafts.state_dict().items()}
    found = {name: weight.shape for name, weight in weights.items()}
    wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    if wrong:
        told = [list(shapes[wrong[0]]) if wrong[0] in shapes else "none" for shapes in (expected, found)]
        what = f"{len(wrong)} weights do not fit, first {wrong[0]}: expected {told[0]}, found {told[1]}"
        raise BundleError(f"{doing}: {what}. Use drafts that were trained with this model.")

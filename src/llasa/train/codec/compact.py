"""The task of one stage of the compact codec: which parts learn, from which losses.

A linear head on the decoder's trunk names the phone of each half code while training: codes then carry what
was said before how it sounded (the idea of X-Codec's semantic branch, arXiv 2408.17175).

Shapes as in codec/compact_network.py.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llasa.codec.compact import PARTS, CompactCodec, write
from llasa.codec.compact_network import CompactConfig, CompactModel, Decoder
from llasa.config import unknown
from llasa.device import fastest_dtype
from llasa.errors import ConfigError
from llasa.train.codec.critics import Patches, WaveCritics
from llasa.train.codec.crops import UNKNOWN, Crops, Shape
from llasa.train.codec.losses import mel_loss, multi_mel_loss, spectral_loss
from llasa.train.codec.recipe import CompactRecipe, Critics, Stage
from llasa.train.codec.steps import Adversary, copied, entropy_bits, total, update

HELD_BATCHES = 4
_PATCH_RATE = 4e-4
_OF_VOCODER = {"sample_rate", "n_mels", "n_fft", "mel_hop", "mel_floor"} | {
    field.name for field in fields(CompactConfig) if field.name.startswith("vocoder_")
}


def labels_per_code(config: CompactConfig) -> int:
    """Return how many phone labels a code has: one for two mel frames."""
    return max(1, config.frames_per_code // 2)


def shape_of(stage: Stage, config: CompactConfig) -> Shape:
    """Return the shape of a stage's batches: whole codes, one at least."""
    codes = max(1, round(stage.crop_s * config.sample_rate / config.hop_length))
    hop = config.hop_length // labels_per_code(config)
    return Shape(stage.batch, codes * config.hop_length, config.sample_rate, hop)


@dataclass(frozen=True)
class Parts:
    """What goes from stage to stage: the network, and the head that names phones.

    teacher: the decoder that a streaming one is made from; it does not learn.
    """

    model: CompactModel
    head: nn.Linear
    teacher: Decoder | None = None

    @classmethod
    def of(cls, model: CompactModel, phones: int, teacher: Decoder | None = None) -> "Parts":
        """Return a network with a new head for so many phones."""
        config, count = model.config, labels_per_code(model.config) * max(1, phones)
        return cls(model, nn.Linear(config.decoder_widths[0], count), teacher)


class CompactTask:
    """A `Task`: one stage; see the module's docstring and `recipe.Stage`."""

    def __init__(
        self, stage: Stage, parts: Parts, train: Crops, held: Crops, critics: Critics, device: torch.device
    ) -> None:
        self.stage, self.train, self.held, self.device = stage, train, held, device
        self.model, self.head = parts.model.to(device), parts.head.to(device)
        self.teacher = parts.teacher.to(device) if parts.teacher and stage.losses.teacher else None
        self.dtype = fastest_dtype(device)
        learning = [self.model.get_submodule(name) for name in stage.train]
        self.parameters = [
            p for part in (*learning, *([self.head] if stage.losses.phone else [])) for p in part.parameters()
        ]
        self.modules: dict[str, nn.Module] = {"codec": self.model, "phone-head": self.head}
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            "adamw": torch.optim.AdamW(
                self.parameters, stage.learning_rate, betas=stage.betas, weight_decay=stage.weight_decay,
                fused=True,
            )
        }  # fmt: skip
        self.patches = self._adversary("critic", Patches(), _PATCH_RATE) if stage.losses.patch else None
        wanted = stage.losses.adversarial
        self.critics = (
            self._adversary("critics", WaveCritics(critics), critics.learning_rate) if wanted else None
        )
        self._freeze()

    def _adversary(self, name: str, net: nn.Module, rate: float) -> Adversary:
        made = Adversary(net.to(self.device), rate, self.stage.clip)
        self.modules[name], self.optimizers[name] = net, made.optimizer
        return made

    def _freeze(self) -> None:
        """Only what learns needs gradients; what they pass through does not need its own."""
        for name in ("encoder", "decoder", "vocoder"):
            self.model.get_submodule(name).requires_grad_(name in self.stage.train)

    def step(self, index: int) -> dict[str, float]:
        """See `Task`."""
        self.model.train()
        # A frozen encoder keeps its whitening statistics: the codes must not move.
        self.model.encoder.train("encoder" in self.stage.train)
        for group in self.optimizers["adamw"].param_groups:
            group["lr"] = self.stage.rate_at(index)
        loss, measures = self._loss(self.train.batch(index))
        update(self.optimizers["adamw"], loss, self.parameters, self.stage.clip)
        return measures

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """See `Task`."""
        self.model.eval()
        rows = [self._loss(self.held.one(n))[1] for n in range(HELD_BATCHES)]
        return {f"held_{name}": float(np.mean([row[name] for row in rows])) for name in rows[0]}

    def _loss(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, dict[str, float]]:
        samples, labels = (part.to(self.device) for part in batch)
        with torch.no_grad():
            mel = self.model.log_mel(samples)
        parts: dict[str, Tensor] = {}
        measures: dict[str, float] = {}
        enabled = self.dtype != torch.float32
        with torch.autocast(self.device.type, self.dtype, enabled=enabled):
            heard = mel
            if self.stage.hears == "codes":
                heard = self._decoded(mel, labels, parts, measures)
            if self.stage.losses.on_wave:
                wave = self.model.vocoder(heard, torch.ones_like(mel[:, :1]))
                self._judge_wave(wave.float(), samples, parts, measures)
        loss = total(parts, self.stage.losses.model_dump())
        return loss, {name: part.item() for name, part in parts.items()} | measures

    def _decoded(
        self, mel: Tensor, labels: Tensor, parts: dict[str, Tensor], measures: dict[str, float]
    ) -> Tensor:
        """Return the log-mel that the decoder makes of the codes, and add what is wrong with it."""
        config, frames = self.model.config, torch.ones_like(mel[:, :1])
        with torch.set_grad_enabled("encoder" in self.stage.train and torch.is_grad_enabled()):
            points, codes = self.model.quantizer(self.model.encoder(mel, frames))
        predicted, features = self.model.decoder(points, frames[..., :: config.frames_per_code])
        predicted = predicted.float()
        measures["mel_l1"] = (predicted - mel).abs().mean().item()
        measures["bits"] = entropy_bits(codes)
        if self.stage.losses.mel:
            parts["mel"] = mel_loss(predicted, mel)
        if self.teacher:
            with torch.no_grad():
                taught = self.teacher(points, None)[0].float()
            parts["teacher"] = mel_loss(predicted, taught)
        if self.stage.losses.phone:
            parts["phone"] = self._phone_loss(features, labels)
        if self.patches:
            unconvinced, off, measures["patch_apart"] = self.patches.judge(mel, predicted)
            parts["patch"] = unconvinced + 6 * off
        return predicted

    def _phone_loss(self, features: Tensor, labels: Tensor) -> Tensor:
        said = self.head(features.transpose(1, 2)).float()
        said = said.reshape(len(said), labels.shape[1], -1)
        # A batch of speech without phones has no labels; a mean over nothing would be NaN.
        missed = F.cross_entropy(said.flatten(0, 1), labels.flatten(), reduction="sum", ignore_index=UNKNOWN)
        return missed / (labels >= 0).sum().clamp(min=1)

    def _judge_wave(
        self, wave: Tensor, samples: Tensor, parts: dict[str, Tensor], measures: dict[str, float]
    ) -> None:
        """Add what is wrong with the wave."""
        losses = self.stage.losses
        with torch.autocast(self.device.type, enabled=False):
            if losses.spectral:
                parts["spectral"] = spectral_loss(wave, samples)
            if losses.multi_mel:
                parts["multi_mel"] = multi_mel_loss(wave, samples, self.model.config.sample_rate)
        if self.critics:
            parts["adversarial"], off, measures["apart"] = self.critics.judge(samples, wave)
            if losses.features:
                parts["features"] = off


class CompactTrainee:
    """The compact codec of a recipe, or its streaming decoder, as it is at this point of its training."""

    def __init__(self, recipe: CompactRecipe, phones: Sequence[str], device: torch.device) -> None:
        """Make the network, with a trained vocoder if one is named, or take over the one of `init`.

        Raises:
            ConfigError: sizes that no network has, or that see less far than `ahead`. BundleError: `init` is
                no compact codec.
        """
        self.recipe, self.device = recipe, device
        codec = CompactCodec.load(recipe.init) if recipe.init else None
        model = codec.model if codec else _new_model(recipe)
        teacher = None
        if codec and recipe.ahead:
            model, teacher = _causal(codec, recipe.ahead), codec.model.decoder.requires_grad_(False)
        self.parts = Parts.of(model, len(phones), teacher)

    def shape(self, stage: Stage) -> Shape:
        """See `Trainee`."""
        return shape_of(stage, self.parts.model.config)

    def task(self, stage: Stage, train: Crops, held: Crops) -> CompactTask:
        """See `Trainee`."""
        return CompactTask(stage, self.parts, train, held, self.recipe.critics, self.device)

    def codec(self) -> CompactCodec:
        """See `Trainee`."""
        return CompactCodec(copy.deepcopy(self.parts.model).cpu(), "compact@training")

    def save(self, folder: Path) -> CompactCodec:
        """See `Trainee`. A streaming decoder is written into a copy of the codec that it decodes for."""
        if not self.recipe.ahead:
            self.codec().save(folder)
            return CompactCodec.load(folder)
        assert self.recipe.init  # the recipe was checked
        write(self.codec().model, copied(self.recipe.init, folder), PARTS[1:])
        causal = CompactCodec.load(folder).causal
        assert causal is not None  # just written
        return causal


def _causal(codec: CompactCodec, ahead: tuple[int, int]) -> CompactModel:
    """Return the streaming decoder that is there, to be trained further, or one made of the codec's own."""
    there = codec.causal
    if there is not None and there.model.config.ahead == ahead:
        return there.model
    try:
        return codec.model.causal(ahead)
    except ValueError as error:
        todo = "Give fewer codes for the decoder, or mel frames for the vocoder"
        raise ConfigError(f"Making a streaming decoder: found {error}. {todo}.") from error


def _new_model(recipe: CompactRecipe) -> CompactModel:
    model = _fresh(recipe)
    if recipe.vocoder:
        _take_vocoder(model, recipe.vocoder)
    return model


def _take_vocoder(model: CompactModel, folder: str) -> None:
    """A vocoder knows log-mel only, so it serves codes of any rate and size."""
    other = CompactCodec.load(folder).model
    differ = [
        f"{field.name} is {ours!r} here and {theirs!r} there"
        for field in fields(CompactConfig)
        if field.name in _OF_VOCODER
        and (ours := getattr(model.config, field.name)) != (theirs := getattr(other.config, field.name))
    ]
    if differ:
        todo = "Give [model] the same values, or train a vocoder."
        raise ConfigError(f"Taking over the vocoder of '{folder}': {'; '.join(differ)}. {todo}")
    model.vocoder.load_state_dict(other.vocoder.state_dict())


def _fresh(recipe: CompactRecipe) -> CompactModel:
    doing = "Making a compact codec of [model]"
    sizes: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in recipe.model.items()}
    known = [field.name for field in fields(CompactConfig)]
    for key in sizes:
        if key not in known:
            raise ConfigError(f"{doing}: {unknown(key, known)}")
    try:
        return CompactModel(CompactConfig(**sizes))
    except (TypeError, ValueError, RuntimeError, IndexError) as error:
        todo = "One encoder width and depth for each stride; one decoder width and depth more"
        raise ConfigError(f"{doing}: found {sizes}, which fit no network ({error}). {todo}.") from error

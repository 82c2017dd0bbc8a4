"""The task of one stage of X-Codec2, on transformers' `Xcodec2Model` of any size.

The semantic model is frozen, as in the original. A head that is thrown away afterwards says from the codes
what the semantic model said, so that codes keep what was said.

Shapes: B batch, T samples, N codes, D width.

Source: Ye et al., *Llasa* (arXiv 2502.04128), section 2; X-Codec-2.0's training configuration.
"""

import copy
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Wav2Vec2BertModel, Wav2Vec2Model, Xcodec2Config, Xcodec2Model
from transformers.models.xcodec2.modeling_xcodec2 import Xcodec2SemanticAdapter

from llasa.codec.xcodec2 import DAMAGED, Xcodec2Codec
from llasa.codec.xcodec2_causal import CausalDecoder, Reach, made_causal
from llasa.config import unknown
from llasa.device import fastest_dtype
from llasa.errors import BundleError, ConfigError
from llasa.train.codec.critics import WaveCritics
from llasa.train.codec.crops import Crops, Shape
from llasa.train.codec.losses import multi_mel_loss
from llasa.train.codec.recipe import Stage, Xcodec2Recipe
from llasa.train.codec.rounding import Rounding
from llasa.train.codec.steps import Adversary, copied, entropy_bits, take_from_first, total, update

log = logging.getLogger(__name__)

HELD_BATCHES = 4
SEMANTIC_LAYERS = 16  # the original reads the sixteenth layer of w2v-BERT
_ENCODER = ("semantic_adapter", "acoustic_encoder", "fc_encoder")
_KIND = "xcodec2"


class SemanticHead(nn.Module):
    """Quantized latents [B, N, D] -> what the semantic model said [B, C, N]; for training only."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        semantic = config.semantic_model_config.hidden_size
        self.fc = nn.Linear(config.hidden_size + semantic, semantic)
        self.decoder = Xcodec2SemanticAdapter(config)

    def forward(self, latents: Tensor) -> Tensor:
        return self.decoder(self.fc(latents).transpose(1, 2))


class Perception(nn.Module):
    """Distance of two waves in layers of a frozen wav2vec2. [B, T] twice -> mean squared difference."""

    def __init__(self, model: Any, layers: tuple[int, int]) -> None:
        super().__init__()
        self.model, self.layers = model.eval().requires_grad_(False), slice(layers[0], layers[1] + 1)

    def forward(self, wave: Tensor, target: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = self._states(target)
        pairs = zip(self._states(wave), wanted, strict=True)
        return torch.stack([F.mse_loss(a.float(), b.float()) for a, b in pairs]).mean()

    def _states(self, wave: Tensor) -> Sequence[Tensor]:
        level = wave - wave.mean(-1, keepdim=True)
        level = level / (wave.var(-1, keepdim=True) + 1e-7).sqrt()
        return self.model(level, output_hidden_states=True).hidden_states[self.layers]


class Xcodec2Task:
    """A `Task`: one stage; see the module's docstring and `recipe.Xcodec2Stage`."""

    def __init__(
        self, stage: Stage, trainee: "Xcodec2Trainee", train: Crops, held: Crops, first: bool
    ) -> None:
        self.stage, self.trainee, self.train, self.held, self.first = stage, trainee, train, held, first
        self.model, self.rounding, self.head = trainee.model, trainee.rounding, trainee.head
        self.dtype = fastest_dtype(self.model.device)
        self.encoder = [self.model.get_submodule(name) for name in _ENCODER]
        parts = {
            "encoder": [*self.encoder, self.model.quantizer.project_in],
            "decoder": [*trainee.speaking, self.head],
        }
        self.parameters = [p for n in stage.train for part in parts[n] for p in part.parameters()]
        self.model.requires_grad_(False)
        for parameter in self.parameters:
            parameter.requires_grad_(True)
        self.modules: dict[str, nn.Module] = {name: self.model.get_submodule(name) for name in _ENCODER}
        self.modules["acoustic_decoder"] = trainee.speaking[-1]
        self.modules |= {"rounding": self.rounding, "semantic-head": self.head}
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            "adamw": torch.optim.AdamW(
                self.parameters, stage.learning_rate, betas=stage.betas, weight_decay=stage.weight_decay,
                fused=True,
            )
        }  # fmt: skip
        self.critics = self._adversary() if stage.losses.adversarial else None

    def _adversary(self) -> Adversary:
        sizes = self.trainee.recipe.critics
        made = Adversary(WaveCritics(sizes).to(self.model.device), sizes.learning_rate, self.stage.clip)
        self.modules["critics"], self.optimizers["critics"] = made.net, made.optimizer
        return made

    def step(self, index: int) -> dict[str, float]:
        """See `Task`."""
        self._train_mode()
        for group in self.optimizers["adamw"].param_groups:
            group["lr"] = self.stage.rate_at(index)
        waves = self.train.batch(index)[0]
        if self.first and index == 0 and self.rounding.norm is not None:
            self._spread_out(waves)
        loss, measures = self._loss(waves, self._hardness(index))
        update(self.optimizers["adamw"], loss, self.parameters, self.stage.clip)
        return measures

    def _hardness(self, index: int) -> float:
        """Return how far latents are rounded; a decoder that knows rounded ones is not given others."""
        recipe = self.trainee.recipe
        if not self.first or recipe.init or not recipe.soft_steps:
            return 1.0
        return min(1.0, index / recipe.soft_steps)

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """See `Task`."""
        self.model.eval()
        self.rounding.eval()
        rows = [self._loss(self.held.one(n)[0], 1.0)[1] for n in range(HELD_BATCHES)]
        return {f"held_{name}": float(np.mean([row[name] for row in rows])) for name in rows[0]}

    def _train_mode(self) -> None:
        """A frozen encoder keeps its normalisation: the codes must not move."""
        self.model.train()
        self.model.semantic_encoder.eval()
        self.rounding.train("encoder" in self.stage.train)

    @torch.no_grad()
    def _spread_out(self, waves: Tensor) -> None:
        self.rounding.spread_out(self._hidden(*self._inputs(waves))[0])
        take_from_first(self.model.quantizer.project_in)  # each process has heard another batch

    def _inputs(self, waves: Tensor) -> tuple[Tensor, Tensor]:
        """Return padded waves [B, T] and features [B, N, 160], as inference makes them."""
        pairs = [self.trainee.reader.inputs(wave) for wave in waves.to(self.model.device)]
        return torch.stack([wave for wave, _ in pairs]), torch.stack([features for _, features in pairs])

    def _hidden(self, waves: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return what is rounded [B, N, D] and what the semantic model said [B, C, N]."""
        with torch.no_grad():
            said = self.model.semantic_encoder(features).last_hidden_state.transpose(1, 2)
        heard = torch.cat((self.model.semantic_adapter(said), self.model.acoustic_encoder(waves[:, None])), 1)
        return self.model.fc_encoder(heard.transpose(1, 2)), said

    def _loss(self, crops: Tensor, hardness: float) -> tuple[Tensor, dict[str, float]]:
        waves, features = self._inputs(crops)
        with torch.autocast(self.model.device.type, self.dtype, enabled=self.dtype != torch.float32):
            with torch.set_grad_enabled("encoder" in self.stage.train and torch.is_grad_enabled()):
                hidden, said = self._hidden(waves, features)
            latents, codes = self.rounding(hidden, hardness)
            parts: dict[str, Tensor] = {}
            if self.stage.losses.semantic:
                parts["semantic"] = F.mse_loss(self.head(latents).float(), said.float())
            measures = {"bits": entropy_bits(codes), "distinct": float(len(codes.unique()))}
            if self.stage.losses.on_wave:
                wave = self.trainee.wave(latents).float()
                self._judge_wave(wave, waves, parts, measures)
        loss = total(parts, self.stage.losses.model_dump())
        return loss, {name: part.item() for name, part in parts.items()} | measures

    def _judge_wave(
        self, wave: Tensor, target: Tensor, parts: dict[str, Tensor], measures: dict[str, float]
    ) -> None:
        losses = self.stage.losses
        if losses.multi_mel:
            with torch.autocast(wave.device.type, enabled=False):
                parts["multi_mel"] = multi_mel_loss(wave, target, self.trainee.reader.sample_rate)
        if losses.perceptual and self.trainee.perception:
            parts["perceptual"] = self.trainee.perception(wave, target)
        if self.critics:
            parts["adversarial"], off, measures["apart"] = self.critics.judge(target, wave)
            if losses.features:
                parts["features"] = off


class Xcodec2Trainee:
    """The X-Codec2 of a recipe, as it is at this point of its training."""

    def __init__(self, recipe: Xcodec2Recipe, device: torch.device) -> None:
        """Make the model, or take over the one of `init`.

        Raises:
            ConfigError: sizes that no model has. BundleError: a folder that is named holds no such model.
        """
        self.recipe = recipe
        model = Xcodec2Codec.load(recipe.init, "cpu").model if recipe.init else _new_model(recipe)
        self.reader = Xcodec2Codec(model.to(device), f"{_KIND}@training")
        self.model: Any = self.reader.model
        self.causal: CausalDecoder | None = None
        if recipe.ahead is not None:
            self.causal = made_causal(self.model.acoustic_decoder, Reach(recipe.ahead, recipe.window))
        whiten = recipe.init is None if recipe.whiten is None else recipe.whiten
        self.rounding = Rounding(self.model.quantizer, whiten).to(device)
        self.head = SemanticHead(self.model.config).to(device)
        self.perception = _perception(recipe).to(device) if recipe.perceptual else None

    @property
    def speaking(self) -> Sequence[nn.Module]:
        """What makes sound of codes and may learn; the decoder is the last of it."""
        whole = (self.model.quantizer.project_out, self.model.acoustic_decoder)
        return whole if self.causal is None else (self.causal,)

    def wave(self, latents: Tensor) -> Tensor:
        """Return the wave [B, T] of latents [B, N, D]."""
        return self.model.acoustic_decoder(latents)[:, 0] if self.causal is None else self.causal(latents)

    def shape(self, stage: Stage) -> Shape:
        """See `Trainee`."""
        hop, rate = self.reader.hop_length, self.reader.sample_rate
        return Shape(stage.batch, max(1, round(stage.crop_s * rate / hop)) * hop, rate, hop)

    def task(self, stage: Stage, train: Crops, held: Crops) -> Xcodec2Task:
        """See `Trainee`."""
        return Xcodec2Task(stage, self, train, held, stage.name == self.recipe.stages[0].name)

    def codec(self) -> Xcodec2Codec:
        """See `Trainee`. It shares the weights in training, but for a folded copy of what rounds."""
        codec = Xcodec2Codec(self._folded(), f"{_KIND}@training")
        return codec if self.causal is None else codec.spoken_by(self.causal)

    def save(self, folder: Path) -> Xcodec2Codec:
        """See `Trainee`. A streaming decoder is written into a copy of the codec that it decodes for."""
        if self.causal is None:
            self._folded().save_pretrained(folder)
            return Xcodec2Codec.load(folder, str(self.model.device))
        assert self.recipe.init  # the recipe was checked
        self.causal.save(copied(self.recipe.init, folder))
        causal = Xcodec2Codec.load(folder, str(self.model.device)).causal
        assert causal is not None  # just written
        return causal

    def _folded(self) -> Any:
        twin = _twin(self.model)
        twin.quantizer = _twin(self.model.quantizer)
        twin.quantizer.project_in = self.rounding.folded()
        return twin


def _twin(module: Any) -> Any:
    """Return a module of the same submodules, any of which may be replaced in it alone."""
    made = copy.copy(module)
    made._modules = dict(module._modules)
    return made


def _new_model(recipe: Xcodec2Recipe) -> Any:
    doing = "Making an X-Codec2 of [model]"
    known = set(Xcodec2Config().to_dict())
    for key in recipe.model:
        if key not in known:
            raise ConfigError(f"{doing}: {unknown(key, sorted(known))}")
    semantic = _semantic(recipe.semantic) if recipe.semantic else None
    sizes = dict(recipe.model)
    if semantic is not None:
        sizes["semantic_model_config"] = semantic.config.to_dict()
    try:
        config = Xcodec2Config.from_dict(sizes)
        if min(config.quantization_levels) < 3:  # bound twice, a latent never reaches the lower one of two
            raise ValueError(f"quantization_levels {config.quantization_levels}, three at least")
        model: Any = Xcodec2Model(config)
    except DAMAGED as error:
        raise ConfigError(f"{doing}: found {sizes}, which fit no model ({error}). Correct them.") from error
    if semantic is None:
        log.warning("No semantic model is named: a random one stands in, which says little of what was said.")
    else:
        model.semantic_encoder = semantic
    return model


def _semantic(folder: str) -> Any:
    """Return the layers of a w2v-BERT that X-Codec2 reads."""
    return _pretrained(Wav2Vec2BertModel, folder, num_hidden_layers=SEMANTIC_LAYERS)


def _perception(recipe: Xcodec2Recipe) -> Perception:
    model = _pretrained(Wav2Vec2Model, str(recipe.perceptual))
    layers, count = recipe.perceptual_layers, model.config.num_hidden_layers
    if not 0 <= layers[0] <= layers[1] <= count:
        found = f"found perceptual_layers = {list(layers)}, the model has 0 to {count}"
        raise ConfigError(f"Reading '{recipe.perceptual}': {found}. Name a first and a last one of these.")
    return Perception(model, layers)


def _pretrained(kind: Any, folder: str, **changes: Any) -> Any:
    try:
        return kind.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, local_files_only=True, **changes
        )
    except DAMAGED as error:
        todo = "Name a folder with its config.json and model.safetensors"
        raise BundleError(f"Loading a {kind.__name__} from '{folder}': {error}. {todo}.") from error

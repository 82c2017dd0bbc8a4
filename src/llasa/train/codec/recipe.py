"""What `llasa train codec` is told: strict models of its TOML file. Knows no network and no sound.

Losses and their weights stand under `[stages.losses]`; a loss that is not named is not computed.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, Field

from llasa import config
from llasa.errors import ConfigError

Count = Annotated[int, Field(ge=1)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[float, Field(gt=0, le=60)]

Kind = Literal["compact", "xcodec2"]


class DataBlock(BaseModel):
    """One source of sound. path, kind: as `llasa prepare` takes. weight: how often it is drawn, an hour.

    held_out: share of its clips, or with `by = "speaker"` of its speakers, kept from training.
    """

    model_config = config.STRICT
    path: str
    kind: str | None = None
    weight: Annotated[float, Field(gt=0)] = 1.0
    held_out: Share = 0.02
    by: Literal["clip", "speaker"] = "clip"


class Losses(BaseModel):
    """Weights of the losses; `train/codec/losses.py` and `critics.py` say what each is.

    mel, phone, patch: on the decoder's log-mel (compact). teacher: the same from what the decoder of `init`
    makes of the codes (compact, with `ahead`). spectral, multi_mel, adversarial, features: on the
    wave. semantic: of what the semantic model says (xcodec2). perceptual: distance in a wav2vec2's layers.
    """

    model_config = config.STRICT
    mel: Weight = 0.0
    phone: Weight = 0.0
    patch: Weight = 0.0
    teacher: Weight = 0.0
    spectral: Weight = 0.0
    multi_mel: Weight = 0.0
    adversarial: Weight = 0.0
    features: Weight = 0.0
    semantic: Weight = 0.0
    perceptual: Weight = 0.0

    @property
    def on_wave(self) -> bool:
        """Whether the wave is needed."""
        return any((self.spectral, self.multi_mel, self.adversarial, self.features, self.perceptual))

    @property
    def on_codes(self) -> bool:
        """Whether the decoder's log-mel is compared."""
        return any((self.mel, self.phone, self.patch, self.teacher))


class Stage(BaseModel):
    """One stage: what is trained, on what, for how long. The rate rises from `first_rate` with the square of
    the step, stays for `hold` of the stage and falls in a line to `last_rate`.

    train: parts that learn; the others stay as they are, so codes stay valid where "encoder" is not in it.
    hears: what the vocoder of a compact codec is given: real log-mel, or what the decoder made of codes.
    """

    model_config = config.STRICT
    name: Annotated[str, Field(pattern="^[a-z0-9][a-z0-9-]*$")]
    steps: Count
    train: Annotated[list[Literal["encoder", "decoder", "vocoder"]], Field(min_length=1)]
    losses: Losses
    hears: Literal["codes", "mel"] = "codes"
    batch: Count = 16
    crop_s: Seconds = 1.28
    learning_rate: Annotated[float, Field(gt=0)] = 1.5e-3
    first_rate: Annotated[float, Field(ge=0)] = 0.0
    last_rate: Annotated[float, Field(ge=0)] = 0.0
    warmup: Annotated[int, Field(ge=0)] = 200
    hold: Share = 0.3
    betas: tuple[float, float] = (0.8, 0.98)
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    clip: Annotated[float, Field(gt=0)] = 1.0
    validate_every: Count = 250

    def rate_at(self, index: int) -> float:
        """Return the learning rate of step `index`."""
        rising = min(1.0, (index + 1) / self.warmup) if self.warmup else 1.0
        rate = self.first_rate + (self.learning_rate - self.first_rate) * rising**2
        held = max(self.warmup, self.hold * self.steps)
        falling = min(1.0, max(0.0, (index - held) / max(1.0, self.steps - held)))
        return rate + falling * (self.last_rate - self.learning_rate)


class Xcodec2Stage(Stage):
    """A stage with the values of the original's training."""

    train: Annotated[list[Literal["encoder", "decoder"]], Field(min_length=1)] = ["encoder", "decoder"]  # pyright: ignore[reportIncompatibleVariableOverride]
    losses: Losses = Losses(multi_mel=15.0, adversarial=1.0, features=1.0, semantic=5.0)
    batch: Count = 8
    crop_s: Seconds = 6.0
    learning_rate: Annotated[float, Field(gt=0)] = 1e-4
    first_rate: Annotated[float, Field(ge=0)] = 1e-5
    last_rate: Annotated[float, Field(ge=0)] = 2e-5
    warmup: Annotated[int, Field(ge=0)] = 3000
    hold: Share = 0.0
    betas: tuple[float, float] = (0.8, 0.9)


class Critics(BaseModel):
    """Sizes of the discriminators; the values of the original. Smaller ones train on a CPU.

    periods, period_channels, period_most: of the multi-period one. fft_sizes, channels, most: of the
    spectrogram one.
    """

    model_config = config.STRICT
    periods: list[Count] = [2, 3, 5, 7, 11]
    period_channels: Count = 16
    period_most: Count = 512
    fft_sizes: list[Count] = [78, 126, 206, 334, 542, 876, 1418, 2296]
    channels: Count = 32
    most: Count = 512
    learning_rate: Annotated[float, Field(gt=0)] = 1e-4


class ReportBlock(BaseModel):
    """What is measured on held-out clips. clips: how many, while it trains and (final_clips) at its end.

    every: validations between two round trips. recognizer: as `llasa say` takes; empty for none.
    """

    model_config = config.STRICT
    clips: Count = 6
    final_clips: Count = 40
    every: Count = 4
    recognizer: str = "pocketsphinx"
    tensorboard: bool = True


class Recipe(BaseModel):
    """What every kind has. init: a codec's folder to start from; `model` then stays empty.

    model: sizes, under the names of the network's own configuration. level: loudness of every crop, as the
    root mean square of its louder half.
    """

    model_config = config.STRICT
    kind: Kind
    out: str
    data: Annotated[list[DataBlock], Field(min_length=1)]
    stages: Annotated[list[Stage], Field(min_length=1)]
    init: str | None = None
    model: dict[str, Any] = {}
    critics: Critics = Critics()
    report: ReportBlock = ReportBlock()
    seed: int = 0
    device: str | None = None
    level: Annotated[float, Field(gt=0, lt=1)] = 0.08


class CompactRecipe(Recipe):
    """A compact codec. vocoder: folder of one whose vocoder is taken over, for a fresh model.

    ahead: makes the streaming decoder of the codec in `init`: codes and mel frames that decoder and vocoder
    may look ahead. The codec stays as it is, and the streaming decoder lies beside it; one that is there and
    looks as far is trained further.
    """

    vocoder: str | None = None
    ahead: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]] | None = None


class Xcodec2Recipe(Recipe):
    """An X-Codec2. semantic: folder of the frozen w2v-BERT to take over, for a fresh model.

    soft_steps: of a fresh model, over which latents go from unrounded to rounded; whiten: normalise what is
    rounded over each batch, without which a fresh encoder falls into one code. perceptual: folder of a
    wav2vec2.

    ahead: makes the streaming decoder of the codec in `init`: codes that it may look ahead. window: codes
    that its attention sees.
    """

    stages: Annotated[list[Xcodec2Stage], Field(min_length=1)]  # pyright: ignore[reportIncompatibleVariableOverride]
    semantic: str | None = None
    perceptual: str | None = None
    perceptual_layers: tuple[int, int] = (10, 22)
    soft_steps: Annotated[int, Field(ge=0)] = 1000
    whiten: bool | None = None
    ahead: Annotated[int, Field(ge=0, le=3)] | None = None
    window: Count = 250


AnyRecipe = CompactRecipe | Xcodec2Recipe
KINDS: dict[str, type[AnyRecipe]] = {"compact": CompactRecipe, "xcodec2": Xcodec2Recipe}
Found = TypeVar("Found", bound=Recipe)


def read(path: str | Path, settings: Sequence[str] = ()) -> AnyRecipe:
    """Return the recipe of a TOML file, with `key=value` settings put over it.

    A dotted key reaches into tables; an item of a list is named by its `name` or number, as in
    `stages.vocoder.steps=500` or `data.0.path=speech`.

    Raises:
        ConfigError: no such file, or a key that is unknown, missing or of a wrong value.
    """
    doing = f"Reading '{path}'"
    table = config.table(path, settings)
    kind = table.get("kind")
    if kind not in KINDS:
        raise ConfigError(f"{doing}: found kind = {kind!r}. Use one of: {', '.join(KINDS)}.")
    return _checked(config.build(KINDS[str(kind)], _tuples(table), doing), doing)


def _tuples(table: Mapping[str, Any]) -> dict[str, Any]:
    """TOML knows no tuples, and a strict model takes no list for one."""
    made = dict(table)
    for name in ("perceptual_layers", "ahead"):
        if isinstance(pair := made.get(name), list):
            made[name] = tuple(pair)
    if isinstance(stages := made.get("stages"), list):
        pairs = [stage.get("betas") if isinstance(stage, dict) else None for stage in stages]
        made["stages"] = [
            stage | {"betas": tuple(pair)} if isinstance(pair, list) else stage
            for stage, pair in zip(stages, pairs, strict=True)
        ]
    return made


def _checked(recipe: Found, doing: str) -> Found:
    names = [stage.name for stage in recipe.stages]
    if len(set(names)) < len(names):
        raise ConfigError(f"{doing}: two stages have one name: {', '.join(names)}. Give each its own.")
    if recipe.init and recipe.model:
        raise ConfigError(f"{doing}: found both init and [model]. A codec to start from has its sizes.")
    for name in ("semantic", "vocoder"):
        if recipe.init and getattr(recipe, name, None):
            raise ConfigError(f"{doing}: found both init and {name}. A codec to start from has its own.")
    if getattr(recipe, "ahead", None) is not None and not recipe.init:
        raise ConfigError(f"{doing}: found ahead without init. Name the codec that it is a decoder of.")
    if getattr(recipe, "ahead", None) is not None and getattr(recipe, "whiten", None):
        found = "whiten with ahead, yet a streaming decoder is for codes there are"
        raise ConfigError(f"{doing}: found {found}. Leave whiten out.")
    for stage in recipe.stages:
        if getattr(recipe, "ahead", None) is not None and "encoder" in stage.train:
            found = f"stage '{stage.name}' trains the encoder, yet a streaming decoder is for codes there are"
            raise ConfigError(f"{doing}: {found}. Leave it out.")
        if problem := _problem(recipe, stage):
            raise ConfigError(f"{doing}: stage '{stage.name}' {problem}.")
    return recipe


def _problem(recipe: Recipe, stage: Stage) -> str:
    losses = stage.losses
    if not any(losses.model_dump().values()):
        return "has no loss with a weight. Name one under [stages.losses]"
    if losses.features and not losses.adversarial:
        return "weighs features without adversarial, whose critics they are of. Give both a weight"
    if isinstance(recipe, Xcodec2Recipe):
        return _xcodec2_problem(recipe, losses)
    return _compact_problem(recipe, stage, losses)


def _xcodec2_problem(recipe: Xcodec2Recipe, losses: Losses) -> str:
    if losses.on_codes or losses.spectral:
        return "weighs a loss that X-Codec2 has not. Leave out mel, phone, patch, teacher and spectral"
    if losses.perceptual and not recipe.perceptual:
        return "weighs perceptual, but no folder is named. Set perceptual to a wav2vec2's folder"
    return ""


def _compact_problem(recipe: Recipe, stage: Stage, losses: Losses) -> str:
    if losses.semantic or losses.perceptual:
        return "weighs a loss that only X-Codec2 has. Leave out semantic and perceptual"
    if losses.teacher and not getattr(recipe, "ahead", None):
        return "weighs teacher without ahead: a streaming decoder alone has one. Leave it out"
    if stage.hears == "mel" and (set(stage.train) != {"vocoder"} or losses.on_codes):
        return 'hears real mel, so it can train the vocoder alone, on the wave. Set hears = "codes"'
    if "vocoder" in stage.train and not losses.on_wave:
        return "trains the vocoder without a loss on the wave. Give spectral a weight"
    return ""

"""What `llasa train recognizer` is told: a strict model of its TOML file. Knows no network and no sound."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from llasa import config
from llasa.errors import ConfigError
from llasa.recognizers.base import TextForm
from llasa.recognizers.ctc import LAYOUTS, CtcConfig

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class DataBlock(BaseModel):
    """A source of speech with its texts, as `llasa prepare` takes. weight: how often it is drawn."""

    model_config = config.STRICT
    path: str
    kind: str | None = None
    weight: Positive = 1.0


class CopiesBlock(BaseModel):
    """Copies of the speech through a codec; half of what is heard in training.

    codec: its folder; the starter's if None. hours: of copies in all. folder: where they are kept, so that
    two trainings can share them; `copies` under the run's folder if None.
    """

    model_config = config.STRICT
    codec: str | None = None
    hours: Positive = 2.0
    folder: str | None = None


class Sizes(BaseModel):
    """Sizes of another network than the layouts'; see `recognizers.ctc.CtcConfig`."""

    model_config = config.STRICT
    blocks: Annotated[list[Literal["convnext", "gated", "gru"]], Field(min_length=1)]
    width: Count
    stride: Count
    n_fft: Count
    n_mels: Count = 80
    hop: Count = 160
    sample_rate: Count = 16000


class Recipe(BaseModel):
    """The whole recipe.

    layout: the sizes of one of the starter's two recognisers. text: what is heard, the layout's if None; with
    `letters`, the characters that the data's texts are made of, for other languages than English.
    phones: a folder of `llasa train letters`; the starter's if None. batch_s: seconds of sound a step.
    held_out: share of the texts that are kept from training, with all their clips and copies.
    """

    model_config = config.STRICT
    out: str
    data: Annotated[list[DataBlock], Field(min_length=1)]
    steps: Count
    layout: Literal["A", "B"] | None = None
    model: Sizes | None = None
    text: Literal["phones", "characters", "letters"] | None = None
    phones: str | None = None
    copies: CopiesBlock | None = None
    seed: int = 0
    batch_s: Positive = 48.0
    learning_rate: Positive = 2.5e-3
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.025
    held_rows: Count = 120
    longest_s: Annotated[float, Field(gt=0, le=60)] = 20.0
    validate_every: Count = 250
    device: str | None = None

    @property
    def text_form(self) -> TextForm:
        """What the recogniser will say that it hears."""
        if self.text is None:
            return LAYOUTS[self.layout].text_form if self.layout else "characters"
        return "characters" if self.text == "letters" else self.text

    def network(self, tokens: tuple[str, ...]) -> CtcConfig:
        """Return the sizes of the network; tokens: empty for English's."""
        if self.layout:
            return replace(LAYOUTS[self.layout], text_form=self.text_form, tokens=tokens)
        sizes = self.model.model_dump() if self.model else {}
        return CtcConfig(self.text_form, tuple(sizes.pop("blocks")), tokens=tokens, **sizes)


def read(path: str | Path, settings: Sequence[str] = ()) -> Recipe:
    """Return the recipe of a TOML file, with `key=value` settings over it; a dotted key reaches into a table.

    Raises:
        ConfigError: no such file, or a key that is unknown, missing or of a wrong value.
    """
    doing = f"Reading '{path}'"
    recipe = config.build(Recipe, config.table(path, settings), doing)
    if (recipe.layout is None) == (recipe.model is None):
        found = "both layout and [model]" if recipe.layout else "neither layout nor [model]"
        raise ConfigError(f"{doing}: found {found}. Give one of them.")
    return recipe

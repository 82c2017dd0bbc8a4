"""The model half of `llasa say`: flags to a synthesizer over a bundle, its engine, dtype and adapter."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llasa.cli.terminal import note
from llasa.errors import ConfigError, InputError

if TYPE_CHECKING:
    from llasa.synthesizer import Synthesizer

EngineOption = Annotated[
    str,
    typer.Option(help="What runs the language model: native, drafted:exact, gguf:FILE or remote:URL#MODEL."),
]
DtypeOption = Annotated[
    str | None,
    typer.Option(help="Numbers of the native engine: bfloat16, float32, int8, or auto: the fastest."),
]
AdapterOption = Annotated[
    str | None, typer.Option(help="Speak with a LoRA: a folder or Hub id; of a server, its name there.")
]
LanguageOption = Annotated[str | None, typer.Option(help="Of the text (and --ref-text), such as en or zh.")]


@dataclass(frozen=True)
class Chosen:
    """The model flags, as given."""

    bundle: str
    engine: str
    dtype: str | None
    codec: str | None
    adapter: str | None

    @property
    def sampling(self) -> dict[str, object]:
        """What the choice adds to the sampling parameters."""
        return {"adapter": self.adapter} if self.adapter else {}

    def opened(self) -> "Synthesizer":
        """Return the synthesizer, with the user's own pronunciations if the bundle reads phones."""
        from llasa.bundle import load_bundle
        from llasa.synthesizer import Synthesizer

        words = pronunciations()  # the cheapest to be wrong
        adapters = {self.adapter: self.adapter} if self.adapter and _is_native(self.engine) else {}
        opened = load_bundle(
            self.bundle, dtype=self.dtype, engine=self.engine, codec=self.codec, adapters=adapters
        )
        if words and opened.manifest.lm.text != "phones":
            note("Your words.toml is not used: this bundle reads letters, not phones.")
            return Synthesizer(opened)
        return Synthesizer(replace(opened, words=words))


def _is_native(engine: str) -> bool:
    return engine == "native" or engine.startswith("drafted:")


def pronunciations() -> dict[str, str]:
    """Return the user's own, checked one by one so that an error can name the file."""
    from llasa import config
    from llasa.text.phones import Phonemizer
    from llasa.voice import home

    path: Path = home() / "words.toml"
    words = config.strings(path) if path.is_file() else {}
    try:
        Phonemizer({}, None, words)
    except (ConfigError, InputError) as error:
        raise ConfigError(f"Reading '{path}': {error}") from error
    return words

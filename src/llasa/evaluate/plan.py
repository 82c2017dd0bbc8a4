"""An evaluation recipe: which systems say which texts, and who listens. Must not know how it is done."""

from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field

from llasa import config
from llasa.errors import ConfigError

Count = Annotated[int, Field(ge=1)]
Price = Annotated[float | None, Field(ge=0, allow_inf_nan=False)]

# What a system is told by, and the keys that are its own; the others fit all.
_OWN = {
    "bundle": ("checkpoint", "effort", "judge", "engine", "device", "dtype", "codec", "sampling"),
    "url": ("model", "format", "rate_hz", "timeout_s", "send_seed", "fields"),
    "recordings": (),
}


class SystemBlock(BaseModel):
    """A [[systems]] table: a bundle, a speech server or the recordings of the test set themselves.

    bundle: as `llasa say --bundle`; engine, device, dtype, codec too. checkpoint: a `checkpoint-N` of a
    training run, whole weights or an adapter, in place of the bundle's own. effort: candidates a segment.
    judge: a recipe for them. sampling: such as `{ temperature = 0.6 }`.
    url: where a server's API begins, such as `http://localhost:8000/v1`; it speaks OpenAI's `/audio/speech`.
    format: what to ask for; `pcm` is 16 bit, mono, at rate_hz. send_seed: whether it knows a field `seed`.
    fields: more of the request's body, as they are. The key is `LLASA_SYSTEM_KEY`, if it is set.
    recordings: `original`, or `codec`: those passed through the codec of `[bundle]`.
    voice: a name. If None, a line's reference recording is the voice, and where it has none, the default is.
    price_per_hour: of the machine; price_per_million: characters. Either gives the cost of an hour of speech.
    """

    model_config = config.STRICT
    name: Annotated[str | None, Field(min_length=1, max_length=60)] = None
    bundle: str | None = None
    checkpoint: str | None = None
    effort: Count = 1
    judge: str | None = None
    engine: str = "native"
    device: str | None = None
    dtype: str | None = None
    codec: str | None = None
    sampling: dict[str, Any] = {}
    url: str | None = None
    model: str = "tts-1"
    format: Literal["wav", "pcm"] = "wav"
    rate_hz: Annotated[int, Field(ge=8000, le=192_000)] = 24_000
    timeout_s: Annotated[float, Field(gt=0, le=3600)] = 120.0
    send_seed: bool = False
    fields: dict[str, Any] = {}
    recordings: Literal["original", "codec"] | None = None
    voice: str | None = None
    price_per_hour: Price = None
    price_per_million: Price = None

    @property
    def kind(self) -> str:
        """`bundle`, `url` or `recordings`."""
        return next(kind for kind in _OWN if getattr(self, kind) is not None)

    @property
    def title(self) -> str:
        """What reports call it."""
        if self.name:
            return self.name
        if self.url:
            return f"{self.model}@{urlsplit(self.url).netloc}"
        if self.recordings:
            return "recordings" if self.recordings == "original" else "recordings, codec"
        own = PurePath(self.bundle or "").name + (
            f" {PurePath(self.checkpoint).name}" if self.checkpoint else ""
        )
        return f"{own}, effort {self.effort}"


class SetBlock(BaseModel):
    """A [[sets]] table.

    source: a file of one text a line, a list of Seed-TTS-eval or LibriSpeech-PC, or a data set as `llasa
    prepare` reads it; the built-in English lines if None. kind: `texts`, `seed-tts-eval`, `librispeech-pc` or
    one of `prepare`'s; found out if None. sounds: LibriSpeech's folder, such as `LibriSpeech/test-clean`.
    language: of the texts; as for any text if None. lines: so many of them, evenly spread.
    """

    model_config = config.STRICT
    name: Annotated[str | None, Field(min_length=1, max_length=60)] = None
    source: str | None = None
    kind: str | None = None
    sounds: str | None = None
    language: str | None = None
    lines: Annotated[int | None, Field(ge=1)] = None

    @property
    def title(self) -> str:
        """What reports call it."""
        source = Path(self.source) if self.source else None
        named = source and (f"{source.parent.name}/{source.stem}" if source.suffix == ".lst" else source.stem)
        return self.name or named or "built-in"


class ScorerBlock(BaseModel):
    """A [[scorers]] table: any scorer, by name or `module:Class`.

    label: of its measures. Other keys are its options.
    """

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)
    name: str
    label: str | None = None


class Plan(BaseModel):
    """An evaluation recipe.

    systems: the others are compared with the first. bundle: whose reader, codec and recognisers listen.
    recognizers: as `recognizers.load_recognizer`; the first one's error rate is the one that counts.
    similarity: `resemblyzer` or the folder of a `WavLMForXVector`; emotion: the folder of a sound classifier,
    whose outputs are compared with those of the reference. None: not measured. takes: how often each line is
    said, other seeds. seed: of the first take. seed_tts_eval: also the rate that Seed-TTS-eval's tool gives.
    """

    model_config = config.STRICT
    systems: list[SystemBlock] = Field(min_length=1)
    sets: list[SetBlock] = Field(default=[SetBlock()], min_length=1)
    bundle: str = "starter"
    recognizers: list[str] = Field(default=["pocketsphinx", "bundle"])
    similarity: str | None = "resemblyzer"
    emotion: str | None = None
    scorers: list[ScorerBlock] = [ScorerBlock(name="naturalness"), ScorerBlock(name="repetition")]
    takes: Count = 1
    seed: int = 0
    seed_tts_eval: bool = True


def read_plan(path: str | PathLike[str], settings: Sequence[str] = ()) -> Plan:
    """Return the recipe in a TOML file, with `key=value` settings put over it.

    Raises:
        ConfigError: the file is missing or no TOML, or a key is unknown, wrong or does not fit the others.
    """
    return checked(config.build(Plan, config.table(path, settings), f"Reading '{path}'"))


def checked(plan: Plan) -> Plan:
    """Return a plan whose tables make sense; ConfigError says which does not."""
    problems = [problem for block in plan.systems for problem in _problems(block)]
    for what, names in (
        ("systems", [block.title for block in plan.systems]),
        ("sets", [block.title for block in plan.sets]),
        ("recognisers", [label(spec) for spec in plan.recognizers]),
    ):
        twice = sorted({name for name in names if names.count(name) > 1})
        problems += [f"two {what} are called '{name}'. Give each a `name` of its own" for name in twice]
    if problems:
        raise ConfigError(f"Planning an evaluation: {'; '.join(problems)}.")
    return plan


def _problems(block: SystemBlock) -> Iterator[str]:
    given = [kind for kind in _OWN if getattr(block, kind) is not None]
    if len(given) != 1:
        found = " and ".join(given) or "neither bundle, url nor recordings"
        yield f"a system has {found}. Give it one of them"
        return
    for kind, keys in _OWN.items():
        for key in keys if kind != given[0] else ():
            if key in block.model_fields_set:
                yield f"system '{block.title}' has `{key}`, which only one with `{kind}` knows. Leave it out"


def label(spec: str) -> str:
    """Return what reports call a recogniser."""
    kind, _, rest = spec.partition(":")
    if kind == "endpoint":
        return rest.partition("#")[2] or rest
    return PurePath(rest.partition("#")[0]).name if rest else kind


def told(block: BaseModel) -> Mapping[str, Any]:
    """Return a table as it was meant: what is None is left out."""
    return block.model_dump(exclude_none=True)

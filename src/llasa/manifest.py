"""What `bundle.toml` may say: the parts of a bundle, how it speaks unless told otherwise, and its seal."""

from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, Field

from llasa import config
from llasa.core import SamplingParams
from llasa.errors import BundleError, ConfigError
from llasa.text.normalize import LANGUAGES
from llasa.weights import sha256

MANIFEST = "bundle.toml"
UNSEALED = (MANIFEST, "README.md")  # the model card may be edited
FORMAT = 1
TABLES = ("lm", "codec", "phones", "sampling", "recognizers", "files")
_AGAIN = "Install or copy the bundle again."


def _inside(path: str) -> str:
    parts = PurePosixPath(path)
    if not path or parts.is_absolute() or ".." in parts.parts or "\\" in path or ":" in path:
        raise ValueError("should be a path inside the bundle")
    return path


InnerPath = Annotated[str, AfterValidator(_inside)]


def _known(code: str) -> str:
    if code not in LANGUAGES:
        raise ValueError(f"should be one of {', '.join(LANGUAGES)}")
    return code


Language = Annotated[str, AfterValidator(_known)]


class LmPart(BaseModel):
    """The language model.

    text: the form of text it reads: `written` as people write it, in any language it learnt; `characters`
    and `phones` of normalised text, where `languages` are those it knows, the first unless told otherwise.
    max_length: prompt and generated ids that it was trained for.
    """

    model_config = config.STRICT
    path: InnerPath = "lm"
    family: Literal["llasa-plain", "llasa-chat"]
    text: Literal["characters", "phones", "written"]
    languages: list[Language] = Field(default=["en"], min_length=1)
    separator: str = " "
    max_length: int = Field(gt=0)


class CodecChoice(BaseModel):
    """Which codec it is, and where: in the bundle, or at `source`, another folder or a Hub id."""

    model_config = config.STRICT
    kind: Literal["compact", "xcodec2", "neucodec"]
    path: InnerPath = "codec"
    source: str | None = None


class CodecPart(CodecChoice):
    """The codec, with what it says of itself: known without loading it, checked when it is loaded.

    name: None for a published checkpoint, which does not say which weights it was trained with.
    """

    name: str | None = None
    sample_rate: int = Field(gt=0)
    codebook_size: int = Field(gt=0)
    hop_length: int = Field(gt=0)


class PhonesPart(BaseModel):
    """The lexicon and letter model, used by bundles that read phones."""

    model_config = config.STRICT
    path: InnerPath = "phones"


def _recognizer(spec: str) -> str:
    kind, _, path = spec.partition(":")
    if not kind or not path:
        raise ValueError("should be KIND:PATH, such as 'ctc:recognizer'")
    return f"{kind}:{_inside(path)}"


RecognizerSpec = Annotated[str, AfterValidator(_recognizer)]


class Sampling(BaseModel):
    """What a caller may choose of `core.SamplingParams`; None: taken from the length of the text."""

    model_config = config.STRICT
    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)] = SamplingParams.temperature
    top_p: Annotated[float, Field(gt=0, le=1)] = SamplingParams.top_p
    top_k: Annotated[int, Field(ge=0)] = SamplingParams.top_k
    repetition_penalty: Annotated[float, Field(gt=0, allow_inf_nan=False)] = SamplingParams.repetition_penalty
    min_tokens: Annotated[int | None, Field(ge=0)] = None
    max_tokens: Annotated[int | None, Field(ge=1)] = None
    loop_guard: bool = SamplingParams.loop_guard
    logprobs: bool = SamplingParams.logprobs
    adapter: str | None = SamplingParams.adapter


class Manifest(BaseModel):
    """The content of `bundle.toml`.

    judge: the recipe that judges its candidates. recognizers: what judges may call `bundle`, the one that
    steers, and `held-out`, one that took no part. files: SHA-256 of every file but the model card.
    """

    model_config = config.STRICT
    format: Literal[1]
    name: str
    default_voice: str | None = None
    judge: InnerPath | None = None
    lm: LmPart
    codec: CodecPart
    phones: PhonesPart = PhonesPart()
    sampling: Sampling = Sampling()
    recognizers: dict[str, RecognizerSpec] = {}
    files: dict[InnerPath, str]


def read_manifest(folder: Path) -> Manifest:
    """Return what `bundle.toml` says, without looking at the other files.

    Raises:
        BundleError: it is missing, or a key in it is unknown, missing or wrong.
    """
    if not (folder / MANIFEST).is_file():
        found = (
            f"there is no {MANIFEST} nor config.json in it" if folder.is_dir() else "there is no such folder"
        )
        todo = "Name a bundle's or model's folder or a Hub id, or leave it out for the starter"
        raise BundleError(f"Loading bundle '{folder}': {found}. {todo}.")
    try:
        return config.read(folder / MANIFEST, Manifest)
    except ConfigError as error:
        raise BundleError(f"{error} {_AGAIN}") from error


def verify(folder: Path, manifest: Manifest) -> None:
    """Hold the files of a bundle against its seal.

    Raises:
        BundleError: one is missing, changed, or too many; names it.
    """
    for name, expected in manifest.files.items():
        if not (folder / name).is_file():
            raise damaged(folder, f"expected the file {name}, found none")
        found = _sha256(folder / name)
        if found != expected:
            raise damaged(folder, f"expected {name} with SHA-256 {expected[:12]}, found {found[:12]}")
    # A model folder is read by what lies in it: a file too many can change what is loaded.
    heard_by = (spec.partition(":")[2] for spec in manifest.recognizers.values())
    parts = (manifest.lm.path, manifest.codec.path, manifest.phones.path, *heard_by)
    for name in sorted(set(_names(folder)) - manifest.files.keys()):
        if any(PurePosixPath(name).is_relative_to(part) for part in parts):
            raise damaged(folder, f"expected only sealed files, found {name}")
    if manifest.judge is not None and manifest.judge not in manifest.files:
        raise damaged(folder, f"expected the judge's recipe in {manifest.judge}, found none")
    check_default_voice(folder, manifest)


def check_default_voice(folder: Path, manifest: Manifest) -> None:
    """Refuse a default voice that is not among the files; BundleError."""
    voice = manifest.default_voice
    if voice is not None and f"voices/{voice}.safetensors" not in manifest.files:
        raise damaged(folder, f"expected the default voice in voices/{voice}.safetensors, found none")


def hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file of a bundle that is sealed, by its path.

    Raises:
        BundleError: one cannot be read.
    """
    return {name: _sha256(folder / name) for name in _names(folder)}


def _names(folder: Path) -> list[str]:
    """Return the paths of the files to seal, sorted."""
    paths = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return sorted({path.relative_to(folder).as_posix() for path in paths} - set(UNSEALED))


def _sha256(path: Path) -> str:
    try:
        return sha256([path])
    except OSError as error:
        raise damaged(path.parent, f"reading {path.name}, the system says: {error.strerror}") from error


def damaged(folder: Path, found: str) -> BundleError:
    """Return the error that says what is wrong with the files of a bundle."""
    return BundleError(f"Loading bundle '{folder}': {found}. {_AGAIN}")


def as_toml(manifest: Manifest) -> str:
    """Return what `bundle.toml` holds."""
    values = manifest.model_dump(exclude_none=True)
    tables = {key: values.pop(key) for key in TABLES}
    return config.lines(values) + "".join(
        f"\n[{key}]\n{config.lines(table)}" for key, table in tables.items()
    )

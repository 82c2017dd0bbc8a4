"""What `bundle.toml` may say: the parts of a bundle, how it speaks unless told otherwise, and its seal."""

from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, Field

from llasa import config
from llasa.core import SamplingParams
from llasa.text.normalize import LANGUAGES


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

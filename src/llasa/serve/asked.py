"""What a client may ask of speech, by the names that clients send. Must not know: routes, engines.

Source: OpenAI's API, `POST /v1/audio/speech`; what is added has the names that clients of other servers use.
"""

import base64
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, field_validator

from llasa.errors import InputError

MOST_SOUND = 10 << 20  # bytes, as OpenAI allows for a sample of a voice
RATE_HZ = 24_000  # what clients play pcm at, without asking
SAMPLING = ("temperature", "top_p", "top_k", "repetition_penalty", "max_tokens")


class VoiceId(BaseModel):
    """The newer way to name a voice."""

    model_config = ConfigDict(extra="forbid")
    id: str = Field(min_length=1, max_length=64)


class SpeechRequest(BaseModel):
    """The body of `POST /v1/audio/speech`; nothing in it is passed over.

    Beyond OpenAI's: `sample_rate` (Hz; pcm is taken to have 24,000), `stream` (false: the whole sound, with
    exact headers), `seed`, `language`, the sampling parameters, a voice for this request alone (`ref_audio`,
    a data URL or Base64, with its words in `ref_text` and its speaker's agreement in `consent`), and what
    quality may cost: `effort` (candidates a segment, or a block of one that streams), `target` (a value in
    [0, 1] that ends the search), `deadline` (seconds of search in all) and `judge` (a receipt also of effort
    1).
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, strict=True)
    model: str = Field(max_length=200, examples=["tts-1"])
    input: str = Field(min_length=1, examples=["Hello there."])
    voice: str | VoiceId | None = None
    instructions: str | None = Field(None, max_length=4096)
    response_format: Literal["mp3", "opus", "aac", "flac", "wav", "pcm"] = "mp3"
    speed: float = Field(1.0, ge=0.25, le=4.0)
    stream_format: Literal["audio", "sse"] = "audio"
    stream: bool | None = None
    sample_rate: int = Field(RATE_HZ, ge=8000, le=48_000)
    seed: int = Field(0, ge=0, lt=2**63)
    language: Annotated[
        str | None,
        Field(max_length=16, pattern=r"^[A-Za-z-]+$", validation_alias=AliasChoices("language", "lang_code")),
    ] = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=0, le=65_536)
    repetition_penalty: float | None = Field(None, gt=0, le=10)
    max_tokens: int | None = Field(None, ge=1)
    ref_audio: str | None = Field(None, max_length=MOST_SOUND * 4 // 3 + 100)
    ref_text: str | None = Field(None, min_length=1, max_length=2000)
    consent: str | None = Field(None, min_length=1, max_length=2000)
    effort: int = Field(1, ge=1)
    target: float | None = Field(None, ge=0, le=1)
    deadline: float | None = Field(None, gt=0, le=3600)
    judge: bool = False

    @field_validator("instructions")
    @classmethod
    def _unsupported(cls, value: str | None) -> str | None:
        if value:
            raise ValueError("speech is not steered by instructions here; choose a voice of that manner")
        return value

    @property
    def voice_id(self) -> str | None:
        """The name of the voice, None for the bundle's own choice."""
        return self.voice.id if isinstance(self.voice, VoiceId) else self.voice

    @property
    def sampling(self) -> dict[str, Any]:
        """The sampling parameters that are given."""
        return {name: value for name in SAMPLING if (value := getattr(self, name)) is not None}

    @property
    def streams(self) -> bool:
        """Whether bytes go out while others are made; wav cannot tell its length then, so it is asked for."""
        if self.stream_format == "sse":
            return True
        return self.response_format != "wav" if self.stream is None else self.stream

    def sound(self) -> bytes:
        """Return the bytes of `ref_audio`.

        Raises:
            InputError: neither a data URL of Base64 nor Base64.
        """
        given = self.ref_audio or ""
        head, comma, data = given.partition(",")
        try:
            if comma and not (head.startswith("data:") and head.endswith(";base64")):
                raise ValueError(head[:20])
            return base64.b64decode(data if comma else given, validate=True)
        except ValueError:  # also what base64 raises
            todo = "Send the file as a data URL; paths and URLs are not read."
            raise InputError(f"Making a voice: found no Base64 in ref_audio. {todo}") from None

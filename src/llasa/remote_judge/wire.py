"""What a judge's client and its service say to each other: JSON, as models and to and from candidates.

Must not know: HTTP, how a judge works. Nothing of what the other side says is believed before it is checked.
"""

import base64
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, FailFast, Field, ValidationError, model_validator

from llasa import config
from llasa.audio import encode, read
from llasa.core import Audio, Candidate, Finish, Judged, Score, Status, Utterance, Voice, plain
from llasa.errors import InputError

MOST_ITEMS, MOST_CODES, MOST_LETTERS, MOST_VOICES = 256, 16_384, 4_096, 64
# A small file may hold hours. LONGEST_S: of a sound. MOST_SOUND_S: of all sounds of a request.
LONGEST_S, MOST_SOUND_S = 60.0, 600.0

_SENT = ConfigDict(**config.STRICT | {"allow_inf_nan": False})
_HEARD = ConfigDict(frozen=True, extra="ignore", strict=True, allow_inf_nan=False)

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9._:-]{1,80}$")]
Text = Annotated[str, Field(max_length=MOST_LETTERS)]
# The first wrong one is told: telling millions would take gigabytes.
SentCodes = Annotated[list[Annotated[int, Field(ge=0, lt=1 << 24)]], Field(max_length=MOST_CODES), FailFast()]


class SentVoice(BaseModel):
    """A voice. audio: its reference recording, a FLAC or WAV file in base64."""

    model_config = _SENT
    name: Text
    text: Text
    codes: SentCodes
    codec: Text = ""
    language: Text = ""
    audio: str | None = None


class SentCandidate(BaseModel):
    """A candidate: codes, or a sound file in base64 instead. voice: a key of the request's `voices`."""

    model_config = _SENT
    id: Name
    text: Text
    language: Text = "en"
    finish: Finish = "stop"
    logprob: float | None = None
    codes: SentCodes = []
    audio: str | None = None
    voice: Name | None = None


class Asked(BaseModel):
    """A request. nonce: comes back with the answer, so that an answer to another request is none."""

    model_config = _SENT
    nonce: Name
    items: list[SentCandidate] = Field(min_length=1, max_length=MOST_ITEMS)
    voices: dict[Name, SentVoice] = Field(default={}, max_length=MOST_VOICES)
    held_out: bool = False

    @model_validator(mode="after")
    def _fits(self) -> "Asked":
        ids = [item.id for item in self.items]
        if len(set(ids)) < len(ids):
            raise ValueError("should have no id twice")
        if missing := {item.voice for item in self.items} - {None, *self.voices}:
            raise ValueError(f"should have the voice {min(map(str, missing))!r} among its voices")
        return self

    def digest(self) -> str:
        """Return a hash of what is asked, the same for another try."""
        return digest(self.model_copy(update={"nonce": ""}))


class Verdict(BaseModel):
    """What became of a candidate; see `core.Judged`. A measure of None is not finite."""

    model_config = _HEARD
    id: Name
    status: Status
    value: Annotated[float | None, Field(ge=0, le=1)]
    measures: dict[str, float | None] = {}
    note: str = ""
    reason: str = ""

    @model_validator(mode="after")
    def _fits(self) -> "Verdict":
        if (self.status == "unjudged") != (self.value is None):
            raise ValueError(f"has status {self.status} and value {self.value}")
        return self


class Health(BaseModel):
    """What a service is. judge: its [judge] table; digest: of it. codec: name and weights."""

    model_config = _HEARD
    ready: bool
    bundle: str
    codec: str
    digest: str
    judge: dict[str, Any]
    recognizers: list[str] = []


class _Answer(BaseModel):
    model_config = _HEARD
    nonce: str
    digest: str
    items: list[Any]


def digest(value: BaseModel) -> str:
    """Return a hash of what a model says, the same on every machine."""
    text = json.dumps(value.model_dump(mode="json"), sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def sent_voice(voice: Voice) -> SentVoice:
    """Return a voice as it is sent, with its reference recording, which scorers of similarity hear.

    Raises:
        ConfigError: the voice is too long. InputError: its recording holds what is no number.
    """
    sound = voice.reference and base64.b64encode(encode(voice.reference, "flac")).decode()
    fields = {key: getattr(voice, key) for key in ("name", "text", "codes", "codec", "language")}
    return config.build(SentVoice, {**fields, "audio": sound}, "Sending a voice to the judge")


def sent_candidate(candidate: Candidate, id: str, voice: str | None) -> SentCandidate:
    """Return a candidate as it is sent: its codes, never its sound, which the service decodes itself.

    Raises:
        ConfigError: its text or codes are longer than a service takes.
    """
    said = candidate.utterance
    fields = {"id": id, "text": said.text, "language": said.language, "voice": voice}
    own = {key: getattr(candidate, key) for key in ("finish", "logprob", "codes")}
    return config.build(SentCandidate, fields | own, "Sending a candidate to the judge")


def heard_voice(sent: SentVoice) -> Voice:
    """Return the voice that was sent; InputError if its recording cannot be used."""
    sound = sent.audio and heard(sent.audio)
    fields = {key: getattr(sent, key) for key in ("name", "text", "codes", "codec", "language")}
    return Voice(**fields, reference=sound or None)


def heard_candidate(sent: SentCandidate, voice: Voice | None) -> Candidate:
    """Return the candidate that was sent; InputError if its sound cannot be used."""
    sound = heard(sent.audio) if sent.audio is not None else None
    said = Utterance(sent.id, sent.text, voice, sent.language)
    return Candidate(said, list(sent.codes), sent.finish, sent.logprob, sound)


def heard(sound: str) -> Audio:
    """Return the sound of a file in base64; InputError if there is none."""
    try:
        file = io.BytesIO(base64.b64decode(sound, validate=True))
    except ValueError as error:
        raise InputError(f"Reading audio: found no base64 ({error}). Send a sound file in base64.") from error
    return read(file, max_s=LONGEST_S)


def verdict(id: str, judged: Judged | str) -> dict[str, Any]:
    """Return a verdict, or the reason why there is none, as JSON can hold it."""
    if isinstance(judged, str):
        return Verdict(id=id, status="unjudged", value=None, reason=judged).model_dump()
    score = judged.score
    return {
        "id": id,
        "status": judged.status,
        "value": score.value if score else None,
        "measures": plain(score.measures) if score else {},
        "note": score.note if score else "",
        "reason": judged.reason,
    }


def judged(candidate: Candidate, said: Verdict) -> Judged:
    """Return the verdict on a candidate; measures that are not finite are left out."""
    if said.value is None:
        return Judged(candidate, None, "unjudged", said.reason or "the judge gave no reason")
    measures = {key: number for key, number in said.measures.items() if number is not None}
    return Judged(candidate, Score(said.value, measures, said.note), said.status, said.reason)


def verdicts(
    data: bytes, nonce: str, ids: Sequence[str], judge: str | None
) -> tuple[dict[str, Verdict], list[str]]:
    """Return the good verdicts of an answer by id, and what is wrong with the others.

    Args:
        nonce: of the request. ids: that were asked about.
        judge: digest that the answer must come from; any if None.

    Raises:
        ValueError: it cannot be told what the answer says or which request it belongs to: no JSON, another
            nonce or judge, an id that was not asked about, or one twice.
    """
    answer = _Answer.model_validate_json(data)
    if answer.nonce != nonce:
        raise ValueError(f"the answer to another request ({answer.nonce[:40]!r})")
    if judge is not None and answer.digest != judge:
        raise ValueError(f"the verdicts of another judge ({answer.digest[:40]!r} instead of {judge!r})")
    said = [one.get("id") if isinstance(one, Mapping) else None for one in answer.items]  # pyright: ignore
    if odd := [id for n, id in enumerate(said) if id not in ids or id in said[:n]]:
        raise ValueError(f"a verdict on {odd[0]!r:.60}, which was not asked about, or was answered twice")
    found: dict[str, Verdict] = {}
    wrong = [f"no verdict on {id}" for id in ids if id not in said]
    for id, one in zip(said, answer.items, strict=True):
        try:
            found[str(id)] = Verdict.model_validate(one)
        except ValidationError as error:
            wrong.append(problem(error))
    return found, wrong


def problem(error: ValidationError) -> str:
    """Return what is wrong with a value, in one line."""
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc'])) or 'it'} = {first['input']!r:.60} ({first['msg']})"

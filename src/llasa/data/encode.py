"""The worker of `prepare`: the rows of one shard become codes, or rejects with a reason. Writes nothing.

Pure: what comes out depends on the rows, the codec and the options alone, so any machine may do it.
"""

import hashlib
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import BaseModel, Field

from llasa.audio import loudness, resample, sounding
from llasa.codec.base import Codec
from llasa.config import STRICT
from llasa.core import Audio, Clip, Codes
from llasa.data.rejects import BadClip, Reject
from llasa.data.shards import Header, Row
from llasa.data.sounds import load
from llasa.data.sources.coded import Coded
from llasa.errors import InputError, Interrupted, MissingExtra
from llasa.shortage import of_memory

MAX_CHARACTERS = 4096
_POOL_S = 240.0  # of sound in memory, from which batches of about one length are made


class Options(BaseModel):
    """How a source becomes shards; to change one is to prepare anew.

    min_s, max_s: length of a clip, also of what is not silence. keep_s: silence left at its ends.
    lufs: its loudness. held_out: which rows nothing is trained on: `source` what the source says is for
    test or development, `text` a share by hash of the text, `speakers` a share in whole speakers, `auto` the
    source's if it has some, else by text. shard_rows: rows of the source a shard covers; a kill loses one
    shard's work. batch_s: seconds encoded at a time.
    """

    model_config = STRICT
    min_s: float = Field(default=0.3, gt=0)
    max_s: float = Field(default=60.0, gt=0, le=600)  # word ends have 16 bits
    keep_s: float = Field(default=0.1, ge=0)
    lufs: float = Field(default=-23.0, ge=-60, le=0)
    held_out: Literal["auto", "source", "text", "speakers", "none"] = "auto"
    held_out_share: float = Field(default=0.01, gt=0, lt=1)
    shard_rows: int = Field(default=512, ge=1, le=65_536)
    batch_s: float = Field(default=60.0, gt=0)


@dataclass(frozen=True)
class Job:
    """The rows of the source that shard `number` covers, as it gave them."""

    number: int
    rows: tuple[Clip | Coded | Reject, ...]


@dataclass(frozen=True)
class Kept:
    """A row that became codes. place: where it came from. split: what the source says it is for. sound: equal
    for equal sounds.
    """

    row: Row
    place: str
    split: str
    sound: bytes


@dataclass(frozen=True)
class Made:
    """What became of a job's rows, in their order."""

    number: int
    rows: tuple[Kept | Reject, ...]


@dataclass(frozen=True)
class _Speech:
    """A clip ready for the codec. cut_s: what was trimmed off its start."""

    place: int
    clip: Clip
    text: str
    audio: Audio
    cut_s: float
    sound: bytes


Tick = Callable[[float], None]


def header(codec: Codec) -> Header:
    """Return what shards say of this codec's codes."""
    return Header(codec.name, codec.sample_rate / codec.hop_length, codec.codebook_size)


def encode(job: Job, codec: Codec, options: Options, tick: Tick = lambda seconds: None) -> Made:
    """Return what becomes of a job's rows; `tick` is told the seconds of speech of each row that is done.

    No row is lost and none stops the others: what goes wrong with one is its reject.
    """
    done: list[Kept | Reject | None] = [None] * len(job.rows)
    for pool in _pools(_prepared(job.rows, codec, options, done, tick)):
        for batch in _batches(pool, options.batch_s):
            for speech, codes in zip(batch, _encoded(batch, codec), strict=True):
                done[speech.place] = _kept(speech, codes, header(codec))
                tick(speech.audio.duration_s)
    return Made(job.number, tuple(one for one in done if one is not None))


def _prepared(
    rows: Sequence[Clip | Coded | Reject],
    codec: Codec,
    options: Options,
    done: list[Kept | Reject | None],
    tick: Tick,
) -> Iterator[_Speech]:
    """Yield what there is to encode and put all else into its place in `done`."""
    for place, row in enumerate(rows):
        found = row if isinstance(row, Reject) else _tried(place, row, codec, options)
        if isinstance(found, _Speech):
            yield found
            continue
        done[place] = found
        tick(found.row.duration_s if isinstance(found, Kept) else 0.0)


def _tried(place: int, row: Clip | Coded, codec: Codec, options: Options) -> _Speech | Kept | Reject:
    where = row.audio if isinstance(row, Clip) else row.place
    try:
        return _ready(place, row, codec, options) if isinstance(row, Clip) else _imported(row, header(codec))
    except BadClip as error:
        return Reject(_printable(row.id), where, error.reason, _printable(str(error)))
    except Exception as error:  # a worker's edge: one row must not stop the others
        if _fatal(error):
            raise
        return Reject(_printable(row.id), where, "failed", _printable(f"{type(error).__name__}: {error}"))


def _fatal(error: Exception) -> bool:
    return isinstance(error, Interrupted | MissingExtra) or of_memory(error)


def _ready(place: int, clip: Clip, codec: Codec, options: Options) -> _Speech:
    text = said(clip.text)
    audio = load(clip, min_s=options.min_s, max_s=options.max_s)
    start, end = sounding(audio, options.keep_s)
    speech = Audio(audio.samples[start:end], audio.sample_rate)
    if speech.duration_s < options.min_s:
        found = f"only {speech.duration_s:.2f} s of it are not silence, {options.min_s:g} s are the least"
        raise BadClip("too-short", f"Reading audio from '{clip.audio}': {found}.")
    # A codec may hear at another rate than it speaks.
    heard = resample(loudness(speech, options.lufs), getattr(codec, "input_rate", codec.sample_rate))
    return _Speech(place, clip, text, heard, start / audio.sample_rate, _fingerprint(audio))


def _imported(row: Coded, header: Header) -> Kept:
    if not row.codes:
        raise BadClip("empty", f"Importing row '{row.id}': it has no codes.")
    if not 0 <= min(row.codes) <= max(row.codes) < header.codebook_size:
        found = f"codes from {min(row.codes)} to {max(row.codes)}"
        known = f"'{header.codec}' has {header.codebook_size}"
        raise BadClip("malformed", f"Importing row '{row.id}': found {found}, but {known}.")
    made = Row(
        row.id, said(row.text), row.speaker, row.language, len(row.codes) / header.frame_rate, row.codes
    )
    return Kept(made, row.place, row.split, _hash(np.asarray(row.codes, np.int32).tobytes()))


def said(text: str) -> str:
    """Return a transcript with its white space made plain.

    Raises:
        BadClip: nothing in it can be said, or it is too long or holds control characters or halves of
            characters.
    """
    if len(text) > MAX_CHARACTERS:
        raise BadClip("text-too-long", f"Its text has {len(text)} characters, {MAX_CHARACTERS} are the most.")
    plain = " ".join(text.split())
    odd = next((letter for letter in plain if unicodedata.category(letter) in ("Cc", "Cs")), "")
    if odd:
        raise BadClip("bad-text", f"Its text holds the character U+{ord(odd):04X}.")
    if not any(map(str.isalnum, plain)):
        raise BadClip("no-text", f"Its text has nothing to say: {plain[:40]!r}.")
    return plain


def _printable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()[:500]


def _fingerprint(audio: Audio) -> bytes:
    return _hash(audio.sample_rate.to_bytes(4, "big"), np.ascontiguousarray(audio.samples).tobytes())


def _hash(*parts: bytes) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(part)
    return digest.digest()


def _pools(speeches: Iterable[_Speech]) -> Iterator[list[_Speech]]:
    """Yield them in bunches of bounded seconds, so that memory does not depend on the shard."""
    pool, seconds = list[_Speech](), 0.0
    for speech in speeches:
        pool.append(speech)
        seconds += speech.audio.duration_s
        if seconds >= _POOL_S:
            yield pool
            pool, seconds = [], 0.0
    if pool:
        yield pool


def _batches(pool: Sequence[_Speech], batch_s: float) -> Iterator[list[_Speech]]:
    """Yield batches of about one length, longest first, of at most `batch_s` with their padding."""
    ordered = sorted(pool, key=lambda speech: -speech.audio.duration_s)
    while ordered:
        count = max(1, int(batch_s / ordered[0].audio.duration_s))
        yield ordered[:count]
        ordered = ordered[count:]


def _encoded(batch: Sequence[_Speech], codec: Codec) -> list[Codes | BadClip]:
    """Return the codes of each, or why it has none; if a batch fails, each is tried alone."""
    try:
        return list(codec.encode([speech.audio for speech in batch]))
    except Exception as error:  # a worker's edge, as above
        if _fatal(error):
            raise
        if len(batch) > 1:
            return [found for speech in batch for found in _encoded([speech], codec)]
        reason = "not-finite" if isinstance(error, InputError) else "failed"
        return [BadClip(reason, f"Encoding it: {type(error).__name__}: {error}")]


def _kept(speech: _Speech, codes: Codes | BadClip, header: Header) -> Kept | Reject:
    clip = speech.clip
    if isinstance(codes, BadClip):
        return Reject(clip.id, clip.audio, codes.reason, _printable(str(codes)))
    if not codes:
        return Reject(clip.id, clip.audio, "too-short", "It is shorter than one code.")
    ends = np.array([(end_s - speech.cut_s) * header.frame_rate for _, end_s in clip.words])
    word_ends = (
        np.maximum.accumulate(np.clip(np.rint(ends), 0, len(codes))).astype(int).tolist() if len(ends) else []
    )
    seconds = len(codes) / header.frame_rate
    row = Row(clip.id, speech.text, clip.speaker, clip.language, seconds, codes, word_ends)
    return Kept(row, clip.audio, clip.split, speech.sound)

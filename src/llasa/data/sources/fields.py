"""A row's fields to a `Clip`: the names by which data sets call things, and what their values must be."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llasa.core import Clip
from llasa.data.places import confined
from llasa.data.rejects import BadClip
from llasa.text.normalize import language_code

SOUND = (
    "audio_filepath",
    "audio_file",
    "file_name",
    "wav_path",
    "audio_path",
    "audio",
    "wav",
    "path",
)
TEXT = ("text", "transcript", "transcription", "sentence", "normalized_text")
SPEAKER = ("speaker", "speaker_id", "client_id", "spk")
LANGUAGE = ("language", "lang", "locale")
ID = ("id", "utt_id", "utterance_id", "segment_id", "key")
MAX_NAME = 300  # characters
_CODES = {
    "english": "en", "eng": "en", "chinese": "zh", "mandarin": "zh", "zho": "zh", "cmn": "zh", "german": "de",
    "deu": "de", "italian": "it", "ita": "it", "french": "fr", "fra": "fr", "spanish": "es", "spa": "es",
    "japanese": "ja", "jpn": "ja", "korean": "ko", "kor": "ko",
}  # fmt: skip


@dataclass(frozen=True)
class Asked:
    """What a reader is to read. root: where names may lead; language: of rows that do not say.

    files: the manifests or archives that were found. tokenizer: a folder, for rows of token ids.
    """

    root: Path
    files: Sequence[Path]
    language: str = "en"
    tokenizer: Path | None = None

    def named(self, path: Path) -> str:
        """Return one of the files as places say it."""
        return path.relative_to(self.root).as_posix()


Fields = Mapping[str, Any]


def clip(asked: Asked, base: Path, fields: Fields, split: str = "", absolute: bool = False) -> Clip:
    """Return the clip that a row's fields describe; its sound's name is taken beside `base`.

    Raises:
        BadClip: malformed: no sound is named, or outside the data set, or a value is no such value.
    """
    path = beside(asked.root, base, first(fields, SOUND), absolute)
    start_s = seconds(fields, "offset", 0.0)
    cut = "offset" in fields and "duration" in fields  # NeMo's; alone, the duration is the file's
    end_s = start_s + seconds(fields, "duration", 0.0) if cut else None
    at = f"@{start_s:.3f}" if end_s is not None else ""
    return Clip(
        id=identity(first(fields, ID), stem(asked.root, path) + at),
        audio=str(path),
        text=words(first(fields, TEXT)),
        speaker=label(first(fields, SPEAKER)),
        language=code(first(fields, LANGUAGE)) or asked.language,
        start_s=start_s,
        end_s=end_s,
        split=split,
    )


def first(fields: Mapping[str, Any], names: Sequence[str]) -> Any:
    """Return the value of the first of these names that has one."""
    return next((fields[name] for name in names if fields.get(name) not in (None, "")), None)


def beside(root: Path, base: Path, name: object, absolute: bool) -> Path:
    """Return the path of a sound.

    Raises:
        BadClip: it is no name, or leads out of the data set.
    """
    if isinstance(name, Mapping):  # as Hugging Face writes an audio column in JSON
        name = name.get("path")
    if not isinstance(name, str) or not name.strip():
        raise BadClip("malformed", f"It names no sound. Known names: {', '.join(SOUND)}.")
    path = confined(root, base, name.strip(), absolute)
    if path is None:
        raise BadClip(
            "malformed",
            f"The name {name[:200]!r} leads out of the data set. Name the folder that holds all of it.",
        )
    return path


def stem(root: Path, path: Path) -> str:
    """Return a path's name inside the data set, without its ending: unique where files are."""
    inside = path.relative_to(root) if path.is_relative_to(root) else path
    return inside.with_suffix("").as_posix()


def identity(value: object, otherwise: str) -> str:
    """Return a row's id.

    Raises:
        BadClip: as `label`.
    """
    return label(value) or label(otherwise)


def label(value: object) -> str:
    """Return the name of a row, a speaker or a language.

    Raises:
        BadClip: it is no text or number, very long, or cannot be written as UTF-8.
    """
    found = words(value)
    if len(found) > MAX_NAME:
        raise BadClip("malformed", f"A name in it has {len(found)} characters, {MAX_NAME} are the most.")
    if not found.isprintable():  # neither are halves of characters
        raise BadClip("malformed", f"A name in it cannot be printed: {ascii(found)[:80]}.")
    return found


def words(value: object) -> str:
    """Return text, or a number as text; nothing is ''.

    Raises:
        BadClip: it is something else.
    """
    if value is None:
        return ""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadClip("malformed", f"Found a {type(value).__name__} where text should be.")
    return f"{value:g}" if isinstance(value, float) else str(value)


def seconds(fields: Mapping[str, Any], name: str, otherwise: float) -> float:
    """Return a time.

    Raises:
        BadClip: it is no number from 0 up.
    """
    value = fields.get(name, otherwise)
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if isinstance(value, bool) or not 0 <= found < math.inf:
        raise BadClip("malformed", f"Found {name} = {repr(value)[:40]}, expected seconds from 0 up.")
    return found


def code(value: object) -> str:
    """Return a language code, of two letters where it is known.

    Raises:
        BadClip: it is no text.
    """
    short = language_code(label(value))
    return _CODES.get(short, short)

"""JSON lines that name one sound each: NeMo, Emilia, and whatever says `audio` and `text`; codes of Llasa."""

from functools import partial
from pathlib import Path
from typing import Any

from llasa.core import Clip
from llasa.data.rejects import BadClip
from llasa.data.sources.coded import Coded
from llasa.data.sources.fields import (
    ID,
    LANGUAGE,
    SPEAKER,
    TEXT,
    Asked,
    clip,
    code,
    first,
    identity,
    label,
    words,
)
from llasa.data.sources.lines import Rows, each, objects
from llasa.data.sources.look import Look, first_object, split_of

SUFFIXES = (".jsonl", ".jsonl.gz", ".json")
_CODES = ("code", "codes")
_LHOTSE = ({"sources", "sampling_rate"}, {"recording_id", "start"}, {"recording"})
_GENERIC = ("audio", "wav_path", "audio_path", "path")


def kind_of(path: Path) -> str:
    """Return the kind of a file by its first object, or ''."""
    keys = first_object(path).keys()
    marks = {
        "lhotse": any(names <= keys for names in _LHOTSE),
        "nemo": "audio_filepath" in keys,
        "hf-folder": "file_name" in keys,
        "emilia": {"id", "wav"} <= keys,
        "llasa-jsonl": "text" in keys and not keys.isdisjoint(_CODES),
        "jsonl": not keys.isdisjoint(_GENERIC),
    }
    return next((kind for kind, fits in marks.items() if fits), "")


def find(kind: str, look: Look) -> list[Path]:
    """Return the files of a kind."""
    return [path for path in look.ending(*SUFFIXES) if kind_of(path) == kind]


def read(absolute: bool, asked: Asked) -> Rows:
    """Yield rows; `absolute` takes absolute names as they are, others stay inside the data set.

    `offset` and `duration` of NeMo cut a clip out of a longer recording.
    """
    for path in asked.files:
        make = partial(_clip, asked, path.parent, split_of(asked.named(path)), absolute)
        yield from each(objects(path, asked.named(path)), make)


def _clip(asked: Asked, base: Path, split: str, absolute: bool, place: str, fields: dict[str, Any]) -> Clip:
    return clip(asked, base, fields, split_of(words(fields.get("split"))) or split, absolute)


def read_codes(asked: Asked) -> Any:
    """Yield the rows of a trainer's JSON lines: `text` and `code`, a list of numbers."""
    for path in asked.files:
        name = asked.named(path)
        yield from each(objects(path, name), partial(_coded, asked, path.stem, split_of(name)))


def _coded(asked: Asked, stem: str, split: str, place: str, fields: dict[str, Any]) -> Coded:
    codes = first(fields, _CODES)
    if isinstance(codes, list) and len(codes) == 1 and isinstance(codes[0], list):
        codes = codes[0]  # as a batch of one
    if not isinstance(codes, list) or not all(type(one) is int for one in codes):
        raise BadClip("malformed", "Its codes are no list of whole numbers.")
    id = identity(first(fields, ID), f"{stem}:{place.rpartition(':')[2]}")
    speaker, language = label(first(fields, SPEAKER)), code(first(fields, LANGUAGE)) or asked.language
    split = split_of(words(fields.get("split"))) or split
    return Coded(id, words(first(fields, TEXT)), codes, split, place, speaker, language)

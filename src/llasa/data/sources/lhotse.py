"""Lhotse manifests: recordings with supervisions, or cuts; alignments become words and phones."""

from collections.abc import Mapping, Sequence
from functools import partial
from math import isfinite
from pathlib import Path
from typing import Any

from llasa.core import Clip
from llasa.data.rejects import BadClip, Reject
from llasa.data.sources.fields import Asked, Fields, beside, code, identity, label, seconds, words
from llasa.data.sources.jsonl import kind_of
from llasa.data.sources.lines import Rows, each, objects
from llasa.data.sources.look import Look, first_object, split_of

_SUFFIXES = (".jsonl", ".jsonl.gz")
_Labels = tuple[tuple[str, float], ...]
_Spoken = tuple[str, float, Any]  # path of the sound, where the times below begin (s), a supervision
_PHONES = ("phone", "phones", "phoneme")
_WORDS = ("word", "words")


def find(look: Look) -> list[Path]:
    """Return the files of cuts, or else those of recordings and supervisions."""
    found = [path for path in look.ending(*_SUFFIXES) if kind_of(path) == "lhotse"]
    cuts = [path for path in found if "recording" in first_object(path)]
    return cuts or found


def read(asked: Asked) -> Rows:
    """Yield a clip a supervision; a cut without any is one clip without a text."""
    recordings = [path for path in asked.files if "sources" in first_object(path)]
    known: dict[str, str] = {}
    for path in recordings:
        for row in each(objects(path, asked.named(path)), partial(_recording, asked, path.parent)):
            if isinstance(row, Reject):
                yield row
            else:
                known.update([row])
    for path in asked.files:
        if path not in recordings:
            split = split_of(asked.named(path))
            rows = each(objects(path, asked.named(path)), partial(_spoken, asked, path.parent, known))
            for found in rows:
                spoken = [found] if isinstance(found, Reject) else found
                yield from each(spoken, partial(_clip, asked, split))


def _recording(asked: Asked, base: Path, place: str, fields: Mapping[str, Any]) -> tuple[str, str]:
    """Return a recording's id and the path of its sound."""
    sources = fields.get("sources")
    source = sources[0] if isinstance(sources, list) and sources else None
    if not isinstance(source, Mapping) or source.get("type") != "file" or len(sources or ()) != 1:
        raise BadClip("malformed", "Its recording is not in one file.")
    return words(fields.get("id")), str(beside(asked.root, base, source.get("source"), absolute=True))


def _spoken(
    asked: Asked, base: Path, known: Mapping[str, str], place: str, row: Fields
) -> list[tuple[str, _Spoken]]:
    """Return the supervisions of a row, which is one itself, or a cut."""
    if "recording" not in row:
        audio = known.get(words(row.get("recording_id")))
        if audio is None:
            raise BadClip("missing", f"No recording is called {str(row.get('recording_id'))[:80]!r}.")
        return [(place, (audio, 0.0, row))]
    recording, inner = row["recording"], row.get("supervisions") or []
    if not isinstance(recording, Mapping) or not isinstance(inner, list):
        raise BadClip("malformed", "It is no cut of one recording.")
    audio = _recording(asked, base, place, recording)[1]
    start_s = seconds(row, "start", 0.0)
    return [(place, (audio, start_s, one)) for one in inner or [{**row, "start": 0.0}]]


def _clip(asked: Asked, split: str, place: str, spoken: _Spoken) -> Clip:
    """Return a supervision as a clip."""
    audio, origin_s, row = spoken
    if not isinstance(row, Mapping):
        raise BadClip("malformed", f"Found a {type(row).__name__} where a supervision should be.")
    if row.get("channel", 0) not in (0, [0]):
        found = f"It is channel {str(row['channel'])[:20]} of its recording"
        raise BadClip("channels", f"{found}. Write it to a file of its own.")
    start_s, length_s = seconds(row, "start", 0.0), seconds(row, "duration", 0.0)
    if not length_s:
        raise BadClip("malformed", "It has no duration.")
    aligned = row.get("alignment") or {}
    return Clip(
        id=identity(row.get("id"), f"{Path(audio).stem}@{origin_s + start_s:.3f}"),
        audio=audio,
        text=words(row.get("text")),
        speaker=label(row.get("speaker")),
        language=code(row.get("language")) or asked.language,
        start_s=origin_s + start_s,
        end_s=origin_s + start_s + length_s,
        split=split,
        words=_ends(aligned, _WORDS, start_s, length_s),
        phones=_ends(aligned, _PHONES, start_s, length_s),
    )


def _ends(aligned: Any, names: Sequence[str], start_s: float, length_s: float) -> _Labels:
    """Return labels with their ends from the clip's start; an item is (label, start, duration, ...)."""
    if not isinstance(aligned, Mapping):
        raise BadClip("malformed", "Its alignment is no object.")
    items = next((aligned[name] for name in names if aligned.get(name)), [])
    try:
        found = tuple((str(item[0]), round(item[1] + item[2] - start_s, 4)) for item in items)
    except (TypeError, IndexError, KeyError, OverflowError) as error:
        raise BadClip("malformed", "Its alignment is no list of (label, start, duration).") from error
    ends = [0.0, *(end_s for _, end_s in found), length_s + 0.1]  # aligners round up
    if not all(map(isfinite, ends)) or ends != sorted(ends):
        raise BadClip("malformed", "The times of its alignment are out of order or out of the clip.")
    return found

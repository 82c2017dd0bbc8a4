"""WebDataset: tars of groups of files with one name, such as `a.flac` and `a.json`. Emilia comes so, too.

Sounds stay where they are: a clip's place is that of its bytes in the tar, so a tar must not be compressed.
"""

import json
import tarfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

from llasa.core import Clip
from llasa.data.places import in_tar
from llasa.data.rejects import BadClip, Reject
from llasa.data.sources.fields import ID, LANGUAGE, SPEAKER, TEXT, Asked, code, first, identity, label, words
from llasa.data.sources.lines import MAX_LINE, Rows, each
from llasa.data.sources.look import SOUNDS, Look, split_of

_Group = dict[str, tuple[int, int, bytes]]  # by ending: offset, size, and content of what is no sound


def find(look: Look) -> list[Path]:
    """Return the tars that are not compressed."""
    return look.ending(".tar")


def read(asked: Asked) -> Rows:
    """Yield a clip a group; text and facts come from its `.json`, or the text from its `.txt`."""
    for path in asked.files:
        name = asked.named(path)
        yield from each(_groups(path, name), partial(_clip, asked, path, split_of(name)))


def _groups(path: Path, name: str) -> Iterator[tuple[str, _Group] | Reject]:
    key, group = "", _Group()
    try:
        with tarfile.open(path, "r:") as archive:
            for member in _members(archive):
                found, ending = _split(member.name)
                if found != key and group:
                    yield f"{name}:{key}", group
                    group = {}
                key = found
                group[ending] = (member.offset_data, member.size, _content(archive, member, ending))
    except (tarfile.TarError, OSError, ValueError) as error:
        yield Reject("", name, "unreadable", f"The archive is damaged behind '{key}': {error}")
    if group:
        yield f"{name}:{key}", group


def _members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    while (member := archive.next()) is not None:
        cast(Any, archive).members = []  # it remembers all of them, but the archive may be large
        if member.isreg():
            yield member


def _split(name: str) -> tuple[str, str]:
    """Return the name of a member's group and its ending: all behind the first dot of the last part."""
    folder, slash, file = name.rpartition("/")
    key, _, ending = file.partition(".")
    return folder + slash + key, f".{ending.lower()}"


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo, ending: str) -> bytes:
    if ending not in (".json", ".txt") or member.size > MAX_LINE:
        return b""
    file = archive.extractfile(member)
    return file.read() if file else b""


def _clip(asked: Asked, path: Path, split: str, place: str, group: _Group) -> Clip:
    sound = next((group[ending] for ending in SOUNDS if ending in group), None)
    if sound is None:
        raise BadClip("malformed", f"There is no sound among {', '.join(sorted(group))[:80]}.")
    facts = _facts(group)
    return Clip(
        id=identity(first(facts, ID), f"{path.stem}/{place.partition(':')[2]}"),
        audio=in_tar(path, sound[0], sound[1]),
        text=words(first(facts, TEXT)),
        speaker=label(first(facts, SPEAKER)),
        language=code(first(facts, LANGUAGE)) or asked.language,
        split=split,
    )


def _facts(group: _Group) -> dict[str, Any]:
    large = [ending for ending in (".json", ".txt") if ending in group and group[ending][1] > MAX_LINE]
    if large:
        raise BadClip("text-too-long", f"Its '{large[0]}' is longer than {MAX_LINE} bytes.")
    try:
        facts = json.loads(group[".json"][2].decode("utf-8-sig")) if ".json" in group else {}
        text = group[".txt"][2].decode("utf-8-sig") if ".txt" in group else ""
    except (ValueError, RecursionError) as error:
        raise BadClip("malformed", f"Its text is no UTF-8 or no JSON: {error}") from error
    if not isinstance(facts, dict):
        raise BadClip("malformed", f"Its JSON is a {type(facts).__name__}, expected an object.")
    return facts if first(facts, TEXT) is not None else {**facts, "text": text}

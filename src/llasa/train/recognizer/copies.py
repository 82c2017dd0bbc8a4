"""Copies of speech through a codec: a judge of what a codec decodes must have heard what it does to speech.

They are made once, in blocks of one sound file each, and found again by a later run; two runs that are
started together share the work.
"""

import hashlib
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from io import BytesIO
from itertools import accumulate
from pathlib import Path

import numpy as np
import soundfile
from rich.console import Console
from rich.progress import track

from llasa.audio import loudness, replace_file, to_int16
from llasa.codec.base import Codec
from llasa.core import Audio
from llasa.data import sounds
from llasa.data.rejects import BadClip, Reject
from llasa.train.recognizer.corpus import SHORTEST_S, Line

BLOCK, BATCH = 64, 16  # lines a file, and lines encoded at once


def chosen(lines: Sequence[Line], hours: float) -> list[Line]:
    """Return about so many hours of the lines, shortest first; the same ones at every call.

    Speakers are drawn by the square root of their number of lines.
    """
    draw, groups = random.Random("copies"), dict[str, list[Line]]()
    for line in lines:
        groups.setdefault(line.group, []).append(line)
    roots = {name: len(group) ** 0.5 for name, group in groups.items()}
    found: list[Line] = []
    for name, group in sorted(groups.items()):
        left_s = hours * 3600 * roots[name] / sum(roots.values())
        for line in draw.sample(group, len(group)):
            if left_s <= 0:
                break
            found.append(line)
            left_s -= line.length_s
    return sorted(found, key=lambda line: (line.length_s, line.clip.id))


def copied(
    codec: Codec, lines: Sequence[Line], folder: Path, seed: int = 0
) -> tuple[list[Line], list[Reject]]:
    """Return the lines as copies, making the blocks of `folder` that are missing, and the rows of no use.

    Args:
        lines: as `chosen` gives them.
        folder: of these lines and this codec alone, see `place`.
        seed: decides the order of the work; that of two runs at once should differ.
    """
    folder.mkdir(parents=True, exist_ok=True)
    blocks = [lines[start : start + BLOCK] for start in range(0, len(lines), BLOCK)]
    todo = [number for number in range(len(blocks)) if not _index(folder, number).exists()]
    order = random.Random(seed).sample(todo, len(todo))
    for number in track(order, "copies", console=Console(stderr=True), disable=not order):
        if not _index(folder, number).exists():  # another run may have made it
            _make(codec, blocks[number], folder, number)
    made: list[Line] = []
    rejects: list[Reject] = []
    for number, block in enumerate(blocks):
        index = json.loads(_index(folder, number).read_text(encoding="utf-8"))
        rejects += [Reject(**row) for row in index["rejects"]]
        made += _found(block, index["rows"], folder / f"{number:05d}.flac", index["sample_rate"])
    return made, rejects


def place(folder: Path, weights: str, lines: Sequence[Line]) -> Path:
    """Return the folder of the copies of these lines by a codec whose weights have this hash."""
    digest = hashlib.sha256(weights.encode())
    for line in lines:
        digest.update(f"{line.clip} {line.length_s}\n".encode())
    return folder / digest.hexdigest()[:12]


def _index(folder: Path, number: int) -> Path:
    return folder / f"{number:05d}.json"


def _make(codec: Codec, lines: Sequence[Line], folder: Path, number: int) -> None:
    """Write a block: its sound, then the index that says it is whole."""
    rejects: list[Reject] = []
    copies = list(_copies(codec, lines, rejects))
    sizes = [len(samples) for _, samples in copies]
    rows = [
        {"line": line, "start": end - size, "samples": size}
        for (line, _), size, end in zip(copies, sizes, accumulate(sizes), strict=True)
    ]
    path = folder / f"{number:05d}.flac"
    sound, file = np.concatenate([samples for _, samples in copies] or [np.zeros(1, np.int16)]), BytesIO()
    soundfile.write(file, sound, codec.sample_rate, format="FLAC", subtype="PCM_16")
    replace_file(path, file.getvalue())  # two runs may make one block: both come to the same
    index = {"sample_rate": codec.sample_rate, "rows": rows, "rejects": [reject.row() for reject in rejects]}
    replace_file(_index(folder, number), json.dumps(index).encode())


def _copies(codec: Codec, lines: Sequence[Line], rejects: list[Reject]) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the number of each line whose sound is of use, and its copy, int16 [T]."""
    for first in range(0, len(lines), BATCH):
        numbers = range(first, min(first + BATCH, len(lines)))
        loaded = [(number, sound) for number in numbers if (sound := _sound(lines[number], rejects))]
        copies = codec.decode(codec.encode([sound for _, sound in loaded])) if loaded else []
        for (number, _), copy in zip(loaded, copies, strict=True):
            yield number, to_int16(np.clip(copy.samples, -1, 1))


def _sound(line: Line, rejects: list[Reject]) -> Audio | None:
    try:
        return loudness(sounds.load(line.clip, min_s=SHORTEST_S))
    except BadClip as error:
        rejects.append(Reject(line.clip.id, line.clip.audio, error.reason, str(error)))
        return None


def _found(block: Sequence[Line], rows: Sequence[dict[str, int]], path: Path, rate: int) -> list[Line]:
    made: list[Line] = []
    for row in rows:
        line = block[row["line"]]
        start_s, end_s = row["start"] / rate, (row["start"] + row["samples"]) / rate
        clip = replace(line.clip, audio=str(path), start_s=start_s, end_s=end_s, words=(), phones=())
        made.append(replace(line, clip=clip, length_s=end_s - start_s))
    return made

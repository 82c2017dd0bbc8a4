"""Preparing data: what bad rows become, disk against padded rows, memory and resuming.

Makes short sounds with 5 % planted bad ones and prepares them with the starter's codec.
"""

import argparse
import io
import json
import os
import random
import resource
import struct
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import soundfile
import torch

from llasa.bundle import load_bundle
from llasa.codec.base import Codec
from llasa.data import shards
from llasa.data.encode import Options
from llasa.data.prepare import Prepared, prepare
from llasa.data.sources import open_source

RATE = 16_000
PADDED_BYTES = 2048 * 4  # a row of 2,048 int32

Fields = dict[str, object]


def noise(number: int) -> np.ndarray:
    """Return half a second to a second of sound that no other number has."""
    made = np.random.default_rng(number)
    t = np.arange(made.integers(RATE // 2, RATE)) / RATE
    return (
        0.2 * np.sin(2 * np.pi * made.uniform(100, 400) * t) + 0.05 * made.standard_normal(len(t))
    ).astype(np.float32)


def claiming(frames: int, rate: int = RATE, channels: int = 1, data: bytes = b"") -> bytes:
    """Return a WAV file whose header claims something."""
    size = frames * channels * 2
    form = struct.pack("<HHIIHH", 1, channels, rate, rate * channels * 2, channels * 2, 16)
    return (
        b"RIFF"
        + struct.pack("<I", 36 + size)
        + b"WAVEfmt "
        + struct.pack("<I", 16)
        + form
        + b"data"
        + struct.pack("<I", size)
        + data
    )


def endless() -> bytes:
    """Return a FLAC file of a second whose header claims ten hours."""
    file = io.BytesIO()
    soundfile.write(file, noise(10**6), RATE, format="FLAC")
    data = bytearray(file.getvalue())
    facts = int.from_bytes(data[18:26], "big") >> 36 << 36  # the last 36 bits are the number of samples
    data[18:26] = (facts | 36_000 * RATE).to_bytes(8, "big")
    return bytes(data)


def raw(data: bytes) -> Callable[[Path, Fields], None]:
    """Return what puts these bytes in the place of a sound."""
    return lambda path, fields: void(path.write_bytes(data))


def sound(samples: np.ndarray, subtype: str = "PCM_16") -> Callable[[Path, Fields], None]:
    """Return what puts these samples in the place of a sound."""
    return lambda path, fields: soundfile.write(path, samples, RATE, subtype)


def void(_: object) -> None:
    """Drop a value."""


def changed(**values: object) -> Callable[[Path, Fields], None]:
    """Return what changes fields of the row."""
    return lambda path, fields: fields.update(values)


PLANTS: dict[str, tuple[str, Callable[[Path, Fields], None]]] = {
    "missing file": ("missing", lambda path, fields: path.unlink()),
    "zero bytes": ("empty", raw(b"")),
    "header only": ("empty", raw(claiming(0))),
    "not a number": ("not-finite", sound(np.full(RATE, np.nan, np.float32), "FLOAT")),
    "1 Hz": ("bad-rate", raw(claiming(8, 1, data=b"\1" * 16))),
    "192 channels": ("channels", raw(claiming(RATE, channels=192, data=bytes(RATE * 384)))),
    "silent": ("silent", sound(np.zeros(RATE, np.float32))),
    "ten hours": ("too-long", raw(endless())),
    "garbage": ("unreadable", raw(b"This is no sound. " * 100)),
    "no text": ("no-text", changed(text=" ")),
    "same id": ("duplicate-id", changed(id="row-00000")),
    "same sound": ("duplicate-audio", sound(noise(0))),
    "long text": ("text-too-long", changed(text="word " * 200_000)),
}


def make(folder: Path, rows: int, bad: float) -> dict[str, str]:
    """Write sounds and their manifest; return the reason that each planted row must be rejected for."""
    folder.mkdir(parents=True)
    expected, chosen, kinds = dict[str, str](), random.Random(0), list(PLANTS)
    with (folder / "manifest.jsonl").open("w", encoding="utf-8") as manifest:
        for number in range(rows):
            path, id = folder / f"{number:05}.wav", f"row-{number:05}"
            soundfile.write(path, noise(number), RATE)
            fields: Fields = {
                "id": id,
                "audio": path.name,
                "text": f"This is row {number}.",
                "speaker": f"s{number % 7}",
            }
            if number and chosen.random() < bad:
                kind = kinds[len(expected) % len(kinds)]
                reason, plant = PLANTS[kind]
                plant(path, fields)
                expected[path.name] = reason
            manifest.write(json.dumps(fields) + "\n")
    return expected


def fill(source: Path, out: Path, codec: Codec, options: Options) -> Prepared:
    """Prepare."""
    return prepare(open_source(source), out, codec, options)


def quarantined(out: Path, expected: dict[str, str], done: Prepared) -> dict[str, float]:
    """Return how many planted rows have the right reason, and how many rows are neither kept nor rejected."""
    lines = [json.loads(line) for line in (out / "rejects.jsonl").read_text(encoding="utf-8").splitlines()]
    found = {Path(one["place"]).name: one["reason"] for one in lines}
    right = sum(
        found.get(name) == reason or _by_line(lines, name, reason) for name, reason in expected.items()
    )
    return {
        "planted": len(expected), "right_reason": right, "other_rejects": len(lines) - len(expected),
        "lost": done.rows - done.kept - len(lines),
    }  # fmt: skip


def _by_line(lines: list[dict[str, str]], name: str, reason: str) -> bool:
    """A row that is refused before its sound is looked at is named by its line."""
    line = f"manifest.jsonl:{int(name.partition('.')[0]) + 1}"
    return any(one["place"].endswith(line) and one["reason"] == reason for one in lines)


def forked(work: Callable[[], object]) -> tuple[dict[str, float], int]:
    """Do some work in a child; return what it says (JSON) with its peak memory, and how it ended."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        found = work()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        os.write(
            writer,
            json.dumps({"peak_mb": round(peak, 1)} | (found if isinstance(found, dict) else {})).encode(),
        )
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as told:
        said = told.read()
    _, status = os.waitpid(child, 0)
    return (json.loads(said) if said else {}), status


def timed(source: Path, out: Path, codec: Codec, options: Options) -> dict[str, float]:
    """Return rows a second, the real-time factor, and what was kept."""
    began = time.perf_counter()
    done = fill(source, out, codec, options)
    elapsed_s = time.perf_counter() - began
    return {
        "rows": done.rows,
        "elapsed_s": elapsed_s,
        "rows_per_s": done.rows / elapsed_s,
        "rtf": elapsed_s / done.speech_s,
    }


def resuming(source: Path, out: Path, codec: Codec, options: Options) -> dict[str, float]:
    """Return seconds from the call to the first job of a run that was stopped after most of its shards."""
    began = time.perf_counter()

    class Reached(Exception):
        pass

    def drive(jobs, tick):
        next(jobs)
        raise Reached
        yield

    try:
        prepare(open_source(source), out, codec, options, drive=drive)
    except Reached:
        return {"resume_s": time.perf_counter() - began}
    return {}


def interrupt(out: Path, share: float) -> int:
    """Cut an index down to a share of its shards, as a kill leaves it; return the shards left."""
    from llasa.data.prepare import SEEN
    from llasa.data.seen import Seen

    lines = (out / "index.jsonl").read_bytes().splitlines(keepends=True)
    left = int(share * (len(lines) - 1))
    (out / "index.jsonl").write_bytes(b"".join(lines[:left]))
    Seen(out / SEEN, 0).commit(left)
    return left


def disk(folder: Path, rows: int = 10_000) -> dict[str, float]:
    """Return bytes a row of 6 to 10 s, 50 codes a second drawn evenly from 65,536, against padded rows."""
    drawn = np.random.default_rng(0)
    lengths = drawn.integers(300, 500, rows)
    made = [
        shards.Row(
            f"row-{n:06}",
            "Some words as long as a sentence is, most of the time.",
            "ada",
            "en",
            length / 50,
            codes,
        )
        for n, length in enumerate(lengths.tolist())
        for codes in [drawn.integers(0, 65_536, length).tolist()]
    ]
    shards.save(folder, {"train": made}, shards.Header("xcodec2@0", 50.0, 65_536))
    size = sum(path.stat().st_size for path in folder.iterdir())
    began, found = time.perf_counter(), shards.Shards(folder)
    opened_s, order = time.perf_counter() - began, drawn.permutation(rows)[:2000].tolist()
    began = time.perf_counter()
    for place in order:
        found[place]
    return {
        "bytes_a_row": size / rows, "share_of_padded": size / rows / PADDED_BYTES, "open_s": opened_s,
        "random_rows_per_s": len(order) / (time.perf_counter() - began),
    }  # fmt: skip


def measured(folder: Path, rows: int, codec: Codec) -> dict[str, dict[str, float]]:
    """Return every figure."""
    options, found = Options(), {"disk": disk(folder / "disk")}
    for count in sorted({rows // 10, rows}):
        source, out = folder / f"source-{count}", folder / f"out-{count}"
        expected = make(source, count, 0.05)
        found[f"{count} rows"] = forked(partial(timed, source, out, codec, options))[0]
    done = fill(source, out, codec, options)
    found["rejects"] = quarantined(out, expected, done)
    found["rejects"]["resume_whole_s"] = forked(partial(timed, source, out, codec, options))[0]["elapsed_s"]
    interrupt(out, 0.9)
    found["resume"] = forked(partial(resuming, source, out, codec, options))[0]
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--folder", type=Path, help="where to work; a temporary one by default")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    codec = load_bundle("starter").codec
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        found = measured(Path(folder), args.rows, codec)
    if args.json:
        return print(json.dumps(found, indent=1))
    for name, figures in found.items():
        print(name, *(f"  {key:20} {value:.6g}" for key, value in figures.items()), sep="\n")


if __name__ == "__main__":
    main()

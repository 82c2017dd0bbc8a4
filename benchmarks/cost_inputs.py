"""What benchmarks/cost.py reckons with, as far as it can be measured or counted without a GPU.

reading: processor seconds of a worker of `prepare` for an hour of speech, all but the codec: an Opus file is
opened, decoded, checked, trimmed, levelled and resampled. writing: rows a second that the one process takes
which writes shards, given what workers made. shard: bytes of a code on the disk, its row's text and name
included. flops: of X-Codec2 in full size, by PyTorch's own count of a pass over random weights.

    python benchmarks/cost_inputs.py            # about 3 minutes, 4 GB; --no-flops: 1 minute, 1 GB
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from llasa import audio
from llasa.core import Audio, Clip, Codes
from llasa.data.encode import Job, Kept, Made, Options, Tick, encode
from llasa.data.prepare import prepare
from llasa.data.shards import Row

SECONDS, RATE, CODES = 10.0, 24_000, 65_536
TEXT = "It is said in ten seconds, about, by somebody who takes the time that it takes, and then some of it. "


class Free:
    """A codec that costs nothing: X-Codec2's rates, codes of random numbers."""

    name, sample_rate, codebook_size, hop_length = "free@0", 16_000, CODES, 320

    def encode(self, audio: Sequence[Audio]) -> list[Codes]:
        """Return as many codes as the sounds have."""
        drawn = np.random.default_rng(0)
        return [drawn.integers(0, CODES, len(one.samples) // 320 + 1).tolist() for one in audio]

    def decode(self, codes: Sequence[Codes], context: Codes | None = None) -> list[Audio]:
        """Refuse."""
        raise NotImplementedError


class Listed:
    """Rows by number."""

    kind = "listed"

    def __init__(self, rows: Sequence[Clip]) -> None:
        self.clips = rows

    def rows(self) -> Iterator[Clip]:
        """Yield them."""
        return iter(self.clips)


def spoken(seconds: float) -> Audio:
    """Return a sound with the spectrum and the syllables of speech."""
    time_s = np.arange(round(seconds * RATE)) / RATE
    voiced = sum(np.sin(2 * np.pi * 120 * k * time_s + k) / k for k in range(1, 20))
    noise = np.random.default_rng(0).normal(size=len(time_s))
    envelope = 0.15 + np.abs(np.sin(2 * np.pi * 2 * time_s))
    return Audio((0.08 * envelope * (voiced + 0.3 * noise)).astype(np.float32), RATE)


def clips(folder: Path, count: int) -> list[Clip]:
    """Return rows of one sound, an Opus file."""
    audio.write(folder / "said.opus", spoken(SECONDS))
    return [
        Clip(f"clip-{n}", str(folder / "said.opus"), f"{TEXT}{n}", speaker=str(n % 50)) for n in range(count)
    ]


def reading(folder: Path, count: int) -> float:
    """Return processor seconds an hour of speech."""
    job = Job(0, tuple(clips(folder, count)))
    encode(job, Free(), Options())  # once to load libraries
    began = time.process_time()
    made = encode(job, Free(), Options())
    spent_s = time.process_time() - began
    assert all(isinstance(one, Kept) for one in made.rows)
    return spent_s / (count * SECONDS) * 3600


def writing(folder: Path, count: int) -> tuple[float, float]:
    """Return rows a processor second, and bytes a code, of the process that writes."""
    drawn = np.random.default_rng(0)
    per_row = round(SECONDS * 50)

    def kept(clip: Clip) -> Kept:
        codes = drawn.integers(0, CODES, per_row).tolist()
        row = Row(clip.id, clip.text, clip.speaker or "", "en", SECONDS, codes)
        return Kept(row, clip.audio, "", clip.id.encode().ljust(16))

    def drive(jobs: Iterator[Job], tick: Tick) -> Iterator[Made]:
        for job in jobs:
            made = Made(job.number, tuple(kept(one) for one in job.rows if isinstance(one, Clip)))
            began = time.process_time()
            yield made
            spent.append(time.process_time() - began)

    spent = list[float]()
    prepare(Listed(clips(folder, count)), folder / "out", Free(), Options(), drive=drive)
    size = sum(path.stat().st_size for path in (folder / "out").glob("*.parquet"))
    return count / sum(spent), size / (count * per_row)


@torch.no_grad()
def flops(seconds: float) -> dict[str, float]:
    """Return GFLOP that X-Codec2 takes to encode and to decode a second; a multiply-add is two."""
    from codec_encode import random_model

    from llasa.codec.xcodec2 import Xcodec2Codec

    clip = Audio(audio.resample(spoken(seconds), 16_000).samples, 16_000)
    codec = Xcodec2Codec(random_model("full", 0, clip), "random")
    found = dict[str, float]()
    for name, work in (
        ("encode", lambda: codec.encode([clip])),
        ("decode", lambda: codec.decode([[0] * 500])),
    ):
        with FlopCounterMode(display=False) as counted:
            work()
        found[name] = counted.get_total_flops() / 1e9 / (seconds if name == "encode" else 10.0)
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=100, help="clips that are read")
    parser.add_argument("--written", type=int, default=20_000, help="rows that are written")
    parser.add_argument("--no-flops", action="store_true", help="leave X-Codec2 out")
    given = parser.parse_args()
    torch.set_num_threads(1)
    found = dict[str, float]()
    with tempfile.TemporaryDirectory() as folder:
        found["reading_s_per_h"] = round(reading(Path(folder), given.rows), 1)
    with tempfile.TemporaryDirectory() as folder:
        rows, size = writing(Path(folder), given.written)
        found |= {"written_rows_per_s": round(rows), "shard_bytes_per_code": round(size, 3)}
    if not given.no_flops:
        found |= {f"{name}_gflop_per_s": round(value, 1) for name, value in flops(6.0).items()}
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()

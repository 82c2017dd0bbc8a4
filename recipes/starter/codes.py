"""Encodes the speech shards of a folder with the trained codec:
one code shard each, skipping those already made.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from rich.progress import track

from llasa.audio import loudness
from llasa.codec.compact import CompactCodec
from llasa.core import Audio
from llasa.data import shards
from llasa.text.normalize import normalize


def encode_shard(path: Path, codec: CompactCodec, speaker: str, batch: int = 32) -> shards.Shard:
    """Return the codes of one `NAME.jsonl` + `NAME.pcm` shard;
    rows whose words changed under normalising are left out.
    """
    sound = np.memmap(path.with_suffix(".pcm"), np.int16, "r")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    rate, made = codec.sample_rate / codec.hop_length, []
    for start in track(range(0, len(rows), batch), description=path.stem):
        part = rows[start : start + batch]
        waves = [sound[r["offset"] : r["offset"] + r["samples"]] for r in part]
        clips = [loudness(Audio(wave.astype(np.float32) / 32768, codec.sample_rate)) for wave in waves]
        for row, codes in zip(part, codec.encode(clips), strict=True):
            text = normalize(row["text"]).text
            ends = [min(len(codes), round(t * rate)) for t in row["word_ends"]]
            if len(text.split()) == len(ends):
                made.append(shards.Row(text, codes, ends))
    return shards.Shard(speaker, codec.name, rate, made)


def main() -> None:
    """Encode every shard that has words."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--speech", type=Path, default=Path("out/speech"))
    parser.add_argument("--codec", type=Path, default=Path("out/codec"))
    parser.add_argument("--out", type=Path, default=Path("out/codes"))
    parser.add_argument("--names", nargs="*", help="shards to encode; all by default")
    args = parser.parse_args()
    torch.set_num_threads(1)
    codec = CompactCodec.load(args.codec)
    for path in sorted(args.speech.glob("*.jsonl")):
        target = args.out / f"{path.stem}.safetensors"
        if path.stem == "extra" or (args.names and path.stem not in args.names):
            continue
        if target.exists() and shards.read(target).codec == codec.name:
            continue
        # `rms-a` and `rms-b` are more of one speaker; `rms-r1` is a variant, a speaker of its own.
        voice, _, part = path.stem.partition("-")
        speaker = path.stem if part[:1] in "rp" else voice
        digest = shards.write(encode_shard(path, codec, speaker), target)
        print(f"{target.name}: {digest[:12]}")


if __name__ == "__main__":
    main()

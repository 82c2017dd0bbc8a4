"""Makes the starter's voices by the cloning path: a flite clip and its transcript become a voice file."""

import argparse
from pathlib import Path

import numpy as np

from llasa import voice as voices
from llasa.codec.compact import CompactCodec
from llasa.core import Audio
from llasa.text.normalize import normalize
from speech import Flite

# The reference matters: of five sentences the one with which held-out lines 201 to 224 came out best.
VOICES = {
    "rms": ("rufus", "The small boat came home before the storm."),
    "awb": ("angus", "A gentle rain fell on the garden all morning."),
    "kal16": ("kalle", "A gentle rain fell on the garden, and we stayed inside."),
    "slt": ("stella", "A gentle rain fell on the garden, and we stayed inside."),
}


def main() -> None:
    """Write one voice file for each name."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("voices", nargs="+", choices=VOICES)
    parser.add_argument("--codec", type=Path, default=Path("out/codec"))
    parser.add_argument("--out", type=Path, default=Path("out/voices"))
    args = parser.parse_args()
    codec = CompactCodec.load(args.codec)
    args.out.mkdir(parents=True, exist_ok=True)
    for name in args.voices:
        title, text = VOICES[name]
        wave = Flite(name).say(normalize(text).text).samples.astype(np.float32) / 32768
        source = f"synthetic: flite voice cmu_us_{name}"
        made = voices.create(title, Audio(wave, 16000), text, codec, source, "not a person")
        voices.save(made, args.out / f"{made.name}.safetensors")
        print(f"{made.name}: {len(made.codes)} codes, {made.reference.duration_s:.2f} s")


if __name__ == "__main__":
    main()

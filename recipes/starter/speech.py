"""Synthetic speech: one voice of Debian's flite or festival says sentences until so many hours are full.

A variant resamples the sound, which moves pitch, formants and rate together: a new speaker for little
compute.
"""

import argparse
from pathlib import Path

from festival import Festival
from flite import Flite
from spoken import lines, write

ENGINES = {"flite": Flite, "festival": Festival}


def main() -> None:
    """Write one voice, unless it is there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("texts", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--engine", choices=ENGINES, default="flite")
    parser.add_argument("--voice", required=True, help="flite: rms, slt, awb, kal16; festival: slt, kal, ked")
    parser.add_argument("--hours", type=float, required=True)
    parser.add_argument("--skip", type=int, default=0, help="lines of `texts` to pass over first")
    parser.add_argument("--stretch", type=float, default=1.0)
    parser.add_argument("--pitch", type=float, default=0.0, help="mean pitch, Hz; not for HMM voices")
    parser.add_argument("--speed", type=float, default=1.0, help="resampling variant")
    parser.add_argument("--name", required=True, help="SPEAKER or SPEAKER.PART")
    args = parser.parse_args()
    if (args.folder / f"{args.name}.jsonl.gz").exists():
        print(f"{args.name}: already there")
        return
    args.folder.mkdir(parents=True, exist_ok=True)
    voice = ENGINES[args.engine](args.voice, args.stretch, args.pitch)
    said = (one.resampled(args.speed) for one in voice.say_all(lines(args.texts, args.skip)))
    write(said, args.folder, args.name, args.hours)


if __name__ == "__main__":
    main()

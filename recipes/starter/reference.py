"""Writes a recording of one sentence by a flite voice, as loud as it comes."""

import argparse
from pathlib import Path

import soundfile

from flite import Flite
from llasa.text.normalize import normalize
from spoken import SAMPLE_RATE


def main() -> None:
    """Write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("voice")
    parser.add_argument("text")
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(args.out, Flite(args.voice).say(normalize(args.text).text).samples, SAMPLE_RATE)


if __name__ == "__main__":
    main()

"""Writes the lexicon of the starter and trains its letter-to-sound model."""

import argparse
from pathlib import Path

from llasa.train.letters import build_lexicon, train_letters


def main() -> None:
    """Write `lexicon.txt.gz` and `letters.safetensors`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    lexicon = build_lexicon(args.folder / "lexicon.txt.gz")
    print(train_letters(lexicon, args.folder / "letters.safetensors"))


if __name__ == "__main__":
    main()

"""Makes a bundle of the starter with its early language model, which errs: what search is measured on."""

import argparse
import shutil
from pathlib import Path

from llasa.bundle import seal
from llasa.manifest import read_manifest


def main() -> None:
    """Copy, replace the language model, seal."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--starter", type=Path, default=Path("src/llasa/assets/starter"))
    parser.add_argument("--lm", type=Path, default=Path("recipes/artifacts/lm-early"))
    args = parser.parse_args()
    shutil.rmtree(args.out, ignore_errors=True)
    shutil.copytree(args.starter, args.out)
    shutil.rmtree(args.out / "lm")
    shutil.copytree(args.lm, args.out / "lm")
    known = read_manifest(args.starter).model_dump(exclude={"format", "files"}, exclude_none=True)
    codec = {key: known["codec"][key] for key in ("kind", "path")}
    seal(args.out, {**known, "name": "starter-early", "codec": codec})


if __name__ == "__main__":
    main()

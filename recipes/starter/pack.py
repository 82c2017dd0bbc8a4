"""Assembles the starter bundle in the package from what the runs left, and keeps what later work needs."""

import argparse
import hashlib
import json
import shutil
from itertools import chain
from pathlib import Path

import torch
from safetensors.torch import save_file

from llasa.bundle import seal
from llasa.data import shards
from llasa.data.shards import Shards
from llasa.text.normalize import normalize
from texts import key, templates, wordnet

SETTINGS = {
    "name": "starter",
    "lm": {"family": "llasa-plain", "text": "phones", "separator": " | ", "max_length": 640},
    "codec": {"kind": "compact"},
    "phones": {},
    "sampling": {"temperature": 0.4, "top_p": 0.95},
    "default_voice": "rufus",
    "judge": "judge.toml",
    "recognizers": {"bundle": "ctc:recognizer", "held-out": "ctc:recognizer-b"},
}
TRAIN = "llasa train"
# Folder of the bundle -> where it comes from, and the command that made it.
PARTS = {
    "lm": ("runs/lm/bundle/lm", f"{TRAIN} sft recipes/starter/lm.toml"),
    "codec": ("runs/codec/codec", f"{TRAIN} codec recipes/starter/codec.toml"),
    "codec/streaming": ("runs/streaming/codec/streaming", f"{TRAIN} codec recipes/starter/streaming.toml"),
    "recognizer": ("runs/recognizer-a/recognizer", f"{TRAIN} recognizer recipes/starter/recognizer-a.toml"),
    "recognizer-b": ("runs/recognizer-b/recognizer", f"{TRAIN} recognizer recipes/starter/recognizer-b.toml"),
    "voices": ("home/voices", "llasa voice add"),
}
EARLY = ("runs/lm-early/bundle/lm", f"{TRAIN} sft recipes/starter/lm.toml --set trainer.max_steps=2500")
KEPT = (".safetensors", ".parquet", ".jsonl")
LARGEST = 16_000_000  # bytes of a file


def copy(source: Path, target: Path) -> None:
    """Replace a folder by a copy."""
    if not source.is_dir():
        raise SystemExit(f"Packing: {source} is not there. Run its stage first.")
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)


def free_texts() -> set[str]:
    """Return the keys of the sentences that may be passed on: WordNet's and the templates'."""
    return {
        key(normalize(line).text)
        for line in chain(wordnet(), templates(20000, 0))
        if any(map(str.isalpha, line))
    }


def keep_codes(source: Path, folder: Path, kept: int) -> None:
    """Write `kept` rows of codes that may be passed on, and a hash of every text that was trained on."""
    free, own = free_texts(), Shards(source)
    rows = [row for row in own if key(row.text) in free]
    hashes = {text_hash(row.text) for row in own}
    shutil.rmtree(folder, ignore_errors=True)
    shards.save(folder, {"train": rows[:: -(-len(rows) // kept)]}, own.header)
    save_file({"sha256_first_64": torch.tensor(sorted(hashes))}, folder / "trained-texts.safetensors")


def text_hash(text: str) -> int:
    """Return the first 63 bits of the SHA-256 of a text's key."""
    return int.from_bytes(hashlib.sha256(key(text).encode()).digest()[:8], "big") >> 1


def write_index(made_by: dict[Path, str], path: Path) -> None:
    """Write what is kept, where, with hashes and the command that made it."""
    index = {}
    for folder, command in made_by.items():
        files = sorted(file for file in folder.iterdir() if file.suffix in KEPT)
        if not files or any(file.stat().st_size > LARGEST for file in files):
            raise SystemExit(f"Packing: {folder} has no weights, or a file above {LARGEST} bytes.")
        hashes = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
        index[folder.as_posix()] = {"made_by": command, "sha256": hashes}
    path.write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Assemble."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out"))
    parser.add_argument("--bundle", type=Path, default=Path("src/llasa/assets/starter"))
    parser.add_argument("--artifacts", type=Path, default=Path("recipes/artifacts"))
    parser.add_argument("--bundle-only", action="store_true", help="leave the artifacts as they are")
    parser.add_argument("--kept-rows", type=int, default=22000, help="rows of codes among the artifacts")
    args = parser.parse_args()
    for name, (source, _) in PARTS.items():
        copy(args.out / source, args.bundle / name)
    seal(args.bundle, SETTINGS)
    size = sum(path.stat().st_size for path in args.bundle.rglob("*") if path.is_file())
    print(f"{args.bundle}: {size / 1e6:.1f} MB")
    if args.bundle_only:
        return
    copy(args.out / EARLY[0], args.artifacts / "lm-early")
    keep_codes(args.out / "codes", args.artifacts / "codes", args.kept_rows)
    made_by = {args.bundle / name: command for name, (_, command) in PARTS.items()}
    made_by[args.bundle / "phones"] = f"{TRAIN} letters"
    made_by[args.artifacts / "lm-early"] = EARLY[1]
    made_by[args.artifacts / "codes"] = (
        "llasa prepare out/speech out/codes; rows of WordNet and templates only"
    )
    write_index(made_by, args.artifacts / "index.json")


if __name__ == "__main__":
    main()

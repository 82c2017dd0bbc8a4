"""Assembles the starter bundle in the package from what the stages left,
and keeps what later work needs as artifacts.
"""

import argparse
import hashlib
import json
import shutil
from dataclasses import replace
from itertools import chain
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import LlamaForCausalLM

from llasa.bundle import seal
from llasa.data import shards
from llasa.recognizers.ctc import CtcRecognizer
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


def copy(source: Path, target: Path) -> None:
    """Replace a folder by a copy."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)


def write_lm(source: Path, target: Path) -> None:
    """Write a language model in half precision, with its tokenizer."""
    copy(source, target)
    LlamaForCausalLM.from_pretrained(source).bfloat16().save_pretrained(target)


def free_texts() -> set[str]:
    """Return the keys of the sentences that may be passed on: WordNet's and the templates'."""
    return {
        key(normalize(line).text)
        for line in chain(wordnet(), templates(20000, 0))
        if any(map(str.isalpha, line))
    }


def keep_codes(source: Path, folder: Path) -> None:
    """Write the training codes that may be passed on, and a 64-bit hash of every text that was trained on."""
    folder.mkdir(parents=True, exist_ok=True)
    free, hashes = free_texts(), set[int]()
    for path in sorted(source.glob("*.safetensors")):
        shard = shards.read(path)
        hashes |= {text_hash(row.text) for row in shard.rows}
        shards.write(replace(shard, rows=[r for r in shard.rows if key(r.text) in free]), folder / path.name)
    save_file({"sha256_first_64": torch.tensor(sorted(hashes))}, folder / "trained-texts.safetensors")


def text_hash(text: str) -> int:
    """Return the first 63 bits of the SHA-256 of a text's key."""
    return int.from_bytes(hashlib.sha256(key(text).encode()).digest()[:8], "big") >> 1


def write_index(artifacts: Path, bundle: Path) -> None:
    """Write what is kept, where, with hashes and the command that made it; no file is above 16 MB."""
    made_by = {
        bundle / "codec": "recipes/starter/codec.py tokenizer | vocoder | decoder",
        bundle / "lm": "recipes/starter/lm.py --steps 6300",
        bundle / "recognizer": "recipes/starter/recognizer.py --layout A --seed 1 --steps 9000",
        bundle / "recognizer-b": "recipes/starter/recognizer.py --layout B --seed 2 --steps 6500",
        artifacts / "lm-early": "recipes/starter/snapshot.py 4000",
        artifacts / "codes": "recipes/starter/codes.py; rows of WordNet and templates only",
    }
    index = {}
    for folder, command in made_by.items():
        files = sorted(folder.glob("*.safetensors"))
        if not files or any(path.stat().st_size > 16e6 for path in files):
            raise SystemExit(
                f"Packing: {folder} has no safetensors file, or one above 16 MB. Run its stage first."
            )
        index[folder.as_posix()] = {
            "made_by": command,
            "sha256": {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files},
        }
    (artifacts / "index.json").write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Assemble."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out"))
    parser.add_argument("--bundle", type=Path, default=Path("src/llasa/assets/starter"))
    parser.add_argument("--artifacts", type=Path, default=Path("recipes/artifacts"))
    parser.add_argument("--bundle-only", action="store_true", help="leave the artifacts as they are")
    parser.add_argument("--lm", type=Path, help="another language model than OUT/lm")
    args = parser.parse_args()
    torch.set_num_threads(1)
    write_lm(args.lm or args.out / "lm", args.bundle / "lm")
    copy(args.out / "codec", args.bundle / "codec")
    copy(args.out / "voices", args.bundle / "voices")
    for source, name in (("recognizer-a", "recognizer"), ("recognizer-b", "recognizer-b")):
        CtcRecognizer.load(args.out / source).save(args.bundle / name)
    seal(args.bundle, SETTINGS)
    size = sum(path.stat().st_size for path in args.bundle.rglob("*") if path.is_file())
    print(f"{args.bundle}: {size / 1e6:.1f} MB")
    if args.bundle_only:
        return
    copy(args.out / "lm-early", args.artifacts / "lm-early")
    LlamaForCausalLM.from_pretrained(args.out / "lm-early").bfloat16().save_pretrained(
        args.artifacts / "lm-early"
    )
    keep_codes(args.out / "codes", args.artifacts / "codes")
    write_index(args.artifacts, args.bundle)


if __name__ == "__main__":
    main()

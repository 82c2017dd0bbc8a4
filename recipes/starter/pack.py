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
from llasa.text.normalize import normalize
from llasa.train.checkpoint import load_latest
from texts import key, templates, wordnet

SETTINGS = {
    "name": "starter",
    "lm": {"family": "llasa-plain", "text": "phones", "separator": " | ", "max_length": 1024},
    "codec": {"kind": "compact"},
    "phones": {},
    "sampling": {"temperature": 0.6, "top_p": 0.95},
    "default_voice": "rufus",
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


def keep_artifacts(out: Path, folder: Path) -> None:
    """Write the parts that later work starts from, and an index with their hashes and origins."""
    folder.mkdir(parents=True, exist_ok=True)
    origins, free = {}, free_texts()
    for path in sorted((out / "codes").glob("*.safetensors")):
        shard = shards.read(path)
        kept = [row for row in shard.rows if key(row.text) in free]
        shards.write(replace(shard, rows=kept), folder / f"codes-{path.name}")
        origins[f"codes-{path.name}"] = "recipes/starter/codes.py"
    for layout in "ab":
        found = out / f"recognizer-{layout}"
        if found.exists():
            shutil.copy(found / "model.safetensors", folder / f"recognizer-{layout}.safetensors")
            shutil.copy(found / "config.json", folder / f"recognizer-{layout}.json")
            origins[f"recognizer-{layout}.safetensors"] = (
                f"recipes/starter/recognizer.py --layout {layout.upper()}"
            )
    for name, run in (("lm-early", out / "lm-early"), ("lm-final", out / "lm")):
        if run.exists():
            model = LlamaForCausalLM.from_pretrained(run).bfloat16()
            tensors = {k: v.contiguous() for k, v in model.state_dict().items() if k != "lm_head.weight"}
            save_file(tensors, folder / f"{name}.safetensors", {"format": "pt"})
            origins[f"{name}.safetensors"] = "recipes/starter/lm.py"
    index = {
        name: {"sha256": hashlib.sha256((folder / name).read_bytes()).hexdigest(), "made_by": made_by}
        for name, made_by in sorted(origins.items())
    }
    (folder / "index.json").write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")


def early(out: Path, run: Path) -> None:
    """Write the newest checkpoint of an unfinished run as the early language model."""
    _, parts, _ = load_latest(run)
    copy(out / "lm", out / "lm-early")
    model = LlamaForCausalLM.from_pretrained(out / "lm")
    model.load_state_dict(parts["model"])
    model.save_pretrained(out / "lm-early")


def main() -> None:
    """Assemble."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out"))
    parser.add_argument("--bundle", type=Path, default=Path("src/llasa/assets/starter"))
    parser.add_argument("--artifacts", type=Path, default=Path("recipes/artifacts"))
    parser.add_argument("--lm", type=Path, help="another language model than OUT/lm")
    parser.add_argument("--early", type=Path, help="only write this run's newest checkpoint as OUT/lm-early")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.early:
        return early(args.out, args.early)
    write_lm(args.lm or args.out / "lm", args.bundle / "lm")
    copy(args.out / "codec", args.bundle / "codec")
    copy(args.out / "voices", args.bundle / "voices")
    if (args.out / "recognizer-a").exists():
        copy(args.out / "recognizer-a", args.bundle / "recognizer")
    seal(args.bundle, SETTINGS)
    size = sum(path.stat().st_size for path in args.bundle.rglob("*") if path.is_file())
    print(f"{args.bundle}: {size / 1e6:.1f} MB")
    if args.artifacts:
        keep_artifacts(args.out, args.artifacts)


if __name__ == "__main__":
    main()

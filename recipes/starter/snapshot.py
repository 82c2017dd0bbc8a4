"""Writes a snapshot of a language model's run as a model folder: an early model, or a curve's point."""

import argparse
import shutil
from pathlib import Path

from safetensors.torch import load_file
from transformers import LlamaForCausalLM


def main() -> None:
    """Write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("step", type=int)
    parser.add_argument("out", type=Path)
    parser.add_argument("--run", type=Path, default=Path("out/runs/lm"))
    parser.add_argument(
        "--lm", type=Path, default=Path("out/lm"), help="the finished model: config and tokenizer"
    )
    args = parser.parse_args()
    shutil.copytree(args.lm, args.out, dirs_exist_ok=True)
    model = LlamaForCausalLM.from_pretrained(args.lm)
    model.load_state_dict(load_file(args.run / f"snapshots/step-{args.step:09d}/model.safetensors"))
    model.save_pretrained(args.out)


if __name__ == "__main__":
    main()

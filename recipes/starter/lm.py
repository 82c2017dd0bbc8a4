"""Trains the starter's language model on code shards and writes it in Hugging Face layout."""

import argparse
import json
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from llasa.codec.compact import codec_name
from llasa.data import shards
from llasa.data.shards import Shard
from llasa.prompt import Prompt
from llasa.text.phones import Phonemizer
from llasa.train.loop import Plan, fit, join_group, wait_for_all
from llasa.train.sft import Curriculum, Rows, SftTask, embed_by_digits
from llasa.train.tokenizer import build_phone_tokenizer

SEPARATOR = " | "


def new_model(prompt: Prompt, levels: list[int], width: int, layers: int) -> LlamaForCausalLM:
    """Return an untrained Llama, code embeddings started from the FSQ grid."""
    config = LlamaConfig(
        vocab_size=-(-prompt.vocab_size // 64) * 64, hidden_size=width, intermediate_size=width * 11 // 4,
        num_hidden_layers=layers, num_attention_heads=width // 64, num_key_value_heads=width // 64,
        max_position_embeddings=1024, tie_word_embeddings=True, bos_token_id=None, eos_token_id=prompt.end_id,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    embed_by_digits(model.model.embed_tokens.weight, prompt.first_code_id, levels)
    return model


def split(shard: Shard, every: int = 60) -> tuple[Shard, Shard]:
    """Return (training, held-out) halves of a shard: every 60th row is held out."""
    parts = ([r for i, r in enumerate(shard.rows) if i % every], shard.rows[::every])
    train, held = (Shard(shard.speaker, shard.codec, shard.frame_rate, rows) for rows in parts)
    return train, held


def main() -> None:
    """Train and export."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--codes", type=Path, default=Path("out/codes"))
    parser.add_argument("--codec", type=Path, default=Path("out/codec"))
    parser.add_argument("--phones", type=Path, default=Path("src/llasa/assets/starter/phones"))
    parser.add_argument("--checkpoints", type=Path, default=Path("out/runs/lm"))
    parser.add_argument("--out", type=Path, default=Path("out/lm"))
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--rate", type=float, default=1.8e-3)
    parser.add_argument("--optimizer", choices=("muon", "adamw"), default="muon")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--main-speakers", default="rms,awb,kal16", help="drawn more often; their loss is reported"
    )
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rank = join_group()
    torch.manual_seed(0)
    levels = json.loads((args.codec / "config.json").read_text(encoding="utf-8"))["levels"]
    if rank == 0:
        build_phone_tokenizer(args.out, int(torch.tensor(levels).prod()))
    wait_for_all()
    prompt = Prompt.load(args.out, "llasa-plain", int(torch.tensor(levels).prod()), SEPARATOR)
    codec = codec_name(args.codec)
    halves = [split(shards.read(path, codec)) for path in sorted(args.codes.glob("*.safetensors"))]
    reader, curriculum = Phonemizer.load(args.phones), Curriculum()
    main = args.main_speakers.split(",")
    train = Rows([t for t, _ in halves], prompt, reader, curriculum, dict.fromkeys(main, 2.5))
    held = Rows([h for _, h in halves if h.speaker in main], prompt, reader, curriculum)
    model = new_model(prompt, levels, args.width, args.layers)
    print(
        f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, {len(train.speakers)} speakers"
    )
    task = SftTask(model, train, held, args.steps, learning_rate=args.rate, muon=args.optimizer == "muon")
    fit(task, args.checkpoints, Plan(args.steps, validate_every=100, save_every_s=180, snapshot_every=500))
    if rank == 0:
        model.save_pretrained(args.out)


if __name__ == "__main__":
    main()

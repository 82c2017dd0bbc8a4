"""Trains one stage of the starter's codec on the shards of a folder;
each stage starts from what the ones before left.
"""

import argparse
from pathlib import Path

import torch

from llasa.codec.compact import CompactCodec
from llasa.codec.compact_network import CompactConfig, CompactModel
from llasa.train.checkpoint import load_latest
from llasa.train.codec import CodecTask, Crops, read_shards
from llasa.train.loop import Plan, fit

# batch, mel frames a crop, learning rate
STAGES = {"tokenizer": (16, 128, 1.5e-3), "vocoder": (12, 60, 1.5e-3), "decoder": (12, 128, 4e-4)}


def start_from(model: CompactModel, run: Path, prefixes: tuple[str, ...]) -> None:
    """Take over the parts of a finished stage that the model has."""
    _, parts, _ = load_latest(run)
    own = model.state_dict()
    model.load_state_dict(
        own | {k: v for k, v in parts["codec"].items() if k.startswith(prefixes) and k in own}
    )


def main() -> None:
    """Train a stage and write its checkpoint; `decoder` also writes the codec folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("--shards", type=Path, default=Path("out/speech"))
    parser.add_argument("--names", nargs="*", help="shards to use; all by default")
    parser.add_argument("--runs", type=Path, default=Path("out/runs"))
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--export", type=Path, help="write the codec here at the end")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    model = CompactModel(CompactConfig())
    recordings = read_shards(args.shards, args.names)
    held, train = recordings[::50], [r for i, r in enumerate(recordings) if i % 50]
    if args.stage == "decoder":
        start_from(model, args.runs / "codec-tokenizer", ("encoder.", "decoder."))
        start_from(model, args.runs / "codec-vocoder", ("vocoder.",))
    batch, frames, rate = STAGES[args.stage]
    phones = sorted({p for recording in recordings for p in recording.phones})
    crops = Crops(train, model.config, phones), Crops(held, model.config, phones)
    task = CodecTask(args.stage, model, *crops, args.steps, batch, frames, rate)
    fit(task, args.runs / f"codec-{args.stage}", Plan(args.steps, validate_every=250))
    if args.export:
        CompactCodec(model).save(args.export)


if __name__ == "__main__":
    main()

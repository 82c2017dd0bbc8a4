"""Trains one of the starter's recognisers on the speech shards and their codec copies; run again, it goes on.

Layout A hears phones, layout B characters with another architecture: one can check what the other picked.
The copies are shards too, made once and shared by both.
"""

import argparse
import hashlib
import json
import os
import random
from pathlib import Path

import numpy as np
import torch
from rich.progress import track

from llasa.audio import loudness
from llasa.codec.compact import CompactCodec
from llasa.core import Audio
from llasa.recognizers.ctc import LAYOUTS, CtcModel, CtcRecognizer
from llasa.text.normalize import normalize
from llasa.text.phones import Phonemizer
from llasa.train.loop import Plan, fit
from llasa.train.recognizer import Corpus, CtcTask, read_rows


def copied(codec: CompactCodec, waves: list[np.ndarray]) -> list[np.ndarray]:
    """Return int16 waves encoded and decoded by a codec, at the loudness of the code shards."""
    clips = [loudness(Audio(wave.astype(np.float32) / 32768, codec.sample_rate)) for wave in waves]
    return [(sound.samples * 32767).astype(np.int16) for sound in codec.decode(codec.encode(clips))]


def copy_shard(codec: CompactCodec, path: Path, target: Path, hours: float, batch: int = 16) -> None:
    """Write the codec copy of `hours` of a speech shard, drawn at random, as a shard."""
    rows, chosen, total = read_rows(path), [], 0.0
    for row in random.Random(path.stem).sample(rows, len(rows)):
        if total >= hours * 3600 * codec.sample_rate:
            break
        chosen.append(row)
        total += row["samples"]
    chosen.sort(key=lambda row: row["samples"])
    sound, made, offset = np.memmap(path.with_suffix(".pcm"), np.int16, "r"), [], 0
    # Two trainings may make copies at once: each writes its own draft, and both come to the same.
    draft = target.with_suffix(f".{os.getpid()}.part")
    with open(draft, "wb") as file:
        for start in track(range(0, len(chosen), batch), description=f"copies of {path.stem}"):
            part = chosen[start : start + batch]
            waves = copied(codec, [sound[r["offset"] : r["offset"] + r["samples"]] for r in part])
            for row, wave in zip(part, waves, strict=True):
                file.write(wave.tobytes())
                made.append({"text": row["text"], "offset": offset, "samples": len(wave)})
                offset += len(wave)
    draft.rename(target.with_suffix(".pcm"))
    draft.write_text("".join(json.dumps(row) + "\n" for row in made), encoding="utf-8")
    draft.rename(target)


def copy_all(codec_folder: Path, speech: Path, copies: Path, hours: float, seed: int) -> Path:
    """Return the folder of copies by this codec, `hours` in all, making the shards that are missing."""
    codec = CompactCodec.load(codec_folder)
    # The codec's name stands for its encoder only; a copy depends on all its weights.
    weights = b"".join(path.read_bytes() for path in sorted(codec_folder.glob("*.safetensors")))
    folder = copies / hashlib.sha256(weights).hexdigest()[:12]
    folder.mkdir(parents=True, exist_ok=True)
    sizes = {path: len(read_rows(path)) ** 0.5 for path in sorted(speech.glob("*.jsonl"))}
    # Another order for each seed, so that two trainings started together share the work.
    for path in random.Random(seed).sample(list(sizes), len(sizes)):
        if sizes[path] and not (folder / path.name).exists():
            copy_shard(codec, path, folder / path.name, hours * sizes[path] / sum(sizes.values()))
    return folder


def main() -> None:
    """Train and export."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layout", choices=LAYOUTS, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--shards", type=Path, default=Path("out/speech"))
    parser.add_argument("--codec", type=Path, help="of the copies; without it only originals are heard")
    parser.add_argument("--copies", type=Path, default=Path("out/copies"))
    parser.add_argument("--copy-hours", type=float, default=4.0)
    parser.add_argument("--phones", type=Path, default=Path("src/llasa/assets/starter/phones"))
    parser.add_argument("--run", type=Path, help="default: out/runs/recognizer-LAYOUT")
    parser.add_argument("--out", type=Path, help="default: out/recognizer-LAYOUT")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    config = LAYOUTS[args.layout]
    model = CtcModel(config)
    folders = {"original": args.shards}
    if args.codec:
        folders["copy"] = copy_all(args.codec, args.shards, args.copies, args.copy_hours, args.seed)
    phones = Phonemizer.load(args.phones)

    def reader(text: str) -> str:
        spoken = normalize(text).text
        return phones(spoken) if config.text_form == "phones" else spoken

    corpora = {name: Corpus(folder, config.text_form, reader) for name, folder in folders.items()}
    counted = ", ".join(f"{sum(map(len, c.groups))} {name} rows" for name, c in corpora.items())
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, {counted}")
    name = f"recognizer-{args.layout.lower()}"
    task = CtcTask(model, corpora, args.steps)
    plan = Plan(args.steps, args.seed, validate_every=250, save_every_s=60)
    fit(task, args.run or Path("out/runs") / name, plan)
    CtcRecognizer(model).save(args.out or Path("out") / name)


if __name__ == "__main__":
    main()

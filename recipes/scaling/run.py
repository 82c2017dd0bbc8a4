"""Train-time scaling in miniature: four sizes of model by three of data, all for the same number of tokens.

Every cell is a run of `llasa train sft`; then it says held-out sentences, which two recognisers hear. The
budget in minutes is divided by the speed of each size, which is measured first. Writes `scaling.json` and
`scaling.png`; run again, it goes on with the first cell that is not done.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from zlib import crc32

HERE = Path(__file__).parent
RECIPE = HERE / "lm.toml"
HELD_OUT = Path("tests/data/heldout.txt")
DRAWN = {"temperature": 0.4, "top_p": 0.95}


@dataclass(frozen=True)
class Size:
    """A model. millions: of parameters."""

    millions: float
    width: int
    layers: int
    heads: int


SIZES = (Size(0.4, 64, 3, 2), Size(1.0, 96, 5, 3), Size(2.5, 160, 6, 5), Size(6.0, 256, 6, 4))
HOURS = (1, 4, 16)


def take_data(codes: Path, hours: float, folder: Path) -> None:
    """Write a prepared folder of so many hours: a part of any larger one, with the same held-out rows."""
    from llasa.data import shards
    from llasa.data.shards import Shards

    if (folder / "index.jsonl").exists():
        return
    found = Shards(codes)
    rows = list(found)
    held = [row for row in rows if crc32(row.text.encode()) % 60 == 0]
    train = [row for row in rows if crc32(row.text.encode()) % 60]
    random.Random(0).shuffle(train)
    kept, total_s = [], 0.0
    for row in train:
        if total_s >= hours * 3600:
            break
        kept.append(row)
        total_s += row.duration_s
    if total_s < 0.95 * hours * 3600:
        raise SystemExit(
            f"Taking {hours} h from '{codes}': it has {total_s / 3600:.1f} h. Prepare more speech."
        )
    draft = folder.with_name(folder.name + ".part")
    shutil.rmtree(draft, ignore_errors=True)
    shards.save(draft, {"train": kept, "heldout": held}, found.header)
    draft.rename(folder)


def train(size: Size, data: Path, out: Path, steps: int) -> None:
    """Train one cell; a stopped one goes on."""
    settings = {
        "data": f'"{data}"', "scratch.hidden_size": size.width, "scratch.num_hidden_layers": size.layers,
        "scratch.num_attention_heads": size.heads, "scratch.num_key_value_heads": size.heads,
        "trainer.max_steps": steps, "trainer.warmup_steps": max(1, steps // 10),
        "trainer.lr_scheduler_kwargs.num_decay_steps": max(1, int(steps * 0.65)),
        "trainer.eval_steps": max(1, steps // 6), "trainer.save_steps": max(1, steps // 6),
    }  # fmt: skip
    words = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    command = [sys.executable, "-m", "llasa.cli", "train", "sft", str(RECIPE), "--out", str(out)]
    subprocess.run([*command, "--threads", "1", *words], check=True)


def metrics(out: Path, key: str) -> list[float]:
    """Return what a run logged under a name, in order."""
    rows = map(json.loads, (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return [row[key] for row in rows if key in row]


def speed(size: Size, data: Path, out: Path) -> float:
    """Return the tokens a second of a size, from a run of 50 steps."""
    place = out / f"speed-{size.millions}M"
    if not (place / "bundle").exists():
        train(size, data, place, 50)
    return metrics(place, "tokens_per_s")[-1]


def plan(data: Path, out: Path, minutes: float, batch_tokens: float) -> dict[str, float]:
    """Return the steps of every cell, and the speeds they follow from; decided once."""
    path = out / "plan.json"
    if not path.exists():
        speeds = {str(size.millions): speed(size, data, out) for size in SIZES}
        per_token_s = len(HOURS) * sum(1 / one for one in speeds.values())
        steps = int(minutes * 60 / per_token_s / batch_tokens)
        path.write_text(json.dumps({"steps": steps, "tokens_per_s": speeds}, indent=1), encoding="utf-8")
    return json.loads(path.read_text(encoding="utf-8"))


def listen(bundle: Path, data: Path, lines: list[str]) -> dict[str, float]:
    """Return the error rates of held-out lines said with the voice of a held-out row, in percent."""
    import torch

    from llasa import load
    from llasa.bundle import load_bundle
    from llasa.core import Voice
    from llasa.data.shards import Shards
    from llasa.recognizers.pocketsphinx import PocketsphinxRecognizer
    from llasa.scorers.wer import ErrorRate

    torch.set_num_threads(1)
    synthesizer, starter, held = load(str(bundle)), load_bundle(), Shards(data, "heldout")
    row = next(row for row in held if row.speaker == "rms" and 2 < row.duration_s < 4)
    voice = Voice("reference", row.text, list(row.codes), held.header.codec)
    said = [synthesizer.candidates(line, voice=voice, seed=n, **DRAWN)[0] for n, line in enumerate(lines)]
    heard = [one for one in said if one.audio is not None]
    found = {"bad_endings": 100 * sum(one.finish != "stop" for one in said) / len(said)}
    words = ErrorRate(PocketsphinxRecognizer(), starter.reader, unit="words")
    phones = ErrorRate(starter.recognizer("bundle"), starter.reader)
    for unit, rate in (("wer", words), ("per", phones)):
        scores = rate.score(heard) if heard else []
        # What has no sound has every word wrong; insertions may make more than all wrong.
        rates = [min(1.0, score.measures[unit]) for score in scores] + [1.0] * (len(said) - len(heard))
        found[unit] = 100 * sum(rates) / len(rates)
    return found


def cell(size: Size, hours: int, out: Path, steps: int, lines: list[str]) -> dict[str, float]:
    """Return what a cell came to, training it and listening to it if that is not done."""
    place, data = out / "cells" / f"{size.millions}M-{hours}h", out / "data" / f"{hours}h"
    result = place / "result.json"
    if not result.exists():
        train(size, data, place, steps)
        found = asdict(size) | {
            "hours": hours,
            "steps": steps,
            "held_loss": metrics(place, "eval_held_loss")[-1],
        }
        found |= {"curve": metrics(place, "eval_held_loss")} | listen(place / "bundle", data, lines)
        draft = result.with_suffix(".part")
        draft.write_text(json.dumps(found, indent=1), encoding="utf-8")
        os.replace(draft, result)
    return json.loads(result.read_text(encoding="utf-8"))


def draw(cells: list[dict], path: Path) -> None:
    """Draw loss and word error rate over the hours of speech, a line a size."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (losses, words) = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    colours = plt.get_cmap("viridis")
    for number, size in enumerate(SIZES):
        own = sorted((one for one in cells if one["millions"] == size.millions), key=lambda one: one["hours"])
        hours, colour = [one["hours"] for one in own], colours(number / len(SIZES))
        look = {"color": colour, "marker": "o", "label": f"{size.millions:g} M parameters"}
        losses.plot(hours, [one["held_loss"] for one in own], **look)
        words.plot(hours, [one["wer"] for one in own], **look)
        words.plot(hours, [one["per"] for one in own], color=colour, linestyle=":", marker=".")
    losses.set(ylabel="loss on unseen sentences (nats a code)")
    words.set(ylabel="errors (%)", title="words by pocketsphinx; dotted: phones by A", ylim=(0, 105))
    for axis in (losses, words):
        axis.set_xscale("log", base=4)
        axis.set_xticks(HOURS, [f"{hours} h" for hours in HOURS])
        axis.set_xlabel("training speech")
        axis.grid(alpha=0.3)
    losses.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    """Run what is not done, and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--codes", type=Path, default=Path("recipes/artifacts/codes"), help="prepared folder")
    parser.add_argument("--out", type=Path, default=Path("out/scaling"))
    parser.add_argument(
        "--minutes", type=float, default=28.0, help="of training, all cells together, on an idle core"
    )
    parser.add_argument("--lines", type=int, default=20, help="held-out lines that every cell says")
    parser.add_argument("--steps", type=int, help="of every cell, in place of the budget")
    args = parser.parse_args()
    for hours in HOURS:
        take_data(args.codes, hours, args.out / "data" / f"{hours}h")
    lines = HELD_OUT.read_text(encoding="utf-8").splitlines()[: args.lines]
    steps = args.steps or plan(args.out / "data" / f"{HOURS[0]}h", args.out, args.minutes, 2800)["steps"]
    cells = []
    for size in SIZES:
        for hours in HOURS:
            cells.append(cell(size, hours, args.out, int(steps), lines))
            last = cells[-1]
            told = ", ".join(f"{key} {last[key]:.3g}" for key in ("held_loss", "wer", "per", "bad_endings"))
            print(f"{size.millions:g} M, {hours} h: {told}", flush=True)
            (args.out / "scaling.json").write_text(json.dumps(cells, indent=1), encoding="utf-8")
    draw(cells, args.out / "scaling.png")
    print(args.out / "scaling.png")


if __name__ == "__main__":
    main()

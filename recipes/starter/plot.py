"""Draws the language model's training: held-out loss and word error rate against training tokens."""

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def main() -> None:
    """Write a PNG."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=Path("out/runs/lm"))
    parser.add_argument("--wer", type=Path, help="JSON: training step -> word error rate in percent")
    parser.add_argument("--copy", type=float, help="word error rate of the codec copy, percent")
    parser.add_argument("--out", type=Path, default=Path("docs/starter-training.png"))
    args = parser.parse_args()
    rows = {
        r["step"]: r
        for r in map(json.loads, (args.run / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    }
    tokens, seen, last = {}, 0.0, 0
    for step, row in sorted(rows.items()):
        seen, last = seen + row["tokens"] * (step - last) / 1e6, step
        tokens[step] = seen
    steps = sorted(rows)
    figure, left = plt.subplots(figsize=(8, 4.5))
    left.plot([tokens[s] for s in steps], [rows[s]["held_loss"] for s in steps], label="loss, right voice")
    left.plot(
        [tokens[s] for s in steps],
        [rows[s]["held_other_voice"] for s in steps],
        label="loss, other voice",
        alpha=0.6,
    )
    left.set(xlabel="training tokens (millions)", ylabel="code loss on unseen sentences (nats)")
    left.legend(loc="upper center")
    if args.wer:
        errors = {
            int(step): value for step, value in json.loads(args.wer.read_text(encoding="utf-8")).items()
        }
        right = left.twinx()
        right.plot(
            [tokens[s] for s in sorted(errors)], [errors[s] for s in sorted(errors)], "k.-", label="WER"
        )
        if args.copy:
            right.axhline(args.copy, color="k", linestyle=":", label="WER of the codec copy")
        right.set(ylabel="WER by pocketsphinx (%)", ylim=(0, 110))
        right.legend(loc="upper right")
    figure.tight_layout()
    figure.savefig(args.out, dpi=130)
    print(args.out)


if __name__ == "__main__":
    main()

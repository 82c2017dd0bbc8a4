"""Does the model read? Its loss on held-out codes after their own text and after another row's, nats a code.

A model that does not read finds both alike; the right text must win in nearly every row.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from rich.progress import track

from llasa.bundle import Bundle, load_bundle
from llasa.data.shards import Row, Shards
from llasa.engines.weights import load_model


class Listener:
    """Tells the loss of a row's codes after a text."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self.model = load_model(bundle.folder / bundle.manifest.lm.path, torch.float32).eval()

    @torch.inference_mode()
    def loss(self, row: Row, text: str) -> float:
        """Return nats a code of `row` after `text`, which is in the row's language."""
        form = self.bundle.form(text, row.language or "en").text
        ids, labels = self.bundle.prompt.example(form, [int(code) for code in row.codes])
        logits = self.model(torch.tensor([ids])).logits[0, :-1]
        return float(F.cross_entropy(logits.float(), torch.tensor(labels[1:])))


def others(rows: list[Row]) -> list[str]:
    """Return for each row the text of the next longer one: a text of nearly its length, but not its own."""
    order = np.argsort([len(row.text) for row in rows])
    texts = {int(at): rows[int(after)].text for at, after in zip(order, np.roll(order, -1), strict=True)}
    return [texts[at] for at in range(len(rows))]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle")
    parser.add_argument("data", type=Path, help="a folder that `llasa prepare` made")
    parser.add_argument("--rows", type=int, default=200)
    args = parser.parse_args()
    torch.set_num_threads(1)
    listener, shards = Listener(load_bundle(args.bundle)), Shards(args.data, "heldout")
    rows = [shards[at] for at in np.linspace(0, len(shards) - 1, min(args.rows, len(shards)), dtype=int)]
    pairs = np.array(
        [
            (listener.loss(row, row.text), listener.loss(row, other))
            for row, other in track(list(zip(rows, others(rows), strict=True)), description="listening")
        ]
    )
    (right, wrong), wins = pairs.mean(0), (pairs[:, 0] < pairs[:, 1]).mean()
    print(f"{len(rows)} rows: own text {right:.3f}, another {wrong:.3f}, own wins {wins:.1%}")


if __name__ == "__main__":
    main()

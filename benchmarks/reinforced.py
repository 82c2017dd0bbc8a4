"""What training did to a bundle: held-out lines said by the first bundle and by others, and what has changed.

Each line is said `--takes` times with other seeds, one try, and heard by a recogniser that steered nothing.
Every change is from the first bundle, over the same lines and seeds, with the interval of 95 % over lines.
What a bundle said is kept in the folder, so the command resumes; it prints a table and writes
`reinforced.json` and `reinforced.png`: speaking rate against length, before and after.
"""

import argparse
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from llasa.audio import replace_file
from llasa.bundle import MANIFEST, load_bundle
from llasa.core import plain
from llasa.metrics import paired
from llasa.synthesizer import Synthesizer
from llasa.text.segment import segment
from llasa.train.limits import LimitsBlock, changes, measured
from llasa.train.witness import Line, Witness, WitnessBlock, line_of

SHOWN = {
    "wer": "{:.1%}", "failures": "{:.1%}", "rate": "{:.2f}", "rate_change": "{:+.1%}", "similarity": "{:.3f}",
    "mos": "{:.2f}", "pitch_range": "{:.1f}",
}  # fmt: skip


def whole(texts: Path, folder: Path) -> Path:
    """Return a file of those lines that speaking does not cut: what is learnt is said in one go."""
    lines = [line for line in texts.read_text(encoding="utf-8").splitlines() if len(segment(line)) == 1]
    kept = folder / "texts.txt"
    replace_file(kept, "".join(f"{line}\n" for line in lines).encode())
    return kept


def said(name: str, block: WitnessBlock, folder: Path) -> list[Line]:
    """Return what was heard of a bundle's lines, listening only if that is not kept."""
    bundle = load_bundle(name)
    key = f"{block.model_dump_json()} {(bundle.folder / MANIFEST).read_text(encoding='utf-8')}"
    kept = folder / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"
    if not kept.exists():
        lines = Witness(block, bundle, None).listen(Synthesizer(bundle))
        replace_file(kept, json.dumps([plain(asdict(line)) for line in lines]).encode())
    return [line_of(row) for row in json.loads(kept.read_text(encoding="utf-8"))]


def ratio(start: Sequence[Line], now: Sequence[Line]) -> list[float]:
    """Return the error rate as a share of the start's, with its interval."""

    def logs(rows: np.ndarray) -> float:
        errors = np.where(np.isnan(rows[:, 0]), rows[:, 1], np.minimum(rows[:, 0], rows[:, 1]))
        return math.log(max(1e-6, errors.sum() / rows[:, 1].sum()))

    columns = [np.array([(line.errors, line.tokens) for line in lines]) for lines in (start, now)]
    found = paired(logs, *columns, groups=[line.line for line in start])
    return [math.exp(value) for value in (found.value, found.low, found.high)]


def row_of(name: str, start: Sequence[Line], lines: Sequence[Line]) -> dict[str, Any]:
    """Return what is reported of a bundle."""
    moved = changes(start, lines, LimitsBlock(confidence=0.95))
    return {
        "bundle": name,
        "measures": {key: asdict(value) for key, value in measured(lines).items()},
        "changes": {key: asdict(change.found) for key, change in moved.items()},
        "wer_ratio": ratio(start, lines),
    }


def table_of(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return the table for people."""
    table = Table("bundle", *SHOWN, "errors, of the start's")
    for row in rows:
        cells = [form.format(row["measures"][key]["value"]) for key, form in SHOWN.items()]
        table.add_row(row["bundle"], *cells, "{:.3f} [{:.3f}, {:.3f}]".format(*row["wer_ratio"]))
    return table


def draw(spoken: Mapping[str, Sequence[Line]], path: Path) -> None:
    """Draw the speaking rate of each line against its length, a panel a bundle."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(spoken), figsize=(4.6 * len(spoken), 4), sharey=True, squeeze=False)
    for axis, (name, lines) in zip(axes[0], spoken.items(), strict=True):
        units, rates = np.array([(line.units, line.rate) for line in lines]).T
        known = np.isfinite(rates)
        axis.scatter(units[known], rates[known], s=6, alpha=0.4)
        fit = np.polynomial.Polynomial.fit(units[known], rates[known], 1)
        ends = np.array([units.min(), units.max()])
        axis.plot(ends, fit(ends), color="crimson")
        unended = units[[line.failed for line in lines]]
        axis.plot(unended, np.full(len(unended), rates[known].min()), "kx", label="did not end")
        axis.set(title=name, xlabel="length of the text (phones)")
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("phones a second of speech")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    """Have them said, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundles", nargs="+", help="the start first; folders or names, or NAME=FOLDER")
    parser.add_argument("--texts", type=Path, default=Path("tests/data/heldout.txt"))
    parser.add_argument("--lines", type=int, default=300)
    parser.add_argument("--takes", type=int, default=2)
    parser.add_argument("--voices", nargs="+", default=["rufus"])
    parser.add_argument("--recognizer", default="pocketsphinx")
    parser.add_argument("--out", type=Path, default=Path("out/reinforced"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    block = WitnessBlock(
        texts=str(whole(args.texts, args.out)), lines=args.lines, takes=args.takes, voices=args.voices,
        opinions=100, recognizer=args.recognizer,
    )  # fmt: skip
    named = [part.split("=", 1) if "=" in part else (Path(part).name, part) for part in args.bundles]
    spoken = {name: said(place, block, args.out) for name, place in named}
    start = next(iter(spoken.values()))
    rows = [row_of(name, start, lines) for name, lines in spoken.items()]
    replace_file(args.out / "reinforced.json", json.dumps(plain(rows), indent=1).encode() + b"\n")
    draw(spoken, args.out / "reinforced.png")
    Console(width=140).print(table_of(rows))


if __name__ == "__main__":
    main()

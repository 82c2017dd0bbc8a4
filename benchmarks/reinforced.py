"""What training did to a bundle: held-out lines said by the first bundle and by others, and what has changed.

A recipe for `llasa evaluate` over bundles: each line is said `--takes` times with other seeds, one try, and
heard by a recogniser that steered nothing. Every change is from the first bundle, over the same lines and
seeds. The folder is an evaluation's: the command resumes, and `report.html` shows rate against length.
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.progress import track

from llasa.audio import replace_file
from llasa.evaluate.columns import Cells, errors
from llasa.evaluate.plan import Plan, checked
from llasa.evaluate.results import Row, read_evaluation
from llasa.evaluate.results_page import write
from llasa.evaluate.run import run
from llasa.evaluate.summary import tables
from llasa.evaluate.tables import markdown
from llasa.metrics import paired
from llasa.text.segment import segment


def whole(texts: Path, folder: Path) -> Path:
    """Return a file of those lines that speaking does not cut: what is learnt is said in one go."""
    lines = [line for line in texts.read_text(encoding="utf-8").splitlines() if len(segment(line)) == 1]
    kept = folder / "texts.txt"
    replace_file(kept, "".join(f"{line}\n" for line in lines).encode())
    return kept


def ratio(start: Sequence[Row], now: Sequence[Row], rate: str) -> list[float]:
    """Return all errors as a share of the start's, with the interval."""

    def logs(cells: np.ndarray) -> float:
        return math.log(max(1e-6, cells[:, 0].sum() / cells[:, 1].sum()))

    pairs = paired_rows(start, now, errors(rate))
    before, after = ([errors(rate)(row) for row in side] for side in zip(*pairs, strict=True))
    found = paired(logs, before, after, groups=[row["line"] for row, _ in pairs])
    return [math.exp(value) for value in (found.value, found.low, found.high)]


def paired_rows(start: Sequence[Row], now: Sequence[Row], cells: Cells) -> list[tuple[Row, Row]]:
    """Return the rows of one line and take, of those that were measured on both sides."""
    known = {(row["line"], row["take"]): row for row in start if np.isfinite(cells(row)).all()}
    heard = [row for row in now if np.isfinite(cells(row)).all()]
    return [(known[key], row) for row in heard if (key := (row["line"], row["take"])) in known]


def pace(start: Sequence[Row], now: Sequence[Row], rate: str) -> list[float]:
    """Return the change of the speaking rate on lines that the start says with at most 10 % errors."""

    def cells(row: Row) -> tuple[float]:
        return (float(row["measures"].get("rate") or math.nan),)

    pairs = [pair for pair in paired_rows(start, now, cells) if errors_of(pair[0], rate) <= 0.1]
    before, after = ([cells(row) for row in side] for side in zip(*pairs, strict=True))
    found = paired(
        lambda rows: float(np.log(rows).mean()), before, after, groups=[row["line"] for row, _ in pairs]
    )
    return [math.exp(value) - 1 for value in (found.value, found.low, found.high)]


def errors_of(row: Row, rate: str) -> float:
    """Return the share of errors in a row."""
    wrong, tokens = errors(rate)(row)
    return wrong / tokens if tokens else math.nan


def main() -> None:
    """Have them said, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundles", nargs="+", help="the start first; folders or names, or NAME=FOLDER")
    parser.add_argument("--texts", type=Path, default=Path("tests/data/heldout.txt"))
    parser.add_argument("--lines", type=int, default=300)
    parser.add_argument("--takes", type=int, default=2)
    parser.add_argument("--voice", default="rufus")
    parser.add_argument("--recognizer", default="pocketsphinx")
    parser.add_argument("--out", type=Path, default=Path("out/reinforced"))
    args = parser.parse_args()
    named = [part.split("=", 1) if "=" in part else (Path(part).name, part) for part in args.bundles]
    args.out.mkdir(parents=True, exist_ok=True)
    systems = [{"name": name, "bundle": place, "voice": args.voice} for name, place in named]
    sets = [{"name": "held-out", "source": str(whole(args.texts, args.out)), "lines": args.lines}]
    asked = {"systems": systems, "sets": sets, "takes": args.takes, "recognizers": [args.recognizer]}
    plan = checked(Plan.model_validate(asked))
    for _ in track(run(plan, args.out), "Saying", len(systems) * args.lines * args.takes):
        pass
    found = read_evaluation(args.out)
    some = tables(found)
    write(found, some, args.out / "report.html")
    print(markdown(found, some))
    start, rate = found.of("held-out", named[0][0]), some[0].columns[0].key
    for name, _ in named[1:]:
        told = ratio(start, found.of("held-out", name), rate)
        print("{}: errors are {:.3f} [{:.3f}, {:.3f}] of the start's".format(name, *told))
        moved = pace(start, found.of("held-out", name), rate)
        print("{}: {:+.1%} [{:+.1%}, {:+.1%}] quicker where the start was right".format(name, *moved))


if __name__ == "__main__":
    main()

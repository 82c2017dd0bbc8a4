"""How much memory candidates take: a stated bound, and growth with what is alive.

peak: N candidates of one prompt, each of so many codes, drawn in a fresh process. What they need is ids alive
at the end times the bytes of keys and values of one id. The bound is 1.5 times that and 96 MiB.
ages: what rows of different ages hold, the same buffers without a model: a buffer has as many columns as the
oldest row has ids, and a power of two of rows, until what old rows hold is set aside. `staggered`: one joins
after the other; `one old`: all others begin anew every 128 ids.

    python benchmarks/memory.py --n 64 --codes 2048      # about 4 minutes, 2.5 GB
    python benchmarks/memory.py --n 8 --codes 64
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from drawn import Peak

from llasa.core import SamplingParams
from llasa.engines.interface import widen_attention
from llasa.engines.native import NativeEngine
from llasa.engines.rows import Rows
from llasa.engines.weights import load_model

STARTER = Path(__file__).parents[1] / "src" / "llasa" / "assets" / "starter" / "lm"
FACTOR, SPARE = 1.5, 96 << 20
PROMPT = 100
YOUNG = 128  # ids, at most
KINDS = ("alike", "staggered", "one old")


def bytes_of_id(config: Any, width: int) -> int:
    """Return the bytes of keys and values of one id; width: bytes of a number."""
    return 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * width


def drawn(model: Path, n: int, codes: int) -> dict[str, float]:
    """Draw in this process; return what it took, in bytes."""
    lm = load_model(model, torch.bfloat16)
    widen_attention(lm)
    allowed = tuple(range(lm.config.vocab_size // 2, lm.config.vocab_size))
    engine = NativeEngine(lm, max_length=PROMPT + codes, concurrency=n)
    params = SamplingParams(
        max_tokens=codes, min_tokens=codes, n=n, allowed_token_ids=allowed, loop_guard=False
    )
    prompt = list(range(1, PROMPT + 1))
    try:
        few = SamplingParams(max_tokens=4, min_tokens=4, allowed_token_ids=allowed)
        engine.submit(prompt, few).result()
        with Peak() as peak:
            made = engine.submit(prompt, params).result()
    finally:
        engine.close()
    ids = sum(len(one.ids) for one in made)
    return {"ids": ids, "held": ids * bytes_of_id(lm.config, 4), "peak": peak.grown}


def apart(model: Path, n: int, codes: int) -> dict[str, Any]:
    """Draw in a fresh process and hold what it took against the bound."""
    command = [sys.executable, __file__, "--model", str(model), "--inside", str(n), str(codes)]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    bound = FACTOR * found["held"] + SPARE
    return {"n": n, "codes": codes, **found, "bound": bound, "within": found["peak"] <= bound}


@torch.inference_mode()
def ages(kind: str, n: int, codes: int) -> dict[str, Any]:
    """Return, of rows of some ages, cells of keys held over ids alive: mean and most over time."""
    rows, one = Rows(sharing=True), torch.zeros(1, 1, 1, 1)
    empty, cpu, ratios = [(one[:, :, :0], one[:, :, :0])], torch.device("cpu"), list[float]()
    for step in range(codes):
        live = len(rows.window.starts)
        for row in range(live - 1, 0, -1) if kind == "one old" and step % YOUNG == 0 else ():
            rows.drop(row)
        wanted = 1 + step * n // codes if kind == "staggered" else n
        while len(rows.window.starts) < wanted:
            rows.add(empty, 0, 1)
        rows.reserve(0, 0)
        rows.settle(cpu)
        layer, live = rows.layers[0], len(rows.window.starts)
        layer.update(one.expand(live, 1, 1, 1), one.expand(live, 1, 1, 1))
        rows.window.cursor += 1
        # What is set aside lies side by side with the rest, and by itself.
        aside = sum(past[0][0].numel() for past in rows._pasts if past)
        beside = layer.shared[0].numel() if layer.shared else 0
        if step >= codes // 4:  # at first the least size of a buffer decides
            ratios.append((layer.keys.numel() + aside + beside) / sum(rows.positions()))
    return {"ages": kind, "n": n, "mean": sum(ratios) / len(ratios), "most": max(ratios)}


def _verdict(row: dict[str, Any]) -> str:
    return "within" if row["within"] else "EXCEEDED"


def main() -> None:
    """Measure and print; exit 1 if a bound does not hold."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=STARTER, help="a language model's folder")
    parser.add_argument("--n", type=int, default=64)
    parser.add_argument("--codes", type=int, default=2048)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--inside", nargs=2, type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.inside:
        return print(json.dumps(drawn(args.model, *args.inside)))
    sizes = [(n, codes) for n in (args.n // 4, args.n) for codes in (args.codes // 4, args.codes)]
    peaks = [apart(args.model, n, codes) for n, codes in sizes]
    older = [ages(kind, args.n, args.codes) for kind in KINDS]
    if args.json:
        print(json.dumps({"peaks": peaks, "ages": older}))
    else:
        for row in peaks:
            held, peak, bound = (row[key] / 2**20 for key in ("held", "peak", "bound"))
            print(f"{row['n']:4} of {row['codes']:5} codes: {row['ids']:7} ids need {held:7.1f} MiB, "
                  f"peak {peak:7.1f}, bound {bound:7.1f}: {_verdict(row)}")  # fmt: skip
        for row in older:
            print(f"{row['n']:4} rows, {row['ages']:10} buffers {row['mean']:6.2f} times the ids, at most "
                  f"{row['most']:6.2f}")  # fmt: skip
    sys.exit(0 if all(row["within"] for row in peaks) else 1)


if __name__ == "__main__":
    main()

"""P6: decoding here against llama.cpp, with the same random weights, in one process and in turns.

llama.cpp runs in its batched mode: the N candidates share one `llama_decode` a step. Ids are drawn by this
project's sampler on both sides, from the speech ids alone, which is cheaper than llama.cpp's own over the
whole vocabulary: what is compared is the model. Here the dtype is `auto` (int8 where it pays) against the
quantised files, bfloat16 against f16.

Equal: of the f16 and q8_0 files, greedy ids agree with those in bfloat16 as far as rounding lets them
(`--agree` of the first 8), and the log-probabilities of the likeliest ids are near.

llama-cpp-python is compiled where it is installed: pip install 'llasa[gguf]', 5 to 15 minutes. The model:

    python -m tests.published out/llasa-1b --shape 1b --codec tiny    # 40 s, 2.8 GB
    python benchmarks/llamacpp.py out/llasa-1b --threads 2    # about 25 minutes, 8 GB; files stay in out/gguf
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from drawn import Seconds, compared, decoded
from paired import finish, flags, header

import llasa
from llasa.bundle import Bundle
from llasa.core import Ids, SamplingParams
from llasa.engines.base import Engine
from llasa.engines.native import NativeEngine
from llasa.errors import MissingExtra
from llasa.search import Job

BARS = {("q4_0", 1): 0.8, ("q4_0", 16): 1.5}
HELD = ("f16", "q8_0")  # what must say the same
FIRST = 8
TEXT = "The old lighthouse keeper climbed the stairs every evening before dark."
NEAR = 0.1  # nats


def exported(bundle: Bundle, quant: str, folder: Path) -> Path:
    """Return the GGUF file of a bundle's language model; one that is there is taken."""
    from llasa.export.gguf import export_gguf

    file = folder / f"{bundle.folder.name}.{quant}.gguf"
    folder.mkdir(parents=True, exist_ok=True)
    return file if file.is_file() else export_gguf(bundle.folder / bundle.manifest.lm.path, file, quant)


def agreement(ours: Engine, theirs: Engine, prompt: Ids, params: SamplingParams) -> tuple[float, float]:
    """Return the share of greedy ids that agree, and how far apart log-probabilities are, over ours."""
    greedy = replace(params, temperature=0, max_tokens=1, min_tokens=1, n=1, logprobs=True)
    so_far, same, apart = list(prompt), 0, 0.0
    for _ in range(FIRST):
        [mine], [other] = (engine.submit(so_far, greedy).result() for engine in (ours, theirs))
        same += mine.ids == other.ids
        apart = max(apart, abs((mine.logprobs or [0.0])[0] - (other.logprobs or [0.0])[0]))
        so_far += mine.ids
    return same / FIRST, apart


def side(engine: Engine, prompt: Ids, params: SamplingParams) -> Seconds:
    """Return the seconds of decoding."""
    return decoded(engine, prompt, params)[0]


def rows_of(
    quant: str, file: Path, bundle: Bundle, job: Job, args: argparse.Namespace
) -> list[dict[str, Any]]:
    """Return a row for each number of candidates."""
    from llasa.engines.gguf import GgufEngine

    lm = bundle.folder / bundle.manifest.lm.path
    theirs = GgufEngine.load(
        file, max_length=len(job.prompt) + args.steps, concurrency=max(args.n), threads=args.threads
    )
    ours = NativeEngine.load(lm, "cpu", "bfloat16" if quant == "f16" else "auto", concurrency=max(args.n))
    rows = list[dict[str, Any]]()
    try:
        same, apart = agreement(ours, theirs, job.prompt, job.params)
        for n in args.n:
            params = replace(job.params, n=n)
            ratio = compared(
                lambda params=params: side(ours, job.prompt, params),
                lambda params=params: side(theirs, job.prompt, params),
                args.rounds,
            )
            bar = BARS.get((quant, n))
            rows.append(
                {"quant": quant, "ours": ours.dtype, "n": n, "agree": same, "nats": apart, "bar": bar}
                | ratio.as_dict()
            )
            if not args.json:
                mark = "" if bar is None else f"  >= {bar}: {'met' if ratio.low >= bar else 'MISSED'}"
                print(ratio.row(f"{ours.dtype} / {quant}, N={n}") + mark, flush=True)
    finally:
        ours.close()
        theirs.close()
    return rows


def main() -> None:
    """Export, compare, time, print."""
    parser = flags(__doc__ or "")
    parser.add_argument("model", type=Path, help="a bundle, or a folder as published")
    parser.add_argument("--quants", nargs="+", default=["f16", "q8_0", "q4_0"])
    parser.add_argument("--n", nargs="+", type=int, default=[1, 4, 16])
    parser.add_argument("--steps", type=int, default=24, help="codes of a candidate (default: %(default)s)")
    parser.add_argument("--agree", type=float, default=0.75, help="least share of f16's and q8_0's ids")
    parser.add_argument("--files", type=Path, default=Path("out/gguf"), help="where GGUF files are kept")
    args = parser.parse_args()
    from llasa.engines.gguf import llama_library

    try:
        llama_library("Comparing with llama.cpp")  # before anything is written
    except MissingExtra as error:
        parser.exit(3, f"{error}\n")
    torch.set_num_threads(args.threads)
    speaker = llasa.load(args.model)
    job = speaker.job(TEXT, min_tokens=args.steps, max_tokens=args.steps, loop_guard=False)
    if not args.json:
        print(header("ours", "llama.cpp"))
    rows = list[dict[str, Any]]()
    for quant in args.quants:
        rows += rows_of(quant, exported(speaker.bundle, quant, args.files), speaker.bundle, job, args)
    wrong = [
        f"{row['quant']}: {row['agree']:.0%} of ids agree, {row['nats']:.3g} nats apart"
        for row in rows
        if row["quant"] in HELD and (row["agree"] < args.agree or row["nats"] > NEAR)
    ]
    if not args.json:
        print(json.dumps({row["quant"]: [row["agree"], round(row["nats"], 4)] for row in rows}))
    finish(
        {"threads": args.threads, "steps": args.steps, "rows": rows}, list(dict.fromkeys(wrong)), args.json
    )


if __name__ == "__main__":
    main()

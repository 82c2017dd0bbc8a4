"""How fast the starter speaks on this machine:
load time, real-time factor at effort 1, and N candidates against one.

RTF = compute seconds per audio second. Candidates: median over paired repeats of one call with n=N and one
with n=1.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time

import torch

import llasa

LINES = (
    "The old lighthouse keeper climbed the stairs every evening before dark.",
    "Fresh bread was cooling on the wide windowsill of the bakery.",
    "They planted three rows of beans beside the wooden fence last spring.",
    "Nobody noticed the small boat until it was close to the shore.",
    "A cold wind from the north carried the smell of snow.",
    "She folded the map and put it back into her coat pocket.",
)


def load_seconds(bundle: str, threads: int, repeats: int) -> float:
    """Return the best time to import the package and load every part of the bundle in a fresh process."""
    code = (
        "import sys, time; t = time.perf_counter(); import llasa, torch; "
        "torch.set_num_threads(int(sys.argv[2])); b = llasa.load(sys.argv[1]).bundle; "
        "b.engine, b.codec, b.prompt, b.phonemizer; print(time.perf_counter() - t)"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", code, bundle, str(threads)], capture_output=True, text=True, check=True
        )
        for _ in range(repeats)
    ]
    return min(float(run.stdout) for run in runs)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", default="starter")
    parser.add_argument("--n", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    synthesizer = llasa.load(args.bundle)
    synthesizer.say(LINES[0])
    factors, ratios = [], []
    for repeat in range(args.repeats):
        for index, line in enumerate(LINES):
            began = time.perf_counter()
            audio = synthesizer.say(line, seed=repeat)
            factors.append((time.perf_counter() - began) / audio.duration_s)
            times = []
            for n in (1, args.n):
                began = time.perf_counter()
                synthesizer.candidates(line, n=n, seed=100 * repeat + index)
                times.append(time.perf_counter() - began)
            ratios.append(times[1] / times[0])
    found = {
        "machine": platform.processor() or platform.machine(),
        "threads": args.threads,
        "load_s": load_seconds(args.bundle, args.threads, 3),
        "rtf": statistics.median(factors),
        "rtf_max": max(factors),
        "n": args.n,
        "n_over_one": statistics.median(ratios),
    }
    print(json.dumps(found) if args.json else "\n".join(f"{key:12} {value}" for key, value in found.items()))


if __name__ == "__main__":
    main()

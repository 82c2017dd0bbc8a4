"""What a model in the published layout takes on this machine, engine by engine: seconds and peak memory.

Each engine speaks in a process of its own, end to end: prompt, codes, codec, sound. With random weights the
sound is noise and the end marker comes by chance only, so the number of codes is fixed.

    python -m tests.published out/llasa-1b --shape 1b --codec full
    python benchmarks/published.py out/llasa-1b native native:float32 \\
        gguf:out/llasa-1b.q8_0.gguf remote:http://127.0.0.1:8000/v1#llasa-1b

For a server, peak memory is that of this side alone.
"""

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

TEXT = "The old lighthouse keeper climbed the stairs every evening before dark."


def measured(
    bundle: str, codec: str | None, engine: str, codes: int, n: int, threads: int
) -> dict[str, float]:
    """Load and speak in this process; return seconds, codes a second and bytes."""
    import torch

    import llasa

    torch.set_num_threads(threads)
    engine, _, dtype = engine.partition(":") if engine.startswith("native") else (engine, "", "")
    began = time.perf_counter()
    speaker = llasa.load(bundle, codec=codec, engine=engine, dtype=dtype or None)
    speaker.warm_up()
    loaded = time.perf_counter() - began
    limits = {"min_tokens": codes, "max_tokens": codes, "loop_guard": False}
    spoken, runs = [], []
    for seed in range(3):
        began = time.perf_counter()
        spoken = list(speaker.speak(TEXT, seed=seed, **limits))
        runs.append(time.perf_counter() - began)
    began = time.perf_counter()
    generations = speaker.bundle.engine.submit(*_request(speaker, limits, n)).result()
    together = time.perf_counter() - began
    sound = spoken[0].candidate.audio
    codec_s = spoken[0].stats["codec_s"]
    return {
        "load_s": loaded,
        "speak_s": statistics.median(runs),
        "sound_s": sound.duration_s,
        "rtf": statistics.median(runs) / sound.duration_s,
        "codes_per_s": codes / (statistics.median(runs) - codec_s),
        "codec_s": codec_s,
        "n": n,
        "codes_per_s_n": sum(len(one.ids) for one in generations) / together,
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def _request(speaker, limits: dict[str, object], n: int) -> tuple:
    from dataclasses import replace

    job = speaker.job(TEXT, **limits)
    return job.prompt, replace(job.params, n=n)


def main() -> None:
    """Measure each engine in its own process and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", help="a folder or Hub id")
    parser.add_argument("engines", nargs="*", default=["native"], help="as --engine; native may name a dtype")
    parser.add_argument("--codec", help="of a model without one")
    parser.add_argument("--codes", type=int, default=50, help="to draw for each utterance")
    parser.add_argument("--n", type=int, default=4, help="candidates drawn together")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_intermixed_args()
    if args.alone:
        found = measured(args.bundle, args.codec, args.engines[0], args.codes, args.n, args.threads)
        return print(json.dumps(found))
    rows = {engine: _in_a_process(args, engine) for engine in args.engines}
    if args.json:
        return print(json.dumps({"machine": platform.processor(), "threads": args.threads, "engines": rows}))
    keys = list(next(iter(rows.values())))
    width = max(len(Path(engine).name) for engine in rows) + 2
    print(" " * width + "".join(f"{key:>14}" for key in keys))
    for engine, row in rows.items():
        print(f"{Path(engine).name:{width}}" + "".join(f"{row[key]:14.3g}" for key in keys))


def _in_a_process(args: argparse.Namespace, engine: str) -> dict[str, float]:
    command = [sys.executable, __file__, args.bundle, engine, "--alone", "--codes", str(args.codes)]
    command += ["--n", str(args.n), "--threads", str(args.threads)]
    command += ["--codec", args.codec] if args.codec else []
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if ended.returncode:
        sys.exit(f"Measuring {engine}: it ended with {ended.returncode}, see above.")
    return json.loads(ended.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()

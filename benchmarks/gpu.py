"""One GPU in under ten minutes: what it can do, and how near to it everything here comes.

ceilings: bytes a second of a copy, operations a second of a product of matrices, here and now.
decode: random weights made on the device, N candidates, eager and captured steps: milliseconds a step, where
they go (trunk, head and draw, host), RTF of a candidate, and how far above the floor: the bytes of weights,
speech head, keys and values over the copy's rate. Greedy ids of captured steps are held against eager ones.
codec, best of 16, beam 5 (judged each second), one step of GRPO (16 prompts of 8): random X-Codec2 and
Whisper-turbo shapes, over floors of operations and bytes.

    python benchmarks/gpu.py                        # one GPU, about 8 minutes, 40 GB of its memory
    python benchmarks/gpu.py --shapes 1b --json     # about 3 minutes
    python benchmarks/gpu.py --device cpu --tiny    # shows that it runs
"""

import argparse
import gc
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from drawn import PROMPT, SHAPES, decoded, fixed, prompt_of, random_llama, speech
from gpu_stages import CODES_PER_S, EACH, Workload, check_s, codec_flops, grpo_step, listener_flops, searched

from llasa.device import fastest_dtype
from llasa.engines.native import NativeEngine

COUNTS = (1, 4, 16, 64)
FIRST = 12  # greedy ids that captured and eager steps must share; later ones may part by rounding


@dataclass(frozen=True)
class Ceilings:
    """Bytes a second that a copy moves, read and written; operations a second of products of matrices."""

    copy: float
    gemm: float
    gemm_float32: float


def main() -> None:
    """Measure and print; exit 1 if captured steps drew something else."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small models and few steps")
    parser.add_argument("--shapes", nargs="+", default=["1b", "3b", "8b"], choices=SHAPES)
    parser.add_argument("--steps", type=int, default=200, help="a decode row (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=6.0, help="of an utterance (default: %(default)s)")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.exit(3, "Measuring a GPU: torch finds none here. Try --device cpu --tiny.\n")
    if args.tiny:
        args.shapes, args.steps, args.seconds = ["tiny"], 12, 0.4
    began, device = time.perf_counter(), torch.device(args.device)
    dtype = fastest_dtype(device)
    say = (lambda *_: None) if args.json else (lambda text: print(text, flush=True))
    ceilings = calibrated(device, dtype, 256 if args.tiny else 8192)
    say(f"{_name(device)}, {str(dtype)[6:]}: copy {ceilings.copy / 1e9:.0f} GB/s, products "
        f"{ceilings.gemm / 1e12:.2f} TFLOP/s, in float32 {ceilings.gemm_float32 / 1e12:.2f}")  # fmt: skip
    rows, parted = list[dict[str, Any]](), list[str]()
    for shape in args.shapes:
        with made(shape, device, dtype) as model:
            found, same = decoding(model, shape, args.steps, ceilings, say)
            rows += found
            if same < min(FIRST, args.steps):
                parted.append(f"{shape}: captured and eager steps share the first {same} greedy ids")
    stages = staged(args.shapes[0], device, dtype, args.seconds, args.tiny, ceilings, say)
    took = time.perf_counter() - began
    say(f"{took:.0f} s in all" + (f", {_peak():.1f} GB at most" if device.type == "cuda" else ""))
    if args.json:
        report = {"device": _name(device), "ceilings": vars(ceilings), "decode": rows, "stages": stages}
        print(json.dumps(report | {"took_s": took, "failed": parted}))
    for one in parted:
        print(f"NOT EQUAL: {one}", file=sys.stderr)
    sys.exit(1 if parted else 0)


@contextmanager
def made(shape: str, device: torch.device, dtype: torch.dtype) -> Iterator[Any]:
    """Yield a model of random weights, and release it."""
    model = random_llama(shape, str(device), dtype, seed=0)
    try:
        yield model
    finally:
        del model
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()


def calibrated(device: torch.device, dtype: torch.dtype, size: int) -> Ceilings:
    """Return the best of ten."""
    block = torch.empty(size * size * 8, dtype=torch.uint8, device=device)
    target = torch.empty_like(block)
    copy_s = best(lambda: target.copy_(block), device)
    gemm = []
    for kind in (dtype, torch.float32):
        one = torch.randn(size, size, device=device, dtype=kind)
        gemm.append(2 * size**3 / best(lambda one=one: one @ one, device))
    return Ceilings(2 * block.numel() / copy_s, *gemm)


def best(call: Callable[[], Any], device: torch.device, times: int = 10) -> float:
    """Return the least seconds of a call."""
    took = list[float]()
    for _ in range(times + 2):
        _wait(device)
        began = time.perf_counter()
        call()
        _wait(device)
        took.append(time.perf_counter() - began)
    return min(took[2:])


def decoding(
    model: Any, shape: str, steps: int, ceilings: Ceilings, say: Callable[[str], None]
) -> tuple[list[dict[str, Any]], int]:
    """Return a row for each way to step and number of candidates, and how many greedy ids are the same."""
    rows, greedy = list[dict[str, Any]](), dict[str, list[int]]()
    prompt = prompt_of(shape, 0)
    for mode in ("eager", "fast"):
        engine = NativeEngine(model, max_length=2048, concurrency=max(COUNTS), mode=mode)
        try:
            plain = fixed(shape, steps, temperature=0.0)
            greedy[mode] = engine.submit(prompt, plain).result()[0].ids
            for n in COUNTS:
                engine.submit(prompt, fixed(shape, steps, n)).result()  # all shapes are captured now
                rows.append(_row(engine, shape, steps, n, mode, floor_s(model, shape, n, steps, ceilings)))
                say(_told(rows[-1]))
        finally:
            engine.close()
    one, other = greedy.values()
    return rows, next((k for k, (a, b) in enumerate(zip(one, other, strict=True)) if a != b), len(one))


def _row(engine: NativeEngine, shape: str, steps: int, n: int, mode: str, least_s: float) -> dict[str, Any]:
    (wall_s, _), made_ = decoded(engine, prompt_of(shape, 0), fixed(shape, steps, n, seed=1))
    step_s, stats = wall_s / (steps - 1), made_[0].stats
    captured = getattr(engine._runner, "_captured", None)
    kind = "captured" if captured is not None and captured.trusted and captured._graphs else "eager"
    parts = {name: stats[name] / stats["steps"] for name in ("step_s", "sample_s", "host_s")}
    return {
        "shape": shape, "mode": mode, "steps": kind, "n": n, "whole_s": step_s, **parts, "floor_s": least_s,
        "of_floor": least_s / step_s, "rtf": CODES_PER_S * step_s / n,
    }  # fmt: skip


def _told(row: dict[str, Any]) -> str:
    trunk, sample, host = (1e3 * row[name] for name in ("step_s", "sample_s", "host_s"))
    return (
        f"{row['shape']:5} N={row['n']:<3} {row['mode']} ({row['steps']:8}) {1e3 * row['whole_s']:8.3f} ms: "
        f"trunk {trunk:.3f}, head and draw {sample:.3f}, host {host:.3f}; floor "
        f"{1e3 * row['floor_s']:.3f} ({row['of_floor']:.0%}), RTF {row['rtf']:.4f}"
    )


def floor_s(model: Any, shape: str, n: int, steps: int, ceilings: Ceilings) -> float:
    """Return the seconds in which a copy reads what a step must: weights, speech head, keys and values."""
    config, size = model.config, next(model.parameters()).element_size()
    trunk = sum(p.numel() for p in model.model.layers.parameters())
    head = len(speech(shape)) * config.hidden_size
    past = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
    return size * (trunk + head + n * past * (PROMPT + steps / 2)) / ceilings.copy


def staged(
    shape: str, device: torch.device, dtype: torch.dtype, seconds: float, tiny: bool, ceilings: Ceilings,
    say: Callable[[str], None],
) -> list[dict[str, Any]]:  # fmt: skip
    """Return what codec, searches and a step of GRPO took, over their floors."""
    rows, codes = list[dict[str, Any]](), round(seconds * CODES_PER_S)

    def add(name: str, took: dict[str, float], least_s: float) -> None:
        whole_s = sum(took.values())
        rows.append({"stage": name, "s": whole_s, "floor_s": least_s, **took})
        parts = ", ".join(f"{part} {part_s:.3f}" for part, part_s in took.items())
        say(f"{name:14} {whole_s:8.3f} s ({parts}), floor {least_s:.3f}: {whole_s / least_s:.1f} times")

    work = Workload.of(device, dtype, tiny)
    rows_of_codes = [[k % 100 for k in range(codes)]] * 16
    codec_s = seconds * codec_flops(tiny) / ceilings.gemm_float32
    heard_s = listener_flops(tiny) / ceilings.gemm
    add("codec of 16", {"decode": best(lambda: work.codec.decode(rows_of_codes), device, 3)}, 16 * codec_s)
    with made(shape, device, dtype) as model:
        steps_s = {n: codes * floor_s(model, shape, n, codes, ceilings) for n in (5, 16)}
        with_engine = NativeEngine(model, max_length=2048, mode="fast")
        try:
            for name, n, times in (("best of 16", 16, 1), ("beam 5", 5, round(seconds / check_s(codes)) - 1)):
                took = searched(work, with_engine, shape, codes, name)
                add(name, took, steps_s[n] + n * (codec_s * (times + 1) / 2 + heard_s * times))
                rows[-1]["rtf"] = rows[-1]["s"] / seconds
        finally:
            with_engine.close()
        took, ids, trained = grpo_step(work, model, shape, codes)
        count = work.groups * EACH
        rolled_s = codes * floor_s(model, shape, count, codes, ceilings)
        reward_s = count * (codec_s + heard_s)
        add("GRPO step", took, rolled_s + reward_s + 6 * ids * trained / ceilings.gemm)
    return rows


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def _peak() -> float:
    return torch.cuda.max_memory_allocated() / 1e9


if __name__ == "__main__":
    main()

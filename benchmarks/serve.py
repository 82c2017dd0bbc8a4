"""Speech over HTTP: how soon it is heard, and what serving eight at once gives over serving one by one.

`llasa serve` runs in a process of its own; clients are here. One client at a time asks for the first sound,
in turns with a synthesizer in this process: what HTTP adds. Then the same requests are sent one after another
and all at once, in turns: the ratio is of real-time factors, since requests that share a step are rounded
otherwise and draw other codes. Beside wall time stands the service's processor time, which other programs on
the machine disturb less. Checked: every stream is whole.

    python benchmarks/serve.py
    python benchmarks/serve.py --rounds 3 --clients 4 --bundle my-bundle
"""

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))  # the client is shared with the tests

import numpy as np
import psutil
from paired import finish, flags, interval

import llasa
from tests.crowd import Answer, Ask, ask
from tests.paced import started

TEXTS = (
    "The rain has stopped, so let us go outside and see what is left of the garden.",
    "Good morning. The train to Boston leaves at a quarter to ten from platform four.",
    "Every word of this sentence counts, and none of them may be lost on the way.",
    "She opened the old book, turned a page, and began to read aloud to the children.",
    "There is a small house by the river where nobody has lived for many years now.",
    "He said that he would call us as soon as the doctor had seen his little brother.",
    "We need some milk, a dozen eggs, and a loaf of bread for breakfast tomorrow.",
    "The meeting starts at noon, but most of us will be there a little earlier.",
)
RATE_HZ, BYTES = 24_000, 2
FIRST = 1000  # bytes of an answer, beyond its head, with which sound has begun


def asked(args: Any) -> list[Ask]:
    """Return the requests of one round."""
    common = {"response_format": "pcm", "seed": args.seed}
    return [Ask({"input": TEXTS[n % len(TEXTS)]} | common) for n in range(args.clients)]


async def one_by_one(url: str, requests: list[Ask]) -> list[Answer]:
    """Answer after answer."""
    return [await ask(url, one) for one in requests]


async def at_once(url: str, requests: list[Ask]) -> list[Answer]:
    """All answers together."""
    return list(await asyncio.gather(*(ask(url, one) for one in requests)))


def used(own: psutil.Process) -> float:
    """Return the processor seconds of a process."""
    return sum(own.cpu_times()[:2])


def first_sounds(url: str, own: psutil.Process, args: Any) -> dict[str, np.ndarray]:
    """Return seconds to the first sound: over HTTP, of that the service's processor, and without HTTP."""
    import torch

    torch.set_num_threads(args.threads)
    here, found = llasa.load(args.bundle), list[tuple[float, float, float]]()
    here.warm_up()
    for number in range(-2, args.firsts):  # two to warm up
        text, before = TEXTS[number % len(TEXTS)], used(own)
        answer = asyncio.run(ask(url, Ask({"input": text, "response_format": "pcm"}, after=FIRST)))
        spent = used(own) - before
        while json.loads(asyncio.run(ask(url, Ask(path="/health", method="GET"))).body)["speaking"]:
            time.sleep(0.01)
        time.sleep(0.1)
        began = time.perf_counter()
        stream = here.stream(text)
        next(stream)
        found.append((answer.first_s, spent, time.perf_counter() - began))
        for _ in stream:
            pass
    return dict(zip(("http", "cpu", "here"), np.array(found[2:]).T, strict=True))


def together(url: str, own: psutil.Process, args: Any) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return what each round took, both ways, seconds a second of sound; and what did not come whole."""
    found, failed = dict[str, list[float]](), list[str]()
    for turn in range(-1, args.rounds):
        for way in (one_by_one, at_once)[:: 1 if turn % 2 else -1]:
            before, began = used(own), time.perf_counter()
            answers = asyncio.run(way(url, asked(args)))
            took, name = (time.perf_counter() - began, used(own) - before), way.__name__
            sound = sum(len(one.body) for one in answers) / BYTES / RATE_HZ
            failed += [f"{name}: {one.status}, {len(one.body)} bytes" for one in answers if not one.whole]
            if turn >= 0:
                found.setdefault(name, []).append(took[0] / sound)
                found.setdefault(name + "_cpu", []).append(took[1] / sound)
                found.setdefault(name + "_first", []).extend(one.first_s for one in answers)
    return {name: np.array(values) for name, values in found.items()}, failed


def report_of(first: dict[str, np.ndarray], both: dict[str, np.ndarray], clients: int) -> dict[str, Any]:
    """Return the rows of the table: median and interval, and the bar."""
    ratio = interval(both["one_by_one"] / both["at_once"])
    return {
        "first sound over HTTP, ms": (*interval(1e3 * first["http"]), "at most 150"),
        "of that the service's processor, ms": (*interval(1e3 * first["cpu"]), ""),
        "first sound without HTTP, ms": (*interval(1e3 * first["here"]), ""),
        "with HTTP / without": (*interval(first["http"] / first["here"]), ""),
        f"first sound, {clients} clients, ms": (*interval(1e3 * both["at_once_first"]), ""),
        "real-time factor, one by one": (*interval(both["one_by_one"]), ""),
        f"real-time factor, {clients} at once": (*interval(both["at_once"]), ""),
        "one by one / at once, wall": (*ratio, "at least 2.5"),
        "one by one / at once, processor": (*interval(both["one_by_one_cpu"] / both["at_once_cpu"]), ""),
    }


def main() -> None:
    """Measure one service."""
    parser = flags(__doc__ or "")
    parser.add_argument("--bundle", default="starter")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--firsts", type=int, default=15, help="requests timed for the first sound")
    args = parser.parse_args()
    command = [sys.executable, "-m", "llasa.cli", "serve", "--port", "0", "--bundle", args.bundle]
    with started(command, OMP_NUM_THREADS=str(args.threads)) as (url, own):
        first = first_sounds(url, own, args)
        both, failed = together(url, own, args)
    report = report_of(first, both, args.clients)
    for name, (median, low, high, bar) in report.items() if not args.json else ():
        print(f"{name:38} {median:8.3g} {f'[{low:.3g}, {high:.3g}]':>20}  {bar}")
    finish(report, failed, args.json)


if __name__ == "__main__":
    main()

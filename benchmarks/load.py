"""A crowd before a speech service: what it does with many, slow and vanishing clients, and whom it serves.

The service has an engine that takes a fixed time a step, and sound that is known (tests/paced.py).

crowd      all connect, then ask at a rate: those it takes get the right bytes, the others 429 at once
fairness   keys that ask with 4, 8, 16, ... connections: how often each is served, of 600
dawdlers   clients that read a byte a second beside others that read as usual
hangups    clients that vanish after a random number of bytes, also from WebSockets: nothing may be left

    python benchmarks/load.py
    python benchmarks/load.py hangups --hangups 200 --seed 7
    python benchmarks/load.py crowd --connections 1000 --rate 1e9

A line a figure, with its bar; exit 1 if one is missed. `--seed` repeats a run.
"""

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))  # service and clients are shared with the tests

import numpy as np
import psutil
from websockets.asyncio.client import connect

from tests.crowd import Answer, Ask, ask
from tests.paced import Live, paced, process

TEXT = "The cat sat on the mat and looked at the moon. "
FORMATS = ("pcm", "mp3", "wav", "flac", "opus", "aac")
MIB = 1 << 20


@dataclass
class Report:
    """Figures with their bars. missed: what does not reach its bar."""

    missed: list[str] = field(default_factory=list[str])

    def row(self, name: str, value: float, bar: float | None = None, unit: str = "") -> None:
        """Tell a figure; at most `bar` is good."""
        told = f"{name:58} {value:10.4g} {unit:4} {'' if bar is None else f'at most {bar:g}'}"
        print(told, flush=True)
        if bar is not None and not value <= bar:
            self.missed.append(told)


def asks(seed: int, n: int = 12) -> list[Ask]:
    """Return different requests."""
    draw = random.Random(seed)
    return [
        Ask({
            "input": TEXT * draw.randint(1, 3), "seed": draw.randrange(1000),
            "speed": draw.choice((1.0, 1.0, 1.5)), "response_format": draw.choice(FORMATS),
            "stream": draw.choice((True, False)),
            "stream_format": draw.choice(("audio", "audio", "sse")),
        })
        for _ in range(n)
    ]  # fmt: skip


async def crowd(url: str, connections: int, rate: float, seed: int) -> tuple[list[Answer], list[bool]]:
    """Return the answers to requests on as many open connections, and which came as they come alone."""
    wanted = asks(seed)
    alone = [(await ask(url, one)).body for one in wanted]
    here, every = 0, asyncio.Event()

    async def one(number: int) -> Answer:
        async def ready() -> None:
            nonlocal here
            here += 1
            if here == connections:
                every.set()
            await every.wait()
            await asyncio.sleep(number / rate)

        return await ask(url, wanted[number % len(wanted)], ready)

    answers = await asyncio.gather(*map(one, range(connections)))
    right = [one.whole and one.body == alone[n % len(alone)] for n, one in enumerate(answers)]
    return list(answers), right


def tell_crowd(report: Report, url: str, own: psutil.Process, args: Any) -> None:
    """Measure and tell `crowd`."""
    asyncio.run(crowd(url, 20, 100, args.seed))  # warm
    time.sleep(1)
    before, files = own.memory_info().rss, own.num_fds()
    answers, right = asyncio.run(crowd(url, args.connections, args.rate, args.seed))
    refused = [one for one in answers if one.status == 429 and one.heads.get("retry-after")]
    taken = [n for n, one in enumerate(answers) if one.status == 200]
    grown, until = own.memory_info().rss - before, time.monotonic() + 5
    while own.num_fds() > files and time.monotonic() < until:
        time.sleep(0.05)
    waits = np.array([one.took_s for one in refused] or [0])
    report.row(f"crowd of {args.connections}: taken", len(taken))
    report.row("crowd: taken and not whole or not right", sum(not right[n] for n in taken), 0)
    report.row("crowd: neither taken nor 429 with Retry-After", len(answers) - len(taken) - len(refused), 0)
    report.row("crowd: refusals, median", 1e3 * float(np.median(waits)), unit="ms")
    report.row("crowd: refusals, p99", 1e3 * float(np.percentile(waits, 99)), 50, "ms")
    report.row("crowd: memory grown by", grown / MIB, 150, "MiB")
    report.row("crowd: files open more than before, after 5 s", own.num_fds() - files, 0)


async def fairness(url: str, keys: list[str], total: int) -> list[int]:
    """Return how often each key was served, of so many; each has twice as many connections as the last."""
    served = [0] * len(keys)

    async def client(number: int) -> None:
        heads = {"Authorization": f"Bearer {keys[number]}"}
        while sum(served) < total:
            answer = await ask(url, Ask({"input": "One.", "response_format": "pcm"}, heads=heads))
            served[number] += answer.status == 200 and sum(served) < total
            if answer.status == 429:
                await asyncio.sleep(0.05)

    await asyncio.gather(*(client(n) for n in range(len(keys)) for _ in range(4 * 2**n)))
    return served


async def visits(url: str, seconds: float, clients: int = 2) -> np.ndarray:
    """Return how long requests of usual clients took, seconds."""
    took, until = list[float](), time.monotonic() + seconds

    async def client() -> None:
        while time.monotonic() < until:
            answer = await ask(url, Ask({"input": TEXT, "response_format": "pcm", "sample_rate": 8000}))
            took.append(answer.took_s if answer.status == 200 and answer.whole else np.inf)

    await asyncio.gather(*(client() for _ in range(clients)))
    return np.array(took)


async def dawdlers(url: str, count: int, seconds: float) -> tuple[np.ndarray, np.ndarray, list[Answer]]:
    """Return what usual clients wait, before and beside such that read slowly; and what these got."""
    usual = await visits(url, seconds)
    slow = Ask({"input": TEXT * 20, "response_format": "pcm", "sample_rate": 48_000}, byte_s=1.0)
    loiter = [asyncio.create_task(ask(url, slow)) for _ in range(count)]
    await asyncio.sleep(1)
    health, until = Ask(path="/health", method="GET"), time.monotonic() + 20
    while json.loads((await ask(url, health)).body)["speaking"] and time.monotonic() < until:
        await asyncio.sleep(0.1)  # their connections fill up
    beside = await visits(url, seconds)
    return usual, beside, list(await asyncio.gather(*loiter))


def tell_dawdlers(report: Report, url: str, own: psutil.Process, args: Any) -> None:
    """Measure and tell `dawdlers`."""
    asyncio.run(visits(url, 2))
    before = own.memory_info().rss
    usual, beside, slow = asyncio.run(dawdlers(url, args.dawdlers, args.seconds))
    p99 = [float(np.percentile(one, 99)) for one in (usual, beside)]
    report.row(f"{args.dawdlers} dawdlers: p99 of others, before", 1e3 * p99[0], unit="ms")
    report.row("dawdlers: p99 of others, beside / before", p99[1] / p99[0], 1.2)
    let_in = [one for one in slow if one.status != 429]
    report.row("dawdlers: let in", len(let_in))
    report.row("dawdlers: let in and not cut in a minute", sum(not one.cut for one in let_in), 0)
    report.row("dawdlers: the last was cut after", max((one.took_s for one in let_in), default=0), 60, "s")
    report.row("dawdlers: memory grown by", (own.memory_info().rss - before) / MIB, unit="MiB")


async def hangups(live: Live, count: int, seed: int, at_once: int = 16) -> None:
    """Let clients ask and vanish."""
    draw, places = random.Random(seed), asyncio.Semaphore(at_once)

    async def client(one: Ask, socket: bool) -> None:
        async with places:
            await (_talk(live.url, one) if socket else ask(live.url, one))

    kinds = asks(seed, 40)
    chosen = [_vanishing(draw, draw.choice(kinds)) for _ in range(count)]
    await asyncio.gather(*(client(one, draw.random() < 0.25) for one in chosen))


def _vanishing(draw: random.Random, one: Ask) -> Ask:
    after = draw.choice((0, draw.randrange(1, 400), draw.randrange(1, 100_000)))
    return Ask(one.body, after=after, reset=draw.random() < 0.5)


async def _talk(url: str, one: Ask) -> None:
    """Ask over a WebSocket, and vanish."""
    assert isinstance(one.body, dict) and one.after is not None
    config = {name: one.body[name] for name in ("seed", "speed", "response_format")}
    place = url.replace("http", "ws") + "/v1/audio/speech/stream"
    socket, got = await connect(place, max_size=None), 0
    for message in ({"type": "session.config", **config}, {"type": "input.text", "text": one.body["input"]}):
        await socket.send(json.dumps(message))
    while got < one.after // 4:
        try:
            got += len(await asyncio.wait_for(socket.recv(), 1))
        except TimeoutError:
            break  # the last sentence is said once another has begun
    if one.reset:
        socket.transport.abort()
    await socket.close()


async def freed(live: Live, count: int, seed: int) -> np.ndarray:
    """Return how long after each client has vanished its place and its request were free, seconds."""
    draw, took = random.Random(seed), list[float]()
    for _ in range(count):
        body = {"input": TEXT * 60, "response_format": "pcm", "seed": draw.randrange(1000)}
        speaks = asyncio.Event()
        leaves = asyncio.create_task(ask(live.url, Ask(body, after=draw.choice((0, 1, 20_000))), left=speaks))
        while not (live.desk.slots.taken and live.engine.live):
            await asyncio.sleep(0.0005)
        speaks.set()
        await leaves
        began = time.perf_counter()
        while live.desk.slots.taken or live.engine.live:
            await asyncio.sleep(0.0005)
        took.append(time.perf_counter() - began)
    return np.array(took)


def tell_hangups(report: Report, live: Live, args: Any) -> None:
    """Measure and tell `hangups`."""
    asyncio.run(hangups(live, 50, args.seed + 1))
    time.sleep(1)
    before, began = live.held(), time.monotonic()
    asyncio.run(hangups(live, args.hangups, args.seed))
    took, left = time.monotonic() - began, live.settled(before)
    report.row(f"{args.hangups} hang-ups took", took, unit="s")
    report.row(f"hang-ups: kinds of things left over {left or ''}", len(left), 0)
    free = 1e3 * (asyncio.run(freed(live, min(200, args.hangups), args.seed)) - live.engine.step_s)
    report.row("hang-ups: place free beyond a step, median", float(np.median(free)), unit="ms")
    report.row("hang-ups: place free beyond a step, p99", float(np.percentile(free, 99)), 50, "ms")


def main() -> None:
    """Run the drills that were asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = ("crowd", "fairness", "dawdlers", "hangups")
    parser.add_argument("drills", nargs="*", choices=names, default=names)
    parser.add_argument("--connections", type=int, default=1000)
    parser.add_argument("--rate", type=float, default=100.0, help="requests a second of the crowd")
    parser.add_argument("--dawdlers", type=int, default=200)
    parser.add_argument("--hangups", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each measured span")
    parser.add_argument("--speaking", default="8")
    parser.add_argument("--waiting", default="64")
    parser.add_argument("--seed", type=int, default=0)
    args, report = parser.parse_args(), Report()
    limits = (args.speaking, args.waiting)
    if "crowd" in args.drills:
        with process(*limits, step_ms=20) as (url, own):
            tell_crowd(report, url, own, args)
    if "fairness" in args.drills:
        keys = ["one", "two", "four", "eight"]
        with process(*limits, keys=" ".join(keys)) as (url, _):
            served = asyncio.run(fairness(url, keys, 600))
        report.row(f"fairness: most / least served of {served}", max(served) / max(min(served), 1e-9), 1.5)
    if "dawdlers" in args.drills:
        with process(args.speaking, str(args.dawdlers + 8)) as (url, own):
            tell_dawdlers(report, url, own, args)
    if "hangups" in args.drills:
        from tests.conftest import build_tiny_bundle

        with tempfile.TemporaryDirectory() as own, paced(build_tiny_bundle(Path(own) / "tiny")) as live:
            tell_hangups(report, live, args)
    print(*report.missed, sep="\n", file=sys.stderr)
    sys.exit(bool(report.missed))


if __name__ == "__main__":
    main()

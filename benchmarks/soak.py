"""A speech service for a long time, with trouble now and then: does it grow, slow down, or fail?

`llasa serve` with a real model. First it is asked by eight at once, which tells what it can do, and meets
each trouble once; then, at random moments, at a share of that rate: all formats, whole and streamed, judged
speech, voices of a request, voices made and removed, metrics. Once in a while there is trouble: clients that
vanish or read a byte a second, bodies that are no JSON, sound files that are bombs, a crowd, a stop of the
whole process for three seconds.

Told, with bars: memory against time by the slope of Theil and Sen after a first third; files and children
before and after, threads late and early; the time of plain requests late against early; answers that nothing
explains; what was logged. Exit 1 if a bar is missed.

    python benchmarks/soak.py --minutes 20
    python benchmarks/soak.py --minutes 1440 --trouble-s 3600 --json soak.json
"""

import argparse
import asyncio
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))  # service and clients are shared with the tests

import numpy as np
import psutil
from rich.console import Console
from rich.progress import Progress
from scipy.stats import theilslopes

from benchmarks.load import FORMATS, MIB, Report
from tests.crowd import Answer, Ask, ask
from tests.paced import started
from tests.uploads import bombs, inline, upload, wav

TEXTS = ("Good morning.", "The rain has stopped, so let us go outside.", "He opened the book and read on.")
PLAIN = "plain"
CUT_S = 35.0  # connections that nobody reads from are cut by then
LATE_S = 60.0  # an answer that takes longer is none
SAMPLES = 2000  # at most: the slope of Theil and Sen looks at all pairs
BAD = (b"{", b"[" * 50_000, b'{"model":1}', b"\xff\xfe", b'{"input":"' + b"a" * 100_000 + b'"}')


@dataclass(frozen=True)
class Sample:
    """The process at a time. s: since the beginning."""

    s: float
    rss: int
    files: int
    threads: int
    children: int
    logged: int


@dataclass
class Soak:
    """What came of it. took: when plain requests were asked, and their seconds. odd: unexplained answers."""

    draw: random.Random
    url: str
    own: psutil.Process
    began: float = field(default_factory=time.monotonic)
    samples: list[Sample] = field(default_factory=list[Sample])
    took: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])
    told: Counter[str] = field(default_factory=Counter[str])
    odd: list[str] = field(default_factory=list[str])
    troubled: str = ""

    def sample(self) -> Sample:
        """Look at the process."""
        own = self.own
        with own.oneshot():
            counts = own.num_fds(), own.num_threads(), len(own.children(recursive=True))
            found = Sample(self.now, own.memory_info().rss, *counts, os.stat(f"/proc/{own.pid}/fd/2").st_size)
        self.samples.append(found)
        return found

    @property
    def now(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self.began

    def usual(self) -> tuple[str, Ask]:
        """Draw a request that is to be answered."""
        draw = self.draw
        body: dict[str, Any] = {"input": draw.choice(TEXTS), "seed": draw.randrange(1000)}
        kind = draw.choices(
            (PLAIN, "any", "judged", "own voice", "made voice", "metrics"), (8, 8, 2, 1, 1, 1)
        )[0]
        match kind:
            case "any":
                forms = {"stream": draw.random() < 0.5, "stream_format": draw.choice(("audio", "sse"))}
                body |= {"response_format": draw.choice(FORMATS), "speed": draw.choice((1.0, 1.3)), **forms}
            case "judged":
                body |= {"effort": 2}
            case "own voice":
                return kind, inline(wav())
            case "made voice":
                return kind, upload(wav(), f"soak-{draw.randrange(10**9)}")
            case "metrics":
                return kind, Ask(path="/metrics", method="GET")
            case _:
                body |= {"response_format": "pcm"}
        return kind, Ask(body)

    async def one(self) -> None:
        """Ask for what is usual, and keep what came."""
        (kind, wanted), at, trouble = self.usual(), self.now, self.troubled
        answer = await self.answer(wanted)
        self.told[f"{kind} {answer.status}"] += 1
        good = answer.whole and answer.status in (200, 201)
        if kind == "made voice" and good:
            name = json.loads(answer.body)["name"]
            gone = await self.answer(Ask(path=f"/v1/audio/voices/{name}", method="DELETE"))
            good = gone.status == 200
        trouble = trouble or self.troubled
        if kind == PLAIN and not trouble:
            self.took.append((at, answer.took_s))
        if not good and not (answer.status == 429 and trouble):
            self.odd.append(f"{at:.0f} s: {kind} {trouble}: {answer.status}, {answer.body[:200]!r}")

    async def answer(self, wanted: Ask) -> Answer:
        """Ask, and wait for a minute at most; who cannot be reached has no answer either."""
        try:
            return await asyncio.wait_for(ask(self.url, wanted), LATE_S)
        except OSError as error:  # a TimeoutError too
            return Answer(0, {}, repr(error).encode(), False, 0.0, LATE_S)

    async def refused(self, wanted: list[Ask], most: int = 499) -> None:
        """Ask for what cannot be had; more than a refusal nobody may get."""
        for answer in await asyncio.gather(*map(self.answer, wanted)):
            self.told[f"trouble {answer.status}"] += 1
            if not 400 <= answer.status <= most:
                self.odd.append(f"{self.now:.0f} s: trouble: {answer.status}, {answer.body[:200]!r}")

    async def vanish(self) -> None:
        """Let clients vanish."""
        bodies = [
            {"input": " ".join(TEXTS * 3), "response_format": self.draw.choice(FORMATS)} for _ in range(40)
        ]
        left = [
            Ask(body, after=self.draw.randrange(1, 40_000), reset=self.draw.random() < 0.5) for body in bodies
        ]
        await asyncio.gather(*map(self.answer, left))

    async def dawdle(self) -> None:
        """Let clients read a byte a second."""
        slow = Ask({"input": " ".join(TEXTS * 4), "response_format": "pcm"}, byte_s=1.0, stay_s=40.0)
        await asyncio.gather(*(self.answer(slow) for _ in range(6)))

    async def crowd(self) -> None:
        """Let two hundred come at once."""
        one = Ask({"input": TEXTS[0], "response_format": "mp3"})
        for answer in await asyncio.gather(*(self.answer(one) for _ in range(200))):
            self.told[f"crowd {answer.status}"] += 1
            if answer.status not in (200, 429) or not answer.whole:
                self.odd.append(f"{self.now:.0f} s: crowd: {answer.status}")

    async def pause(self) -> None:
        """Stop the process for a while."""
        self.own.suspend()
        await asyncio.sleep(3)
        self.own.resume()

    async def trouble(self, after_s: float) -> None:
        """Make each kind of trouble, some time after the last."""
        kinds: dict[str, Callable[[], Coroutine[Any, Any, None]]] = {
            "vanish": self.vanish, "dawdle": self.dawdle, "crowd": self.crowd, "pause": self.pause,
            "bodies": lambda: self.refused([Ask(body) for body in BAD * 20]),
            "bombs": lambda: self.refused([upload(data) for data in bombs().values()]),
        }  # fmt: skip
        for name, kind in kinds.items():
            await asyncio.sleep(after_s)
            self.troubled = name
            await kind()
            await asyncio.sleep(5)  # what it left is worked off
            self.troubled = ""

    async def troubles(self, every_s: float) -> None:
        """Make trouble without end."""
        while True:
            await self.trouble(every_s)

    async def load(self, rate: float, minutes: float, told: Progress) -> None:
        """Ask at random moments, and look every few seconds."""
        bar, tasks, looked = told.add_task("soaking", total=60 * minutes), set[asyncio.Task[None]](), 0.0
        while self.now < 60 * minutes:
            await asyncio.sleep(self.draw.expovariate(rate))
            tasks.add(task := asyncio.create_task(self.one()))
            task.add_done_callback(tasks.discard)
            if self.now > looked:
                looked = self.now + max(5, 60 * minutes / SAMPLES)
                told.update(bar, completed=self.now, description=f"{self.sample().rss >> 20} MiB")
        await asyncio.gather(*tasks)


async def capacity(soak: Soak, seconds: float) -> float:
    """Return how many requests a second eight clients get."""
    until, done = time.monotonic() + seconds, 0

    async def client() -> None:
        nonlocal done
        while time.monotonic() < until:
            await soak.one()
            done += 1

    began = time.monotonic()
    await asyncio.gather(*(client() for _ in range(8)))
    return done / (time.monotonic() - began)


async def run(soak: Soak, args: argparse.Namespace) -> tuple[float, Sample, Sample]:
    """Return the rate that was asked for, and the idle process before and after."""
    rate = args.share * await capacity(soak, args.warm_s)
    await soak.trouble(0.0)
    await asyncio.sleep(CUT_S)
    before = soak.sample()
    soak.began = time.monotonic()
    soak.took.clear()
    soak.samples.clear()
    with Progress(console=Console(stderr=True), transient=True) as told:
        trouble = asyncio.create_task(soak.troubles(args.trouble_s))
        await soak.load(rate, args.minutes, told)
        trouble.cancel()
        with suppress(asyncio.CancelledError):
            await trouble  # tells why, if it ended by itself
    soak.own.send_signal(signal.SIGCONT)
    await asyncio.sleep(CUT_S)
    return rate, before, soak.sample()


def tell(report: Report, soak: Soak, rate: float, before: Sample, after: Sample) -> None:
    """Tell the figures."""
    rows = [one for one in soak.samples if one.s > soak.samples[-1].s / 3]
    hours, sizes = [one.s / 3600 for one in rows], [one.rss / MIB for one in rows]
    slope, _, low, high = theilslopes(sizes, hours)
    at, took = np.array(soak.took).T
    early, late = took[at < at.max() / 3], took[at > at.max() * 2 / 3]
    report.row("requests a second that were asked for", rate)
    report.row(f"answers {dict(soak.told)}", sum(soak.told.values()))
    report.row("answers that nothing explains", len(soak.odd), 0)
    report.row("memory, slope an hour", float(slope), unit="MiB")
    report.row(f"memory, low end of its 95 % up to {high:.3g}", float(low), 1.0, "MiB")
    report.row("memory at the end over that before", after.rss / before.rss)
    for name in ("files", "children"):
        report.row(f"{name} more than before", getattr(after, name) - getattr(before, name), 0)
    first, last = np.array_split([one.threads for one in soak.samples], 3)[
        ::2
    ]  # a pool keeps some for a while
    report.row(
        "threads, median of the last third over the first", float(np.median(last) - np.median(first)), 2
    )
    for name, share in (("median", 50), ("p99", 99)):
        ratio = np.percentile(late, share) / np.percentile(early, share)
        spread = [_redrawn(late, share, n) / _redrawn(early, share, -n) for n in range(1, 1000)]
        low, high = np.percentile(spread, (2.5, 97.5))
        report.row(f"plain requests, {name} late / early", ratio)
        report.row(f"the same, low end of its 95 % up to {high:.2f}", low, 1.1)
    report.row("logged, KiB", after.logged / 1024, 256)


def _redrawn(values: np.ndarray, share: float, seed: int) -> float:
    return float(
        np.percentile(np.random.default_rng(abs(seed) * 2 + (seed < 0)).choice(values, len(values)), share)
    )


def main() -> None:
    """Soak one service."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--share", type=float, default=0.6, help="of what the service can do")
    parser.add_argument("--warm-s", type=float, default=30.0, help="for which it is asked what it can do")
    parser.add_argument("--trouble-s", type=float, default=40.0, help="between two troubles")
    parser.add_argument("--bundle", default="starter")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="Write all samples and times there.")
    args, report = parser.parse_args(), Report()
    command = [
        sys.executable,
        "-m",
        "llasa.cli",
        "serve",
        "--port",
        "0",
        "--no-page",
        "--bundle",
        args.bundle,
    ]
    with (
        tempfile.TemporaryDirectory() as home,
        started(command, OMP_NUM_THREADS="1", LLASA_HOME=home) as (url, own),
    ):
        soak = Soak(random.Random(args.seed), url, own)
        rate, before, after = asyncio.run(run(soak, args))
        tell(report, soak, rate, before, after)
        report.row("voices left", len(list(Path(home).rglob("soak-*"))), 0)
    if args.json:
        kept = {
            "samples": list(map(asdict, soak.samples)),
            "took": soak.took,
            "odd": soak.odd,
            "told": soak.told,
        }
        args.json.write_text(json.dumps(kept), encoding="utf-8")
    print(*soak.odd[:20], *report.missed, sep="\n", file=sys.stderr)
    sys.exit(bool(report.missed))


if __name__ == "__main__":
    main()

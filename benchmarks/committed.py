"""Search that is heard while it goes on: first audio, codes, word errors and underruns, in one run.

Three ways to say held-out lines: `effort 1`, streamed; `committed N`, `Synthesizer.stream` with effort N,
which gives out blocks as they are decided; `whole N`, the best of N whole candidates, heard once it is found.
They take turns line by line, with the same seeds. Words are heard by pocketsphinx, which has no say in any
search; intervals are those of a bootstrap over lines.

Underruns: nothing is played, and nothing sleeps: each piece has the time at which it was there, counted from
the request. A simulated player begins with the first piece and plays `--headroom` (1.2) times as fast as the
sound is, so that who is just in time here is in time on a machine that takes 1.2 times as long for
everything after the first piece. A piece that is not there when all before it has been played is an underrun,
and the player waits for it. The search is in time by the same clock. `steady`: processor time, all threads,
over what a fixed piece of work (decoding 2 s) takes just before each text, times the least that it ever took
in this run, so that other work on the machine hardly counts; the median of that ratio is told as `disturbed`.
`cpu`: processor time as it is. `wall`. `still`: never late, what the search finds with all the time it wants.

    python benchmarks/committed.py
    python benchmarks/committed.py --bundle out/early --effort 8 --lines 50 --json
    python benchmarks/committed.py --sentences 3 --lines 30          # texts of several segments
    python benchmarks/committed.py --block 0.4 --ahead 0.4           # other settings of the search

Exit 1 if a player ran dry that heard `effort 1` or `committed N`. `--out` keeps rows: a run that was ended
goes on.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
import torch

import llasa
from llasa.beams import AHEAD_S, BLOCK_S, Committed
from llasa.codec.base import Codec
from llasa.core import Audio, Candidate, Utterance
from llasa.judge import Judge
from llasa.metrics import bootstrap, error_rate, paired
from llasa.recipe import Effort
from llasa.scorers.wer import ErrorRate
from llasa.search import Means
from llasa.spoken import Spoken, concatenated
from llasa.synthesizer import Synthesizer

TEXTS = Path(__file__).parents[1] / "tests" / "data" / "heldout.txt"
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time, "still": lambda: 0.0}
PROBES = 5
Row = dict[str, Any]


class Timed(Synthesizer):
    """Speaks by a clock of one's choice."""

    clock: Callable[[], float] = time.process_time

    def means(self, judge: Judge) -> Means:
        """See `Synthesizer.means`."""
        return replace(super().means(judge), clock=self.clock)


class Steady:
    """Seconds of processor time, as on a machine to itself. ratio: of what work takes now to the least."""

    def __init__(self, codec: Codec) -> None:
        self._codec, self._codes = (
            codec,
            np.random.default_rng(0).integers(0, codec.codebook_size, 50).tolist(),
        )
        self._least_s, self.ratio = math.inf, 1.0
        self._since_s, self._told_s = time.process_time(), 0.0
        for _ in range(10):
            self.settle()

    def settle(self) -> None:
        """Take the measure of the machine as it is now."""
        self._told_s = self()
        took_s = [self._probe() for _ in range(PROBES)]
        self._least_s = min(self._least_s, *took_s)
        self.ratio, self._since_s = median(took_s) / self._least_s, time.process_time()

    def _probe(self) -> float:
        began = time.process_time()
        self._codec.decode([self._codes])
        return time.process_time() - began

    def __call__(self) -> float:
        return self._told_s + (time.process_time() - self._since_s) / self.ratio


def played(pieces: list[tuple[float, Audio]], headroom: float) -> Row:
    """Return when a player starts, how often it waits for more, and for how long, seconds."""
    end, underruns, waited = pieces[0][0], 0, 0.0
    for ready, piece in pieces:
        underruns, waited = underruns + (ready > end), waited + max(0.0, ready - end)
        end = max(end, ready) + piece.duration_s / headroom
    return {"first_audio_s": pieces[0][0], "underruns": underruns, "waited_s": waited}


def said(speaker: Timed, text: str, seed: int, effort: Effort | None, headroom: float) -> tuple[Row, Audio]:
    """Return what became of a text that is streamed, and its sound."""
    if isinstance(speaker.clock, Steady):
        speaker.clock.settle()
    spoken, pieces, began = list[Spoken](), list[tuple[float, Audio]](), speaker.clock()
    for piece in speaker.stream(text, seed=seed, effort=effort or 1, told=spoken.append):
        pieces.append((speaker.clock() - began, piece))
    took_s, sound = speaker.clock() - began, concatenated(piece for _, piece in pieces)
    drawn = sum(one.ranking.tokens if one.ranking else len(one.candidate.codes) for one in spoken)
    pace = [one.ranking.pace for one in spoken if one.ranking and one.ranking.pace]
    found = {name: sum(one[name] for one in pace) for name in (pace[0] if pace else ()) if name != "block_s"}
    found |= {"block_s": max(one["block_s"] for one in pace)} if pace else {}
    found |= {"disturbed": speaker.clock.ratio} if isinstance(speaker.clock, Steady) else {}
    found |= {"codes": drawn, "took_s": took_s, "sound_s": sound.duration_s}
    return found | {"warnings": sum(len(one.warnings) for one in spoken)} | played(pieces, headroom), sound


def heard(ear: ErrorRate, text: str, sound: Audio) -> Row:
    """Return word errors and words."""
    measures = ear.score([Candidate(Utterance("0", text), [0], "stop", audio=sound)])[0].measures
    return {"errors": measures["wer"] * measures["words"], "words": measures["words"]}


def efforts(speaker: Timed, args: argparse.Namespace) -> dict[str, Effort | None]:
    """Return the ways to speak."""
    whole = speaker.effort(args.effort)
    search = Committed(args.effort, args.width, args.block, args.ahead, process=whole.judge.of_beginnings())
    return {
        "effort 1": None,
        f"committed {args.effort}": replace(whole, streaming=search),
        f"whole {args.effort}": replace(whole, streaming=None),
    }


def measured(args: argparse.Namespace, texts: list[str]) -> list[dict[str, Row]]:
    """Return a row a text, of each way; those in the file are not made again."""
    kept = args.out.read_text().splitlines() if args.out and args.out.exists() else []
    rows = [json.loads(line) for line in kept][: len(texts)]
    speaker = Timed(llasa.load(args.bundle).bundle)
    speaker.clock = CLOCKS.get(args.clock) or Steady(speaker.bundle.codec)
    ways, reader = efforts(speaker, args), speaker.bundle.reader
    ear = ErrorRate(speaker.bundle.recognizer("pocketsphinx"), reader, unit="words")
    for effort in ways.values():
        said(speaker, texts[0], args.seed, effort, args.headroom)  # warm-up
    for number, text in list(enumerate(texts))[len(rows) :]:
        row, hears = dict[str, Row](), args.hear is None or number < args.hear
        for name, effort in list(ways.items())[:: 1 - 2 * (number % 2)]:
            if hears or not name.startswith("whole"):
                found, sound = said(speaker, text, args.seed + number, effort, args.headroom)
                row[name] = found | (heard(ear, text, sound) if hears else {})
        rows.append(row)
        if args.out:
            with open(args.out, "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
    return rows


def summary(rows: list[dict[str, Row]], name: str, best: str) -> Row:
    """Return what a way came to; word errors in percent, with what it has more than another."""
    own = [row[name] for row in rows if name in row]
    both = [(row[name], row[best]) for row in rows if best in row]
    words = dict[str, Any]()
    if both:
        counts, others = ([(one["errors"], one["words"]) for one in side] for side in zip(*both, strict=True))
        rate, more = bootstrap(_percent, counts), paired(_percent, others, counts)
        words["wer"] = [rate.value, rate.low, rate.high]
        words[f"more_than_{best.replace(' ', '_')}"] = [more.value, more.low, more.high]
    totals = {key: sum(one.get(key, 0) for one in own) for key in ("underruns", "waited_s", "warnings")}
    blocks = {
        key: sum(one.get(key, 0) for one in own) for key in ("blocks", "blocks_hurried", "blocks_unsure")
    }
    return {
        "texts": len(own),
        "texts_heard": len(both),
        "first_audio_s": median(one["first_audio_s"] for one in own),
        "first_audio_worst_s": max(one["first_audio_s"] for one in own),
        "codes": fmean(one["codes"] for one in own),
        "real_time_factor": fmean(one["took_s"] / one["sound_s"] for one in own),
        **words,
        "disturbed": median(one.get("disturbed", 1.0) for one in own),
        "slowest_block_s": max(one.get("block_s", 0.0) for one in own),
        **totals,
        **blocks,
    }


def _percent(table: np.ndarray) -> float:
    return 100 * error_rate(table[:, 0], table[:, 1])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", default="starter")
    parser.add_argument("--lines", type=int, default=100, help="texts (default: %(default)s)")
    parser.add_argument(
        "--hear", type=int, help="of them, the rest is only timed, and not searched for whole"
    )
    parser.add_argument("--skip", type=int, default=0)
    parser.add_argument("--sentences", type=int, default=1, help="lines a text")
    parser.add_argument("--effort", type=int, default=4)
    parser.add_argument("--width", type=int, default=4)
    parser.add_argument("--block", type=float, default=BLOCK_S, help="seconds")
    parser.add_argument("--ahead", type=float, default=AHEAD_S, help="seconds")
    parser.add_argument("--headroom", type=float, default=1.2)
    parser.add_argument("--clock", choices=["steady", *CLOCKS], default="steady")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="keep rows in this file")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    lines = TEXTS.read_text(encoding="utf-8").splitlines()[args.skip :]
    starts = range(0, args.lines * args.sentences, args.sentences)
    texts = [" ".join(lines[start : start + args.sentences]) for start in starts]
    rows = measured(args, texts)
    found = {name: summary(rows, name, f"whole {args.effort}") for name in sorted(rows[0], key=str.lower)}
    dry = [name for name, one in found.items() if one["underruns"] and not name.startswith("whole")]
    if args.json:
        print(json.dumps({"texts": len(rows), "clock": args.clock, "headroom": args.headroom, **found}))
    else:
        told(found, len(rows), args)
    sys.exit(f"underruns: {', '.join(dry)}" if dry else 0)


def told(found: dict[str, Row], texts: int, args: argparse.Namespace) -> None:
    """Print a line a figure."""
    print(f"{texts} texts, {args.clock} clock, played {args.headroom:g} times as fast")
    for name, row in found.items():
        print(name)
        for key, value in row.items():
            numbers = value if isinstance(value, list) else [value]
            print(f"  {key:24}", *(f"{number:8.3f}" for number in numbers))


if __name__ == "__main__":
    main()

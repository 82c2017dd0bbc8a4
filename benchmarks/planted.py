"""What adaptive search and a cascade of scorers save, on planted speech whose faults are known.

Adaptive search: ids drawn until a candidate is good enough, against a fixed number of candidates. Limit and
target are the thriftiest that keep the mean true quality of one half of the utterances, drawn at random; the
other half is reported. Cascade: how often the floors of cheap scorers change the choice of a rubric (another
wins) or kill it (the winner without floors is ruled out), and how many candidates the dear one is spared; and
how many are spared without floors, by what a candidate can still reach, which must never change the choice.
The program fails if the cascades choose less alike than 98 %, or the exact one not always, or if adaptive
search draws more than half the ids where there is a clear pass.
Utterances differ in how often a candidate is free of faults: 0.3 to 0.9, evenly mixed.
"""

import argparse
import json
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))  # the harness is shared with the tests

from llasa.core import Candidate
from llasa.judge import Part, Rubric
from llasa.scorers.base import SMALL_MODEL, Scorer
from llasa.search import Adaptive, BestOfN, Job, Ranking, Search
from tests.planted import (
    PlantedEngine,
    PlantedScorer,
    cheap_scorer,
    faults,
    oracle,
    planted_job,
    planted_means,
    truth,
)

LEAST, MOST = 0.3, 0.9  # share of candidates without fault
TRIED = [(16, 0.9), (16, 0.95), (16, 0.98), (16, 1.0), (32, 0.96), (32, 0.97), (32, 0.98)]  # limit, target


def jobs(count: int, seed: int) -> list[Job]:
    """Return utterances of 5 to 12 words, from hard to easy."""
    rates = [LEAST + (MOST - LEAST) * number / max(count - 1, 1) for number in range(count)]
    return [planted_job(5 + number * 7 % 8, rate, number, seed) for number, rate in enumerate(rates)]


def rankings(search: Search, work: list[Job], scorer: Scorer, cascade: bool = False) -> list[Ranking]:
    """Return how the search of each utterance ended."""
    means = planted_means(PlantedEngine(), scorer, cascade)
    return [last for job in work for last in search.run(job, means) if isinstance(last, Ranking)]


def spent(found: list[Ranking], view: Callable[[Candidate], float]) -> dict[str, float]:
    """Return ids drawn and candidates judged an utterance, and the mean true quality of the winners."""
    return {
        "tokens": fmean(one.tokens for one in found),
        "candidates": fmean(len(one.judged) for one in found),
        "truth": fmean(view(one.judged[0].candidate) for one in found),
    }


def adaptive(work: list[Job], n: int, view: Callable[[Candidate], float], noise: float) -> dict[str, Any]:
    """Compare fixed N with adaptive search on half of the utterances; the others choose its setting."""
    mixed = random.Random(0).sample(work, len(work))
    others, reported = mixed[: len(work) // 2], mixed[len(work) // 2 :]

    def of(search: Search, some: list[Job]) -> dict[str, float]:
        return spent(rankings(search, some, oracle(view, noise)), view)

    fixed, setting = of(BestOfN(n), reported), thriftiest(lambda search: of(search, others), n)
    if setting is None:
        return {"fixed": fixed, "adaptive": None, "token_ratio": None}
    limit, target = setting
    found = {"n": limit, "target": target} | of(Adaptive(limit, 4, target), reported)
    return {"fixed": fixed, "adaptive": found, "token_ratio": found["tokens"] / fixed["tokens"]}


def thriftiest(of: Callable[[Search], dict[str, float]], n: int) -> tuple[int, float] | None:
    """Return limit and target of the adaptive search that draws least of those no worse than fixed N."""
    least = of(BestOfN(n))["truth"] - 1e-9
    rows = {setting: of(Adaptive(setting[0], 4, setting[1])) for setting in TRIED}
    equal = [setting for setting, row in rows.items() if row["truth"] >= least]
    return min(equal, key=lambda setting: rows[setting]["tokens"], default=None)


def cascade(work: list[Job], n: int, floor: float, noise: float) -> dict[str, float]:
    """Compare a rubric of two cheap scorers and a dear one with the same one whose cheap ones have floors."""
    alone, dear = oracle(truth, noise), oracle(truth, noise)
    full = rankings(BestOfN(n), work, rubric(alone, None, 3 * noise))
    short = rankings(BestOfN(n), work, rubric(dear, floor, 3 * noise))
    wanted = [one.judged[0].candidate.codes for one in full]
    passed = [[one.candidate.codes for one in ranking.judged if one.status == "scored"] for ranking in short]
    pairs = list(zip(wanted, passed, strict=True))
    return {
        "same_winner": fmean(codes == kept[0] if kept else False for codes, kept in pairs),
        "false_kills": fmean(codes not in kept for codes, kept in pairs),
        "dear_calls": dear.calls / alone.calls,
        "truth_lost": fmean(
            truth(a.judged[0].candidate) - truth(b.judged[0].candidate)
            for a, b in zip(full, short, strict=True)
        ),
    }


def exact(work: list[Job], searches: tuple[Search, Search], noise: float) -> dict[str, float]:
    """Compare judging all of the first search with judging, of the second, only what may be the best."""
    alone, dear = oracle(truth, noise), oracle(truth, noise)
    full = rankings(searches[0], work, rubric(alone, None, 3 * noise))
    short = rankings(searches[1], work, rubric(dear, None, 3 * noise), cascade=True)
    pairs = list(zip(full, short, strict=True))
    first = [(a.judged[0].candidate.codes, b.judged[0].candidate.codes) for a, b in pairs]
    return {
        "same_winner": fmean(a == b for a, b in first),
        "dear_calls": dear.calls / alone.calls,
        "tokens": sum(b.tokens for _, b in pairs) / sum(a.tokens for a, _ in pairs),
    }


def missed(found: dict[str, dict[str, Any]]) -> list[str]:
    """Return which bars were missed."""
    bars = {
        "words: more than half the ids": (found["words"]["token_ratio"] or 1.0) <= 0.5,
        "words, noisy: more than half the ids": (found["words, noisy"]["token_ratio"] or 1.0) <= 0.5,
        "cascade by floors: other winners": found["cascade"]["same_winner"] >= 0.98,
        "cascade by floors: winners killed": found["cascade"]["false_kills"] <= 0.01,
        "exact cascade: other winners": found["exact cascade"]["same_winner"] == 1.0,
        "exact cascade in waves: other winners": found["exact cascade, waves"]["same_winner"] == 1.0,
    }
    return [name for name, met in bars.items() if not met]


def rubric(dear: Scorer, floor: float | None, noise: float) -> Rubric:
    """Return a scorer of codes, one that hears words a little, and a dear one; floors for the first two."""
    rough = PlantedScorer("rough", faults, SMALL_MODEL, noise)
    return Rubric(
        [Part(cheap_scorer(noise), 0.2, floor=floor), Part(rough, 0.2, floor=floor), Part(dear, 0.6)]
    )


def lines(found: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Yield the results for people."""
    for name, one in found.items():
        if best := one.get("adaptive"):
            fixed, ratio, at = one["fixed"], one["token_ratio"], f"n {best['n']}, target {best['target']}"
            yield f"{name:16} {fixed['tokens']:.0f} -> {best['tokens']:.0f} ids ({ratio:.0%}) with {at}; " + (
                f"candidates {best['candidates']:.1f}, truth {fixed['truth']:.4f} -> {best['truth']:.4f}"
            )
        else:
            yield f"{name:16} " + ", ".join(f"{key} {value}" for key, value in one.items())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--utterances", type=int, default=512)
    parser.add_argument("--n", type=int, default=16)
    parser.add_argument(
        "--noise", type=float, default=0.02, help="error of the dear scorer; 3 times it, cheap ones"
    )
    parser.add_argument("--floor", type=float, default=0.75, help="of the cheap scorers")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    work = jobs(args.utterances, args.seed)
    found = {
        "setting": {key: value for key, value in vars(args).items() if key != "json"},
        "words": adaptive(work, args.n, faults, 0.0),
        "words, noisy": adaptive(work, args.n, faults, args.noise),
        "words and tone": adaptive(work, args.n, truth, 0.0),
        "cascade": cascade(work, args.n, args.floor, args.noise),
        "exact cascade": exact(work, (BestOfN(args.n), BestOfN(args.n)), args.noise),
        "exact cascade, waves": exact(work, (BestOfN(args.n), Adaptive(args.n, 4, None)), args.noise),
    }
    print(json.dumps(found) if args.json else "\n".join(lines(found)))
    if failed := missed(found):
        sys.exit(f"missed: {'; '.join(failed)}")


if __name__ == "__main__":
    main()

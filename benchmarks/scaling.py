"""Errors against compute: what search buys, judged by recognisers that took no part in it.

Steps, each of them resumable: `draw` (16 candidates a sentence, or what a recipe's search finds), `judge`
(verdicts of the bundle's judge, held-out parts too), `hear` (pocketsphinx), `time`, and `baseline` (what the
judge's recognisers hear in source and codec copy). `scaling_report.py` makes tables and plots of the folders.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track
from scaling_report import EFFORTS, Run

from listen import hear, source, words
from llasa.core import Audio, Candidate, Utterance
from llasa.scorers.wer import ErrorRate
from llasa.text.normalize import normalize

N = EFFORTS[-1]
Row = dict[str, Any]


@cache
def opened(bundle: str):
    """Return a synthesizer that runs on one thread."""
    import torch

    from llasa import load

    torch.set_num_threads(1)
    return load(bundle)


@cache
def effort_of(bundle: str, recipe: str | None):
    """Return a search: the recipe's, else the bundle's with 16 candidates."""
    synthesizer = opened(bundle)
    return synthesizer.effort(None if recipe else N, synthesizer.recipe(recipe))


def draw(job: tuple[Row, str]) -> Row:
    """Return the candidates of one sentence; without a recipe in their order, else those of a search."""
    options, (index, line) = job[0], job[1]
    synthesizer, recipe = opened(options["bundle"]), options["recipe"]
    arguments = {"voice": options["voice"], "seed": 1000 * options["seed"] + index}
    sampling = {"temperature": options["temperature"]}
    row: Row = {"index": index, "text": line}
    if recipe is None:
        drawn = synthesizer.candidates(line, n=N, **arguments, **sampling)
        return row | {"candidates": [plain(one) for one in drawn]}
    effort = replace(effort_of(options["bundle"], recipe), temperature=options["temperature"])
    ranking = next(synthesizer.speak(line, effort=effort, **arguments)).ranking
    return row | {"tokens": ranking.tokens, "candidates": [plain(one.candidate) for one in ranking.judged]}


def plain(candidate: Candidate) -> Row:
    """Return a candidate as plain values."""
    return {"codes": candidate.codes, "finish": candidate.finish, "logprob": candidate.logprob}


def restored(row: Row, options: Row) -> list[Candidate]:
    """Return the candidates of a row, silent ones without audio."""
    synthesizer = opened(options["bundle"])
    utterance = Utterance("0", row["text"], synthesizer.voice(options["voice"]))
    drawn = [Candidate(utterance, c["codes"], c["finish"], c["logprob"]) for c in row["candidates"]]
    return effort_of(options["bundle"], None).judge.decode(drawn)


def judge(job: tuple[Row, Row]) -> Row:
    """Return the verdicts of the bundle's judge on all candidates of a sentence."""
    options, row = job
    judged = effort_of(options["bundle"], None).judge.judge(restored(row, options), held_out=True)
    verdicts = [
        {"status": one.status, "value": one.score.value if one.score else None,
         "measures": dict(one.score.measures) if one.score else {}}
        for one in judged
    ]  # fmt: skip
    return {"index": row["index"], "verdicts": verdicts}


def listen(job: tuple[Row, Row, set[int] | None]) -> Row:
    """Return what pocketsphinx hears in the candidates of a sentence; None for those nobody asks for."""
    options, row, wanted = job
    sounds = [one.audio or Audio(np.zeros(1600, np.float32), 16000) for one in restored(row, options)]
    asked = range(len(sounds)) if wanted is None else wanted
    heard = [
        (words(text) if (text := hear(sound)) else "") if number in asked else None
        for number, sound in enumerate(sounds)
    ]
    return {"index": row["index"], "text": words(row["text"]), "pocketsphinx": heard}


def timed(options: Row, lines: list[str]) -> Row:
    """Return the median CPU seconds of each effort and of the searches of recipes, one thread, all warm."""
    synthesizer = opened(options["bundle"])
    searches = {str(n): synthesizer.effort(n) for n in EFFORTS}
    for path in sorted(Path("recipes/search").glob("*.toml")):
        searches[path.stem] = synthesizer.effort(None, synthesizer.recipe(path))
    taken = {name: list[float]() for name in searches}
    for line in [lines[0], *lines]:
        for name, effort in searches.items():
            began = time.process_time()
            list(synthesizer.speak(line, options["voice"], 0, effort, temperature=options["temperature"]))
            taken[name].append(time.process_time() - began)
    return {name: statistics.median(seconds[1:]) for name, seconds in taken.items()}


def baseline(job: tuple[Row, str, str]) -> Row:
    """Return the errors that the judge's own recognisers make on the source voice and on its codec copy."""
    options, source_voice, line = job
    bundle = opened(options["bundle"]).bundle
    spoken = source(source_voice, normalize(line).text)
    copy = bundle.codec.decode(bundle.codec.encode([spoken]))[0]
    utterance, found = Utterance("0", line), {}
    for name, unit in (("bundle", "per"), ("held-out", "cer")):
        scorer = ErrorRate(bundle.recognizer(name), bundle.reader)
        scores = scorer.score([Candidate(utterance, [], "stop", audio=sound) for sound in (spoken, copy)])
        found |= {
            f"{system}_{unit}": s.measures[unit] for system, s in zip(("source", "copy"), scores, strict=True)
        }
    return found


def kept(
    path: Path, jobs: Iterable[tuple[int, Any]], work: Callable[[Any], Row], processes: int
) -> list[Row]:
    """Return one row a job, in parallel, written as they come; those in the file are not made again."""
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    done = {row["index"] for row in rows}
    left = [job for index, job in jobs if index not in done]
    with ProcessPoolExecutor(processes) as pool, open(path, "a", encoding="utf-8") as file:
        for row in track(pool.map(work, left), total=len(left), description=path.stem):
            rows.append(row)
            file.write(json.dumps(row) + "\n")
            file.flush()
    return sorted(rows, key=lambda row: row["index"])


def main() -> None:
    """Draw, judge, hear and keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", required=True, help="folder; `early.py` makes that of the early model")
    parser.add_argument("--voice", default="rufus")
    parser.add_argument("--heldout", type=Path, default=Path("tests/data/heldout.txt"))
    parser.add_argument("--lines", type=int, default=200)
    parser.add_argument("--skip", type=int, default=0)
    parser.add_argument("--temperature", type=float, default=0.6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--recipe", help="TOML with [search]: draw by it instead of 16 independent candidates"
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", nargs="+", default=["draw", "judge", "hear"])
    parser.add_argument("--source-voice", default="rms", help="flite voice that --voice was made of")
    parser.add_argument("--judged", default="judge", help="name of the verdicts' file: one a recipe")
    parser.add_argument("--first-group", action="store_true", help="hear only what the first group needs")
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args()
    lines = args.heldout.read_text(encoding="utf-8").splitlines()[args.skip : args.skip + args.lines]
    names = ("bundle", "voice", "temperature", "seed", "recipe")
    options = {name: getattr(args, name) for name in names} | {"groups": 1 if args.first_group else None}
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "options.json").write_text(json.dumps(options) + "\n", encoding="utf-8")
    drawn = kept(
        args.out / "draw.jsonl",
        [(i, (options, (i, line))) for i, line in enumerate(lines, args.skip)],
        draw,
        args.processes,
    )
    jobs = [(row["index"], (options, row)) for row in drawn]
    if "judge" in args.steps:
        kept(args.out / f"{args.judged}.jsonl", jobs, judge, args.processes)
    if "baseline" in args.steps:
        found = [
            baseline((options, args.source_voice, line)) for line in track(lines, description="baseline")
        ]
        means = {name: 100 * statistics.mean(row[name] for row in found) for name in found[0]}
        (args.out / "baseline.json").write_text(json.dumps(means) + "\n", encoding="utf-8")
    if "time" in args.steps:
        (args.out / "time.json").write_text(json.dumps(timed(options, lines[:10])) + "\n", encoding="utf-8")
    if "hear" in args.steps:
        run = Run.read(args.out, args.judged) if args.first_group else None
        asked = [
            None if run is None else run.asked(number, args.recipe is not None)
            for number in range(len(drawn))
        ]
        pairs = zip(drawn, asked, strict=True)
        kept(
            args.out / "hear.jsonl",
            [(row["index"], (options, row, who)) for row, who in pairs],
            listen,
            args.processes,
        )


if __name__ == "__main__":
    main()

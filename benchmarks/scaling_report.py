"""Tables and plots of what `scaling.py` kept: errors above the codec copy against compute, and failures.

Effort k is the judge's choice among k neighbouring candidates, averaged over all 16 / k disjoint groups, so
effort 1 is the mean of 16 first tries; after `--first-group` only the first group counts. Intervals are 95 %
percentile bootstraps over sentences.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rapidfuzz.distance import Levenshtein

from llasa.core import Candidate, Judged, Score, Utterance
from llasa.search import place

EFFORTS = (1, 2, 4, 8, 16)
TARGETS = (0.75, 0.8, 0.85, 0.9, 0.95)
SEARCHES = {
    "beam": ("s", "early, beam"),
    "hybrid": ("^", "early, hybrid"),
    "starter-beam": ("D", "starter, beam"),
}
SKIPPED_WORDS = 3  # in a row of which nothing was heard
Row = dict[str, Any]
Errors = np.ndarray  # [sentences]


@dataclass(frozen=True)
class Run:
    """One folder of `scaling.py`, rows by sentence."""

    drawn: list[Row]
    verdicts: list[Row]
    heard: list[Row]
    seconds: dict[str, float]
    groups: int | None
    baseline: dict[str, float]

    @classmethod
    def read(cls, folder: Path, judged: str) -> "Run":
        time = folder / "time.json"
        seconds = json.loads(time.read_text()) if time.exists() else {}
        groups = json.loads((folder / "options.json").read_text()).get("groups")
        base = folder / "baseline.json"
        baseline = json.loads(base.read_text()) if base.exists() else {}
        read = [rows(folder / f"{name}.jsonl") for name in ("draw", judged, "hear")]
        return cls(*read, seconds, groups, baseline)

    def asked(self, sentence: int, of_a_search: bool) -> set[int]:
        """Return the result of a search, or the candidates that the first group of each effort chooses."""
        efforts = (len(self.drawn[sentence]["candidates"]),) if of_a_search else EFFORTS
        return {self.winners(sentence, effort)[0] for effort in efforts}

    def chosen(self, sentence: int, numbers: Sequence[int]) -> int:
        """Return the judge's choice among some candidates of a sentence."""
        utterance = Utterance("0", "")
        judged = []
        for number in numbers:
            drawn = self.drawn[sentence]["candidates"][number]
            verdict = self.verdicts[sentence]["verdicts"][number]
            score = None if verdict["value"] is None else Score(verdict["value"], {"number": number})
            one = Candidate(utterance, drawn["codes"], drawn["finish"])
            judged.append(Judged(one, score, verdict["status"], str(number)))
        return int(min(judged, key=place).reason)

    def winners(self, sentence: int, effort: int) -> list[int]:
        """Return the choice of each group of `effort` candidates."""
        count = len(self.drawn[sentence]["candidates"])
        starts = range(0, count - effort + 1, effort)[: self.groups]
        return [self.chosen(sentence, range(start, start + effort)) for start in starts]

    def mean(self, effort: int, errors: Callable[[int, int], float]) -> Errors:
        """Return the mean over groups of what `errors(sentence, candidate)` says of the winners."""
        sentences = range(len(self.drawn))
        return np.array([np.mean([errors(s, n) for n in self.winners(s, effort)]) for s in sentences])

    def measured(self, name: str) -> Callable[[int, int], float]:
        """Return a measure of the judge; 1 where a candidate never came so far."""
        return lambda s, n: min(1.0, self.verdicts[s]["verdicts"][n]["measures"].get(name, 1.0))

    def tokens(self, effort: int) -> float:
        """Return the mean codes drawn for a sentence."""
        all_drawn = [np.mean([len(c["codes"]) for c in row["candidates"]]) for row in self.drawn]
        return effort * float(np.mean(all_drawn))


def rows(path: Path) -> list[Row]:
    if not path.exists():
        return []
    found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return sorted(found, key=lambda row: row["index"])


def word_errors(said: str, heard: str) -> int:
    return Levenshtein.distance(said.split(), heard.split())


def skipped(said: str, heard: str) -> bool:
    """Tell whether nothing was heard of some words in a row."""
    edits = Levenshtein.opcodes(said.split(), heard.split())
    lost = [
        (e.src_end - e.src_start) - (e.dest_end - e.dest_start)
        for e in edits
        if e.tag in ("delete", "replace")
    ]
    return max(lost, default=0) >= SKIPPED_WORDS


def interval(statistic: Callable[[np.ndarray], float], n: int, rounds: int = 4000) -> tuple[float, float]:
    """Return the 95 % percentile interval of a statistic of resampled sentence numbers."""
    draws = np.random.default_rng(0).integers(0, n, (rounds, n))
    low, high = np.percentile([statistic(d) for d in draws], [2.5, 97.5])
    return float(low), float(high)


def failed(run: Run) -> Callable[[int, int], float]:
    """Return what tells a failed candidate: looping, no END, empty, or words skipped."""

    def told(s: int, n: int) -> float:
        drawn = run.drawn[s]["candidates"][n]
        bad = drawn["finish"] != "stop" or not drawn["codes"]
        return float(bad or skipped(run.heard[s]["text"], run.heard[s]["pocketsphinx"][n]))

    return told


def table(run: Run, copies: dict[str, list[str]], efforts: Sequence[int] = EFFORTS) -> Row:
    """Return all figures of one run. copies: what pocketsphinx heard in source and copy of each sentence."""
    texts = [row["text"] for row in run.heard]
    words = np.array([len(t.split()) for t in texts])
    held_out = {
        k: run.mean(k, lambda s, n: word_errors(texts[s], run.heard[s]["pocketsphinx"][n])) for k in efforts
    }
    related = {k: run.mean(k, run.measured("second.cer")) for k in efforts}
    selector = {k: run.mean(k, run.measured("per")) for k in efforts}
    fails = {k: run.mean(k, failed(run)) for k in efforts}
    base = {
        name: np.array([word_errors(t, h) for t, h in zip(texts, heard, strict=True)])
        for name, heard in copies.items()
    }
    above = {k: held_out[k] - base["copy"] for k in efforts}
    found: Row = {
        "sentences": len(texts),
        "source_wer": 100 * base["source"].sum() / words.sum(),
        "copy_wer": 100 * base["copy"].sum() / words.sum(),
        "copy_skips": 100 * np.mean([skipped(t, h) for t, h in zip(texts, copies["copy"], strict=True)]),
        "tries": sum(len(row["candidates"]) for row in run.drawn),
        "baseline": run.baseline,
        "efforts": {},
    }
    for k in efforts:
        low, high = interval(lambda d, k=k: above[k][d].sum() / above[efforts[0]][d].sum(), len(texts))
        found["efforts"][k] = {
            "wer": 100 * held_out[k].sum() / words.sum(),
            "above_copy": 100 * above[k].sum() / words.sum(),
            "ratio": above[k].sum() / above[efforts[0]].sum(), "ratio_low": low, "ratio_high": high,
            "related_cer": 100 * float(related[k].mean()),
            "selector_per": 100 * float(selector[k].mean()),
            "failures": 100 * float(fails[k].mean()),
            "tokens": run.tokens(k), "cpu_s": run.seconds.get(str(k)),
        }  # fmt: skip
    return found


def searched(run: Run, copies: dict[str, list[str]]) -> Row:
    """Return the figures of a search whose first candidate is its result."""
    texts = [row["text"] for row in run.heard]
    best = [run.winners(s, len(run.drawn[s]["candidates"]))[0] for s in range(len(texts))]
    words = sum(len(t.split()) for t in texts)
    errors = sum(word_errors(t, run.heard[s]["pocketsphinx"][best[s]]) for s, t in enumerate(texts))
    copy = sum(word_errors(t, h) for t, h in zip(texts, copies["copy"], strict=True))
    related, per = (
        100 * float(np.mean([run.measured(key)(s, n) for s, n in enumerate(best)]))
        for key in ("second.cer", "per")
    )
    return {
        "wer": 100 * errors / words, "above_copy": 100 * (errors - copy) / words,
        "related_cer": related, "selector_per": per,
        "failures": 100 * float(np.mean([failed(run)(s, n) for s, n in enumerate(best)])),
        "tokens": float(np.mean([row["tokens"] for row in run.drawn])),
    }  # fmt: skip


def adaptive(run: Run, copies: dict[str, list[str]], target: float, wave: int = 4) -> Row:
    """Return the figures of waves of candidates that end at a target, read off the same candidates."""
    texts = [row["text"] for row in run.heard]
    errors, codes, judged = 0, 0, 0
    for s, text in enumerate(texts):
        drawn, verdicts = run.drawn[s]["candidates"], run.verdicts[s]["verdicts"]
        seen = wave
        while seen < len(drawn) and max(v["value"] or 0.0 for v in verdicts[:seen]) < target:
            seen += wave
        best = run.chosen(s, range(seen))
        errors += word_errors(text, run.heard[s]["pocketsphinx"][best])
        codes += sum(len(one["codes"]) for one in drawn[:seen])
        judged += seen
    words = sum(len(text.split()) for text in texts)
    copy = sum(word_errors(t, h) for t, h in zip(texts, copies["copy"], strict=True))
    return {
        "wer": 100 * errors / words, "above_copy": 100 * (errors - copy) / words,
        "tokens": codes / len(texts), "candidates": judged / len(texts),
    }  # fmt: skip


def draw(found: Row, path: Path) -> None:
    """Plot errors against compute."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name in ("early", "starter"):
        if name not in found:
            continue
        efforts = found[name]["efforts"]
        tokens = [one["tokens"] for one in efforts.values()]
        left.plot(tokens, [one["above_copy"] for one in efforts.values()], "o-", label=f"{name}, best of N")
    early = found["early"]
    for key, copy, label in (
        ("above_copy", 0.0, "pocketsphinx"),
        ("related_cer", early["baseline"].get("copy_cer", 0.0), "second CTC (related)"),
        ("selector_per", early["baseline"].get("copy_per", 0.0), "the selector of itself (flattering)"),
    ):
        above = [one[key] - copy for one in early["efforts"].values()]
        right.plot(list(early["efforts"]), [value / above[0] for value in above], "o-", label=label)
    waves = early.get("adaptive", {}).values()
    left.plot(
        [one["tokens"] for one in waves],
        [one["above_copy"] for one in waves],
        ".:",
        label="early, to a target",
    )
    for name, (mark, label) in SEARCHES.items():
        if name in found:
            left.plot(found[name]["tokens"], found[name]["above_copy"], mark, ms=8, label=label)
    left.axhline(0, color="grey", lw=0.8)
    left.set(xscale="log", xlabel="codes drawn a sentence", ylabel="WER above the codec copy, points")
    right.set(xscale="log", xlabel="effort", ylabel="errors above copy, of effort 1", ylim=(0, 1.05))
    right.set_xticks(EFFORTS, [str(k) for k in EFFORTS])
    left.set_title("Errors against compute, by a held-out recogniser", fontsize=10)
    right.set_title("The same choices, three judges (early model)", fontsize=10)
    for axes in (left, right):
        axes.legend(fontsize=8)
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=130)


def show(name: str, found: Row) -> None:
    """Print one table."""
    print(
        f"\n{name}: {found['sentences']} sentences, {found['tries']} tries; "
        f"source WER {found['source_wer']:.1f}, codec copy {found['copy_wer']:.1f}, "
        f"words skipped in {found['copy_skips']:.1f} % of copies"
    )
    print(
        "effort   WER  above copy  of effort 1 (95 %)     related CER  selector PER  failures  codes  CPU s"
    )
    for k, one in found["efforts"].items():
        seconds = "" if one["cpu_s"] is None else f"{one['cpu_s']:6.2f}"
        print(
            f"{k:6}  {one['wer']:5.1f}  {one['above_copy']:9.1f}   {one['ratio']:5.2f} "
            f"[{one['ratio_low']:.2f}, {one['ratio_high']:.2f}]  {one['related_cer']:13.1f}  "
            f"{one['selector_per']:12.1f}  {one['failures']:7.1f}  {one['tokens']:5.0f} {seconds}"
        )


def report(name: str, run: Run, heard: list[Row]) -> Row:
    """Return and print the figures of one folder. heard: rows of listen.py, of one voice."""
    copies: dict[str, list[str]] = {}
    for system in ("source", "copy"):
        by_index = {row["index"]: row["heard"] for row in heard if row["system"] == system}
        copies[system] = [by_index[row["index"]] for row in run.heard]
    if name in SEARCHES:
        found = searched(run, copies)
        print(f"{name}: {figures(found)}")
        return found
    found = table(run, copies)
    show(name, found)
    if run.groups is None:
        found["adaptive"] = {target: adaptive(run, copies, target) for target in TARGETS}
        for target, one in found["adaptive"].items():
            print(f"waves of 4 up to 16, target {target}: {figures(one)}")
    return found


def figures(found: Row) -> str:
    return ", ".join(f"{key} {value:.1f}" for key, value in found.items())


def main() -> None:
    """Read, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    names = ("early", "starter", *SEARCHES)
    for name in names:
        parser.add_argument(f"--{name}", type=Path, required=name == "early")
    parser.add_argument("--copies", type=Path, required=True, help="folder of listen.py: source and copy")
    parser.add_argument("--voice", default="rufus")
    parser.add_argument("--judged", default="judge")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    heard = [row for row in rows(args.copies / "transcripts.jsonl") if row["voice"] == args.voice]
    given = {name: folder for name in names if (folder := getattr(args, name.replace("-", "_")))}
    found = {name: report(name, Run.read(folder, args.judged), heard) for name, folder in given.items()}
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "scaling.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    draw(found, args.out / "scaling.png")


if __name__ == "__main__":
    main()

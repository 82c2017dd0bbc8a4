"""Whether a judge can be cheated: planted defects, mild to hopeless, against what it makes of them.

Lines and seeds are fixed. The speech is the bundle's own, the best of four attempts by its own judge: cheats
are planted in speech that is right, because what is wrong already (words too many, say) can be made better by
a cut. Each defect of `llasa.defects` makes one chain an utterance: clean, mild, ..., hopeless. Every pair of
a chain must be in the right order, strictly. The rubric was tuned on the first seven lines (`--skip 0`);
others are used by default. Several judges hear the same speech; two are rewards as they were published.
"""

import argparse
import json
import statistics
from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track

from llasa import load
from llasa.core import Candidate
from llasa.defects import DEFECTS
from llasa.judge import Judge, build_judge
from llasa.ladders import planted
from llasa.recipe import read_recipe
from llasa.synthesizer import Synthesizer

VOICES = ("rufus", "angus", "kalle")
MUST_SHOW = 0.99
EFFORT = 4
JUDGES = ["bundle", "recipes/grpo/judge.toml", "recipes/grpo/llasa-grpo.toml", "recipes/grpo/kartoffel.toml"]
Chain = list[float | None]


def spoken(synthesizer: Synthesizer, lines: Sequence[str], skip: int, seed: int) -> list[Candidate]:
    """Return each line but the first ones by each voice, searched for, but for those that did not end."""
    effort = synthesizer.effort(EFFORT)
    found = [
        next(synthesizer.speak(line, voice, seed + number, effort)).candidate
        for number, line in enumerate(lines[skip:], skip)
        for voice in VOICES
    ]
    return [one for one in found if one.finish == "stop" and one.audio is not None]


def chains_of(
    synthesizer: Synthesizer, judges: dict[str, Judge], clean: Sequence[Candidate]
) -> dict[str, dict[str, list[Chain]]]:
    """Return the values of each chain, by judge and cheat; None where there was no verdict."""
    found: dict[str, dict[str, list[Chain]]] = {name: defaultdict(list) for name in judges}
    ladders = planted(synthesizer.bundle.codec, clean)
    n_chains, console = len(clean) * len(DEFECTS), Console(stderr=True)
    for ladder in track(ladders, "cheats", n_chains, console=console):
        for name, judge in judges.items():
            judged = judge.judge(ladder.candidates)
            found[name][ladder.kind].append([one.score.value if one.score else None for one in judged])
    return found


def row_of(cheat: str, chains: Sequence[Chain]) -> dict[str, Any]:
    """Return what is reported of a cheat."""
    pairs = [pair for chain in chains for pair in combinations(chain, 2)]
    falling = [all(right(*pair) for pair in pairwise(chain)) for chain in chains]
    values = [[value for value in level if value is not None] for level in zip(*chains, strict=True)]
    return {
        "cheat": cheat,
        "unit": DEFECTS[cheat].unit,
        "pairs": len(pairs),
        "ordered": sum(right(*pair) for pair in pairs) / len(pairs),
        "reversed": sum(right(*pair[::-1]) for pair in pairs) / len(pairs),
        "monotone_chains": sum(falling) / len(falling),
        "severities": ["clean", *DEFECTS[cheat].severities],
        "values": [statistics.mean(level) if level else None for level in values],
    }


def speech_of(clean: Sequence[Candidate], found: dict[str, list[Chain]]) -> list[dict[str, Any]]:
    """Return what came of each utterance, worst first: one that was bad before can be made better."""
    rows = []
    for number, one in enumerate(clean):
        chains = [of_cheat[number] for of_cheat in found.values()]
        pairs = [pair for chain in chains for pair in combinations(chain, 2)]
        share = sum(right(*pair) for pair in pairs) / len(pairs)
        said, voice = one.utterance.text, one.utterance.voice
        name = voice.name if voice else None
        rows.append(
            {"text": said, "voice": name, "value": chains[0][0], "pairs": len(pairs), "ordered": share}
        )
    return sorted(rows, key=lambda row: row["ordered"])


def right(milder: float | None, worse: float | None) -> bool:
    """Return whether a pair is in the right order; one without a verdict is not."""
    return milder is not None and worse is not None and milder > worse


def table(report: dict[str, Any]) -> str:
    """Return a table by cheat, in Markdown."""
    lines = [
        "| cheat | pairs | ordered | monotone chains | mean value: clean, then by severity |",
        "|---|---|---|---|---|",
    ]
    for row in report["cheats"]:
        values = " ".join("-" if value is None else f"{value:.2f}" for value in row["values"])
        shares = f"{row['ordered']:.1%} | {row['monotone_chains']:.0%}"
        lines.append(f"| {row['cheat']} | {row['pairs']} | {shares} | {values} |")
    shares = f"{report['ordered']:.2%} | {report['monotone_chains']:.0%}"
    worst, *others = report["speech"]
    lines.append(f"| all | {report['pairs']} | {shares} | {len(others) + 1} utterances |")
    n_pairs = sum(row["pairs"] for row in others)
    rest = sum(row["ordered"] * row["pairs"] for row in others) / n_pairs
    told = f"without the worst, worth {worst['value']:.2f} unspoilt ({worst['ordered']:.0%} in order)"
    lines.append(f"| all but one | {n_pairs} | {rest:.2%} | | {told} |")
    return "\n".join(lines)


def compared(reports: dict[str, dict[str, Any]]) -> str:
    """Return one table of all judges, in Markdown: pairs in order, by cheat and in all."""
    lines = [f"| cheat | pairs | {' | '.join(reports)} |", "|---" * (len(reports) + 2) + "|"]
    for rows in zip(*(report["cheats"] for report in reports.values()), strict=True):
        shares = " | ".join(f"{row['ordered']:.1%}" for row in rows)
        lines.append(f"| {rows[0]['cheat']} | {rows[0]['pairs']} | {shares} |")
    for label, key in {"all": "ordered", "of them the wrong way round": "reversed"}.items():
        shares = " | ".join(f"{report[key]:.2%}" for report in reports.values())
        lines.append(f"| {label} | {next(iter(reports.values()))['pairs']} | {shares} |")
    return "\n".join(lines)


def plot(reports: dict[str, dict[str, Any]], path: Path) -> None:
    """Draw value against severity, one panel a cheat, one line a judge."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 5.4), layout="constrained")
    panels = list(figure.subplots(2, 5, sharey=True).flat)
    for panel, rows in zip(
        panels, zip(*(one["cheats"] for one in reports.values()), strict=True), strict=False
    ):
        for name, row in zip(reports, rows, strict=True):
            panel.plot(
                row["values"], marker="o", markersize=3, label=f"{name}: {reports[name]['ordered']:.1%}"
            )
        panel.set_xticks(
            range(len(rows[0]["values"])), [str(one) for one in rows[0]["severities"]], fontsize=7
        )
        panel.set_title(
            f"{rows[0]['cheat']}: " + ", ".join(f"{row['ordered']:.0%}" for row in rows), fontsize=9
        )
        panel.set_xlabel(rows[0]["unit"], fontsize=8)
        panel.set_ylim(0, 1.02)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(reports))
    figure.supylabel("value of the judge, mean", fontsize=9)
    figure.savefig(path, dpi=120)


def report_of(clean: Sequence[Candidate], found: dict[str, list[Chain]], n_wanted: int) -> dict[str, Any]:
    """Return what is reported of a judge."""
    rows = [row_of(cheat, chains) for cheat, chains in found.items()]
    n_pairs = sum(row["pairs"] for row in rows)
    return {
        "utterances": len(clean),
        "speech": speech_of(clean, found),
        "unended": n_wanted - len(clean),
        "pairs": n_pairs,
        "ordered": sum(row["ordered"] * row["pairs"] for row in rows) / n_pairs,
        "reversed": sum(row["reversed"] * row["pairs"] for row in rows) / n_pairs,
        "monotone_chains": sum(row["monotone_chains"] for row in rows) / len(rows),
        "must_show": MUST_SHOW,
        "cheats": rows,
    }


def judges_of(synthesizer: Synthesizer, recipes: Sequence[str]) -> dict[str, Judge]:
    """Return the judges of recipes, and of the bundle where one is called `bundle`, by a short name."""
    read = {
        "bundle" if one == "bundle" else f"{Path(one).parent.name}/{Path(one).stem}": (
            synthesizer.recipe() if one == "bundle" else read_recipe(one)
        )
        for one in recipes
    }
    return {name: build_judge(recipe.judge, synthesizer.bundle.parts) for name, recipe in read.items()}


def main() -> None:
    """Speak, cheat, judge, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", default="starter")
    parser.add_argument("--judge", nargs="+", default=JUDGES, help="recipes; `bundle` for the bundle's own")
    parser.add_argument("--heldout", type=Path, default=Path("tests/data/heldout.txt"))
    parser.add_argument("--skip", type=int, default=7, help="lines left out before them")
    parser.add_argument("--lines", type=int, default=7, help="each by three voices: 102 pairs an utterance")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plot", type=Path, help="PNG to draw")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    synthesizer = load(args.bundle)
    judges = judges_of(synthesizer, args.judge)
    lines = args.heldout.read_text(encoding="utf-8").splitlines()[: args.skip + args.lines]
    clean = spoken(synthesizer, lines, args.skip, args.seed)
    found = chains_of(synthesizer, judges, clean)
    n_wanted = len(lines[args.skip :]) * len(VOICES)
    reports = {name: report_of(clean, chains, n_wanted) for name, chains in found.items()}
    if args.plot:
        plot(reports, args.plot)
    if args.json:
        print(json.dumps(reports))
    else:
        print(compared(reports) if len(reports) > 1 else table(*reports.values()))


if __name__ == "__main__":
    main()

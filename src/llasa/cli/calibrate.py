"""`llasa calibrate`: how much each part of a judge should count, from pairs of known order."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llasa.cli.terminal import BundleOption, JsonOption, emit, examples, note, tracked
from llasa.errors import ConfigError

if TYPE_CHECKING:
    from llasa.calibrate import Fit, Verdicts
    from llasa.judge import Combine, JudgeBlock
    from llasa.ladders import Ladder
    from llasa.synthesizer import Synthesizer

EPILOG = examples(
    "llasa calibrate -o judge.toml",
    "llasa calibrate --judge mine.toml --pairs liked.jsonl -o judge.toml",
    "llasa calibrate --pairs liked.jsonl --lines 4 --combine harmonic --combine mean --json",
    'llasa say "Hello there." --effort 8 --judge judge.toml',
    "A line of liked.jsonl names two sound files, or labels one; paths are relative to it. Of the same text "
    "and voice (the bundle's default one if left out), the higher score or the lower rank is better:",
    '{"text": "Hello there.", "voice": "rufus", "better": "take2.wav", "worse": "take1.wav"}',
    '{"text": "Hello there.", "voice": "rufus", "audio": "take1.wav", "score": 3.5}',
    "A quarter of the texts is held out, and says how good the result is.",
)
LINES_ALONE = 6


def calibrate(
    judge: Annotated[
        Path | None, typer.Option(help="A recipe with the [judge] to start from; the bundle's if left out.")
    ] = None,
    pairs: Annotated[
        Path | None, typer.Option(help="JSONL of pairs or labels; planted defects if left out.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File for the new [judge] alone; standard output if left out."),
    ] = None,
    lines: Annotated[
        int | None,
        typer.Option(min=0, help="Sentences to plant defects in: 6, or 0 with --pairs, if left out."),
    ] = None,
    combine: Annotated[
        list[str] | None, typer.Option(help="harmonic, mean or min; of several the best is taken.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the speech that defects are planted in.")] = 0,
    bundle: BundleOption = "starter",
    json: JsonOption = False,
) -> None:
    """Fit the weights of a judge to pairs of better and worse speech."""
    count = (0 if pairs else LINES_ALONE) if lines is None else lines
    _check(output, judge, pairs, count)
    from llasa.audio import replace_file
    from llasa.bundle import load_bundle
    from llasa.calibrate import fit, judged, to_toml
    from llasa.judge import build_judge
    from llasa.recipe import read_recipe
    from llasa.synthesizer import Synthesizer

    combines = _combines(combine or [])
    start = read_recipe(judge).judge if judge else None
    synthesizer = Synthesizer(load_bundle(bundle))
    start = start or synthesizer.recipe().judge
    made = build_judge(start, synthesizer.bundle.parts)
    verdicts: list[Verdicts] = []
    for ladders in _sources(synthesizer, pairs, count, seed):
        verdicts += tracked(judged(made, ladders), "Judging")
    found = fit(start, made, verdicts, combines)
    text = to_toml(found.block, _comments(found, _origin(pairs, count, synthesizer.bundle.name)))
    if output:
        replace_file(output, text.encode())
    _tell(found, start, text, output, json)


def _check(output: Path | None, judge: Path | None, pairs: Path | None, lines: int) -> None:
    if not (pairs or lines):
        raise ConfigError("Calibrating: found --lines 0 and no --pairs. Give one of them.")
    if output and not output.resolve().parent.is_dir():
        raise ConfigError(f"Writing '{output}': there is no such folder. Make it, or name another.")
    for given in (judge, pairs):
        if output and given and output.exists() and given.exists() and output.samefile(given):
            found = "it is read too, and all in it but [judge] would be lost"
            raise ConfigError(f"Writing '{output}': {found}. Name another file, then copy its [judge] over.")


def _combines(names: list[str]) -> "list[Combine] | None":
    from typing import get_args

    from llasa.judge import Combine

    if wrong := sorted(set(names) - set(get_args(Combine))):
        raise ConfigError(f"Calibrating: found --combine {wrong[0]}. Use {', '.join(get_args(Combine))}.")
    return [one for one in get_args(Combine) if one in names] or None


def _sources(
    synthesizer: "Synthesizer", pairs: Path | None, lines: int, seed: int
) -> "Iterator[Iterable[Ladder]]":
    from llasa.ladders import LINES, labelled, planted, spoken
    from llasa.voice import VoiceStore

    if pairs:
        yield labelled(pairs, synthesizer)
    if lines:
        voices = VoiceStore(synthesizer.bundle.folder / "voices").names()
        yield planted(
            synthesizer.bundle.codec, spoken(synthesizer, LINES[:lines], voices or [None], seed), seed
        )


def _origin(pairs: Path | None, lines: int, bundle: str) -> str:
    planted = [f"defects planted in {lines} lines said by '{bundle}'"] if lines else []
    return " and ".join(([f"the pairs of {pairs.name}"] if pairs else []) + planted)


def _comments(found: "Fit", origin: str) -> list[str]:
    before, after = found.ordered["all"]
    fitted, kept = found.pairs
    comments = [
        f"Fitted by `llasa calibrate` to {origin}: {fitted} pairs.",
        f"In the right order of {kept} pairs of other texts: {before:.1%} before, {after:.1%} after.",
    ]
    if found.removable:
        comments.append(f"Hardly any weight was left for: {', '.join(found.removable)}. Try without.")
    return comments


def _tell(found: "Fit", start: "JudgeBlock", text: str, output: Path | None, json: bool) -> None:
    if json:
        return emit(_report(found, start, text, output))
    note(f"Fitted to {found.pairs[0]} pairs. Of {found.pairs[1]} pairs of other texts, in the right order:")
    note(f"{'':12} {'before':>8} {'after':>8}")
    for kind, (before, after) in found.ordered.items():
        note(f"{kind:12} {before:8.1%} {after:8.1%}")
    if found.ordered["all"][1] <= found.ordered["all"][0]:
        note("That is no better than before: keep the old weights, or give more pairs.")
    if found.unjudged:
        note(f"{found.unjudged} candidates got no verdict and were left out.")
    if found.removable:
        note(f"Hardly any weight was left for: {', '.join(found.removable)}. Try without.")
    print(output or text, end="\n" if output else "")


def _report(found: "Fit", start: "JudgeBlock", text: str, output: Path | None) -> dict[str, object]:
    parts = [
        {"name": new.label or new.name, "weight_before": old.weight, "weight": new.weight}
        | ({"scale": scale} if (scale := (new.model_extra or {}).get("scale")) else {})
        for old, new in zip(start.scorers, found.block.scorers, strict=True)
    ]
    ordered = {kind: {"before": before, "after": after} for kind, (before, after) in found.ordered.items()}
    return {
        "output": str(output) if output else None,
        "combine": found.block.combine,
        "parts": parts,
        "ordered": ordered,
        "pairs_fitted": found.pairs[0],
        "pairs_held_out": found.pairs[1],
        "removable": list(found.removable),
        "unjudged": found.unjudged,
        "recipe": text,
    }

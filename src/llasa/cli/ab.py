"""`llasa evaluate ab`: each text in two ways, for people or a judge to vote on, and what votes say."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llasa.cli.model import LanguageOption
from llasa.cli.terminal import JsonOption, emit, examples, note
from llasa.errors import ConfigError

if TYPE_CHECKING:
    from llasa.evaluate.ab import Share
    from llasa.evaluate.drawing import Drawn, Speaker
    from llasa.recipe import Recipe

EPILOG = examples(
    "llasa evaluate ab texts.txt -o listen/",
    "llasa evaluate ab texts.txt -o listen/ --bundle starter --bundle run/bundle",
    "llasa evaluate ab listen/ --read votes.jsonl --read votes-of-ben.jsonl",
    "llasa evaluate ab texts.txt -o judged/ --judge judge.toml --effort 8 --margin 0.1",
    "llasa train dpo recipes/preference/starter.toml --set pairs=listen --out run",
)


def ab(
    texts: Annotated[
        Path, typer.Argument(help="One text a line, or a prepared folder; to read votes: -o of then.")
    ],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder for sounds and page.")] = None,
    bundle: Annotated[
        list[str] | None, typer.Option(help="One or two; one is drawn from with two seeds.")
    ] = None,
    voice: Annotated[str | None, typer.Option(help="A name of 'llasa voice list', or a voice file.")] = None,
    language: LanguageOption = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same pairs.", min=0)] = 0,
    temperature: Annotated[float | None, typer.Option(help="Higher: sides differ more.")] = None,
    judge: Annotated[
        str | None, typer.Option(help="Let a judge vote: 'own', the bundle's, or a recipe.")
    ] = None,
    effort: Annotated[int, typer.Option(help="Candidates the judge takes best and worst of.", min=2)] = 8,
    margin: Annotated[float, typer.Option(help="Least difference of their values.", min=1e-6, max=1)] = 0.1,
    read: Annotated[
        list[Path] | None, typer.Option(help="Votes, a file a voter: tell what they say.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Ask which of two sounds is better. OUT/index.html opens in any browser and gives votes.jsonl.

    Sides change places at random, and the page does not tell what made which. OUT/pairs.jsonl does, and is
    what `llasa train dpo` learns from together with votes. With --judge, OUT/votes.jsonl is the judge's.
    Stopped or killed, the same command goes on where it was.
    """
    if read:
        return _read(texts, read, json)
    if out is None:
        raise ConfigError("Making pairs: found no folder for them. Name one with -o.")
    names = bundle or ["starter"]
    if len(names) > 2 or (judge and len(names) > 1):
        most = "two; a judge takes both sides from one" if judge else "two"
        raise ConfigError(f"Making pairs: found {len(names)} bundles. Name at most {most}.")
    from llasa.evaluate.ab import kept

    _check(out)
    sampling: dict[str, object] = {} if temperature is None else {"temperature": temperature}
    speakers, wanted = _speakers(names, texts, voice, language, sampling)
    recipe = judge and _recipe(speakers, judge).model_dump(mode="json", exclude_none=True)
    facts: dict[str, object] = {"seed": seed, "judge": recipe, "effort": effort, "margin": margin}
    _start(out, speakers, wanted, voice, facts)
    before = kept(out)
    drawn = _drawn(speakers, wanted, voice, seed, judge, effort, margin, len(before))
    _write(out, before, drawn, len(wanted), judge is not None, json)


def _check(out: Path) -> None:
    others = {path.name for path in out.glob("[!.]*")} - {"run.lock"}
    if (out.exists() and not out.is_dir()) or (others and "run.json" not in others):
        raise ConfigError(f"Making pairs in '{out}': it holds other things. Name a new folder.")


def _start(
    out: Path, speakers: "Sequence[Speaker]", texts: Sequence[tuple[str, str | None]], voice: str | None,
    facts: dict[str, object],
) -> None:  # fmt: skip
    """Begin in a folder, or go on in it with the same."""
    from llasa import begun
    from llasa.weights import sha256

    bundles = [(one.name, one.synthesizer.bundle) for one in speakers]
    weights = [
        [
            name,
            bundle.codec_name,
            sha256(sorted((bundle.folder / bundle.manifest.lm.path).glob("*.safetensors"))),
        ]
        for name, bundle in bundles
    ]
    said = speakers[0].synthesizer.voice(voice)
    facts |= {"texts": texts, "bundles": weights, "voice": said and [said.name, said.text, list(said.codes)]}
    begun.start(out, {"verb": "ab", **facts, "sampling": speakers[0].sampling}, None, "Making pairs")


def _speakers(
    names: Sequence[str], texts: Path, voice: str | None, language: str | None, sampling: dict[str, object]
) -> "tuple[list[Speaker], list[tuple[str, str | None]]]":
    """Return what speaks, and texts that all of them can say."""
    from llasa.bundle import load_bundle
    from llasa.evaluate.drawing import Speaker
    from llasa.synthesizer import Synthesizer
    from llasa.train.prompts import Prompts, read_texts

    rows = read_texts(texts, language)
    speakers = [Speaker(name, Synthesizer(load_bundle(name)), sampling) for name in names]
    for speaker in speakers:
        Prompts(speaker.synthesizer.bundle, rows, [voice] if voice else None, sampling).check()
    return speakers, list({row.text: (row.text, row.language) for row in rows}.values())


def _recipe(speakers: "Sequence[Speaker]", judge: str) -> "Recipe":
    return speakers[0].synthesizer.recipe(None if judge == "own" else judge)


def _drawn(
    speakers: "Sequence[Speaker]", texts: Sequence[tuple[str, str | None]], voice: str | None, seed: int,
    judge: str | None, effort: int, margin: float, first: int,
) -> "Iterable[Drawn]":  # fmt: skip
    from llasa.evaluate.drawing import best_and_worst, two_takes
    from llasa.judge import build_judge

    if judge is None:
        return two_takes(speakers, texts, voice, seed, first)
    built = build_judge(_recipe(speakers, judge).judge, speakers[0].synthesizer.bundle.parts)
    return best_and_worst(speakers[0], texts, voice, seed, built, effort, margin, first)


def _write(
    out: Path, found: "list[Drawn]", drawn: "Iterable[Drawn]", total: int, judged: bool, json: bool
) -> None:
    import sys

    from rich.console import Console
    from rich.progress import track

    from llasa.data.prepare import stoppable
    from llasa.evaluate.ab import PAGE, keep, write_page
    from llasa.pairs import VOTES, write_pairs, write_votes

    left = total - len(found)
    shown = track(drawn, "Making pairs", left, console=Console(stderr=True), transient=True)
    with stoppable(f"Making pairs in '{out}'", "all pairs are kept") as check:
        for one in shown if sys.stderr.isatty() else drawn:
            keep(out, one)
            found.append(one)
            check()
    pairs = [one.pair for one in found if one.pair]
    votes = [one.vote for one in found if one.vote]
    left_out = [one for one in found if one.pair is None]
    if not pairs:
        raise ConfigError(
            f"Making pairs: none of {total} texts gave one; {left_out[0].reason}. Use other texts."
        )
    write_pairs(out, pairs)
    write_page(out, pairs)
    if judged:
        write_votes(out / VOTES, votes)
    for one in left_out:
        note(f"Left out: {one.text[:60]!r}: {one.reason}.")
    if json:
        reasons = Counter(one.reason for one in left_out)
        return emit({"output": out / PAGE, "pairs": len(pairs), "votes": len(votes), "left_out": reasons})
    print(out / PAGE)


def _read(folder: Path, files: Sequence[Path], json: bool) -> None:
    from dataclasses import asdict

    from llasa.evaluate.ab import tally
    from llasa.pairs import decide, read_pairs

    pairs = read_pairs(folder)
    decided = decide(pairs, files)
    found = tally(pairs, decided)
    if json:
        odd = [one.row() for one in decided.problems]
        return emit(asdict(found) | {"voters": decided.voters, "clashes": decided.clashes, "problems": odd})
    for one in decided.problems:
        note(f"{one.place}: {one.id or 'a line'}: {one.detail}.")
    counts = found.counts
    print(f"{found.pairs} pairs, {decided.voters} voters, {len(decided.votes)} votes")
    print(f"same {counts['same']}, both bad {counts['bad']}, open {counts['open']}")
    for name, one in found.bundles.items():
        print(f"{name}: {_told(one)}")
    print(f"left side: {_told(found.left)}")
    if found.seconds is not None:
        print(f"{found.seconds:.1f} s a vote")


def _told(share: "Share") -> str:
    return f"won {share.wins} of {share.of}, {share.value:.1%} ({share.low:.1%} to {share.high:.1%})"

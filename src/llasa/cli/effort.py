"""The search half of `llasa say`: flags -> `Effort`, its progress, repairs and receipt."""

import json
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llasa.cli.terminal import note
from llasa.errors import ConfigError

if TYPE_CHECKING:
    from llasa.receipt import Receipt, SegmentReceipt
    from llasa.recipe import Effort
    from llasa.search import Progress
    from llasa.spoken import Spoken
    from llasa.synthesizer import Synthesizer

USUAL_EFFORT = 8  # where something has to be searched for and nobody said how hard

EffortOption = Annotated[
    int | None, typer.Option(help="Candidates a segment, or a block of a stream; the best is kept.")
]
JudgeOption = Annotated[Path | None, typer.Option(help="TOML with [judge], [search] or both.")]
TargetOption = Annotated[float | None, typer.Option(help="Stop at a candidate this good, 0 to 1.")]
DeadlineOption = Annotated[str | None, typer.Option(help="Stop in time: 10s, or 2x the speech's length.")]
StyleOption = Annotated[
    str | None, typer.Option(help="Search for it: rate=1.1,pitch_range=wide,energy=high.")
]
RepairOption = Annotated[bool, typer.Option("--repair", help="Say failing words again.")]
CandidatesOption = Annotated[Path | None, typer.Option(help="Keep all candidates in this new folder.")]
ReceiptOption = Annotated[bool, typer.Option("--receipt", help="Write what was heard beside the sound.")]


@dataclass(frozen=True)
class Wanted:
    """The search flags, as given."""

    effort: int | None
    judge: Path | None
    target: float | None
    deadline: str | None
    style: str | None
    candidates: Path | None
    receipt: bool
    repair: bool

    @property
    def judged(self) -> bool:
        """Whether a judge is needed at all."""
        plain = self.effort in (None, 1) and not (self.receipt or self.repair or self.candidates)
        return not plain or any(x is not None for x in (self.judge, self.target, self.deadline, self.style))

    def check(self, has_file: bool) -> None:
        """Refuse what is wrong whatever the bundle is.

        Args:
            has_file: whether the sound goes to a file, beside which a receipt can lie.

        Raises:
            ConfigError: a number is out of range, the folder for candidates is taken or cannot be made, or
                there is no place for the receipt.
        """
        if self.receipt and not has_file:
            found = "there is no file it could lie beside"
            raise ConfigError(f"Writing the receipt: {found}. Use -o FILE, or --json.")
        if self.effort is not None and self.effort < 1:
            raise ConfigError(f"Reading the flags: --effort is {self.effort}. Use 1 or more.")
        if self.target is not None and not 0 <= self.target <= 1:
            raise ConfigError(f"Reading the flags: --target is {self.target}. Use a value from 0 to 1.")
        self.limits()
        if self.candidates is not None:
            from llasa.cli.candidates import check_folder

            check_folder(self.candidates)

    def limits(self) -> dict[str, Any]:
        """Return the deadline as arguments of `Synthesizer.effort`."""
        if self.deadline is None:
            return {}
        found = re.fullmatch(r"(\d+(?:\.\d+)?)(s|x)?", self.deadline.strip())
        if not found or not 0 < float(found[1]) < math.inf:
            example = "Give seconds, such as 10s, or times real time, such as 2x"
            raise ConfigError(f"Reading the flags: --deadline is '{self.deadline}'. {example}.")
        return {"deadline_x" if found[2] == "x" else "deadline_s": float(found[1])}

    def effort_of(self, synthesizer: "Synthesizer") -> "Effort":
        """Return the search that the flags ask for."""
        from llasa.recipe import with_style
        from llasa.style import parse_style

        recipe = synthesizer.recipe(self.judge)
        if self.candidates is not None:  # who looks through them wants to know all about each
            judge = recipe.judge.model_copy(update={"cascade": False})
            recipe = recipe.model_copy(update={"judge": judge})
        if self.style is not None:
            recipe = with_style(recipe, parse_style(self.style))
        n = self.effort
        if n is None and self.judge is None:
            searches = (self.style, self.target, self.deadline)
            n = 1 if all(wish is None for wish in searches) else USUAL_EFFORT
        effort = synthesizer.effort(n, recipe, target=self.target, **self.limits())
        return effort if self.candidates is None else replace(effort, streaming=None)

    def keep(self, spoken: "Sequence[Spoken]", receipt: "Receipt", output: str) -> dict[str, object]:
        """Write what was asked for besides the sound, and return what the report says of it."""
        told: dict[str, object] = {}
        if self.candidates is not None:
            from llasa.cli.candidates import keep

            keep(self.candidates, spoken, str(receipt.made["bundle"]))
            told["candidates"] = str(self.candidates)
        if self.receipt:
            told["receipt_file"] = str(write_receipt(receipt, output))
        return told


@contextmanager
def shown(effort: "Effort") -> "Iterator[Effort]":
    """Give an effort that shows candidates judged and the best value so far, if a person is watching."""
    if not sys.stderr.isatty():
        yield effort
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("Searching", total=None)

        def update(number: int, total: int, news: "Progress") -> None:
            best = "" if news.best is None else f", best {news.best:.2f}"
            told = f"Segment {number} of {total}: judged{best}"
            bar.update(task, description=told, completed=news.judged, total=news.total)

        yield replace(effort, on_progress=update)


def repaired(
    synthesizer: "Synthesizer",
    spoken: "Sequence[Spoken]",
    effort: "Effort",
    seed: int,
    sampling: Mapping[str, Any],
) -> "tuple[list[Spoken], list[dict[str, object]]]":
    """Return the segments, failing spans said again where the judge prefers that, and what happened."""
    from llasa.repair import repair

    outcomes = [repair(synthesizer, one, effort, seed=seed, **sampling) for one in spoken]
    return [one.spoken for one in outcomes], [one.to_json() for one in outcomes]


def write_receipt(receipt: "Receipt", output: str) -> Path:
    """Write a receipt beside a sound file, `NAME.wav.receipt.json`, and return its path."""
    from llasa.audio import replace_file

    path = Path(f"{output}.receipt.json")
    text = json.dumps(receipt.to_json(), indent=2, ensure_ascii=False, default=str) + "\n"
    replace_file(path, text.encode())
    return path


def tell_receipt(receipt: "Receipt", tell: Callable[[str], None] = note) -> None:
    """Tell a person what was heard, which words were not, and how close a style came."""
    for part in receipt.segments:
        tell(_line(part))
        for word in part.words:
            if word.status != "said":
                place = "" if word.start_s is None else f" at {word.start_s:.1f} s"
                heard = f", heard {word.heard!r}" if word.heard else ""
                tell(f"  {word.status}: {word.text!r}{place}{heard}")
        reached = {
            key.removesuffix(".reached"): v for key, v in part.measures.items() if key.endswith(".reached")
        }
        for name, value in reached.items():
            tell(f"  {name}: {value:.2f}, wanted {part.measures[f'{name}.wanted']:.2f}")


def _line(part: "SegmentReceipt") -> str:
    value = "no verdict" if part.value is None else f"{part.value:.2f}"
    second = "" if part.second_value is None else f", held-out recogniser {part.second_value:.2f}"
    counted = f"{part.drawn} drawn, {part.outdone} outdone early, {part.ruled_out} ruled out, "
    counted += f"{part.unjudged} without a verdict"
    return f"heard: {part.heard or 'nothing'} [value {value}{second}; {counted}; {part.stop}]"

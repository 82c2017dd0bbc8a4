"""The search half of `llasa say`: flags -> `Effort`, its progress, repairs and receipt."""

import json
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llasa.cli.terminal import note
from llasa.errors import ConfigError

if TYPE_CHECKING:
    from llasa.receipt import Receipt, SegmentReceipt
    from llasa.search import Progress
    from llasa.spoken import Spoken
    from llasa.synthesizer import Effort, Synthesizer

STYLED_EFFORT = 8


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

    def check(self) -> None:
        """Refuse what is wrong whatever the bundle is.

        Raises:
            ConfigError: a number is out of range, or the folder for the candidates is taken.
        """
        if self.effort is not None and self.effort < 1:
            raise ConfigError(f"Reading the flags: --effort is {self.effort}. Use 1 or more.")
        if self.target is not None and not 0 <= self.target <= 1:
            raise ConfigError(f"Reading the flags: --target is {self.target}. Use a value from 0 to 1.")
        self.limits()
        if self.candidates is not None:
            from llasa.cli.candidates import check_folder

            check_folder(self.candidates)

    def limits(self) -> dict[str, float]:
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
        if self.style is not None:
            recipe = with_style(recipe, parse_style(self.style))
        n = self.effort
        if n is None:
            n = recipe.search.n if self.judge else STYLED_EFFORT if self.style is not None else 1
        return synthesizer.effort(n, recipe, target=self.target, **self.limits())


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
    """Write a receipt beside a sound file and return its path."""
    from llasa.audio import replace_file

    path = Path(output).with_suffix(".receipt.json")
    text = json.dumps(receipt.to_json(), indent=2, ensure_ascii=False) + "\n"
    replace_file(path, text.encode())
    return path


def tell_receipt(receipt: "Receipt", tell: Callable[[str], None] = note) -> None:
    """Tell a person what was heard, and which words were not."""
    for part in receipt.segments:
        tell(_line(part))
        for word in part.words:
            if word.status != "said":
                place = "" if word.start_s is None else f" at {word.start_s:.1f} s"
                tell(
                    f"  {word.status}: {word.text!r}{place}"
                    + (f", heard {word.heard!r}" if word.heard else "")
                )


def _line(part: "SegmentReceipt") -> str:
    value = "no verdict" if part.value is None else f"{part.value:.2f}"
    second = part.measures.get("second.value")
    held_out = "" if second is None else f", held-out recogniser {second:.2f}"
    counted = f"{part.judged} judged, {part.ruled_out} ruled out, {part.unjudged} without a verdict"
    return f"heard: {part.heard} [value {value}{held_out}; {counted}; {part.stop}]"

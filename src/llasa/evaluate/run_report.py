"""A run as one HTML page that needs no other file: what to think of it, plots, worst and best, sounds.

What it says is in `report.html.jinja`. Must not know: how a run is made.
"""

import base64
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import Any, cast

from llasa.audio import check_target, encode, read, replace_file
from llasa.config import lines
from llasa.core import plain
from llasa.data.report import empty_figure, template_of
from llasa.errors import InputError
from llasa.evaluate.figures import plots
from llasa.evaluate.plotting import Plot
from llasa.evaluate.run_folder import Row, Run, Sample
from llasa.evaluate.signs import ends, gain, rate_trend, signs, verdict

SHOWN = 10  # worst and best rollouts
COLUMNS, PLAYERS = 5, 10  # steps and texts of which there are players
_TEMPLATE = Path(__file__).with_name("report.html.jinja")
_WORDS = {"good": "good", "look": "have a look", "bad": "not to be trusted"}
_MEASURES = ("wer", "cer", "per", "ratio", "cycle_s")  # told of a rollout, with the values of all parts


@dataclass(frozen=True)
class Heard:
    """The samples of one text, each step's as a data URI; empty where there is none."""

    text: str
    sounds: list[str]


def numbers(run: Run) -> dict[str, Any]:
    """Return what a program may want to know of a run."""
    suspects = signs(run)
    first, last = ends(run.rollouts)
    trends = {"first": rate_trend(first), "last": rate_trend(last)} if run.rollouts else {}
    said = verdict(run, suspects)
    found = plain(
        {
            "run": str(run.folder),
            "step": run.step,
            "done": run.done,
            "verdict": said.level,
            "words": said.words,
            "signs": {sign.name: asdict(sign) for sign in suspects},
            "reward": {key: asdict(one) for key, one in (gain(run) or {}).items()},
            "rate_trend": {key: asdict(one) for key, one in trends.items() if one},
            "panel": run.panel,
            "last": dict(run.metrics[-1]) if run.metrics else {},
            "rollouts": len(run.rollouts),
            "damaged": run.damaged,
        }
    )
    return cast(dict[str, Any], found)


def check_ready(path: str | PathLike[str]) -> None:
    """Find out before the work whether a page can be made and written.

    Raises:
        ConfigError: it cannot be written. MissingExtra: matplotlib is not installed.
    """
    check_target(Path(path).resolve())
    empty_figure()


def write(run: Run, path: str | PathLike[str]) -> None:
    """Write the page of a run, whole or not at all; a file already there is replaced.

    Raises:
        ConfigError, MissingExtra: as `check_ready`.
    """
    replace_file(Path(path).resolve(), page(run).encode("utf-8", "replace"))


def page(run: Run) -> str:
    """Return the page.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    from markupsafe import Markup

    found = signs(run)
    drawn = {heading: [_safe(plot, Markup) for plot in some] for heading, some in plots(run).items()}
    steps, heard = _samples(run)
    worst, best = _extremes(run.rollouts)
    return template_of(_TEMPLATE).render(
        run=run, facts=_facts(run), verdict=verdict(run, found), signs=found, words=_WORDS, drawn=drawn,
        worst=worst, best=best, steps=steps, heard=heard, recipe=_recipe(run),
    )  # fmt: skip


def _safe(plot: Plot, mark: Any) -> Plot:
    return Plot(plot.title, mark(plot.drawn))  # our own SVG; no text of the run's is in it but keys, escaped


def _facts(run: Run) -> dict[str, str]:
    """Return the lines of the table on top."""
    told = {
        "began": run.facts.get("began"),
        "bundle": run.facts.get("bundle") or run.recipe.get("model") or run.recipe.get("bundle"),
        "rollouts": len(run.rollouts) or None,
        "versions": ", ".join(f"{key} {value}" for key, value in run.facts.get("versions", {}).items()),
    }
    if change := gain(run):
        first, last = change["first"], change["last"]
        told["reward"] = (
            f"{first.value:.3f} ({first.low:.3f} to {first.high:.3f}) in the first fifth of the steps, "
            f"{last.value:.3f} ({last.low:.3f} to {last.high:.3f}) in the last"
        )
    return {key: str(value) for key, value in told.items() if value}


def _extremes(rollouts: Sequence[Row]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the worst and the best of the last steps, as they are shown."""
    known = [row for row in ends(rollouts)[1] if isinstance(row.get("reward"), int | float)]
    ordered = [_shown(row) for row in sorted(known, key=lambda row: row["reward"])]
    return ordered[:SHOWN], ordered[: -SHOWN - 1 : -1]


def _shown(row: Row) -> dict[str, Any]:
    measures = {key: one for key, one in (row.get("measures") or {}).items() if isinstance(one, int | float)}
    told = {key.removesuffix(".value"): one for key, one in measures.items() if key.endswith(".value")}
    told |= {key: measures[key] for key in _MEASURES if key in measures}
    keys = ("step", "text", "voice", "finish", "reason", "reward", "duration_s")
    return {key: row.get(key) for key in keys} | {"measures": told}


def _samples(run: Run) -> tuple[list[int], list[Heard]]:
    """Return steps, evenly spread, and the samples of each text at them."""
    every = sorted({sample.step for sample in run.samples})
    count = min(COLUMNS, len(every))
    steps = [every[round(i * (len(every) - 1) / max(count - 1, 1))] for i in range(count)]
    texts: Sequence[str] = (run.recipe.get("samples") or {}).get("texts", [])
    at = {(sample.number, sample.step): sample for sample in run.samples}
    numbers = sorted({number for number, step in at if step in steps})[:PLAYERS]
    return steps, [
        Heard(
            texts[number] if number < len(texts) else f"text {number + 1}",
            [_sound(at.get((number, step))) for step in steps],
        )
        for number in numbers
    ]


def _sound(sample: Sample | None) -> str:
    return sound_uri(sample.path) if sample else ""


def sound_uri(path: Path) -> str:
    """Return a sound as a data URI; empty where there is none that can be read."""
    try:
        sound = read(path, min_s=0.0, max_s=600.0)
    except InputError:
        return ""
    return "data:audio/mpeg;base64," + base64.b64encode(encode(sound, "mp3")).decode()


def _recipe(run: Run) -> str:
    """Return the recipe as TOML, tables last; as JSON where TOML has no way to say it."""
    values = {key: one for key, one in run.recipe.items() if one is not None}
    tables = {key: one for key, one in values.items() if isinstance(one, dict)}
    plain_values = {key: one for key, one in values.items() if key not in tables}
    try:
        return lines(plain_values) + "".join(f"\n[{key}]\n{lines(one)}" for key, one in tables.items())
    except (TypeError, ValueError):
        return json.dumps(values, indent=1, ensure_ascii=False)

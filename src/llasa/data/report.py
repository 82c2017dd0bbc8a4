"""The doctor's findings as one HTML page that needs no other file: verdicts, plots, the worst rows.

What it says is in `report.html.jinja`. Must not know: how anything was found.
"""

import io
from os import PathLike
from pathlib import Path
from typing import Any

from llasa.audio import check_target, replace_file
from llasa.data.findings import Findings, Spread
from llasa.data.transcripts import shown
from llasa.errors import MissingExtra

_TEMPLATE = Path(__file__).with_name("report.html.jinja")
_WORDS = {"good": "good", "look": "have a look", "bad": "not fit yet"}
_COLOUR, _MEDIAN = "#4477aa", "#aa3377"


def write(findings: Findings, path: str | PathLike[str]) -> None:
    """Write the page, whole or not at all; a file already there is replaced.

    Raises:
        ConfigError: it cannot be written. MissingExtra: matplotlib is not installed.
    """
    replace_file(Path(path).resolve(), page(findings).encode("utf-8", "replace"))


def check_ready(path: str | PathLike[str]) -> None:
    """Find out before the work whether a page can be made and written.

    Raises:
        ConfigError, MissingExtra: as `write`.
    """
    check_target(Path(path).resolve())
    empty_figure()


def page(findings: Findings) -> str:
    """Return the page.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    from markupsafe import Markup

    plots = [(spread, Markup(_plot(spread))) for spread in findings.spreads]  # our own SVG
    template = template_of(_TEMPLATE)
    order = {"bad": 0, "look": 1, "good": 2}
    checks = sorted(findings.checks, key=lambda check: order[check.verdict])
    return template.render(findings=findings, checks=checks, plots=plots, words=_WORDS)


def _plot(spread: Spread) -> str:
    """Return a histogram as SVG."""
    figure = empty_figure()
    axes = figure.subplots()
    axes.stairs(spread.counts, spread.edges, fill=True, color=_COLOUR)
    axes.axvline(spread.quantiles["50"], color=_MEDIAN, linewidth=1)
    axes.set_title(spread.title, fontsize=9)
    axes.tick_params(labelsize=7)
    axes.set_ylabel("clips", fontsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    return svg(figure)


def template_of(path: Path) -> Any:
    """Return the jinja2 template in a file; what is put into it is escaped, and `shown` is a filter."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["shown"] = shown
    return environment.from_string(path.read_text(encoding="utf-8"))


def svg(figure: Any) -> str:
    """Return a figure as an SVG element."""
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    drawn = file.getvalue()
    return drawn[drawn.index("<svg") :]  # without the XML declaration


def empty_figure(width: float = 3.6, height: float = 2.2) -> Any:
    """Return a figure to draw on, inches.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra("Drawing a report", "matplotlib", "train") from error
    return Figure(figsize=(width, height), layout="constrained")

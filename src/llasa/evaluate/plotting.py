"""A plot as an SVG, in the look that all pages share. Must not know what is drawn."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llasa.data.report import empty_figure, svg

COLOURS = ("#4477aa", "#aa3377", "#228833", "#ccbb44", "#66ccee", "#ee6677", "#bbbbbb", "#222222")


@dataclass(frozen=True)
class Plot:
    """A drawing and what stands above it."""

    title: str
    drawn: str


def plot(
    title: str, draw: Callable[[Any], None], width: float = 3.6, height: float = 2.2, **axes: Any
) -> Plot:
    """Return what `draw` puts on axes of matplotlib.

    Args:
        width, height: inches. axes: for `Figure.subplots`, such as a projection.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    figure = empty_figure(width, height)
    place = figure.subplots(subplot_kw=axes)
    draw(place)
    place.set_title(title, fontsize=9, fontweight="bold", loc="left")
    place.tick_params(labelsize=7)
    if "projection" not in axes:
        place.spines[["top", "right"]].set_visible(False)
    return Plot(title, svg(figure))

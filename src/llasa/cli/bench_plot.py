"""The picture of `llasa bench`: where the time goes by effort, and how much memory it takes."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llasa.errors import ConfigError

if TYPE_CHECKING:
    from llasa.bench import Speed

STAGES = {"draw_s": "language model", "decode_s": "codec", "judge_s": "judge"}
COLOURS = ("#4477aa", "#66ccee", "#ee6677")


def draw(path: Path, speeds: "Sequence[Speed]", title: str) -> None:
    """Write a PNG: bars of seconds a second of speech, and of memory, by effort.

    Raises:
        ConfigError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(2, 1))
    names = [f"effort {one.effort}" for one in speeds]
    _stages(left, names, speeds)
    right.bar(names, [(one.peak_bytes or 0) / 2**30 for one in speeds], color="#bbbbbb", width=0.6)
    right.set(ylabel="GiB", title="peak memory of the process")
    figure.suptitle(title)
    try:
        figure.savefig(path, dpi=110, format="png")
    except OSError as error:
        found = f"the system says: {error.strerror}"
        raise ConfigError(f"Drawing '{path}': {found}. Name another file.") from error


def _stages(axes: Any, names: list[str], speeds: "Sequence[Speed]") -> None:
    base = [0.0] * len(speeds)
    for (stage, label), colour in zip(STAGES.items(), COLOURS, strict=True):
        heights = [getattr(one, stage) / one.audio_s for one in speeds]
        axes.bar(names, heights, bottom=base, label=label, color=colour, width=0.6)
        base = [low + height for low, height in zip(base, heights, strict=True)]
    for place, one in enumerate(speeds):
        text = f"{one.real_time_factor:.3f}\nfirst audio {1000 * one.first_audio_s:.0f} ms"
        axes.text(place, base[place], text, ha="center", va="bottom", fontsize=8)
    axes.margins(y=0.25)
    if max(base) > 0.5:
        axes.axhline(1, color="black", linewidth=0.8, linestyle=":", label="as fast as speech")
    axes.set(ylabel="seconds a second of speech", title="real-time factor, by stage")
    axes.legend(fontsize=8)

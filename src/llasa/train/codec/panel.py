"""What a person looks at and listens to: spectrograms, sound and curves, as PNG files and in TensorBoard."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from llasa.audio import write
from llasa.core import Audio
from llasa.errors import MissingExtra
from llasa.train.codec.roundtrip import RoundTrip, line

_CURVES = ("held_mel_l1", "held_spectral", "held_multi_mel", "held_semantic")
_SHOWN = 3  # pairs of sounds
_FAINTEST_DB, _FFT, _HOP = -80.0, 512, 128


class Panel:
    """Writes what one look at a codec in training shows, under `OUT/samples` and `OUT/tensorboard`."""

    def __init__(self, out: Path, stage: str, tensorboard: bool) -> None:
        """Open it; raises MissingExtra where TensorBoard is wanted and not installed."""
        self.folder, self._writer = out / "samples" / stage, _writer(out / "tensorboard" / stage, tensorboard)

    def __enter__(self) -> "Panel":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer:
            self._writer.close()

    def show(self, step: int, measures: Mapping[str, float], pairs: Sequence[tuple[Audio, Audio]]) -> None:
        """Write the measures, and the first pairs of original and copy as sound and as spectrograms."""
        self.folder.mkdir(parents=True, exist_ok=True)
        figure = _spectrograms(pairs[:_SHOWN], f"step {step}: {line(_bare(measures))}")
        figure.savefig(self.folder / f"{step:07d}.png", dpi=80)
        for number, (original, copy) in enumerate(pairs[:_SHOWN]):
            write(self.folder / f"{number}-original.wav", _limited(original))
            write(self.folder / f"{number}-copy.wav", _limited(copy))
        if self._writer:
            for name, value in measures.items():
                self._writer.add_scalar(name, value, step)
            for number, (original, copy) in enumerate(pairs[:_SHOWN]):
                for name, sound in (("original", original), ("copy", copy)):
                    tag = f"{number}/{name}"
                    self._writer.add_audio(tag, _limited(sound).samples[None], step, sound.sample_rate)
            self._writer.add_figure("spectrograms", figure, step)
        _close(figure)


def draw_report(path: Path, found: RoundTrip, logs: Mapping[str, Path], pair: tuple[Audio, Audio]) -> None:
    """Write one picture: losses of each stage, what each clip kept, code usage, and one copy."""
    plt = _pyplot()
    figure, axes = plt.subplots(2, 3, figsize=(16, 8), layout="constrained")
    figure.suptitle(f"{found.codec}: {line(found.measures)}")
    _draw_losses(axes[0, 0], logs)
    _draw_clips(axes[0, 1], found)
    _draw_usage(axes[0, 2], found)
    _draw_levels(axes[1, 2], pair)
    for axis, sound, title in zip(axes[1, :2], pair, ("original", "copy"), strict=True):
        _draw_spectrogram(axis, sound, title)
    figure.savefig(path, dpi=80)
    _close(figure)


def check_installed(tensorboard: bool) -> None:
    """Raise MissingExtra if what a report or a panel is made with is not installed."""
    _pyplot()
    if tensorboard:
        _writers()


def _writer(folder: Path, wanted: bool) -> Any:
    return _writers()(str(folder)) if wanted else None


def _writers() -> Any:
    try:
        from torch.utils.tensorboard.writer import SummaryWriter
    except ImportError as error:
        raise MissingExtra("Writing to TensorBoard", "tensorboard", "train") from error
    return SummaryWriter


def _pyplot() -> Any:
    try:
        import matplotlib
    except ImportError as error:
        raise MissingExtra("Drawing a report", "matplotlib", "train") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _close(figure: Any) -> None:
    _pyplot().close(figure)


def _bare(measures: Mapping[str, float]) -> dict[str, float]:
    return {name.removeprefix("copy_"): value for name, value in measures.items()}


def _limited(sound: Audio) -> Audio:
    return Audio(np.clip(sound.samples, -1, 1), sound.sample_rate)


def _spectrograms(pairs: Sequence[tuple[Audio, Audio]], title: str) -> Any:
    figure, axes = _pyplot().subplots(
        len(pairs), 2, figsize=(14, 3 * len(pairs)), layout="constrained", squeeze=False
    )
    figure.suptitle(title)
    for row, pair in zip(axes, pairs, strict=True):
        for axis, sound, name in zip(row, pair, ("original", "copy"), strict=True):
            _draw_spectrogram(axis, sound, name)
    return figure


def _magnitudes(sound: Audio) -> np.ndarray:
    """Return magnitudes [F, bins]."""
    samples = np.pad(sound.samples, (0, max(0, _FFT - len(sound.samples))))
    frames = np.lib.stride_tricks.sliding_window_view(samples, _FFT)[::_HOP]
    return np.abs(np.fft.rfft(frames * np.hanning(_FFT)))


def _draw_spectrogram(axis: Any, sound: Audio, title: str) -> None:
    level_db = 20 * np.log10(np.maximum(_magnitudes(sound), 1e-6))
    top = float(level_db.max())
    extent = (0, sound.duration_s, 0, sound.sample_rate / 2000)
    axis.imshow(
        level_db.T, origin="lower", aspect="auto", extent=extent, vmin=top + _FAINTEST_DB, vmax=top,
        cmap="magma",
    )  # fmt: skip
    axis.set(title=title, xlabel="s", ylabel="kHz")


def _draw_losses(axis: Any, logs: Mapping[str, Path]) -> None:
    before = 0
    if not logs:
        return axis.set_axis_off()
    for name, path in logs.items():
        rows = [json.loads(row) for row in path.read_text(encoding="utf-8").splitlines()]
        for key in [key for key in _CURVES if key in rows[-1]]:
            steps = [before + row["step"] for row in rows if key in row]
            losses = [row[key] for row in rows if key in row]
            axis.plot(steps, losses, ".-", markersize=4, label=f"{name}: {key[5:]}")
        before += rows[-1]["step"]
    axis.set(title="held-out losses", xlabel="step, stages one after another", yscale="log")
    axis.legend(fontsize=8)


def _draw_clips(axis: Any, found: RoundTrip) -> None:
    pairs = [(p.stoi, p.pesq) for p in found.passages if p.stoi is not None and p.pesq is not None]
    axis.scatter([a for a, _ in pairs], [b for _, b in pairs], s=14)
    axis.set(title="each clip", xlabel="STOI", ylabel="PESQ, wide band")


def _draw_usage(axis: Any, found: RoundTrip) -> None:
    counts = np.array(sorted(found.usage.counts.values(), reverse=True))
    axis.plot(np.arange(1, len(counts) + 1), counts / max(1, counts.sum()))
    used = found.usage.measures
    title = f"{used['used']:.1%} of {found.usage.codebook_size} entries in {used['codes']:.0f} codes"
    axis.set(title=title, xlabel="entries by rank", ylabel="share of the codes", yscale="log")


def _draw_levels(axis: Any, pair: tuple[Audio, Audio]) -> None:
    for sound, name in zip(pair, ("original", "copy"), strict=True):
        power = np.square(_magnitudes(sound)).mean(0)
        axis.plot(
            np.linspace(0, sound.sample_rate / 2000, len(power)), 10 * np.log10(power + 1e-9), label=name
        )
    axis.set(title="average spectrum", xlabel="kHz", ylabel="dB")
    axis.legend(fontsize=8)

"""Keeps every candidate of a search: its sound, its scores as JSON, and one picture of all."""

import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from llasa.errors import ConfigError, MissingExtra

if TYPE_CHECKING:
    from llasa.core import Audio, Judged
    from llasa.spoken import Spoken

COLUMNS, SHOWN = 4, 32
_ROWS = "candidates.json"  # comes last: with it all are there


def check_folder(folder: Path) -> None:
    """Make a folder, refusing one that cannot be written, before any work.

    Raises:
        ConfigError: it is a file, already holds something, or cannot be made. MissingExtra: no matplotlib.
    """
    doing = f"Keeping the candidates in '{folder}'"
    if folder.exists() and (not folder.is_dir() or not _is_free(folder)):
        found = "it is not empty" if folder.is_dir() else "it is a file"
        raise ConfigError(f"{doing}: {found}. Name a new folder.")
    if find_spec("matplotlib") is None:
        raise MissingExtra("Drawing the contact sheet", "matplotlib", "eval")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{doing}: the system says: {error.strerror}. Name another folder.") from error


def _is_free(folder: Path) -> bool:
    """Whether a folder is empty, but for what a process that was killed put there of its candidates."""
    names = {path.name for path in folder.iterdir()}
    return not names or (".candidates.part" in names and _ROWS not in names)


def keep(folder: Path, spoken: "Sequence[Spoken]", bundle: str) -> None:
    """Write `SEGMENT-RANK.wav`, `candidates.json` and `contact-sheet.png`; the best has rank 1.

    The picture shows the first 32. Killed in between, the same again goes on.

    Raises:
        ConfigError: the folder or a file in it cannot be written.
    """
    from llasa.held import scratch

    try:
        # Inside, since the folder may be a link, the root of a volume, or where the user stands.
        with scratch(folder / "candidates", f"Keeping the candidates in '{folder}'") as work:
            check_folder(folder)  # another process may have been quicker
            _keep(work, spoken, bundle)
            for path in sorted(work.iterdir(), key=lambda path: path.name == _ROWS):
                path.replace(folder / path.name)
    except OSError as error:
        found = f"the system says: {error.strerror}"
        raise ConfigError(f"Keeping the candidates in '{folder}': {found}. Name another folder.") from error


def _keep(folder: Path, spoken: "Sequence[Spoken]", bundle: str) -> None:
    from llasa.audio import write
    from llasa.provenance import provenance

    rows: list[dict[str, object]] = []
    pictures: list[tuple[str, Audio]] = []
    for one in spoken:
        for rank, judged in enumerate(one.ranking.judged if one.ranking else (), 1):
            # The winner is heard even if it was ruled out before it was decoded.
            audio = one.candidate.audio if rank == 1 else judged.candidate.audio
            name = f"{one.number:02}-{rank:02}"
            if audio is not None:
                voice = one.candidate.utterance.voice
                made = provenance(bundle, voice.name if voice else None)
                write(folder / f"{name}.wav", made.mark(audio), tags=made.tags)
                pictures.append((f"{name}  {_verdict(judged)}", audio))
            rows.append(_row(one, rank, judged, f"{name}.wav" if audio is not None else None))
    text = json.dumps(rows, indent=1, ensure_ascii=False) + "\n"
    (folder / _ROWS).write_text(text, encoding="utf-8")
    draw(folder / "contact-sheet.png", pictures[:SHOWN])


def draw(path: Path, pictures: "Sequence[tuple[str, Audio]]") -> None:
    """Draw spectrograms under their titles, all on one time scale, as one picture."""
    from matplotlib.figure import Figure

    rows = max(1, -(-len(pictures) // COLUMNS))
    figure = Figure(figsize=(3.6 * COLUMNS, 1.9 * rows + 0.3), layout="constrained")
    longest = max((audio.duration_s for _, audio in pictures), default=1.0)
    for place, (title, audio) in enumerate(pictures, 1):
        axes = figure.add_subplot(rows, COLUMNS, place)
        padded = np.pad(audio.samples, (0, max(0, 512 - len(audio.samples))))
        axes.specgram(padded + 1e-5, NFFT=512, noverlap=384, Fs=audio.sample_rate, vmin=-110, vmax=-30)
        axes.set(xlim=(0, longest), ylim=(0, min(8000, audio.sample_rate / 2)), yticks=[])
        axes.set_title(title, fontsize=8, loc="left")
        axes.tick_params(labelsize=7)
    figure.savefig(path, dpi=110)


def _verdict(judged: "Judged") -> str:
    value = "no verdict" if judged.score is None else f"{judged.score.value:.2f}"
    return value if judged.status == "scored" else f"{value} ({judged.reason})"[:48]


def _row(one: "Spoken", rank: int, judged: "Judged", file: str | None) -> dict[str, object]:
    from llasa.core import plain

    candidate, score = judged.candidate, judged.score
    return {
        "segment": one.number,
        "rank": rank,
        "file": file,
        "text": candidate.utterance.text,
        "status": judged.status,
        "reason": judged.reason,
        "value": score.value if score else None,
        "measures": plain(score.measures) if score else {},
        "note": score.note if score else "",
        "finish": candidate.finish,
        "logprob": candidate.logprob,
        "codes": candidate.codes,
    }

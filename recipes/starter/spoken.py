"""Speech with exact word and phone times, kept as Lhotse cuts of one FLAC file a voice.

`NAME.flac` holds all utterances of a voice end to end, `NAME.jsonl.gz`, written last, their cuts. A folder of
them is a source as `llasa prepare` takes.
"""

import gzip
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import soundfile
import soxr
from rich.console import Console
from rich.progress import Progress

SAMPLE_RATE = 16000
LONGEST_S = 9.0

Marks = list[tuple[str, float]]  # label and end, in seconds


@dataclass(frozen=True)
class Spoken:
    """One utterance. text: normalised; samples: int16 [T] at 16 kHz; words, phones with their ends in s."""

    text: str
    samples: np.ndarray
    words: Marks
    phones: Marks

    def resampled(self, speed: float) -> "Spoken":
        """Return it played `speed` times faster: higher pitch, smaller head, quicker speech."""
        if speed == 1.0:
            return self
        wave = soxr.resample(self.samples.astype(np.float32) / 32768, speed, 1.0)
        samples = (np.clip(wave, -1, 1) * 32767).astype(np.int16)
        words, phones = ([(label, end / speed) for label, end in part] for part in (self.words, self.phones))
        return Spoken(self.text, samples, words, phones)

    @property
    def whole(self) -> bool:
        """Whether the voice said the words of the text, and nothing too long for training."""
        said = [word.strip(",.?!") for word in self.text.split()]
        return [word for word, _ in self.words] == said and len(self.samples) <= LONGEST_S * SAMPLE_RATE


def write(spoken: Iterable[Spoken], folder: Path, name: str, hours: float) -> None:
    """Write a voice of `hours`. name: `SPEAKER` or `SPEAKER.PART`.

    Raises:
        SystemExit: there was less to say.
    """
    cuts, total, wanted = [], 0, round(hours * 3600 * SAMPLE_RATE)
    draft = folder / f"{name}.flac.part"
    with (
        Progress(console=Console(stderr=True)) as progress,
        soundfile.SoundFile(draft, "w", SAMPLE_RATE, 1, "PCM_16", format="FLAC") as file,
    ):
        bar = progress.add_task(name, total=wanted)
        for one in (one for one in spoken if one.whole):
            file.write(one.samples)
            cuts.append(cut(one, name, len(cuts), total))
            total += len(one.samples)
            progress.update(bar, completed=total)
            if total >= wanted:
                break
    if total < wanted:
        got_h = total / SAMPLE_RATE / 3600
        raise SystemExit(f"{name}: the texts ran out after {got_h:.2f} h. Give more, or fewer hours.")
    draft.rename(folder / f"{name}.flac")
    write_cuts(cuts, folder, name, total)
    print(f"{name}: {len(cuts)} utterances, {total / SAMPLE_RATE / 3600:.2f} h")


def cut(one: Spoken, name: str, number: int, start: int) -> dict:
    """Return the cut of an utterance that begins at sample `start` of its voice's file."""
    place, end_s = f"{name}-{number:05d}", len(one.samples) / SAMPLE_RATE
    parts = {"word": _alignment(one.words, end_s), "phone": _alignment(one.phones, end_s)}
    supervision = {
        "id": place, "recording_id": name, "start": 0.0, "duration": end_s, "channel": 0, "text": one.text,
        "language": "en", "speaker": name.split(".")[0], "alignment": parts,
    }  # fmt: skip
    return {
        "id": place, "start": start / SAMPLE_RATE, "duration": end_s, "channel": 0,
        "supervisions": [supervision], "type": "MonoCut",
    }  # fmt: skip


def _alignment(marks: Marks, end_s: float) -> list[list]:
    """Return Lhotse's alignment items: label, start, duration."""
    ends = [0.0, *(round(min(end, end_s), 4) for _, end in marks)]
    return [
        [label, start, round(end - start, 4)]
        for (label, _), (start, end) in zip(marks, pairwise(ends), strict=True)
    ]


def write_cuts(cuts: list[dict], folder: Path, name: str, samples: int) -> None:
    """Write the manifest of a voice."""
    source = {"type": "file", "channels": [0], "source": f"{name}.flac"}
    recording = {
        "id": name, "sources": [source], "sampling_rate": SAMPLE_RATE, "num_samples": samples,
        "duration": samples / SAMPLE_RATE, "channel_ids": [0],
    }  # fmt: skip
    lines = "".join(json.dumps(one | {"recording": recording}) + "\n" for one in cuts)
    draft = folder / f"{name}.jsonl.part"
    draft.write_bytes(gzip.compress(lines.encode(), 6, mtime=0))
    draft.replace(folder / f"{name}.jsonl.gz")


def lines(path: Path, skip: int) -> Iterator[str]:
    """Yield the sentences of a file after the first `skip`, as they are said."""
    from llasa.text.normalize import normalize

    for line in path.read_text(encoding="utf-8").splitlines()[skip:]:
        yield normalize(line).text

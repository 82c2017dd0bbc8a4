"""Speech with exact word times: Debian's festival voices say sentences, one FLAC file each.

Adds one voice to a folder: `NAME.train/00001.flac ...` and `NAME.train.jsonl`, Lhotse cuts with the words
aligned. A variant resamples the sound, which moves pitch, formants and rate together: a new speaker for
little compute. A finished voice is not said again.
"""

import argparse
import json
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
from rich.progress import Progress

RATE = 16000
BATCH = 50  # sentences a process: festival keeps every utterance in memory
# Says a sentence, saves it, prints the words with their ends.
SAY = """(let ((u (utt.synth (Utterance Text "{text}"))))
  (utt.save.wave u "{path}" 'riff)
  (format t "utterance {number}\\n")
  (mapcar (lambda (w) (format t "%s %f\\n" (item.name w)
    (item.feat w "R:SylStructure.daughtern.daughtern.R:Segment.end"))) (utt.relation.items u 'Word)))
"""


@dataclass(frozen=True)
class Way:
    """How a voice speaks. stretch: how much slower. speed: how much faster it is played."""

    voice: str
    language: str
    stretch: float
    speed: float


Spoken = tuple[
    str, np.ndarray, list[tuple[str, float]]
]  # text, samples [T], words with their ends in seconds


def spoken(texts: list[str], way: Way, folder: Path) -> Iterator[Spoken]:
    """Yield sentences, said; those that festival cannot say, or counts otherwise, are left out."""
    script = [f"(voice_{way.voice})", f"(Parameter.set 'Duration_Stretch {way.stretch})"]
    for number, text in enumerate(texts):
        script.append(SAY.format(text=text, path=folder / f"{number}.wav", number=number))
    (folder / "say.scm").write_text("\n".join(script), encoding="latin-1")
    command = ["festival", "--batch", folder / "say.scm"]
    heard = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True)
    parts = heard.stdout.decode("latin-1").split("utterance ")[1:]
    for part in parts:
        number, *lines = part.splitlines()
        words = [(line.split()[0], float(line.split()[1])) for line in lines if len(line.split()) == 2]
        if [word for word, _ in words] != [word.strip(",.?!") for word in texts[int(number)].split()]:
            continue
        samples, rate = soundfile.read(folder / f"{number}.wav", dtype="float32")
        samples = soxr.resample(samples, rate * way.speed, RATE)
        yield texts[int(number)], samples, [(word, end_s / way.speed) for word, end_s in words]
    if heard.returncode:  # it ends where it lacks a sound; the next sentence may be fine
        yield from spoken(texts[len(parts) + 1 :], way, folder)


def cut(said: dict[str, str], path: str, samples: int, words: list[tuple[str, float]]) -> dict[str, object]:
    """Return a Lhotse cut of one file. said: its text, speaker and language."""
    duration_s, id = samples / RATE, Path(path).with_suffix("").as_posix()
    ends = [0.0, *(end_s for _, end_s in words)]
    aligned = [(word, at, end - at) for (word, _), at, end in zip(words, ends, ends[1:], strict=False)]
    common = {"id": id, "start": 0.0, "duration": duration_s, "channel": 0}
    source = {"type": "file", "channels": [0], "source": path}
    recording = {"id": id, "sources": [source], "sampling_rate": RATE, "num_samples": samples}
    return common | {
        "type": "MonoCut",
        "supervisions": [common | said | {"recording_id": id, "alignment": {"word": aligned}}],
        "recording": recording | {"duration": duration_s},
    }


def add(texts: list[str], way: Way, folder: Path, speaker: str, split: str, hours: float) -> None:
    """Write the cuts of one voice until `hours` are full."""
    rows, total_s, name = [], 0.0, f"{speaker}.{split}"
    (folder / name).mkdir(parents=True, exist_ok=True)
    with Progress() as progress, tempfile.TemporaryDirectory() as scratch:
        task = progress.add_task(name, total=hours * 3600)
        for start in range(0, len(texts), BATCH):
            for text, samples, words in spoken(texts[start : start + BATCH], way, Path(scratch)):
                path = f"{name}/{len(rows):05d}.flac"
                soundfile.write(folder / path, samples, RATE)
                said = {"text": text, "speaker": speaker, "language": way.language}
                rows.append(cut(said, path, len(samples), words))
                total_s += len(samples) / RATE
            progress.update(task, completed=total_s)
            if total_s >= hours * 3600:
                break
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    draft = folder / f"{name}.part"
    draft.write_text(text, encoding="utf-8")
    draft.replace(folder / f"{name}.jsonl")
    print(f"{name}: {len(rows)} sentences, {total_s / 3600:.2f} h")


def main() -> None:
    """Say the sentences with one voice, unless that is done."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("texts", type=Path, help="sentences as they are said, one a line")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--voice", default="lp_diphone")
    parser.add_argument("--language", default="it")
    parser.add_argument("--stretch", type=float, default=1.0)
    parser.add_argument("--speed", type=float, default=1.0)
    parser.add_argument("--name", required=True, help="of the speaker")
    parser.add_argument("--split", choices=("train", "test"), default="train")
    parser.add_argument("--skip", type=int, default=0, help="sentences to leave to other voices")
    parser.add_argument("--hours", type=float, default=1.0)
    args = parser.parse_args()
    if not (args.folder / f"{args.name}.{args.split}.jsonl").exists():
        texts = args.texts.read_text(encoding="utf-8").splitlines()[args.skip :]
        way = Way(args.voice, args.language, args.stretch, args.speed)
        add(texts, way, args.folder, args.name, args.split, args.hours)


if __name__ == "__main__":
    main()

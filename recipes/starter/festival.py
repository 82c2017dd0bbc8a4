"""Debian's festival voices of English, many sentences a process."""

import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import soundfile
import soxr

from spoken import SAMPLE_RATE, Marks, Spoken

VOICES = {"slt": "cmu_us_slt_arctic_hts", "kal": "kal_diphone", "ked": "ked_diphone"}
PACKAGES = "apt-get install festival festvox-kallpc16k festvox-kdlpc16k festvox-us-slt-hts"
BATCH = 50  # sentences a process: festival keeps every utterance in memory

# Says a sentence, saves it, prints its words and segments with their ends.
SAY = """(define (told mark item end) (format t "%s %s %f\\n" mark (item.name item) (item.feat item end)))
(define (say number text path)
  (let ((u (utt.synth (eval (list 'Utterance 'Text text)))))
    (utt.save.wave u path 'riff)
    (format t "U %d\\n" number)
    (mapcar (lambda (w) (told "W" w "R:SylStructure.daughtern.daughtern.R:Segment.end"))
      (utt.relation.items u 'Word))
    (mapcar (lambda (s) (told "P" s "end")) (utt.relation.items u 'Segment))))
"""
PITCH = (
    "(set! int_lr_params '((target_f0_mean {hz}) (target_f0_std {spread})"
    " (model_f0_mean 170) (model_f0_std 34)))"
)


class Festival:
    """One festival voice. stretch: slows speech by that factor.

    pitch_hz: mean pitch of a diphone voice, 0 for its own.
    """

    def __init__(self, voice: str, stretch: float = 1.0, pitch_hz: float = 0.0) -> None:
        if voice not in VOICES:
            raise SystemExit(f"festival: unknown voice '{voice}'; use {', '.join(VOICES)}.")
        if pitch_hz and voice == "slt":
            raise SystemExit("festival: the pitch of slt cannot be set; use another speed.")
        self._head = [SAY, f"(voice_{VOICES[voice]})", f"(Parameter.set 'Duration_Stretch {stretch})"]
        if pitch_hz:
            self._head.append(PITCH.format(hz=pitch_hz, spread=round(0.15 * pitch_hz)))

    def say_all(self, texts: Iterable[str]) -> Iterator[Spoken]:
        """Yield the sound of each text with its words and phones; one that festival fails at is left out."""
        rest = iter(texts)
        while part := list(islice(rest, BATCH)):
            with tempfile.TemporaryDirectory() as folder:
                yield from self._batch(part, Path(folder))

    def _batch(self, texts: list[str], folder: Path) -> Iterator[Spoken]:
        calls = [f'(say {n} "{text}" "{folder}/{n}.wav")' for n, text in enumerate(texts)]
        (folder / "say.scm").write_text("\n".join((*self._head, *calls)), encoding="ascii")
        command = ["festival", "--batch", str(folder / "say.scm")]
        try:
            ran = subprocess.run(command, capture_output=True, text=True, encoding="latin-1", check=False)
        except FileNotFoundError as error:
            raise SystemExit(f"festival is not installed: {PACKAGES}") from error
        told = ran.stdout.split("U ")[1:]
        if not told:
            raise SystemExit(f"festival said nothing: {ran.stderr.strip()[-300:]}. Needed: {PACKAGES}")
        for utterance in told:
            number, *rows = utterance.splitlines()
            samples, rate = soundfile.read(folder / f"{number}.wav", dtype="float32")
            wave = np.clip(soxr.resample(samples, rate, SAMPLE_RATE), -1, 1)
            words, phones = _marks(rows, "W"), _marks(rows, "P")
            yield Spoken(texts[int(number)], (wave * 32767).astype(np.int16), _joined(words), phones)


def _marks(rows: list[str], kind: str) -> Marks:
    parts = (row.split() for row in rows if row.startswith(f"{kind} "))
    return [(label, float(end)) for _, label, end in parts]


def _joined(words: Marks) -> Marks:
    """Return words as they are written: festival takes "Mary's" for two, of which the second has no sound."""
    joined: Marks = []
    for word, end in words:
        if word.startswith("'") and joined and not end:
            joined[-1] = (joined[-1][0] + word, joined[-1][1])
        else:
            joined.append((word, end))
    return joined

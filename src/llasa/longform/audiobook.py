"""Lines that are said -> one sound file with chapters, and when each line is heard. Knows no engine.

Shapes: T samples.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from llasa.audio import BOOK_FORMATS, Encoder, check_target, loudness, replace_file
from llasa.core import Audio, Word
from llasa.errors import ConfigError, InputError
from llasa.held import scratch
from llasa.longform.book import Book
from llasa.longform.reading import Read
from llasa.longform.subtitles import FORMATS, Cue, subtitles
from llasa.provenance import Provenance
from llasa.seams import join, kept
from llasa.spoken import EDGE_SILENCE_S

USUAL_LUFS = -20.0  # spoken word on phones; EBU R 128 has -23 for broadcasts


def check_output(path: Path) -> None:
    """Refuse a file that could not be written, before anything is said.

    Raises:
        ConfigError: its suffix is none of `audio.BOOK_FORMATS`, or it cannot be written there.
    """
    if _format(path) not in BOOK_FORMATS:
        found = f"found '{path.suffix}'"
        raise ConfigError(f"Writing the book '{path}': {found}. Use one of {', '.join(BOOK_FORMATS)}.")
    check_target(path.resolve())


def bind(
    path: Path, book: Book, read: Sequence[Read], made: Provenance, lufs: float = USUAL_LUFS
) -> list[Cue]:
    """Write the file, whole or not at all, and return when each line is heard.

    Args:
        read: lines in order. made: what is told of the sound. lufs: loudness of each chapter.

    Raises:
        InputError: no line has any sound. ConfigError: the file cannot be written.
    """
    said = [one for one in read if one.sound is not None]
    if not said:
        raise InputError(f"Writing the book '{path}': no line has any sound. Try another seed or voice.")
    chapters = [list(lines) for _, lines in groupby(said, key=lambda one: one.line.chapter)]
    cues, marks, at_s, rate = list[Cue](), list[tuple[float, float, str]](), 0.0, 0
    for lines in chapters:  # an index is written before the sound, so it is put together twice
        own, length_s, rate = _timed(lines, at_s)
        title = book.chapters[lines[0].line.chapter].title
        marks.append((at_s, at_s + length_s, title or f"Part {len(marks) + 1}"))
        cues, at_s = cues + own, at_s + length_s
    sounds = (loudness(_chapter(lines), lufs) for lines in chapters)
    _encode(path.resolve(), book, made, marks, rate, sounds)
    return cues


def publish(
    path: Path, book: Book, read: Sequence[Read], made: Provenance, lufs: float = USUAL_LUFS
) -> dict[str, Any]:
    """Write the file and, beside it, subtitles in every form; return what became of it.

    Arguments and errors as for `bind`.
    """
    cues = bind(path, book, read, made, lufs)
    files = {form: path.with_suffix(f".{form}") for form in FORMATS}
    for form, place in files.items():
        replace_file(place.resolve(), subtitles(cues, form).encode())
    return {
        "output": str(path), "duration_s": round(cues[-1].end_s, 3), "lines": len(read),
        "subtitles": {form: str(place) for form, place in files.items()},
        "doubtful": [_doubt(one) for one in read if one.missed or one.warnings],
    }  # fmt: skip


def _doubt(one: Read) -> dict[str, Any]:
    missed = [word.text or f"+{word.heard}" for word in one.missed]
    found = {"number": one.number, "text": one.line.text, "value": one.value}
    return found | {"missed": missed, "warnings": list(one.warnings)}


def _timed(lines: Sequence[Read], at_s: float) -> tuple[list[Cue], float, int]:
    """Return the cues of a chapter that begins at `at_s`, its length with the pause behind it, its rate."""
    cues, now, rate = list[Cue](), at_s, 0
    for one in lines:
        audio = one.audio()
        assert audio is not None  # only lines with sound come here
        (start, end), rate = kept(audio, EDGE_SILENCE_S), audio.sample_rate
        length_s = (end - start) / rate
        words = tuple(_later(word, now - start / rate) for word in one.words)
        cues.append(Cue(one.number, one.line.chapter, one.line.text, now, now + length_s, words))
        now += length_s + round(one.line.pause_s * rate) / rate
    return cues, now - at_s, rate


def _later(word: Word, by_s: float) -> Word:
    times = [None if at is None else round(at + by_s, 3) for at in (word.start_s, word.end_s)]
    return replace(word, start_s=times[0], end_s=times[1])


def _chapter(lines: Sequence[Read]) -> Audio:
    """Return the sound of a chapter, with the pause behind its last line."""
    sounds = ([audio] for one in lines if (audio := one.audio()) is not None)
    pieces = list(join(sounds, [one.line.pause_s for one in lines], max_silence_s=EDGE_SILENCE_S))
    rate = pieces[0].sample_rate
    silence = np.zeros(round(lines[-1].line.pause_s * rate), np.float32)
    return Audio(np.concatenate([*(piece.samples for piece in pieces), silence]), rate)


def _encode(
    path: Path, book: Book, made: Provenance, marks: Sequence[tuple[float, float, str]], rate: int,
    sounds: Iterator[Audio],
) -> None:  # fmt: skip
    tags = {"title": book.title, "artist": book.author, "genre": "Audiobook", **made.tags}
    try:
        with scratch(path, f"Writing the book '{path}'") as folder:
            encoder = Encoder(_format(path), rate, file=folder / path.name, tags=tags, chapters=marks)
            for sound in sounds:
                encoder.push(made.mark(sound))
            encoder.close()
            (folder / path.name).replace(path)
    except OSError as error:
        found = f"the system says: {error.strerror or error}"
        todo = "Free space, or name another place"
        raise ConfigError(f"Writing the book '{path}': {found}. {todo}.") from error


def _format(path: Path) -> str:
    return path.suffix[1:].lower()

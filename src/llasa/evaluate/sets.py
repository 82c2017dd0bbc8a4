"""Test sets: lines to be said, some with a reference voice and a recording of what is said.

Must not know who says them or who listens.
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from llasa.audio import read
from llasa.core import Audio, Clip
from llasa.data.places import confined
from llasa.data.rejects import Reject
from llasa.data.sounds import load
from llasa.data.sources import open_source
from llasa.data.sources.coded import Coded
from llasa.data.texts import spread, texts_in
from llasa.errors import ConfigError, InputError
from llasa.evaluate.plan import SetBlock
from llasa.voice import MAX_S, MIN_S

SHOWN = 10  # rows that an error names
TEXTS, SEED, LIBRISPEECH = "texts", "seed-tts-eval", "librispeech-pc"


@dataclass(frozen=True)
class Line:
    """One text to be said. set: the test set's name. language: a code, or None as for any text.

    reference: a file of the voice to be cloned, and what is said in it; empty without one. recording: of this
    text as a person said it, if there is one.
    """

    set: str
    id: str
    text: str
    language: str | None = None
    reference: str = ""
    reference_text: str = ""
    recording: Clip | None = None

    @property
    def name(self) -> str:
        """What errors call it."""
        return f"{self.set}, {self.id}"


def lines_of(block: SetBlock) -> list[Line]:
    """Return the lines of a test set, those chosen if there are more than `lines`.

    Raises:
        ConfigError: it cannot be read, is empty, or rows of it are no lines; names the first rows.
        MissingExtra: it holds tables, and pyarrow is not installed.
    """
    doing = f"Reading the test set '{block.title}'"
    rows = list(_rows(block, doing))
    if not rows:
        raise ConfigError(f"{doing}: found no text in '{block.source}'. Give one a line.")
    some = [rows[place] for place in spread(len(rows), block.lines or len(rows))]
    refuse(doing, [(one.place, one.detail) for one in some if isinstance(one, Reject)], len(some))
    lines = [one for one in some if isinstance(one, Line)]
    names = [line.id for line in lines]
    twice = [(name, "another row has this name") for name in dict.fromkeys(names) if names.count(name) > 1]
    empty = [(line.id, "it has no text") for line in lines if not line.text.strip()]
    refuse(doing, twice + empty, len(lines))
    return lines


def refuse(doing: str, problems: Sequence[tuple[str, str]], total: int) -> None:
    """Raise ConfigError that names the first rows, if there are problems."""
    if problems:
        shown = [f"  {name}: {why}" for name, why in problems[:SHOWN]]
        more = [f"  and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
        found = f"{len(problems)} of {total} rows cannot be used."
        raise ConfigError("\n".join([f"{doing}: {found}", *shown, *more, "Correct or remove them."]))


def _rows(block: SetBlock, doing: str) -> Iterator[Line | Reject]:
    path = Path(block.source) if block.source else None
    kind = block.kind or _kind(path)
    if kind == LIBRISPEECH and block.sounds is None:
        raise ConfigError(
            f"{doing}: found no folder of LibriSpeech. Name it: sounds = 'LibriSpeech/test-clean'."
        )
    if kind in (TEXTS, SEED, LIBRISPEECH):
        for number, text in texts_in(path, doing):
            yield _line(block, kind, path or Path(), number, text)
        return
    source = open_source(path or Path(), kind, language=block.language or "en")
    for row in source.rows():
        if isinstance(row, Coded):
            raise ConfigError(f"{doing}: found codes, kind '{source.kind}'. Give texts or recordings.")
        yield row if isinstance(row, Reject) else _recorded(block.title, row)


def _kind(path: Path | None) -> str | None:
    if path is None or path.suffix in (".txt", ""):
        return TEXTS if path is None or path.is_file() or not path.exists() else None
    if path.suffix == ".lst":
        first = texts_in(path, "Reading the test set")[:1]
        return LIBRISPEECH if first and "\t" in first[0][1] else SEED
    return None


def _line(block: SetBlock, kind: str, path: Path, number: int, text: str) -> Line | Reject:
    if kind == TEXTS:
        return Line(block.title, f"line-{number}", text, block.language)
    make = _seed if kind == SEED else _librispeech
    found = make(block, path.parent, text)
    return found if isinstance(found, Line) else Reject("", f"line-{number}", "malformed", found)


def _seed(block: SetBlock, folder: Path, row: str) -> Line | str:
    """Read `name|prompt text|prompt sound|text`, and perhaps the recording."""
    cells = [cell.strip() for cell in row.split("|")]
    if len(cells) not in (4, 5):
        return f"it has {len(cells)} columns, not 4 or 5 with '|' between"
    prompt = confined(folder, folder, cells[2])
    sound = confined(folder, folder, cells[4] if len(cells) == 5 else f"wavs/{cells[0]}.wav")
    if prompt is None or sound is None:
        return f"'{cells[2]}' or the recording leads out of the folder of the list"
    recording = Clip(cells[0], str(sound), cells[3]) if len(cells) == 5 or sound.is_file() else None
    return Line(block.title, cells[0], cells[3], block.language, str(prompt), cells[1], recording)


def _librispeech(block: SetBlock, folder: Path, row: str) -> Line | str:
    """Read reference, seconds, its text, then name, seconds and text of what is to be said, tabs between.

    Source: the list of F5-TTS (arXiv 2410.06885), cross-sentence task.
    """
    cells = [cell.strip() for cell in row.split("\t")]
    if len(cells) != 6 or not all(_NAME.fullmatch(cells[place]) for place in (0, 3)):
        return "it is no row of six columns with tabs between, the first and fourth as in 1089-134686-0001"
    prompt, sound = (_flac(Path(block.sounds or ""), cells[place]) for place in (0, 3))
    recording = Clip(cells[3], str(sound), cells[5]) if sound.is_file() else None
    return Line(block.title, cells[3], cells[5], block.language or "en", str(prompt), cells[2], recording)


_NAME = re.compile(r"\d+-\d+-\d+")


def _flac(folder: Path, name: str) -> Path:
    speaker, chapter, _ = name.split("-")
    return folder / speaker / chapter / f"{name}.flac"


def _recorded(title: str, clip: Clip) -> Line:
    return Line(title, clip.id, clip.text, clip.language, recording=clip)


def reference_of(line: Line) -> Audio:
    """Return the recording of the voice to be cloned; InputError if there is none or it is of no use."""
    return read(line.reference, min_s=MIN_S, max_s=MAX_S)


def problems_of(line: Line) -> list[tuple[str, str]]:
    """Return what is wrong with the sounds of a line."""
    found: list[tuple[str, str]] = []
    try:
        if line.reference:
            reference_of(line)
        if line.recording:
            load(line.recording, min_s=0.0, max_s=600.0)
    except InputError as error:
        found.append((line.name, str(error)))
    return found


def digest(lines: Sequence[Line]) -> str:
    """Return what changes with any line, but not with the folder its sounds lie in."""
    places = [replace(line, reference=Path(line.reference).name, recording=None) for line in lines]
    return hashlib.sha256(repr(places).encode("utf-8", "backslashreplace")).hexdigest()[:16]

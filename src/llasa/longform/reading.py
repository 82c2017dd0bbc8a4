"""Says the lines of a book, one file each, so that what is done stays done and one can be said again.

The folder holds, for each line, its sound and what was heard of it; both are found again by all that they
were made from. Must not know: command lines, subtitles, what becomes of the files.
"""

import hashlib
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from llasa.audio import encode, read, replace_file
from llasa.bundle import Bundle
from llasa.core import Audio, Voice, Word, plain
from llasa.errors import BundleError, ConfigError, EngineError, InputError, ScorerError
from llasa.held import hold
from llasa.longform.script import Line
from llasa.manifest import MANIFEST
from llasa.recipe import Effort
from llasa.spoken import Spoken, concatenated, voiced
from llasa.synthesizer import Synthesizer

ANOTHER_TAKE = 1_000_003  # added to the seed each time that a line is redone
_AGAIN = "again.json"


@dataclass(frozen=True)
class Read:
    """A line, said. number, total: which of how many of the book.

    sound: its file, None if no speech came. take: how often it was redone. words: with places in the line's
    text and times in its sound; empty where nobody listened. value: the judge's, None without one.
    """

    line: Line
    total: int
    sound: Path | None
    take: int
    duration_s: float
    words: tuple[Word, ...]
    value: float | None
    warnings: tuple[str, ...]

    @property
    def number(self) -> int:
        """Of the line."""
        return self.line.number

    @property
    def missed(self) -> tuple[Word, ...]:
        """The words that were not heard as they are written."""
        return tuple(word for word in self.words if word.status != "said")

    def audio(self) -> Audio | None:
        """Return its sound."""
        return None if self.sound is None else read(self.sound)


@dataclass
class Reading:
    """How a book is read: by whom, how carefully, and where that is kept.

    voice: who reads where the text names nobody. effort: how each line is searched for; None: the first try
    is taken and nobody listens. sampling: as of `Synthesizer.speak`.
    """

    synthesizer: Synthesizer
    folder: Path
    voice: Voice | None
    effort: Effort | None
    seed: int
    language: str
    sampling: Mapping[str, object]

    def check(self, lines: Sequence[Line]) -> None:
        """Refuse lines whose voice is not known, before the first is said.

        Raises:
            ConfigError: with the line's number.
        """
        known = self.synthesizer.bundle.voices
        for line in lines:
            if line.voice is not None and line.voice not in known.names():
                found = f"[voice:{line.voice}]"
                raise ConfigError(
                    f"Reading line {line.number}: found {found}. Use one of {', '.join(known.names())}."
                )

    @contextmanager
    def held(self) -> Iterator[None]:
        """Work in the folder inside, alone; when that ends well, what was asked for again is done.

        Raises:
            ConfigError: another process works there, or it cannot be written.
        """
        doing = f"Keeping the lines in '{self.folder}'"
        try:
            lock = hold(self.folder, doing)
        except OSError as error:
            found = f"the system says: {error.strerror}"
            raise ConfigError(f"{doing}: {found}. Free 4096 bytes there, or name another place.") from error
        try:
            yield
            (self.folder / _AGAIN).unlink(missing_ok=True)
        finally:
            lock.release()

    def lines(self, lines: Sequence[Line], again: Collection[int] = ()) -> Iterator[Read]:
        """Yield the lines, in order, each said if it is not kept or is asked for again.

        Stopped inside `held`, the same asked for again goes on with what is left of it.

        Raises:
            ConfigError: a file cannot be written.
            EngineError: the engine failed; what was said before is kept.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        takes = self._takes([line for line in lines if line.number in again])
        for line in lines:
            yield self._line(line, len(lines), takes.get(line.number, 0))

    def _takes(self, again: Sequence[Line]) -> dict[int, int]:
        """Return which take each line shall have: the next one, or what was begun with the same lines."""
        path = self.folder / _AGAIN
        try:
            begun = {int(number): int(take) for number, take in json.loads(path.read_text("utf-8")).items()}
        except (OSError, ValueError, AttributeError, TypeError):
            begun = {}
        if begun.keys() != {line.number for line in again}:
            found = {line.number: self._found(line) for line in again}
            begun = {number: int(one["take"]) + 1 if one else 0 for number, one in found.items()}
            replace_file(path, json.dumps(begun).encode())
        return begun

    def kept(self, lines: Sequence[Line]) -> list[int]:
        """Return the numbers of those that are said already."""
        return [line.number for line in lines if self._found(line) is not None]

    def _line(self, line: Line, total: int, take: int) -> Read:
        found = self._found(line)
        if found is None:
            self._place(line).unlink(missing_ok=True)  # what it tells would not be of the new sound
        if found is None or found["take"] < take:
            found = self._said(line, take)
            told = plain({**found, "words": [asdict(word) for word in found["words"]]})
            replace_file(self._place(line), json.dumps(told, ensure_ascii=False).encode())
        words, sound = tuple(found["words"]), self._kept_sound(line, found["take"])
        for other in self.folder.glob(f"{line.number:06}*.flac"):  # of takes before, or one that only began
            if other != sound:
                other.unlink()
        rest = (found["duration_s"], words, found["value"], tuple(found["warnings"]))
        return Read(line, total, sound if found["duration_s"] else None, found["take"], *rest)

    def _found(self, line: Line) -> dict[str, Any] | None:
        """Return what is kept of a line, if that is what would be said now."""
        try:
            found = json.loads(self._place(line).read_text(encoding="utf-8"))
            found["words"] = [Word(**word) for word in found["words"]]
            _ = found["take"] + 1, found["value"], tuple(found["warnings"])
            whole = not found["duration_s"] or self._kept_sound(line, found["take"]).is_file()
            return found if whole and found["key"] == self._key(line) else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _place(self, line: Line) -> Path:
        return self.folder / f"{line.number:06}.json"

    def _sound(self, line: Line, take: int) -> Path:
        """Return the file of a take: the one before stays until the new one is whole and told of."""
        return self.folder / (f"{line.number:06}-{take}.flac" if take else f"{line.number:06}.flac")

    def _kept_sound(self, line: Line, take: int) -> Path:
        """Return where a take is: earlier versions wrote each over the one before."""
        own = self._sound(line, take)
        return own if own.is_file() else self._sound(line, 0)

    def _voice(self, line: Line) -> Voice | None:
        return self.voice if line.voice is None else self.synthesizer.voice(line.voice)

    def _key(self, line: Line) -> str:
        """Return what stands for all that decides how a line sounds, but its take."""
        bundle, voice, effort = self.synthesizer.bundle, self._voice(line), self.effort
        facts = {
            "said": line.said, "language": self.language, "seed": self.seed, "sampling": dict(self.sampling),
            "bundle": _weights(bundle), "codec": bundle.codec.name, "engine": bundle.engine.name,
            "dtype": getattr(bundle.engine, "dtype", None), "words": dict(bundle.words or {}),
            "voice": None if voice is None else [voice.name, voice.text, list(voice.codes)],
            "search": None if effort is None else [_settings(effort), effort.deadline_s, effort.deadline_x],
            "recipe": effort.recipe.model_dump(mode="json") if effort and effort.recipe else None,
        }  # fmt: skip
        return hashlib.sha256(json.dumps(plain(facts), sort_keys=True, default=str).encode()).hexdigest()

    def _said(self, line: Line, take: int) -> dict[str, Any]:
        """Say a line, keep its sound, and return what is kept of it besides."""
        seed, speaker = self.seed + take * ANOTHER_TAKE, self.synthesizer
        how = (self._voice(line), seed, self.effort or 1, self.language)
        spoken, trouble, words, values = list[Spoken](), list[str](), list[Word](), list[float]()
        try:
            spoken += speaker.speak(line.said, *how, **dict(self.sampling))
        except (InputError, ScorerError) as error:  # of this line: the book goes on
            trouble.append(str(error))
        if self.effort is not None and spoken:
            receipt = speaker.receipt(line.said, spoken, self.effort)
            words = [_placed(word, line) for part in receipt.segments for word in part.words]
            values = [part.value for part in receipt.segments if part.value is not None]
        return {
            "key": self._key(line), "take": take, "duration_s": self._write(line, take, spoken),
            "text": line.text, "said": line.said, "value": min(values, default=None),
            "words": words, "warnings": [*trouble, *(said for one in spoken for said in one.warnings)],
        }  # fmt: skip

    def _write(self, line: Line, take: int, spoken: Sequence[Spoken]) -> float:
        try:
            audio = concatenated(voiced(spoken))
        except EngineError:  # no speech came: that is told, and the book goes on
            return 0.0
        replace_file(self._sound(line, take), encode(audio, "flac"))
        return audio.duration_s


def _placed(word: Word, line: Line) -> Word:
    start, end = line.place(word.start, word.end)
    return replace(word, start=start, end=end, text=line.text[start:end] if word.text else "")


def _settings(effort: Effort) -> dict[str, object]:
    """Return what a search was told, but for what it works with."""
    given = {key: value for key, value in vars(effort.search).items() if isinstance(value, int | float | str)}
    return {"kind": type(effort.search).__name__, **given}


def _weights(bundle: Bundle) -> list[str]:
    """Return a bundle's name and what stands for its files."""
    manifest = bundle.folder / MANIFEST
    return [bundle.name, hashlib.sha256(manifest.read_bytes()).hexdigest() if manifest.is_file() else ""]


def numbers_of(words: str, most: int, doing: str) -> list[int]:
    """Return the numbers that "3,17-20" names.

    Raises:
        ConfigError: it is no such list, or one is not in [1, most].
    """
    found = list[int]()
    for part in words.split(","):
        named = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        if not named:
            raise ConfigError(f"{doing}: found '{part.strip()}'. Give numbers such as 3,17-20.")
        first, last = int(named[1]), int(named[2] or named[1])
        if not 1 <= first <= last <= most:
            raise ConfigError(f"{doing}: found '{part.strip()}'. There are 1 to {most}.")
        found += range(first, last + 1)
    return found


def not_folder(folder: Path) -> None:
    """Raise BundleError if a file stands where lines are to be kept."""
    if folder.exists() and not folder.is_dir():
        raise BundleError(f"Keeping the lines in '{folder}': there is a file. Move it away.")

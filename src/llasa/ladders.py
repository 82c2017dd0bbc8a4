"""Candidates of known order, from good to bad: planted defects, or files of pairs and labels.

They calibrate and test judges. Must not know: judges, scorers.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path

from pydantic import BaseModel, Field, ValidationError

from llasa import config
from llasa.audio import read
from llasa.codec.base import Codec
from llasa.core import Candidate, Utterance
from llasa.defects import DEFECTS
from llasa.errors import ConfigError, InputError, LlasaError
from llasa.synthesizer import Synthesizer, VoiceLike

LINES = (
    "The harbour was quiet when the last ferry came in.",
    "She put the letter on the table and looked out of the window.",
    "Twenty people waited in the rain for the doors to open.",
    "If you turn left at the church, you will see the old mill.",
    "His brother sold the green bicycle to a neighbour last summer.",
    "We had soup, bread and a little cheese, and that was enough.",
    "Nobody knew why the clock in the tower had stopped.",
    "The children drew pictures of animals on the long white wall.",
    "Every morning the baker carries fresh rolls across the square.",
    "A small plane circled over the lake and flew back north.",
    "Please bring the blue folder and two sharp pencils.",
    "Most visitors leave the valley before the first snow falls.",
)


@dataclass(frozen=True)
class Ladder:
    """Candidates of one text that are known to differ.

    kind: how they differ. ranks: one a candidate, lower is better. number, total: which of how many, from 1.
    """

    kind: str
    candidates: tuple[Candidate, ...]
    ranks: tuple[float, ...]
    number: int = 1
    total: int = 1

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """Places of (better, worse)."""
        places = range(len(self.ranks))
        return [(i, j) for i in places for j in places if self.ranks[i] < self.ranks[j]]


def spoken(
    synthesizer: Synthesizer, lines: Sequence[str], voices: Sequence[VoiceLike | None], seed: int = 0
) -> list[Candidate]:
    """Return one attempt at each line by each voice, but for those that did not end by themselves."""
    drawn = [
        synthesizer.candidates(line, voice, seed=seed + number)[0]
        for number, line in enumerate(lines)
        for voice in voices
    ]
    return [one for one in drawn if one.finish == "stop" and one.audio is not None]


def planted(codec: Codec, candidates: Sequence[Candidate], seed: int = 0) -> Iterator[Ladder]:
    """Yield each candidate with each of `defects.DEFECTS`: first as it was, then from mild to hopeless.

    Args:
        candidates: those without audio are passed over.
    """
    candidates = [one for one in candidates if one.audio is not None]
    total = len(candidates) * len(DEFECTS)
    for place, clean in enumerate(candidates):
        voice = clean.utterance.voice
        other = codec.decode([voice.codes])[0] if voice else None
        for number, (name, defect) in enumerate(DEFECTS.items(), place * len(DEFECTS) + 1):
            assert clean.audio is not None
            sounds = [defect(clean.audio, one, seed + place, other) for one in defect.severities]
            rows = codec.encode(sounds)
            worse = [replace(clean, codes=row, audio=sound) for row, sound in zip(rows, sounds, strict=True)]
            yield Ladder(name, (clean, *worse), tuple(range(len(worse) + 1)), number, total)


class _Row(BaseModel):
    """A line of a file of pairs or labels."""

    model_config = config.STRICT
    text: str = Field(min_length=1)
    voice: str | None = None
    better: str | None = None
    worse: str | None = None
    audio: str | None = None
    codes: list[int] | None = Field(default=None, min_length=1)
    score: float | None = Field(default=None, allow_inf_nan=False)
    rank: float | None = Field(default=None, allow_inf_nan=False)


_FORMS = (
    'Write {"text", "better", "worse"} with paths of sound files, or {"text", "audio" or "codes", "score" '
    'or "rank"}; "voice" may be added'
)


def labelled(path: str | PathLike[str], synthesizer: Synthesizer) -> list[Ladder]:
    """Return the ladders of a JSONL file: pairs of sound files, or labelled sounds or codes.

    A line is `{"text", "better", "worse"}`, or `{"text", "audio" | "codes", "score" | "rank"}`: of the same
    text and voice, the higher score or the lower rank is better. `voice` names one of the bundle, its default
    one if left out. Paths of sounds are relative to the file.

    Raises:
        InputError: the file or a sound in it cannot be read, a line is none of these, or no two candidates
            differ; names the line.
    """
    path = Path(path)
    groups: dict[tuple[str, ...], list[tuple[Candidate, float]]] = {}
    for number, row in _rows(path):
        try:
            key, found = _labelled(row, number, path.parent, synthesizer)
        except LlasaError as error:
            raise InputError(f"Reading '{path}', line {number}: {error}") from error
        groups.setdefault(key, []).extend(found)
    kept = [group for group in groups.values() if len({rank for _, rank in group}) > 1]
    if not kept:
        found = "no text has two candidates of different score or rank"
        raise InputError(f"Reading '{path}': {found}. Add some; they need the same text and voice.")
    return [_ladder(path.name, group, number, len(kept)) for number, group in enumerate(kept, 1)]


def _ladder(kind: str, group: Sequence[tuple[Candidate, float]], number: int, total: int) -> Ladder:
    candidates, ranks = tuple(one for one, _ in group), tuple(rank for _, rank in group)
    return Ladder(kind, candidates, ranks, number, total)


def _rows(path: Path) -> Iterator[tuple[int, _Row]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"Reading '{path}': {error}. Give a JSONL file in UTF-8.") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            yield number, _checked(_Row.model_validate_json(line))
        except ValidationError as error:
            problem = error.errors()[0]
            place = ".".join(map(str, problem["loc"]))
            found = f"{place}: {problem['msg']}" if place else problem["msg"]
            raise InputError(f"Reading '{path}', line {number}: found {found}. {_FORMS}.") from error
        except ConfigError as error:
            raise InputError(f"Reading '{path}', line {number}: {error} {_FORMS}.") from error


def _checked(row: _Row) -> _Row:
    given = {key for key, value in row.model_dump().items() if value is not None} - {"text", "voice"}
    labels = [{sound, label} for sound in ("audio", "codes") for label in ("score", "rank")]
    if given not in ({"better", "worse"}, *labels):
        raise ConfigError(f"found {', '.join(sorted(given)) or 'nothing'} beside the text.")
    return row


def _labelled(
    row: _Row, number: int, folder: Path, synthesizer: Synthesizer
) -> tuple[tuple[str, ...], list[tuple[Candidate, float]]]:
    """Return the ladder that a line belongs to, and its candidates with their ranks."""
    voice = synthesizer.voice(row.voice)
    said = Utterance(f"line {number}", row.text, voice)
    key = (row.text, voice.name if voice else "")
    codec = synthesizer.bundle.codec
    if row.better and row.worse:
        return (*key, str(number)), [
            (_heard(said, folder / name, codec), rank) for rank, name in enumerate((row.better, row.worse))
        ]
    rank = row.rank if row.rank is not None else -(row.score or 0.0)
    if row.audio:
        return key, [(_heard(said, folder / row.audio, codec), rank)]
    codes = row.codes or []
    if not all(0 <= code < codec.codebook_size for code in codes):
        raise InputError(f"found a code outside 0 to {codec.codebook_size - 1}. Use this bundle's codec.")
    return key, [(Candidate(said, codes, "stop"), rank)]


def _heard(said: Utterance, path: Path, codec: Codec) -> Candidate:
    audio = read(path)
    return Candidate(said, codec.encode([audio])[0], "stop", audio=audio)

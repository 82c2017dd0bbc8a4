"""The rows a recogniser is trained on: clips with the tokens said in them, drawn speaker by speaker.

Texts are held out by their hash, so no voice and no copy of a held-out text is trained on. Sound is read when
it is drawn. Knows no network.
"""

import hashlib
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from zlib import crc32

import numpy as np
import torch

from llasa.audio import resample
from llasa.core import Clip, Ids, Utterance
from llasa.data import sounds
from llasa.data.rejects import BadClip, Reject
from llasa.errors import InputError
from llasa.recognizers.base import TextForm
from llasa.recognizers.ctc import token_ids
from llasa.scorers.likelihood import in_form
from llasa.text.reading import Reader
from llasa.train.codec.crops import HELD_OUT_SPLITS, pieces_of
from llasa.train.recognizer.recipe import DataBlock, Recipe

log = logging.getLogger(__name__)

SHORTEST_S = 0.3


@dataclass(frozen=True)
class Line:
    """A clip and what is said in it. said: in the recogniser's text form. weight: of its source."""

    clip: Clip
    length_s: float
    said: str
    weight: float = 1.0

    @property
    def group(self) -> str:
        """Whose speech it is."""
        return f"{self.clip.language} {self.clip.speaker}"


@dataclass
class Material:
    """All rows. tokens: the alphabet of the texts, the word mark first; empty for English's."""

    train: list[Line]
    held: list[Line]
    rejects: list[Reject]
    tokens: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """Changes when a clip, its cut, its text or its use changes."""
        digest = hashlib.sha256()
        for part in (self.train, self.held):
            for line in part:
                digest.update(f"{line}\n".encode())
            digest.update(b"\0")
        return digest.hexdigest()


def is_held_out(text: str, share: float = 0.025) -> bool:
    """Return whether a text is kept for validation, the same for all voices and copies."""
    return crc32(text.encode()) < share * 2**32


def gather(recipe: Recipe, reader: Reader, frame_s: float) -> Material:
    """Return the clips of all sources with their texts in the recogniser's form; sound is not read yet.

    frame_s: seconds of an output frame; a text of more tokens than frames cannot have been said.

    Raises:
        InputError: nothing is left to train on, or nothing to measure on.
        ConfigError: the reader cannot read a language in this form.
    """
    rejects: list[Reject] = []
    lines = [line for block in recipe.data for line in _lines(block, recipe, reader, rejects)]
    tokens = _alphabet(lines) if recipe.text == "letters" else ()
    lines = [line for line in lines if _fits(line, recipe.text_form, tokens, frame_s, rejects)]
    # A text that any source keeps for testing is kept whoever says it.
    kept = {line.said for line in lines if line.clip.split.lower() in HELD_OUT_SPLITS}
    held = [line.said in kept or is_held_out(line.said, recipe.held_out) for line in lines]
    train = [line for line, out in zip(lines, held, strict=True) if not out]
    material = Material(train, [line for line, out in zip(lines, held, strict=True) if out], rejects, tokens)
    if not material.train or not material.held:
        found = f"{len(train)} clips to train on, {len(material.held)} held out, {len(rejects)} of no use"
        first = f" First: {rejects[0].detail}" if rejects else ""
        raise InputError(f"Gathering speech: found {found}.{first} Give more data, or change held_out.")
    return material


def _lines(block: DataBlock, recipe: Recipe, reader: Reader, rejects: list[Reject]) -> Iterable[Line]:
    pieces, unusable = pieces_of(block.path, block.kind)
    rejects += unusable
    for piece in pieces:
        try:
            _check_length(piece.length_s, recipe.longest_s)
            yield Line(piece.clip, piece.length_s, _said(piece.clip, reader, recipe.text_form), block.weight)
        except BadClip as error:
            rejects.append(Reject(piece.clip.id, piece.clip.audio, error.reason, str(error)))


def _check_length(length_s: float, longest_s: float) -> None:
    if length_s < SHORTEST_S:
        raise BadClip("too-short", f"It lasts {length_s:.2f} s. Clips have {SHORTEST_S} s or more.")
    if length_s > longest_s:
        raise BadClip("too-long", f"It lasts {length_s:.1f} s. The recipe's longest_s is {longest_s:g}.")


def _said(clip: Clip, reader: Reader, form: TextForm) -> str:
    if not clip.text.strip():
        raise BadClip("no-text", "It has no text. A recogniser learns from speech with its text.")
    try:
        return in_form(reader, Utterance(clip.id, clip.text, language=clip.language), form)
    except InputError as error:
        raise BadClip("bad-text", str(error)) from error


def _alphabet(lines: Sequence[Line]) -> tuple[str, ...]:
    return (" ", *sorted({sign for line in lines for sign in line.said} - {" "}))


def _fits(line: Line, form: TextForm, tokens: Sequence[str], frame_s: float, rejects: list[Reject]) -> bool:
    """Tell whether the tokens are known and there is a frame for each, and one between two that are alike."""
    try:
        ids = token_ids(line.said, form, tokens)
        needed_s = (len(ids) + sum(a == b for a, b in pairwise(ids))) * frame_s
        if needed_s > line.length_s:
            found = f"{len(ids)} tokens in {line.length_s:.2f} s"
            raise BadClip("text-too-long", f"It has {found}, which nobody can say. Check the text.")
    except InputError as error:
        reason = error.reason if isinstance(error, BadClip) else "bad-text"
        rejects.append(Reject(line.clip.id, line.clip.audio, reason, str(error)))
        return False
    return True


@dataclass(frozen=True)
class Spoken:
    """One utterance. samples: float32 [T]; ids: the tokens said."""

    samples: np.ndarray
    ids: Ids


@dataclass
class Corpus:
    """Lines to draw from, one group a speaker. All randomness is torch's global generator.

    bad: the clips whose sound is of no use, found when they were drawn.
    """

    train: Sequence[Line]
    held: Sequence[Line]
    text_form: TextForm
    sample_rate: int
    tokens: tuple[str, ...] = ()
    bad: dict[str, Reject] = field(default_factory=dict[str, Reject])

    def __post_init__(self) -> None:
        groups: dict[str, list[Line]] = {}
        for line in self.train:
            groups.setdefault(line.group, []).append(line)
        self.groups = list(groups.values())
        # The square root lets speakers with little speech be heard more often than their share.
        shares = [len(group) ** 0.5 * sum(x.weight for x in group) / len(group) for group in self.groups]
        self._shares = torch.tensor(shares)

    def draw(self) -> Line:
        """Return one training line."""
        group = self.groups[int(torch.multinomial(self._shares, 1))]
        return group[int(torch.randint(len(group), ()))]

    def spoken(self, line: Line) -> Spoken | None:
        """Return a line with its sound; None if that is of no use."""
        try:
            sound = resample(sounds.load(line.clip, min_s=SHORTEST_S), self.sample_rate)
        except BadClip as error:
            if line.clip.id not in self.bad:
                log.warning("%s", error)
            self.bad[line.clip.id] = Reject(line.clip.id, line.clip.audio, error.reason, str(error))
            return None
        return Spoken(sound.samples, token_ids(line.said, self.text_form, self.tokens))

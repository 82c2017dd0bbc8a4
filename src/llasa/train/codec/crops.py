"""Random crops of a source's clips, read by seeking and brought to one loudness. Knows no network.

Crop i of a run is a function of (seed, i) alone, so a resumed run draws what an uninterrupted one would have
drawn, and the next batch is read while this one is learnt from.
"""

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor

from llasa.audio import replace_file, resample
from llasa.core import Audio, Clip
from llasa.data import sounds
from llasa.data.rejects import BadClip, Reject
from llasa.data.sources import open_source
from llasa.errors import InputError
from llasa.train.codec.recipe import DataBlock

log = logging.getLogger(__name__)

HELD_OUT_SPLITS = {"test", "dev", "valid", "validation", "heldout", "held-out", "eval"}
UNKNOWN = -100  # the label of a place whose phone is not known
_LEVEL_S = 20.0  # a clip's loudness is that of its beginning
_TRIES = 50
_JITTER = 0.15  # of the loudness of a crop, as a power of ten: 3 dB up or down


@dataclass(frozen=True)
class Piece:
    """A clip that crops are taken of. length_s: of the whole clip; weight: how often it is drawn a second."""

    clip: Clip
    length_s: float
    weight: float = 1.0


@dataclass(frozen=True)
class Material:
    """What a run learns from and is measured on, and the rows that are of no use."""

    train: tuple[Piece, ...]
    held: tuple[Piece, ...]
    rejects: tuple[Reject, ...]

    @property
    def phones(self) -> list[str]:
        """The names of all phones, in order."""
        return sorted({label for piece in (*self.train, *self.held) for label, _ in piece.clip.phones})

    @property
    def digest(self) -> str:
        """Changes when a clip, its cut, its phones or its use changes."""
        digest = hashlib.sha256()
        for part in (self.train, self.held):
            for piece in part:
                digest.update(repr(piece).encode())
            digest.update(b"\0")
        return digest.hexdigest()


def gather(blocks: Sequence[DataBlock]) -> Material:
    """Return the clips of all sources with their lengths; sound is not read yet.

    Raises:
        InputError: nothing is left to train on, or nothing to measure on.
    """
    train: list[Piece] = []
    held: list[Piece] = []
    rejects: list[Reject] = []
    for block in blocks:
        pieces, unusable = pieces_of(block.path, block.kind, block.weight)
        rejects += unusable
        for piece in pieces:
            (held if _is_held(piece.clip, block) else train).append(piece)
    if not train or not held:
        found = f"{len(train)} clips to train on, {len(held)} held out, {len(rejects)} of no use"
        first = f" First: {rejects[0].detail}" if rejects else ""
        raise InputError(
            f"Gathering sound from {', '.join(block.path for block in blocks)}: found {found}.{first} "
            "Give more data, or change held_out."
        )
    return Material(tuple(train), tuple(held), tuple(rejects))


def pieces_of(path: str, kind: str | None, weight: float = 1.0) -> tuple[list[Piece], list[Reject]]:
    """Return the clips of a source with their lengths, and the rows of no use.

    Raises:
        InputError: it is no source, or one of codes.
    """
    found = [_piece(row, weight) for row in open_source(path, kind).rows()]
    pieces = [row for row in found if isinstance(row, Piece)]
    return pieces, [row for row in found if isinstance(row, Reject)]


def write_rejects(path: Path, rejects: Sequence[Reject]) -> None:
    """Write `rejects.jsonl`, a row each."""
    rows = "".join(json.dumps(reject.row(), ensure_ascii=False) + "\n" for reject in rejects)
    replace_file(path, rows.encode())


def _piece(row: object, weight: float) -> Piece | Reject:
    if isinstance(row, Reject):
        return row
    if not isinstance(row, Clip):
        raise InputError("Gathering sound: this source holds codes, no sound. Name the recordings.")
    try:
        return Piece(row, _length_s(row), weight)
    except BadClip as error:
        return _reject(row, error)


def _reject(clip: Clip, error: BadClip) -> Reject:
    return Reject(clip.id, clip.audio, error.reason, str(error))


def _length_s(clip: Clip) -> float:
    length_s = _seconds(clip)
    if length_s <= 0:
        raise BadClip("empty", f"Reading '{clip.audio}': nothing is left after {clip.start_s:g} s. Check it.")
    return length_s


def _seconds(clip: Clip) -> float:
    if clip.end_s is not None:
        return clip.end_s - clip.start_s
    if not Path(clip.audio).is_file():  # a place inside an archive
        return sounds.load(clip).duration_s
    try:
        return soundfile.info(clip.audio).duration - clip.start_s
    except (OSError, RuntimeError) as error:
        raise BadClip("unreadable", f"Reading '{clip.audio}': {error}. Convert or remove it.") from error


def _is_held(clip: Clip, block: DataBlock) -> bool:
    if clip.split.lower() in HELD_OUT_SPLITS:
        return True
    key = clip.speaker if block.by == "speaker" and clip.speaker else clip.id
    drawn = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") / 2**32
    return drawn < block.held_out


@dataclass(frozen=True)
class Shape:
    """Of a batch. rows: crops; samples: of a crop; sample_rate: in Hz; label_hop: samples a phone label."""

    rows: int
    samples: int
    sample_rate: int
    label_hop: int = 320


class Crops:
    """Batches of random crops, the next one read ahead.

    A clip that cannot be read is left out from then on and kept in `bad`; a crop that is silent is drawn
    again.
    """

    def __init__(
        self,
        pieces: Sequence[Piece],
        shape: Shape,
        phones: Sequence[str],
        seed: str,
        level: float = 0.08,
    ) -> None:
        """Take clips; `phones` names the labels, the same for training and held-out crops."""
        self.pieces, self.shape, self.level, self.seed = list(pieces), shape, level, seed
        self.index: Mapping[str, int] = {phone: n for n, phone in enumerate(phones)}
        weights = np.array([piece.weight * piece.length_s for piece in self.pieces])
        self._share = np.cumsum(weights / weights.sum())
        self._gains: dict[int, float] = {}
        self._bad: dict[int, Reject] = {}  # by piece: two sources may use one id
        self._pool = ThreadPoolExecutor(1, "crops")
        self._ahead: tuple[int, Future[tuple[Tensor, Tensor]]] | None = None

    @property
    def bad(self) -> list[Reject]:
        """The clips of no use that were met."""
        return list(self._bad.values())

    def batch(self, index: int) -> tuple[Tensor, Tensor]:
        """Return samples [B, T] and phone labels [B, T // label_hop], `UNKNOWN` where no phone is known."""
        ready = self._ahead if self._ahead and self._ahead[0] == index else None
        made = ready[1].result() if ready else self._make(index)
        self._ahead = (index + 1, self._pool.submit(self._make, index + 1))
        return made

    def one(self, index: int) -> tuple[Tensor, Tensor]:
        """Return batch `index` without reading ahead."""
        return self._make(index)

    def _make(self, index: int) -> tuple[Tensor, Tensor]:
        seed = hashlib.sha256(f"{self.seed} {index}".encode()).digest()
        draws = np.random.default_rng(int.from_bytes(seed[:8], "big"))
        rows = [self._crop(draws) for _ in range(self.shape.rows)]
        return torch.stack([row for row, _ in rows]), torch.stack([labels for _, labels in rows])

    def _crop(self, draws: np.random.Generator) -> tuple[Tensor, Tensor]:
        for _ in range(_TRIES):
            number = int(np.searchsorted(self._share, draws.random()).clip(max=len(self.pieces) - 1))
            place, jitter = draws.random(), draws.uniform(-_JITTER, _JITTER)
            piece = self.pieces[number]
            if number in self._bad:
                continue
            size_s = self.shape.samples / self.shape.sample_rate
            start_s = place * max(0.0, piece.length_s - size_s)
            try:
                gain = self._gain(number) * 10**jitter
                part = _sound(piece, start_s, size_s)
            except BadClip:
                continue
            return self._samples(part, gain), self._labels(piece.clip, start_s)
        found = self.bad[0].detail if self._bad else "Crops are silent or too short."
        raise InputError(f"Drawing crops: {_TRIES} draws in a row are of no use. {found}")

    def _gain(self, number: int) -> float:
        """Return what brings a clip to the level; reads it once."""
        if number not in self._gains:
            piece = self.pieces[number]
            try:
                start = _sound(piece, 0.0, _LEVEL_S)
            except BadClip as error:
                self._bad[number] = _reject(piece.clip, error)
                log.warning("%s", error)
                raise
            self._gains[number] = self.level / max(1e-3, active_rms(start))
        return self._gains[number]

    def _samples(self, part: Audio, gain: float) -> Tensor:
        found = resample(part, self.shape.sample_rate).samples[: self.shape.samples]
        made = torch.zeros(self.shape.samples)
        made[: len(found)] = torch.from_numpy(np.ascontiguousarray(found, np.float32)) * gain
        return made

    def _labels(self, clip: Clip, start_s: float) -> Tensor:
        hop, count = self.shape.label_hop, self.shape.samples // self.shape.label_hop
        if not clip.phones:
            return torch.full((count,), UNKNOWN)
        centres = start_s + (np.arange(count) + 0.5) * hop / self.shape.sample_rate
        places = np.searchsorted([end_s for _, end_s in clip.phones], centres)
        ids = [*(self.index.get(phone, UNKNOWN) for phone, _ in clip.phones), UNKNOWN]
        return torch.tensor([ids[place] for place in places.tolist()])


def _sound(piece: Piece, start_s: float, size_s: float) -> Audio:
    clip = piece.clip
    end_s = min(clip.start_s + start_s + size_s, clip.start_s + piece.length_s)
    return sounds.load(replace(clip, start_s=clip.start_s + start_s, end_s=end_s), min_s=0.02)


def whole(
    pieces: Sequence[Piece], count: int, level: float = 0.08, rejects: list[Reject] | None = None
) -> Iterator[tuple[Clip, Audio]]:
    """Yield up to `count` clips evenly over the pieces, whole or their first seconds, at one loudness.

    rejects: takes those whose sound is of no use.
    """
    for place in np.linspace(0, len(pieces) - 1, min(count, len(pieces))).round().astype(int).tolist():
        piece = pieces[place]
        try:
            sound = _sound(piece, 0.0, _LEVEL_S)
        except BadClip as error:
            if rejects is None:
                log.warning("%s", error)
            else:
                rejects.append(_reject(piece.clip, error))
            continue
        gain = level / max(1e-3, active_rms(sound))
        yield piece.clip, Audio(np.clip(sound.samples * gain, -1, 1).astype(np.float32), sound.sample_rate)


def active_rms(audio: Audio) -> float:
    """Return the root mean square of the louder half of 20 ms blocks, in [0, 1]."""
    size = max(1, audio.sample_rate // 50)
    samples = audio.samples[: len(audio.samples) // size * size]
    if not len(samples):
        return float(np.sqrt(np.mean(np.square(audio.samples))))
    energy = np.sort(np.square(samples.reshape(-1, size)).mean(1))
    return float(np.sqrt(energy[len(energy) // 2 :].mean()))

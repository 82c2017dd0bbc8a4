"""Does a melody sound like someone talking: a small network that has learnt flat, wild and mixed-up ones.

Where `prosody` measures how far a melody goes, this one hears its course as well. recipes/grpo/manner.py
trains it. Must not know: recognisers, texts, other scorers. Shapes: F frames of 10 ms, 3 features of each.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from llasa import pitch
from llasa.codec.base import Codec
from llasa.core import Audio, Candidate, Score
from llasa.errors import BundleError
from llasa.scorers.base import SMALL_MODEL
from llasa.scorers.sounds import PerVoice, decoded, sound_of

WEIGHTS = Path(__file__).parent.parent / "assets" / "manner.safetensors"
TYPICAL_ST = 2.5  # standard deviation of a melody of nobody in particular
_PRIOR = 50  # frames it counts as much as
_STEEPEST, _LEVEL_DB = 4.0, 20.0


def melody(audio: Audio) -> np.ndarray:
    """Return semitones above the median, whether voiced, and level in 20 dB below the loud frames, [F, 3]."""
    found = pitch.track(audio)
    voiced = found.f0_hz > 0
    median = np.median(found.voiced_hz) if voiced.any() else 1.0
    tones = np.where(voiced, 12 * np.log2(np.where(voiced, found.f0_hz, median) / median), 0.0)
    size = round(found.hop_s * audio.sample_rate)
    padded = np.pad(audio.samples, (0, size))[: len(tones) * size].reshape(-1, size)
    level_db = 10 * np.log10(np.square(padded, dtype=np.float64).mean(axis=1) + 1e-9)
    level = (level_db - np.percentile(level_db, 95)).clip(-60, 6) / _LEVEL_DB if len(level_db) else level_db
    return np.stack([tones, voiced, level], axis=1).astype(np.float32)


def own_range(tones: np.ndarray) -> float:
    """Return the standard deviation of a melody [F, 3], drawn towards a typical one, semitones."""
    voiced = tones[tones[:, 1] > 0, 0]
    total = float(np.square(voiced).sum()) + _PRIOR * TYPICAL_ST**2
    return float(np.sqrt(total / (len(voiced) + _PRIOR)))


def relative(tones: np.ndarray, range_st: float) -> Tensor:
    """Return a melody [F, 3] in units of a range, as the network takes it."""
    found = torch.tensor(tones)
    found[:, 0] = (found[:, 0] / range_st).clamp(-_STEEPEST, _STEEPEST)
    return found


class Network(nn.Module):
    """A few thousand parameters: melodies [B, F, 3] and a mask of real frames [B, F] -> logits [B]."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(3, 16, 9, stride=4, padding=4)
        self.second = nn.Conv1d(16, 24, 5, stride=2, padding=2)
        self.out = nn.Linear(48, 1)

    def forward(self, tones: Tensor, mask: Tensor) -> Tensor:
        kept = mask[:, ::8, None].float()
        x = self.first((tones * mask[..., None]).transpose(1, 2)).relu()
        x = self.second(x * mask[:, None, ::4]).relu().transpose(1, 2)[:, : kept.shape[1]] * kept
        mean = x.sum(1) / kept.sum(1)
        spread = ((x - mean[:, None]).square() * kept).sum(1) / kept.sum(1)
        return self.out(torch.cat([mean, (spread + 1e-6).sqrt()], dim=1))[:, 0]


class Manner:
    """Judges the melody by the probability that it is natural, measured by the range of the voice.

    value, and measure `manner`: the probability. Nothing voiced is worth 0. Without a voice the range is a
    typical one. It was trained on speech of synthesizers, so it knows flat from lively and not good from bad
    acting; docs/rewards.md has its errors.
    """

    name = "manner"
    partial = False
    cost = SMALL_MODEL

    def __init__(self, codec: Codec, weights: str | None = None) -> None:
        """Load it; weights: a file of recipes/grpo/manner.py, None for the one that comes with the package.

        Raises:
            BundleError: the file is missing or damaged.
        """
        self._network = load(Path(weights) if weights else WEIGHTS)
        self._range = PerVoice(lambda voice: own_range(melody(decoded(voice, codec))))

    def score(self, candidates: Sequence[Candidate]) -> list[Score]:
        """See `Scorer.score`."""
        return [self._score(candidate) for candidate in candidates]

    @torch.inference_mode()
    def _score(self, candidate: Candidate) -> Score:
        tones, voice = melody(sound_of(candidate)), candidate.utterance.voice
        if not tones[:, 1].any():
            return Score(0.0, {"manner": 0.0}, "Nothing is voiced.")
        heard = relative(tones, self._range(voice) if voice else TYPICAL_ST)[None]
        value = float(self._network(heard, torch.ones(heard.shape[:2], dtype=torch.bool)).sigmoid())
        return Score(value, {"manner": value})


def load(path: Path) -> Network:
    """Return the network of a file.

    Raises:
        BundleError: it is missing or damaged, or holds another network.
    """
    network = Network().eval()
    try:
        network.load_state_dict(load_file(path))
    except (OSError, RuntimeError, SafetensorError) as error:
        todo = "Train it with recipes/grpo/manner.py, or install the package again"
        raise BundleError(f"Loading the network of 'manner' from '{path}': {error}. {todo}.") from error
    return network

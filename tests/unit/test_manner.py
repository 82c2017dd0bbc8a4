"""The learned melody: what the network is given, and that it tells melodies apart."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from llasa import voice
from llasa.codec.compact import CompactCodec
from llasa.core import Audio, Candidate, Codes, Utterance, Voice
from llasa.defects import DEFECTS
from llasa.errors import BundleError
from llasa.scorers.manner import TYPICAL_ST, WEIGHTS, Manner, Network, load, melody, own_range, relative
from tests.conftest import STARTER

RATE = 16000
CODEC = CompactCodec.random()


def voiced(tones_st: np.ndarray) -> Audio:
    """Return a buzz whose pitch follows semitones above 120 Hz, one each 10 ms."""
    f0 = np.repeat(120 * 2 ** (tones_st / 12), RATE // 100)
    phase = 2 * np.pi * np.cumsum(f0) / RATE
    harmonics = np.arange(1, 12)[:, None]
    return Audio((0.1 * np.sin(harmonics * phase) / harmonics).sum(axis=0).astype(np.float32), RATE)


def spoken(spread_st: float, seconds: float = 2.0) -> Audio:
    """Return phrases that fall, with gaps between, as talking does."""
    time = np.arange(round(100 * seconds)) / 100
    tones = spread_st * (1.2 * np.exp(-2 * (time % 1.0)) - 0.5 + 0.4 * np.sin(2 * np.pi * 3.1 * time))
    audio = voiced(tones)
    gaps = np.repeat(np.sin(2 * np.pi * 4 * time) > -0.6, RATE // 100)
    return Audio((audio.samples * gaps).astype(np.float32), RATE)


def score(audio: Audio):
    said = Candidate(Utterance("1", "a cat"), [1], "stop", audio=audio)
    return Manner(CODEC).score([said])[0]


def test_a_melody_is_semitones_voicing_and_level() -> None:
    tones = melody(voiced(np.repeat([0.0, 12.0], 60)))
    assert tones.shape == (120, 3) and tones[10:110, 1].mean() > 0.9
    assert np.ptp(tones[10:110, 0]) == pytest.approx(12, abs=0.3)
    assert np.abs(tones[10:110, 2]).max() < 0.3


def test_a_range_is_drawn_towards_a_typical_one() -> None:
    flat, wide = melody(voiced(np.zeros(200))), melody(spoken(8.0, 4.0))
    assert own_range(flat) < TYPICAL_ST < own_range(wide)
    assert own_range(flat[:10]) > own_range(flat) > 0
    assert float(relative(wide, own_range(wide))[:, 0].std()) < float(relative(wide, 1.0)[:, 0].std())


def test_what_is_padded_is_not_heard() -> None:
    network = load(WEIGHTS)
    short, long = (relative(melody(spoken(3.0, seconds)), TYPICAL_ST) for seconds in (1.04, 2.0))
    both = torch.nn.utils.rnn.pad_sequence([short, long], batch_first=True)
    mask = torch.arange(both.shape[1]) < torch.tensor([[len(short)], [len(long)]])
    with torch.inference_mode():
        alone = [network(one[None], torch.ones(1, len(one), dtype=torch.bool)) for one in (short, long)]
        assert network(both, mask).tolist() == pytest.approx([float(one) for one in alone], abs=1e-4)


@pytest.fixture(scope="module")
def own() -> Audio:
    """What a voice of the starter says."""
    codec = CompactCodec.load(STARTER / "codec")
    return codec.decode([voice.load(STARTER / "voices" / "rufus.safetensors").codes])[0]


def test_flat_speech_is_worth_less_than_lively(own: Audio) -> None:
    values = [score(DEFECTS["monotone"](own, severity)).value for severity in (0, 0.5, 0.75, 1)]
    assert values[0] > 0.5 and all(after < before for before, after in pairwise(values))


@dataclass
class Playing:
    """A codec that decodes any codes to one sound."""

    sound: Audio

    def decode(self, codes: Sequence[Codes]) -> list[Audio]:
        return [self.sound for _ in codes]


def test_what_is_flat_for_a_lively_voice_is_not_for_a_flat_one(own: Audio) -> None:
    tame = DEFECTS["monotone"](own, 0.6)
    said = Candidate(Utterance("1", "a cat", Voice("x", "a cat", [1], "any@0")), [1], "stop", audio=tame)
    values = [Manner(Playing(sound)).score([said])[0].value for sound in (tame, own)]  # pyright: ignore
    assert values[0] > values[1]


def test_silence_is_worth_nothing() -> None:
    found = score(Audio(np.zeros(RATE, np.float32), RATE))
    assert (found.value, found.note) == (0, "Nothing is voiced.")


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    with pytest.raises(BundleError, match="manner"):
        Manner(CODEC, str(tmp_path / "none.safetensors"))
    save_file({"out.bias": torch.zeros(1)}, tmp_path / "part.safetensors")
    with pytest.raises(BundleError, match="Missing key"):
        load(tmp_path / "part.safetensors")
    assert sum(one.numel() for one in Network().parameters()) < 5000 and WEIGHTS.stat().st_size < 20_000

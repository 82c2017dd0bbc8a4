"""What a round trip leaves of speech: all for a perfect codec, less for a worse one, and never a crash."""

import sys
from collections.abc import Sequence

import numpy as np
import pytest

from llasa.core import Audio, Clip
from llasa.errors import InputError, MissingExtra
from llasa.recognizers.base import TextForm, Transcript
from llasa.train.codec.roundtrip import Usage, line, measure

RATE = 16000


class Plain:
    """A codec that keeps 8 bits of every sample, or fewer."""

    name, sample_rate, codebook_size, hop_length = "plain@0", RATE, 256, 1

    def __init__(self, bits: int = 8) -> None:
        self.step = 2 ** (8 - bits)

    def encode(self, audio: Sequence[Audio]) -> list[list[int]]:
        grid = [np.round((a.samples + 1) * 127.5 / self.step) * self.step for a in audio]
        return [np.clip(row, 0, 255).astype(int).tolist() for row in grid]

    def decode(self, codes: Sequence[Sequence[int]], context: object = None) -> list[Audio]:
        return [Audio((np.array(row) / 127.5 - 1).astype(np.float32), RATE) for row in codes]

    def code_count(self, n_samples: int) -> int:
        return n_samples


class Ear:
    """Hears fewer words, the fewer levels a sound has."""

    name = "ear@0"
    text_form: TextForm = "characters"

    def transcribe(self, audio: Sequence[Audio]) -> list[Transcript]:
        return [Transcript("one two" if len(np.unique(a.samples)) > 20 else "one") for a in audio]


def speech(seconds: float = 2.0, seed: int = 0) -> Audio:
    rng, time = np.random.default_rng(seed), np.arange(int(seconds * RATE)) / RATE
    tones = sum(np.sin(2 * np.pi * 130 * n * time) / n for n in range(1, 20))
    loud = (np.sin(2 * np.pi * 3 * time) > -0.3) * 0.15
    return Audio((loud * (tones + 0.1 * rng.standard_normal(len(time)))).astype(np.float32), RATE)


def clips(*sounds: Audio) -> list[tuple[Clip, Audio]]:
    return [(Clip(str(n), "", ""), sound) for n, sound in enumerate(sounds)]


def test_a_finer_codec_measures_better():
    fine, _ = measure(Plain(8), clips(speech(), speech(seed=1)), Ear())
    coarse, pairs = measure(Plain(3), clips(speech(), speech(seed=1)), Ear())
    assert fine.measures["stoi"] > 0.99 and fine.measures["stoi"] > coarse.measures["stoi"]
    assert fine.measures["pesq"] > coarse.measures["pesq"] > 1
    assert fine.measures["cer"] == 0 and coarse.measures["cer"] == pytest.approx(4 / 7)
    assert coarse.measures["wer"] == pytest.approx(1 / 2)
    assert fine.measures["used"] > 0.3 and coarse.measures["used"] <= 9 / 256
    assert [len(a.samples) for a in pairs[0]] == [2 * RATE, 2 * RATE]


def test_sound_that_cannot_be_compared_has_no_measure():
    silence = Audio(np.zeros(RATE, np.float32), RATE)
    found, _ = measure(Plain(), clips(silence, speech(0.2)))
    assert [p.pesq for p in found.passages] == [None, None] and found.passages[1].stoi is None
    assert "pesq" not in found.measures and "cer" not in found.measures
    assert found.report()["passages"][0]["id"] == "0"


def test_nothing_to_measure_and_nothing_to_measure_with_are_told(monkeypatch):
    with pytest.raises(InputError, match="no clip of use"):
        measure(Plain(), clips())
    monkeypatch.setitem(sys.modules, "pesq", None)

    def never():
        raise AssertionError("told after the work")
        yield

    with pytest.raises(MissingExtra, match="'pesq'"):
        measure(Plain(), never())


def test_usage_counts_entries_and_bits():
    usage = Usage(16)
    assert usage.measures == {"codes": 0, "used": 0, "bits": 0}
    usage.add([0, 1, 2, 3])
    usage.add([0, 1, 2, 3])
    assert usage.measures == {"codes": 8, "used": 0.25, "bits": 2}


def test_the_line_for_people():
    assert line({"stoi": 0.91, "used": 0.5, "codes": 9}) == "STOI 0.910, 50.0% of the codebook used"

"""What says that a sound is synthetic: its words, and watermarks that packages bring."""

from collections.abc import Iterator
from importlib.metadata import EntryPoint

import numpy as np
import pytest

from llasa import provenance
from llasa.core import Audio
from llasa.errors import ConfigError

SOUND = Audio(np.linspace(-0.5, 0.5, 800, dtype=np.float32), 16_000)


class Softer:
    """A watermark that counts the pieces of its sound."""

    def __init__(self) -> None:
        self.pieces = 0

    def mark(self, samples: np.ndarray, sample_rate: int) -> np.ndarray:
        assert sample_rate == 16_000
        self.pieces += 1
        return samples / np.float32(2**self.pieces)


class Shorter:
    def mark(self, samples: np.ndarray, sample_rate: int) -> np.ndarray:
        return samples[1:]


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[EntryPoint]]:
    found: list[EntryPoint] = []
    monkeypatch.setattr(provenance, "entry_points", lambda group: found)
    provenance._watermark.cache_clear()
    yield found
    provenance._watermark.cache_clear()


def offered(name: str) -> EntryPoint:
    return EntryPoint(name.lower(), f"tests.unit.test_provenance:{name}", provenance.GROUP)


def test_without_a_watermark_the_sound_is_as_it_was(installed: list[EntryPoint]) -> None:
    made = provenance.provenance("starter", "rufus")
    assert made.mark(SOUND).samples is SOUND.samples
    assert made.tags["comment"].startswith("Synthetic speech (trainedAlgorithmicMedia): llasa ")
    assert made.tags["comment"].endswith(", starter, voice rufus")


def test_a_watermark_is_made_anew_for_each_sound(installed: list[EntryPoint]) -> None:
    installed.append(offered("Softer"))
    for _ in range(2):
        made = provenance.provenance("starter")
        assert [made.mark(SOUND).samples[-1] for _ in range(2)] == [0.25, 0.125]


def test_watermarks_that_are_of_no_use_are_told(installed: list[EntryPoint]) -> None:
    installed.append(offered("Shorter"))
    with pytest.raises(ConfigError, match=r"799.*for.*800"):
        provenance.provenance("starter").mark(SOUND)
    installed.append(offered("Softer"))
    provenance._watermark.cache_clear()
    with pytest.raises(ConfigError, match="found 2"):
        provenance.provenance("starter")
    installed[:] = [offered("Missing")]
    provenance._watermark.cache_clear()
    with pytest.raises(ConfigError, match="Missing"):
        provenance.provenance("starter")

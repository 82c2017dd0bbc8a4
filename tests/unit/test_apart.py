"""Strangers' sounds are read apart: what is wrong is told, and what breaks the reader breaks nothing else."""

import numpy as np
import pytest

from llasa import audio
from llasa.audio import apart
from llasa.audio.apart import read_apart
from llasa.core import Audio
from llasa.errors import InputError

SOUND = Audio((0.2 * np.sin(np.arange(16_000) / 9)).astype(np.float32), 16_000)


def test_a_sound_comes_back_as_it_is() -> None:
    found = read_apart(audio.encode(SOUND, "flac"))
    assert found.sample_rate == 16_000 and np.abs(found.samples - SOUND.samples).max() < 1e-4


@pytest.mark.parametrize(
    ("data", "reason"),
    [(b"", None), (b"RIFF\xff\xff\xff\xffWAVE" + b"\0" * 50, None), (b"MZ" + b"\0" * 100, None)],
)
def test_what_is_no_sound_is_refused_with_its_reason(data: bytes, reason: str | None) -> None:
    with pytest.raises(InputError, match="the sound that was sent"):
        read_apart(data)


def test_a_sound_that_is_too_long_says_so() -> None:
    with pytest.raises(InputError, match=r"1\.0 s"):
        read_apart(audio.encode(SOUND, "wav"), max_s=0.5)


@pytest.mark.parametrize(
    "harm",
    [
        "import os; os.kill(os.getpid(), 11)",
        "b = b'1' * (1 << 31)",
        "import tempfile; tempfile.TemporaryFile(buffering=0).write(b'1')",
    ],
)
def test_a_reader_that_breaks_is_one_refusal(monkeypatch: pytest.MonkeyPatch, harm: str) -> None:
    code = f"import {apart.__name__} as a; a._limit(); exec({harm!r})"
    run = apart.subprocess.run
    monkeypatch.setattr(apart.subprocess, "run", lambda command, **o: run([command[0], "-c", code], **o))
    with pytest.raises(InputError, match="its reader failed"):
        read_apart(b"fLaC")

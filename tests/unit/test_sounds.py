"""A clip's sound is what was cut out, or one reason why it is of no use; damage never goes further."""

import io
import struct
import time
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from llasa.audio import encode, write
from llasa.core import Audio, Clip
from llasa.data.places import MAX_BYTES, confined, in_table, in_tar
from llasa.data.rejects import BadClip
from llasa.data.sounds import fingerprint, load
from tests.sounds import RATE, similarity, speechlike

SOUND = speechlike(2.0)


def wav(samples: np.ndarray, rate: int = RATE, subtype: str = "PCM_16") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="WAV", subtype=subtype)
    return file.getvalue()


def header(frames: int, rate: int = RATE, channels: int = 1) -> bytes:
    """A WAV header that claims some frames, and none of them."""
    size = frames * channels * 2
    form = struct.pack("<HHIIHH", 1, channels, rate, min(rate * channels * 2, 2**32 - 1), channels * 2, 16)
    return (
        b"RIFF"
        + struct.pack("<I", 36 + size)
        + b"WAVEfmt "
        + struct.pack("<I", 16)
        + form
        + b"data"
        + struct.pack("<I", size)
    )


def flac_of_ten_hours() -> bytes:
    """A FLAC whose header claims ten hours; what follows is two seconds."""
    data = bytearray(encode(SOUND, "flac"))
    frames = 10 * 3600 * RATE
    place = 4 + 4 + 13  # marker, block header, up to the low byte of bits a sample and the length
    data[place] = data[place] & 0xF0 | frames >> 32
    data[place + 1 : place + 5] = struct.pack(">I", frames & 0xFFFFFFFF)
    return bytes(data)


NAN = SOUND.samples.copy()
NAN[5000] = np.nan
SQUARE = np.sign(SOUND.samples)
BAD = {
    "zero length": (b"", "empty"),
    "header only": (header(0), "empty"),
    "claims ten hours, holds nothing": (header(10 * 3600 * RATE), "empty"),
    "claims ten hours": (flac_of_ten_hours(), "too-long"),
    "really too long": (wav(np.tile(SOUND.samples, 31)), "too-long"),
    "too short": (wav(SOUND.samples[:3200]), "too-short"),
    "NaN": (wav(NAN, subtype="FLOAT"), "not-finite"),
    "integers as floats": (wav(SOUND.samples * 32768, subtype="FLOAT"), "clipped"),
    "1 Hz": (wav(SOUND.samples[:40], rate=1), "bad-rate"),
    "192 channels": (wav(np.repeat(SOUND.samples[:8000, None], 192, axis=1)), "channels"),
    "silent": (wav(SOUND.samples * 1e-4), "silent"),
    "clipped": (wav(SQUARE), "clipped"),
    "text": (b"<html>404 Not Found</html>" * 50, "unreadable"),
    "cut off": (encode(SOUND, "flac")[:3000], "unreadable"),
}


@pytest.mark.fault("R6")
@pytest.mark.parametrize(("data", "reason"), BAD.values(), ids=BAD)
def test_bad_sound_has_its_reason(data: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(data)
    with pytest.raises(BadClip) as error:
        load(Clip("a", str(path), "x"))
    assert error.value.reason == reason
    assert str(path) in str(error.value)


@pytest.mark.fault("R6")
def test_missing_sound(tmp_path: Path) -> None:
    for name in ("gone.wav", "gone\0.wav", "\ud800.wav", "."):
        clip = Clip("a", str(tmp_path / name), "x")
        for ask in (load, fingerprint):
            with pytest.raises(BadClip) as error:
                ask(clip)
            assert error.value.reason in ("missing", "unreadable")


@pytest.mark.fault("R6")
@pytest.mark.parametrize("format", ["wav", "flac", "mp3", "opus"])
def test_a_wrong_ending_does_not_matter(format: str, tmp_path: Path) -> None:
    path = tmp_path / "a.xyz"
    path.write_bytes(encode(SOUND, format))
    assert similarity(load(Clip("a", str(path), "x")).samples, SOUND.samples) > 0.9 or format == "opus"


@pytest.mark.parametrize("format", ["wav", "flac", "mp3"])
def test_a_cut_is_that_part_and_is_not_read_from_the_start(format: str, tmp_path: Path) -> None:
    path = tmp_path / f"long.{format}"
    long = speechlike(20.0)
    write(path, long)
    cut = load(Clip("a", str(path), "x", start_s=16.0, end_s=17.5))
    assert len(cut.samples) == 24_000
    expected = long.samples[16 * RATE : 16 * RATE + 24_000]
    assert similarity(cut.samples, expected, max_shift=2000) > 0.95
    if format == "wav":
        tracemalloc.start()
        load(Clip("a", str(path), "x", start_s=16.0, end_s=17.5))
        assert tracemalloc.get_traced_memory()[1] < 700_000  # the whole would be 1.3 MB
        tracemalloc.stop()


def test_cuts_beyond_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    write(path, SOUND)
    clip = Clip("a", str(path), "x", start_s=1.0, end_s=2.2)  # it lasts 2 s, and aligners pad
    assert load(clip).duration_s == 1.0
    for start_s, end_s, reason in (
        (1.0, 9.0, "unreadable"), (5.0, 6.0, "unreadable"), (1.0, 1.0, "empty"), (1.0, 0.5, "empty"),
    ):  # fmt: skip
        with pytest.raises(BadClip) as error:
            load(replace(clip, start_s=start_s, end_s=end_s))
        assert error.value.reason == reason


def test_fingerprints_tell_sounds_and_cuts_apart(tmp_path: Path) -> None:
    for name, sound in (("a", SOUND), ("b", SOUND), ("c", speechlike(1.0))):
        write(tmp_path / f"{name}.wav", sound)
    clips = [Clip(name, str(tmp_path / f"{name}.wav"), "x") for name in "abc"]
    cut = [replace(clips[0], start_s=0.5), replace(clips[0], start_s=0.5, end_s=1.0)]
    prints = [fingerprint(clip) for clip in (*clips, *cut)]
    assert prints[0] == prints[1] and len(set(prints)) == 4
    data = (tmp_path / "a.wav").read_bytes()
    (tmp_path / "x.bin").write_bytes(b"12345" + data + b"678")
    inside = Clip("t", in_tar(tmp_path / "x.bin", 5, len(data)), "x")
    assert fingerprint(inside) == prints[0]
    assert np.array_equal(load(inside).samples, load(clips[0]).samples)
    write(tmp_path / "a.wav", speechlike(0.7))
    assert fingerprint(clips[0]) != prints[0]  # another file of that name is another sound


def test_places_that_lie(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(encode(SOUND, "wav"))
    for place in (
        in_tar(path, 10**6, 100),
        in_tar(path, 0, MAX_BYTES + 1),
        in_table(path, 0, 0),
        f"{path}#tar:1",
    ):
        with pytest.raises(BadClip):
            load(Clip("a", place, "x"))


@given(st.text(alphabet="ab./\\\0", max_size=20))
def test_no_name_leads_out(name: str) -> None:
    found = confined(Path("/data/set"), Path("/data/set/lists"), name)
    assert found is None or (".." not in found.parts and found.is_relative_to("/data/set"))


@pytest.mark.fault("R6")
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damaged_bytes_are_sound_within_limits_or_a_reason(tmp_path_factory, data) -> None:
    whole = bytearray(encode(speechlike(0.4), data.draw(st.sampled_from(["wav", "flac", "mp3"]))))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, min(len(whole), 200) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / "a"
    path.write_bytes(whole)
    start = time.monotonic()
    try:
        audio = load(Clip("a", str(path), "x"))
        assert isinstance(audio, Audio) and 0.3 <= audio.duration_s <= 60 and np.isfinite(audio.samples).all()
    except BadClip as error:
        assert error.reason
    assert time.monotonic() - start < 5

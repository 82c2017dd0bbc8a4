"""Reading refuses what cannot be speech; changing keeps its length and sound."""

import contextlib
import io
import os
import struct
from math import ceil

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from llasa.audio import (
    Encoder,
    loudness,
    read,
    resample,
    trim_silence,
)
from llasa.core import Audio
from llasa.errors import InputError
from tests.sounds import RATE, similarity, speechlike


def file_bytes(samples: np.ndarray, rate: int = RATE, **options: str) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, **options)
    return buffer.getvalue()


def refused(source: object, words: str, **limits: float) -> str:
    with pytest.raises(InputError, match=words) as caught:
        read(source, **limits)
    assert str(caught.value).startswith("Reading audio from ")
    assert str(caught.value).endswith(".")
    return str(caught.value)


# reading


@pytest.mark.parametrize(
    "options",
    [
        {"format": "WAV", "subtype": "PCM_16"},
        {"format": "WAV", "subtype": "PCM_24"},
        {"format": "WAV", "subtype": "FLOAT"},
        {"format": "WAVEX", "subtype": "PCM_16"},
        {"format": "FLAC", "subtype": "PCM_16"},
        {"format": "OGG", "subtype": "VORBIS"},
        {"format": "OGG", "subtype": "OPUS"},
        {"format": "MP3"},
    ],
)
def test_reads_the_allowed_formats(options):
    sound = speechlike()
    audio = read(io.BytesIO(file_bytes(sound.samples, **options)))
    assert (len(audio.samples), audio.sample_rate, audio.samples.dtype) == (RATE, RATE, np.float32)
    assert similarity(audio.samples, sound.samples) > 0.98


def test_reads_a_path_and_averages_two_channels(tmp_path):
    left = speechlike().samples
    path = tmp_path / "x.wav"
    path.write_bytes(file_bytes(np.stack([left, 0 * left], 1), format="WAV", subtype="FLOAT"))
    for source in (path, str(path)):
        np.testing.assert_allclose(read(source).samples, left / 2, atol=1e-7)


def test_refuses_paths_that_are_no_files(tmp_path):
    refused(tmp_path / "none.wav", "no such file")
    refused(tmp_path, "folder or device")
    refused(tmp_path / ("x" * 300), "system says|no such file")
    if os.path.exists("/dev/zero"):
        refused("/dev/zero", "folder or device")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (b"R", "no audio format"),
        (b"hello, this is text and not sound", "no audio format"),
        (b"\xff\xf1" + bytes(50), "no audio format"),  # aac
        (b"RIFF\0\0\0\0WAVE", "encoding None"),
        (b"fLaC" + bytes(100), "damaged"),
        (b"OggS" + bytes(100), "damaged"),
        (b"ID3" + bytes(100), "damaged"),
        (b"\xff\xfb" + bytes(100), "damaged"),
    ],
)
def test_refuses_what_is_no_audio(data, words):
    refused(io.BytesIO(data), words)


@pytest.mark.parametrize("subtype", ["IMA_ADPCM", "MS_ADPCM", "ULAW", "ALAW", "GSM610"])
def test_refuses_other_wav_encodings_before_decoding(subtype):
    refused(
        io.BytesIO(file_bytes(speechlike().samples, 8000, format="WAV", subtype=subtype)), "not PCM or float"
    )


@pytest.mark.parametrize("format", ["AIFF", "AU", "CAF", "W64", "RF64"])
def test_refuses_other_containers(format):
    refused(io.BytesIO(file_bytes(speechlike().samples, format=format)), "no audio format")


@pytest.mark.parametrize("rate", [1, 7999, 192_001, 2_147_483_647])
def test_refuses_strange_rates(rate):
    data = bytearray(file_bytes(speechlike().samples, format="WAV"))
    data[24:28] = struct.pack("<I", rate)
    refused(io.BytesIO(data), "rate" if rate < 2**31 - 1 else "rate|damaged")


def test_refuses_length_channels_silence_and_bad_samples():
    sound = speechlike(2.0).samples
    wav = {"format": "WAV", "subtype": "FLOAT"}
    refused(io.BytesIO(file_bytes(sound[:100], **wav)), "lasts only 0.01 s")
    refused(io.BytesIO(file_bytes(sound[:0], **wav)), "lasts only 0.00 s", min_s=0)
    refused(io.BytesIO(file_bytes(sound, **wav)), "lasts 2.0 s", max_s=1.5)
    refused(io.BytesIO(file_bytes(np.stack([sound] * 3, 1), **wav)), "3 channels")
    refused(io.BytesIO(file_bytes(sound * 1e-3, **wav)), "silent")
    refused(io.BytesIO(file_bytes(np.stack([sound, -sound], 1), **wav)), "silent")
    for bad in (np.nan, np.inf, -np.inf, 3e4):
        broken = sound.copy()
        broken[77] = bad
        refused(io.BytesIO(file_bytes(broken, **wav)), "samples reach")


def test_a_long_file_is_refused_by_its_header_alone():
    """Ten hours of zeros as FLAC are small; they must not be unpacked."""
    data = bytearray(file_bytes(speechlike().samples, format="FLAC"))
    total = struct.unpack(">Q", data[18:26])[0]
    data[18:26] = struct.pack(">Q", total & ~(2**36 - 1) | 36_000 * RATE)
    refused(io.BytesIO(data), "lasts 36000.0 s")


def test_decoding_stops_at_the_limit_whatever_the_header_says():
    data = bytearray(file_bytes(speechlike(8.0).samples, format="FLAC"))
    total = struct.unpack(">Q", data[18:26])[0]
    data[18:26] = struct.pack(">Q", total & ~(2**36 - 1) | 2 * RATE)
    with contextlib.suppress(InputError):
        assert read(io.BytesIO(data), max_s=3).duration_s <= 3


def test_refuses_a_streamed_flac_and_cut_or_overwritten_files():
    streamed = Encoder("flac", RATE)
    refused(io.BytesIO(streamed.push(speechlike()) + streamed.close()), "no length")
    noise = np.random.default_rng(0).normal(0, 0.1, 5 * RATE).astype(np.float32)
    flac = file_bytes(noise, format="FLAC")
    refused(io.BytesIO(flac[: len(flac) // 2]), "damaged")
    refused(io.BytesIO(flac[:20_000] + b"x" * 3000 + flac[23_000:]), "damaged")
    mp3 = file_bytes(noise, format="MP3")
    refused(io.BytesIO(mp3[: len(mp3) // 2]), "ends after")


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["WAV", "FLAC", "OGG"]), st.data())
def test_damage_gives_sound_within_limits_or_a_refusal(format, data):
    original = bytearray(file_bytes(speechlike(0.5).samples, format=format))
    for _ in range(data.draw(st.integers(1, 8))):
        original[data.draw(st.integers(0, min(len(original), 200) - 1))] = data.draw(st.integers(0, 255))
    try:
        audio = read(io.BytesIO(original))
    except InputError:
        return
    assert 0.25 <= audio.duration_s <= 60
    assert np.isfinite(audio.samples).all()


# changing


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 3000), st.sampled_from([8000, 11_025, 16_000, 22_050, 24_000, 44_100, 48_000]), st.data()
)
def test_resampled_length_is_the_ceiling(n, old, data):
    new = data.draw(st.sampled_from([8000, 16_000, 22_050, 24_000, 44_100, 48_000]))
    audio = Audio(np.zeros(n, np.float32), old)
    out = resample(audio, new)
    assert len(out.samples) == ceil(n * new / old)
    assert out.sample_rate == new
    assert (out is audio) == (old == new)


def test_resampling_keeps_the_sound_and_removes_what_does_not_fit():
    t = np.arange(48_000) / 48_000
    low, high = np.sin(2 * np.pi * 440 * t), np.sin(2 * np.pi * 11_000 * t)
    out = resample(Audio((0.5 * low + 0.5 * high).astype(np.float32), 48_000), RATE)
    wanted = 0.5 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)
    assert np.abs(out.samples - wanted)[500:-500].max() < 1e-3


def test_resampling_refuses_a_rate_of_zero():
    with pytest.raises(InputError, match="above zero"):
        resample(speechlike(), 0)


def test_loudness_reaches_its_target_and_never_clips():
    from pyloudnorm import Meter

    for level in (0.01, 0.3):
        out = loudness(speechlike(2.0, level=level), -23.0)
        assert Meter(RATE).integrated_loudness(out.samples.astype(np.float64)) == pytest.approx(-23, abs=0.05)
    click = speechlike(2.0, level=0.01).samples.copy()
    click[1000] = 0.9
    assert np.abs(loudness(Audio(click, RATE), -10.0).samples).max() == pytest.approx(
        10 ** (-1 / 20), abs=1e-5
    )


def test_loudness_of_short_and_silent_sounds():
    short = loudness(speechlike(0.2), -23.0)
    power = np.square(short.samples, dtype=np.float64).mean()
    assert 10 * np.log10(power) - 0.691 == pytest.approx(-23, abs=0.01)
    for n in (0, 100, RATE):
        silent = Audio(np.zeros(n, np.float32), RATE)
        assert loudness(silent) is silent


def test_trimming_leaves_the_asked_silence():
    gap = np.zeros(RATE // 2, np.float32)
    sound = Audio(np.concatenate([gap, speechlike().samples, gap]), RATE)
    assert trim_silence(sound, keep_s=0.1).duration_s == pytest.approx(1.2, abs=0.05)
    assert len(trim_silence(speechlike(), 0.1).samples) == RATE
    for n in (0, 50, 1000):
        assert len(trim_silence(Audio(np.zeros(n, np.float32), RATE)).samples) == n

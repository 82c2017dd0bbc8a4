"""Reading refuses what cannot be speech; every format comes back with the right length and sound."""

import contextlib
import io
import os
import signal
import struct
import wave
from math import ceil

import av
import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from llasa.audio import (
    FORMATS,
    Encoder,
    check_output,
    encode,
    loudness,
    read,
    resample,
    to_int16,
    trim_silence,
    write,
)
from llasa.core import Audio
from llasa.errors import ConfigError, InputError

RATE = 16_000


def speechlike(duration_s: float = 1.0, rate: int = RATE, level: float = 0.3) -> Audio:
    """A voiced buzz with syllables: broad enough to align by correlation."""
    t = np.arange(round(duration_s * rate)) / rate
    pitch = 120 + 30 * np.sin(2 * np.pi * 1.3 * t)
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    buzz = sum(np.sin(k * phase) / k for k in range(1, 12))
    samples = level * 0.5 * buzz * (0.6 + 0.4 * np.sin(2 * np.pi * 4 * t))
    return Audio(samples.astype(np.float32), rate)


def file_bytes(samples: np.ndarray, rate: int = RATE, **options: str) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, **options)
    return buffer.getvalue()


def decoded(data: bytes, format: str, rate: int = RATE) -> Audio:
    if format == "pcm":
        return Audio(np.frombuffer(data, "<i2").astype(np.float32) / 32768, rate)
    with av.open(io.BytesIO(data)) as container:
        frames = [frame.to_ndarray() for frame in container.decode(audio=0)]
        rate = container.streams.audio[0].rate
    samples = np.concatenate(frames, axis=-1).reshape(-1)
    return Audio(samples / 32768 if samples.dtype == np.int16 else samples, rate)


def similarity(one: np.ndarray, other: np.ndarray, max_shift: int = 3000) -> float:
    """The highest correlation over all shifts that a codec's delay can make."""
    n = min(len(one), len(other))
    spectrum = np.fft.rfft(one[:n], 2 * n) * np.conj(np.fft.rfft(other[:n], 2 * n))
    products = np.fft.irfft(spectrum)
    near = np.r_[products[:max_shift], products[-max_shift:]]
    return float(near.max() / (np.linalg.norm(one[:n]) * np.linalg.norm(other[:n])))


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


# encoding


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("rate", [16_000, 22_050, 24_000])
def test_every_format_comes_back(format, rate):
    sound = speechlike(1.0137, rate)
    out = decoded(encode(sound, format), format, rate)
    expected = ceil(len(sound.samples) * out.sample_rate / rate)
    if format == "aac":
        assert expected <= len(out.samples) <= expected + 3 * 1024
    elif format == "opus":  # its clock runs at 48 kHz, the encoder may run slower
        assert expected <= len(out.samples) <= expected + 1
    else:
        assert len(out.samples) == expected
    assert similarity(out.samples, resample(sound, out.sample_rate).samples) > 0.97


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(FORMATS), st.lists(st.integers(0, 3000), min_size=1, max_size=6))
def test_streamed_pieces_decode_like_the_whole(format, sizes):
    sound = speechlike(1.2)
    encoder, pieces, start = Encoder(format, RATE), [], 0
    for size in sizes:
        pieces.append(encoder.push(Audio(sound.samples[start : start + size], RATE)))
        start += size
    data = b"".join([*pieces, encoder.close()])
    n = min(start, len(sound.samples))
    # Readers do not recognise an mp3 or aac of less than a few frames.
    if n < (RATE // 20 if format in ("mp3", "aac") else 1):
        return
    out = decoded(data, format)
    expected = n * out.sample_rate // RATE
    padding = {"mp3": 3 * 1152, "aac": 3 * 1024}.get(format, 0)
    assert expected <= len(out.samples) <= expected + padding
    if format in ("wav", "flac", "pcm"):
        np.testing.assert_array_equal(out.samples, to_int16(sound.samples[:n]) / np.float32(32768))


def test_a_stream_at_another_rate_is_resampled_without_seams():
    sound = speechlike()
    encoder = Encoder("pcm", 24_000)
    data = (
        b"".join(encoder.push(Audio(part, RATE)) for part in np.array_split(sound.samples, 37))
        + encoder.close()
    )
    np.testing.assert_array_equal(np.frombuffer(data, "<i2"), to_int16(resample(sound, 24_000).samples))


@pytest.mark.parametrize("format", FORMATS)
def test_a_stream_gives_bytes_long_before_its_end(format):
    encoder = Encoder(format, RATE)
    given = sum(len(encoder.push(speechlike(0.25))) for _ in range(4))
    assert given > len(encoder.close())


def test_wav_headers():
    """The standard library reads a whole file exactly; a stream has the largest size."""
    data = encode(speechlike(), "wav")
    with wave.open(io.BytesIO(data)) as file:
        assert (file.getnframes(), file.getframerate(), file.getsampwidth()) == (RATE, RATE, 2)
    assert len(data) == 44 + 2 * RATE
    streamed = Encoder("wav", RATE).push(speechlike())
    assert (streamed[4:8], streamed[40:44]) == (b"\xff" * 4, b"\xff" * 4)
    assert len(soundfile.read(io.BytesIO(streamed))[0]) == RATE


@pytest.mark.parametrize("format", FORMATS)
def test_no_samples_still_make_a_file(format):
    assert (len(encode(Audio(np.zeros(0, np.float32), RATE), format)) > 0) == (
        format in ("wav", "flac", "opus", "mp3")
    )


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(-32768, 32767), max_size=40), st.integers(RATE // 4, RATE // 2))
def test_sixteen_bits_survive_a_file(values, n):
    samples = np.resize(np.array([20_000, *values], np.float32) / 32768, n)
    for format in ("wav", "flac"):
        np.testing.assert_array_equal(read(io.BytesIO(encode(Audio(samples, RATE), format))).samples, samples)


def test_clipping_happens_in_the_conversion_only():
    assert to_int16(np.array([-2, -1, 0, 1, 2], np.float32)).tolist() == [-32768, -32768, 0, 32767, 32767]


def test_encoding_refuses_bad_requests():
    with pytest.raises(ConfigError, match=r"'ogg'.*wav, flac, mp3, opus, aac, pcm"):
        encode(speechlike(), "ogg")
    with pytest.raises(InputError, match="not finite"):
        encode(Audio(np.full(100, np.nan, np.float32), RATE), "wav")
    encoder = Encoder("wav", RATE)
    encoder.push(speechlike())
    with pytest.raises(InputError, match="24000 Hz after 16000 Hz"):
        encoder.push(speechlike(rate=24_000))


# writing


@pytest.mark.parametrize("format", FORMATS)
def test_write_takes_the_format_from_the_suffix(tmp_path, format):
    path = tmp_path / f"x.{format.upper()}"
    write(path, speechlike())
    assert path.read_bytes() == encode(speechlike(), format)
    write(tmp_path / "any", speechlike(), format)
    assert (tmp_path / "any").read_bytes() == path.read_bytes()
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(["any", path.name])


def test_write_refuses_bad_places_before_and_after_the_work(tmp_path):
    for path, words in [
        (tmp_path / "x.xyz", "'xyz'.*wav, flac"),
        (tmp_path / "x", "''.*wav, flac"),
        (tmp_path / "none" / "x.wav", "no folder"),
        (tmp_path, "folder or device"),
    ]:
        for attempt in (check_output, lambda path: write(path, speechlike())):
            with pytest.raises(ConfigError, match=words):
                attempt(path)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_write_refuses_a_folder_without_permission(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(ConfigError, match="may not be written"):
        write(tmp_path / "x.wav", speechlike())


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    resource = pytest.importorskip("resource")
    path = tmp_path / "x.wav"
    write(path, speechlike(0.3))
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(ConfigError, match=r"system says.*Free 32044 bytes"):
            write(path, speechlike())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, old)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_write_follows_a_link_to_its_file(tmp_path):
    (tmp_path / "real").mkdir()
    target, link = tmp_path / "real" / "x.wav", tmp_path / "link.wav"
    target.write_bytes(b"old")
    link.symlink_to(target)
    write(link, speechlike())
    assert link.is_symlink()
    assert read(target).sample_rate == RATE

"""Every format comes back with the right length and sound, and files are written whole or not at all."""

import io
import os
import signal
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
    read,
    resample,
    to_int16,
    write,
)
from llasa.core import Audio
from llasa.errors import ConfigError, InputError
from tests.sounds import RATE, similarity, speechlike


def decoded(data: bytes, format: str, rate: int = RATE) -> Audio:
    if format == "pcm":
        return Audio(np.frombuffer(data, "<i2").astype(np.float32) / 32768, rate)
    with av.open(io.BytesIO(data)) as container:
        frames = [frame.to_ndarray() for frame in container.decode(audio=0)]
        rate = container.streams.audio[0].rate
    samples = np.concatenate(frames, axis=-1).reshape(-1)
    return Audio(samples / 32768 if samples.dtype == np.int16 else samples, rate)


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
    # Readers do not recognise every mp3 or aac of fewer than two frames.
    if n < (2048 if format in ("mp3", "aac") else 1):
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

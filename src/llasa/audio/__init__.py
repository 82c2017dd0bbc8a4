"""Sound in and out: guarded reading (`guarded.py`), resampling, loudness, trimming, and encoding.

Knows no codec, no voice and no text. Shapes: T samples; everything is mono float32.
"""

import io
import os
import secrets
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import av
import numpy as np
import soxr

from llasa.audio.guarded import SILENCE_PEAK as SILENCE_PEAK
from llasa.audio.guarded import read as read
from llasa.core import Audio
from llasa.errors import ConfigError, InputError

LOSSY_BIT_RATE = 64_000
OPUS_RATE = 48_000  # Hz, whatever was asked for

# format: (container, codec, container options), as FFmpeg names them
_FFMPEG: dict[str, tuple[str, str, dict[str, str]]] = {
    "wav": ("wav", "pcm_s16le", {}),
    "flac": ("flac", "flac", {"metadata_header_padding": "0"}),
    "mp3": ("mp3", "libmp3lame", {}),
    "opus": ("ogg", "libopus", {"page_duration": "100000"}),
    "aac": ("adts", "aac", {}),
    "pcm": ("s16le", "pcm_s16le", {}),
    "m4b": ("ipod", "aac", {}),
    "m4a": ("ipod", "aac", {}),
}
FORMATS = ("wav", "flac", "mp3", "opus", "aac", "pcm")
BOOK_FORMATS = ("m4b", "m4a", "mp3", "opus", "flac", "wav")  # that say where their end is, and hold titles


class _Resampler:
    """Resamples a sound that comes in pieces as if it came whole; `ceil(T * new / old)` samples in all."""

    def __init__(self, old: int, new: int) -> None:
        self._old, self._new = old, new
        self._stream = soxr.ResampleStream(old, new, 1, dtype="float32", quality="HQ")
        self._taken = self._given = 0

    def push(self, samples: np.ndarray) -> np.ndarray:
        self._taken += len(samples)
        out = self._stream.resample_chunk(np.asarray(samples, np.float32))
        self._given += len(out)
        return out

    def close(self) -> np.ndarray:
        # soxr rounds the length to the nearest sample; zeros behind the end make room for the ceiling
        padding = np.zeros(self._old // self._new + 2, np.float32)
        tail = self._stream.resample_chunk(padding, last=True)
        return tail[: -(-self._taken * self._new // self._old) - self._given]


def resample(audio: Audio, sample_rate: int) -> Audio:
    """Return `audio` at another rate, band-limited.

    Args:
        audio: any rate.
        sample_rate: wanted rate, Hz.

    Returns:
        `ceil(T * new / old)` samples [T']; the input itself when the rate already fits.

    Raises:
        InputError: a rate is not positive.

    Source: soxr, quality HQ (20 bit, linear phase).
    """
    if min(audio.sample_rate, sample_rate) <= 0:
        found = f"{audio.sample_rate} Hz to {sample_rate} Hz was asked"
        raise InputError(f"Resampling audio: {found}. Give rates above zero.")
    if sample_rate == audio.sample_rate:
        return audio
    resampler = _Resampler(audio.sample_rate, sample_rate)
    return Audio(np.concatenate([resampler.push(audio.samples), resampler.close()]), sample_rate)


def loudness(audio: Audio, target_lufs: float = -23.0) -> Audio:
    """Return `audio` scaled to a loudness, but to a peak of -1 dBFS at most, so that it never clips.

    Args:
        audio: any rate. Below 0.4 s, shorter than one measuring block, the plain power is taken for the
            loudness (no K weighting, no relative gate).
        target_lufs: wanted integrated loudness, LUFS.

    Returns:
        Samples [T]; the input itself if nothing in it is louder than the gate of -70 LUFS.

    Source: ITU-R BS.1770-4 (pyloudnorm); level and peak of EBU R 128.
    """
    level = _loudness_lufs(audio)
    if not np.isfinite(level):
        return audio
    gain = min(10 ** ((target_lufs - level) / 20), 10 ** (-1 / 20) / np.abs(audio.samples).max())
    return Audio((audio.samples * gain).astype(np.float32), audio.sample_rate)


def _loudness_lufs(audio: Audio) -> float:
    if audio.duration_s < 0.4:
        power = float(np.square(audio.samples, dtype=np.float64).sum()) / max(len(audio.samples), 1)
        return 10 * np.log10(power) - 0.691 if power > 1e-7 else -np.inf  # 1e-7 is the gate of -70
    from pyloudnorm import Meter  # imports scipy.signal, which takes a second

    return float(Meter(audio.sample_rate).integrated_loudness(audio.samples.astype(np.float64)))


def trim_silence(audio: Audio, keep_s: float = 0.1, floor_db: float = -40.0) -> Audio:
    """Return a view on `audio` without the silence at its ends; all of it if it is shorter than a frame.

    Args:
        keep_s: silence left at each end at most, seconds.
        floor_db: frames of 10 ms quieter than this, relative to the loudest one, are silence.
    """
    start, end = sounding(audio, keep_s, floor_db)
    return Audio(audio.samples[start:end], audio.sample_rate)


def sounding(audio: Audio, keep_s: float = 0.1, floor_db: float = -40.0) -> tuple[int, int]:
    """Return [start, end), samples, of what `trim_silence` keeps."""
    frame = max(audio.sample_rate // 100, 1)
    frames = audio.samples[: len(audio.samples) // frame * frame].reshape(-1, frame)
    if not len(frames):
        return 0, len(audio.samples)
    power = np.square(frames, dtype=np.float64).mean(axis=1)
    loud = np.flatnonzero(power >= power.max() * 10 ** (floor_db / 10))
    keep = round(keep_s * audio.sample_rate)
    return max(int(loud[0]) * frame - keep, 0), min((int(loud[-1]) + 1) * frame + keep, len(audio.samples))


class _Pipe:
    """A file that FFmpeg cannot seek in, so that bytes already handed out stay true."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def write(self, data: bytes) -> int:
        self._bytes += data
        return len(data)

    def take(self) -> bytes:
        data = bytes(self._bytes)
        self._bytes.clear()
        return data


class Encoder:
    """Encodes a sound that comes in pieces.

    A stream cannot state its length beforehand: wav has size fields of 0xFFFFFFFF then, flac a length of 0,
    and mp3 is longer by the encoder's delay and padding. `whole` gives exact headers. Lengths are exact for
    wav, pcm, opus and flac, and for mp3 (50 ms or more) if `whole`; aac in ADTS cannot say its padding.

    Args:
        format: one of `FORMATS`.
        sample_rate: wanted rate, Hz; the next rate the format has is taken, and stands in `.sample_rate`.
            Pieces at another rate are resampled without seams.
        whole: give no bytes before `close`.
        file: where to write to instead of giving bytes.
        tags: metadata, by FFmpeg's names; aac and pcm have no place for them.
        chapters: start and end, seconds, and title of each.

    Raises:
        ConfigError: unknown format.
    """

    def __init__(
        self,
        format: str,
        sample_rate: int,
        whole: bool = False,
        file: Path | None = None,
        tags: Mapping[str, str] = MappingProxyType({}),
        chapters: Sequence[tuple[float, float, str]] = (),
    ) -> None:
        container, codec, options = _FFMPEG[_checked_format(format)]
        rates = av.Codec(codec, "w").audio_rates or [sample_rate]
        self.sample_rate = min((rate for rate in rates if rate >= sample_rate), default=max(rates))
        self._file = io.BytesIO() if whole else _Pipe()
        options = options | {"fflags": "+bitexact", "flush_packets": "1"}
        place = self._file if file is None else str(file)
        self._container = av.open(place, "w", format=container, options=options)
        stream = self._container.add_stream(codec, self.sample_rate, layout="mono")
        self._stream = cast(av.AudioStream, stream)
        self._stream.bit_rate = LOSSY_BIT_RATE
        self._container.metadata.update(tags)
        if chapters:
            self._container.set_chapters([_chapter(number, *one) for number, one in enumerate(chapters)])
        self._container.start_encoding()
        self._rate_in = self._position = 0
        self._resampler: _Resampler | None = None

    def push(self, audio: Audio) -> bytes:
        """Take a piece and return the bytes ready so far, perhaps none.

        Raises InputError if a sample is not finite or the rate differs from the piece before.
        """
        if self._rate_in not in (0, audio.sample_rate):
            found = f"found {audio.sample_rate} Hz after {self._rate_in} Hz"
            raise InputError(f"Encoding audio: {found}. Push pieces of one rate.")
        if not self._rate_in and audio.sample_rate != self.sample_rate:
            self._resampler = _Resampler(audio.sample_rate, self.sample_rate)
        self._rate_in = audio.sample_rate
        self._encode(self._resampler.push(audio.samples) if self._resampler else audio.samples)
        return self._file.take() if isinstance(self._file, _Pipe) else b""

    def close(self) -> bytes:
        """End the sound and return the last bytes; the encoder is done then."""
        if self._resampler:
            self._encode(self._resampler.close())
        self._container.mux(self._stream.encode(None))
        self._container.close()
        return self._file.take() if isinstance(self._file, _Pipe) else self._file.getvalue()

    def _encode(self, samples: np.ndarray) -> None:
        if not len(samples):
            return
        frame = av.AudioFrame.from_ndarray(to_int16(samples)[None], format="s16", layout="mono")
        frame.sample_rate, frame.pts = self.sample_rate, self._position
        self._position += len(samples)
        self._container.mux(self._stream.encode(frame))


def _chapter(number: int, start_s: float, end_s: float, title: str) -> Any:
    times = {"start": round(start_s * 1000), "end": round(end_s * 1000), "time_base": Fraction(1, 1000)}
    return {"id": number, **times, "metadata": {"title": title}}


def to_int16(samples: np.ndarray) -> np.ndarray:
    """Return float samples [T] as 16-bit ones, clipped; InputError if one is not finite."""
    if not np.isfinite(samples).all():
        raise InputError("Encoding audio: found samples that are not finite numbers. Make the sound again.")
    return np.clip(np.rint(samples * 32768.0), -32768, 32767).astype(np.int16)


def _checked_format(format: str) -> str:
    if format not in _FFMPEG:
        raise ConfigError(f"Encoding audio: no format is called '{format}'. Use one of {', '.join(FORMATS)}.")
    return format


def encode(audio: Audio, format: str, tags: Mapping[str, str] = MappingProxyType({})) -> bytes:
    """Return a whole sound file: 16-bit wav or flac, mp3, opus (in OGG), aac (ADTS), or pcm (raw s16le).

    Samples outside [-1, 1] are clipped. Raises ConfigError for an unknown format, InputError for samples
    that are not finite. tags: as of `Encoder`.
    """
    encoder = Encoder(format, audio.sample_rate, whole=True, tags=tags)
    return encoder.push(audio) + encoder.close()


def write(
    path: str | os.PathLike[str],
    audio: Audio,
    format: str | None = None,
    tags: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Write a sound file, whole or not at all.

    Args:
        path: its folder must exist; a file already there is replaced.
        audio: any rate.
        format: one of `FORMATS`; taken from the suffix if not given.
        tags: as of `Encoder`.

    Raises:
        ConfigError: unknown format or suffix, or the file cannot be written.
        InputError: samples that are not finite.
    """
    replace_file(Path(path).resolve(), encode(audio, check_output(path, format), tags))


def check_output(path: str | os.PathLike[str], format: str | None = None) -> str:
    """Return the format `write` would use, before the work of making the sound.

    Raises:
        ConfigError: as for `write`.
    """
    path = Path(path)
    check_target(path)
    return _checked_format(format or path.suffix[1:].lower())


def replace_file(path: Path, data: bytes) -> None:
    """Write a file under a temporary name in its folder, then rename it, so that nobody sees half of it.

    A symbolic link at `path` is replaced, not followed. Raises ConfigError if the file cannot be written.
    """
    check_target(path)
    temporary = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        todo = f"Free {len(data)} bytes there or name another place."
        raise ConfigError(f"Writing '{path}': the system says: {error.strerror}. {todo}") from error


def drop_drafts(folder: Path) -> None:
    """Remove what `replace_file` only began in a folder before it was killed; nobody else may write there."""
    for draft in folder.rglob(".*.part"):
        if draft.is_file():
            draft.unlink()


def check_target(path: Path) -> None:
    """Raise ConfigError if `replace_file` could not write there, before the work of making what to write."""
    if not path.parent.is_dir():
        raise ConfigError(f"Writing '{path}': there is no folder '{path.parent}'. Make it or name another.")
    if path.exists() and not path.is_file():
        raise ConfigError(f"Writing '{path}': it is a folder or device. Name a file.")
    if not os.access(path.parent, os.W_OK):
        raise ConfigError(f"Writing '{path}': '{path.parent}' may not be written to. Name another folder.")

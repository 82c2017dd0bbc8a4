"""Sound files to sound, with everything refused that cannot be a recording. Knows nothing but files.

Shapes: T samples; everything is mono float32.
"""

import os
import re
import struct
import sys
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile

from llasa.core import Audio
from llasa.errors import InputError

MIN_RATE_HZ, MAX_RATE_HZ = 8_000, 192_000
SILENCE_PEAK = 1e-3  # -60 dBFS
MAX_PEAK = 16.0  # 24 dB over full scale: surely integers stored as floats
SLACK_S = 0.25  # that a cut may end behind the file: aligners round and pad
BLOCK = 65_536  # samples decoded at a time, so that a lying header cannot fill the memory

# first bytes of WAV, FLAC, OGG, and MP3 with a tag or without (an MPEG frame header that names a layer)
_MAGIC = re.compile(rb"RIFF....WAVE|fLaC|OggS|ID3|\xff[\xe2-\xe7\xf2-\xf7\xfa-\xff]", re.DOTALL)
_LINEAR = {"PCM_S8", "PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"}
_OGG, _MP3 = {"VORBIS", "OPUS"}, {"MPEG_LAYER_III"}
_SUBTYPES = {"WAV": _LINEAR, "WAVEX": _LINEAR, "FLAC": _LINEAR, "OGG": _OGG, "MP3": _MP3}
_USE_ANOTHER = "Give a WAV (PCM or float), FLAC, OGG (Vorbis or Opus) or MP3 file."


def read(
    source: str | os.PathLike[str] | BinaryIO,
    *,
    min_s: float = 0.25,
    max_s: float = 60.0,
    start_s: float = 0.0,
    end_s: float | None = None,
) -> Audio:
    """Return a recording as mono sound at its own rate, having refused everything that cannot be speech.

    Args:
        source: a path, or a seekable binary file (left open). Two channels are averaged.
        min_s: shortest recording taken, seconds.
        max_s: longest one, seconds; checked in the header and again while decoding.
        start_s, end_s: the part wanted, to the end if None; it alone is decoded and judged, and refused if
            the file ends before it.

    Returns:
        Samples [T], not clipped: float files may pass 1.

    Raises:
        InputError: missing, damaged, another format, a rate outside 8-192 kHz, more than two channels, too
            short, too long, not finite, or silent (peak below -60 dBFS); its `reason` tells which.
    """
    limits, part = (min_s, max_s), (start_s, end_s)
    if not isinstance(source, str | os.PathLike):
        return _read(source, getattr(source, "name", "the given data"), limits, part)
    try:
        if not Path(source).is_file():
            found = "it is a folder or device" if Path(source).exists() else "there is no such file"
            raise _refusal(source, "missing", found, "Check the path.")
        with open(source, "rb") as file:
            return _read(file, source, limits, part)
    except OSError as error:
        found = f"the system says: {error.strerror}"
        raise _refusal(source, "unreadable", found, "Check the file.") from error


def _refusal(name: object, reason: str, found: str, todo: str) -> InputError:
    return InputError(f"Reading audio from '{name}': {found}. {todo}", reason)


def _read(
    file: BinaryIO, name: object, limits: tuple[float, float], part: tuple[float, float | None]
) -> Audio:
    check_container(file, name)
    file.seek(0)
    try:
        with soundfile.SoundFile(file) as sound:
            _check_header(sound, name)
            samples = _decode(sound, name, limits[1], part)
            audio = Audio(samples, sound.samplerate)
    except soundfile.LibsndfileError as error:
        found = f"it is damaged ({error.error_string.rstrip('.')})"
        raise _refusal(name, "unreadable", found, _USE_ANOTHER) from error
    _check_samples(audio, name, limits[0])
    return audio


def check_container(file: BinaryIO, name: object) -> None:
    """Let the decoder see allowed containers only: its rarer parsers (ADPCM) have had memory faults.

    Raises InputError if `file` is none of them; it then stands anywhere.
    """
    head = file.read(12)
    if not head:
        raise _refusal(name, "empty", "it is empty", _USE_ANOTHER)
    if not _MAGIC.match(head):
        raise _refusal(name, "unreadable", "it is no audio format known here", _USE_ANOTHER)
    if head[:4] == b"RIFF" and (tag := _wav_tag(file)) not in (1, 3, 0xFFFE):  # PCM, float, extensible
        found = f"it is a WAV file of encoding {tag}, not PCM or float"
        raise _refusal(name, "unreadable", found, _USE_ANOTHER)


def _wav_tag(file: BinaryIO) -> int | None:
    """Return the encoding number of the first format chunk; `file` stands behind the RIFF header."""
    for _ in range(100):
        chunk = file.read(10)
        if len(chunk) < 10:
            return None
        kind, size, tag = struct.unpack("<4sIH", chunk)
        if kind == b"fmt ":
            return tag
        file.seek(size + size % 2 - 2, os.SEEK_CUR)
    return None


def _check_header(sound: soundfile.SoundFile, name: object) -> None:
    if sound.subtype not in _SUBTYPES.get(sound.format, ()):
        raise _refusal(name, "unreadable", f"it is {sound.format} with {sound.subtype}", _USE_ANOTHER)
    if not MIN_RATE_HZ <= sound.samplerate <= MAX_RATE_HZ:
        found = f"its sample rate is {sound.samplerate} Hz"
        raise _refusal(name, "bad-rate", found, f"Resample it to between {MIN_RATE_HZ} and {MAX_RATE_HZ} Hz.")
    if sound.channels > 2:
        raise _refusal(name, "channels", f"it has {sound.channels} channels", "Mix it to mono or stereo.")
    if sound.frames > 2**62:  # libsndfile's way to say that a streamed FLAC states no length
        raise _refusal(name, "unreadable", "its header states no length", "Save it again as a complete file.")


def _decode(
    sound: soundfile.SoundFile, name: object, max_s: float, part: tuple[float, float | None]
) -> np.ndarray:
    rate, todo = sound.samplerate, f"Cut it to at most {max_s:g} s."
    start = min(round(max(0.0, part[0]) * rate), sound.frames)
    end = sound.frames if part[1] is None else max(start, round(part[1] * rate))
    if end - sound.frames < SLACK_S * rate:
        end = min(end, sound.frames)
    if end - start > max_s * rate:
        raise _refusal(name, "too-long", f"it lasts {(end - start) / rate:.1f} s", todo)
    if start:
        sound.seek(start)
    blocks, total = [np.zeros(0, np.float32)], 0
    # Without an end the header is not believed: a file may be longer than it says.
    most = sys.maxsize if part[1] is None else end - start
    while len(block := sound.read(min(BLOCK, most - total), dtype="float32", always_2d=True)):
        total += len(block)
        if total > max_s * rate:
            raise _refusal(name, "too-long", "it is longer than its header says", todo)
        blocks.append(block.mean(axis=1))
    if total < 0.95 * (end - start):
        found = f"it ends after {total} of {end - start} samples"
        mend = "Copy or save it again" + (
            ", or correct the times of the cut." if part[1] is not None else "."
        )
        raise _refusal(name, "unreadable", found, mend)
    return np.concatenate(blocks)


def _check_samples(audio: Audio, name: object, min_s: float) -> None:
    if audio.duration_s < min_s or not len(audio.samples):
        found, reason = (
            f"it lasts only {audio.duration_s:.2f} s",
            "too-short" if len(audio.samples) else "empty",
        )
        raise _refusal(name, reason, found, f"Give at least {min_s:g} s.")
    peak = np.abs(audio.samples).max()
    if not peak <= MAX_PEAK:  # also when it is not a number
        found, reason = (
            f"its samples reach {peak:g}, full scale is 1",
            "clipped" if peak > 0 else "not-finite",
        )
        raise _refusal(name, reason, found, "Save it again as 16-bit WAV.")
    if peak < SILENCE_PEAK:
        todo = "Check the recording and its channels."
        raise _refusal(name, "silent", "it is silent (peak below -60 dBFS)", todo)

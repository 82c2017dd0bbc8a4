"""Sound files that are not what they seem: mutants of every format, and bombs.

`python -m tests.uploads SEED FIRST LAST` reads mutants under the limits of `audio.apart`, one after another
in one process. Each line is the number of one, before it is read; the last is what came of all.
"""

import base64
import json
import random
import struct
import subprocess
import sys
from collections import Counter
from functools import cache
from io import BytesIO
from pathlib import Path

import numpy as np

from llasa.audio import apart, encode, read
from llasa.core import Audio
from llasa.errors import InputError
from tests.conftest import clip
from tests.crowd import Ask

FORMATS = ("wav", "flac", "mp3", "opus", "aac", "m4a")
MARK = "7e57"
EXTREMES = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 0x80000000)


@cache
def sound_file(format: str) -> bytes:
    """Return a file of 1.2 s."""
    return encode(clip(1.2), format)


def mutant(seed: int, number: int) -> bytes:
    """Return a file with some of its bytes changed, most of them in its head."""
    draw = random.Random(f"{seed}/{number}")
    data = bytearray(sound_file(FORMATS[number % len(FORMATS)]))
    for _ in range(draw.randint(1, 8)):
        at = draw.randrange(min(len(data), 200)) if draw.random() < 0.7 else draw.randrange(len(data))
        size, order = draw.choice((1, 2, 4)), draw.choice("<>")
        value = draw.choice(EXTREMES) if draw.random() < 0.6 else draw.getrandbits(32)
        match draw.randrange(6):
            case 0 | 1:
                data[at : at + size] = struct.pack(order + "I", value)[:size]
            case 2:
                data[at] ^= 1 << draw.randrange(8)
            case 3:
                data[at:at] = data[at : at + draw.randrange(1, 5000)] * draw.randint(1, 3)
            case 4:
                del data[at : at + draw.choice((1, 2, 4, 100, 10_000))]
            case _:
                other = sound_file(draw.choice(FORMATS))
                data[at:] = other[draw.randrange(len(other)) :]
        data = data or bytearray(1)
    return bytes(data)


def wav(
    rate: int = 16_000, channels: int = 1, tag: int = 1, claims: int | None = None, bits: int = 16
) -> bytes:
    """Return a WAV file that says so of itself."""
    data = (clip(1.2).samples * 20_000).astype("<i2").tobytes()
    size, block = len(data) if claims is None else claims, channels * bits // 8
    head = struct.pack(
        "<HHIIHH", tag, channels, rate & 0xFFFFFFFF, rate * block & 0xFFFFFFFF, block & 0xFFFF, bits
    )
    body = b"WAVEfmt " + struct.pack("<I", len(head)) + head + b"data" + struct.pack("<I", size) + data
    return b"RIFF" + struct.pack("<I", min(len(body), 0xFFFFFFFF)) + body


@cache
def bombs() -> dict[str, bytes]:
    """Return files that expand, lie, or name other files."""
    hours = Audio(np.full(8000 * 1800, 0.01, np.float32), 8000)
    playlist = b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"
    return {
        "half an hour in flac": encode(hours, "flac"),
        "two minutes in opus": encode(Audio(hours.samples[: 8000 * 120], 8000), "opus"),
        "wav of 1 Hz": wav(rate=1),
        "wav of 2 GHz": wav(rate=2**31 - 1),
        "wav of 1024 channels": wav(channels=1024),
        "wav of ADPCM": wav(tag=17, bits=4),
        "wav of MP3": wav(tag=85),
        "playlist": playlist,
        "playlist behind a tag": b"ID3\x04\0\0\0\0\0\0" + playlist,
        "concat": b"ffconcat version 1.0\nfile '/etc/passwd'\n",
        "sdp": b"v=0\no=- 0 0 IN IP4 127.0.0.1\nm=audio 1 RTP/AVP 0\n",
        "wav of a playlist": wav() [:44] + playlist,
        "aiff": b"FORM\0\0\0\x20AIFFCOMM" + b"\0" * 40,
        "m4a": sound_file("m4a"),
        "zip": b"PK\x03\x04" + b"\0" * 100,
        "nothing": b"",
    }  # fmt: skip


def upload(data: bytes, name: str = "grace") -> Ask:
    """Return the request that makes a voice of a file."""
    fields = {"name": name, "text": "the cat", "consent": "I agree."}
    head = f'--{MARK}\r\nContent-Disposition: form-data; name="'
    parts = [f'{head}{name}"\r\n\r\n{value}\r\n'.encode() for name, value in fields.items()]
    file = f'{head}audio_sample"; filename="a"\r\n\r\n'.encode() + data + f"\r\n--{MARK}--\r\n".encode()
    heads = {"Content-Type": f"multipart/form-data; boundary={MARK}"}
    return Ask(b"".join(parts) + file, "/v1/audio/voices", heads=heads)


def inline(data: bytes) -> Ask:
    """Return the request that speaks with the voice of a file."""
    sound = "data:audio/wav;base64," + base64.b64encode(data).decode()
    return Ask({"input": "One.", "ref_audio": sound, "ref_text": "the cat", "consent": "I agree."})


def attacked(seed: int, count: int) -> tuple[Counter[str], list[int], int]:
    """Return how mutants ended, the numbers of those that ended their process, and the largest one's KiB."""
    ends, fatal, most, first = Counter[str](), list[int](), 0, 0
    while first < count:
        command = [sys.executable, "-m", "tests.uploads", str(seed), str(first), str(count)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        lines = done.stdout.splitlines()
        if done.returncode == 0:
            told = json.loads(lines[-1])
            return ends + Counter(told["ends"]), fatal, max(most, told["kib"])
        assert lines, done.stderr
        fatal.append(int(lines[-1]))
        first = fatal[-1] + 1
    return ends, fatal, most


def _peak_kib() -> int:
    """Return the largest size of this process; getrusage would tell that of the one it was forked from."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1])


def main() -> None:
    """Read mutants, under limits."""
    seed, first, last = map(int, sys.argv[1:])
    for format in FORMATS:
        sound_file(format)
    apart.SECONDS *= last  # those of one, for each
    apart._limit()
    ends = Counter[str]()
    for number in range(first, last):
        print(number, flush=True)
        try:
            read(BytesIO(mutant(seed, number)), min_s=1.0, max_s=30.0)
            ends["read"] += 1
        except InputError as error:
            ends[error.reason or "refused"] += 1
    print(json.dumps({"ends": ends, "kib": _peak_kib()}))


if __name__ == "__main__":
    main()

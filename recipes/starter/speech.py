"""Synthetic speech with exact word and phone times: Debian's flite voices, called through their C library.

One shard a call, written whole or not at all. A variant resamples the wave, which moves pitch,
formants and rate together: a new speaker for little compute.

Shard = `NAME.pcm` (int16, all utterances end to end) and `NAME.jsonl` (one row an utterance: text, words,
offset, samples, word end times and phones with end times in seconds).
"""

import argparse
import ctypes
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soxr
from rich.progress import track

SAMPLE_RATE = 16000
LIBRARIES = ("libflite.so.1", "libflite_cmulex.so.1", "libflite_usenglish.so.1")


class _Wave(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_char_p),
        ("sample_rate", ctypes.c_int),
        ("num_samples", ctypes.c_int),
        ("num_channels", ctypes.c_int),
        ("samples", ctypes.POINTER(ctypes.c_short)),
    )


@dataclass(frozen=True)
class Spoken:
    """One utterance. samples: int16 [T] at 16 kHz; words and phones with end times in seconds."""

    samples: np.ndarray
    words: list[tuple[str, float]]
    phones: list[tuple[str, float]]

    def resampled(self, speed: float) -> "Spoken":
        """Return it played `speed` times faster: higher pitch, smaller head, quicker speech."""
        if speed == 1.0:
            return self
        wave = soxr.resample(self.samples.astype(np.float32) / 32768, speed, 1.0)
        samples = (np.clip(wave, -1, 1) * 32767).astype(np.int16)
        return Spoken(
            samples, [(w, t / speed) for w, t in self.words], [(p, t / speed) for p, t in self.phones]
        )


class Flite:
    """One flite voice. `stretch` slows speech by that factor;
    `pitch_hz` moves the mean pitch (0: the voice's own).
    """

    def __init__(self, voice: str, stretch: float = 1.0, pitch_hz: float = 0.0) -> None:
        for name in LIBRARIES:
            ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
        self._lib = ctypes.CDLL("libflite.so.1")
        lib = ctypes.CDLL(f"libflite_cmu_us_{voice}.so.1", mode=ctypes.RTLD_GLOBAL)
        self._declare()
        self._lib.flite_init()
        register = getattr(lib, f"register_cmu_us_{voice}")
        register.restype = ctypes.c_void_p
        self._voice = register(None)
        features = ctypes.c_void_p.from_address(self._voice + ctypes.sizeof(ctypes.c_void_p)).value
        # The library keeps one voice a process: an earlier instance may have stretched it.
        self._lib.feat_set(features, b"duration_stretch", self._lib.float_val(stretch))
        if pitch_hz:
            self._lib.feat_set(features, b"int_f0_target_mean", self._lib.float_val(pitch_hz))

    def _declare(self) -> None:
        pointer, text, real = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_float
        for name, result, arguments in (
            ("flite_synth_text", pointer, (text, pointer)),
            ("utt_wave", ctypes.POINTER(_Wave), (pointer,)),
            ("utt_relation", pointer, (pointer, text)),
            ("relation_head", pointer, (pointer,)),
            ("item_next", pointer, (pointer,)),
            ("item_feat_string", text, (pointer, text)),
            ("item_feat_float", real, (pointer, text)),
            ("flite_ffeature_float", real, (pointer, text)),
            ("delete_utterance", None, (pointer,)),
            ("feat_set", None, (pointer, text, pointer)),
            ("float_val", pointer, (real,)),
        ):
            function = getattr(self._lib, name)
            function.restype, function.argtypes = result, arguments

    def _items(self, utterance: int, relation: bytes) -> Iterator[int]:
        item = self._lib.relation_head(self._lib.utt_relation(utterance, relation))
        while item:
            yield item
            item = self._lib.item_next(item)

    def say(self, text: str) -> Spoken:
        """Return the sound of `text` with its words and phones."""
        lib = self._lib
        utterance = lib.flite_synth_text(text.encode(), self._voice)
        wave = lib.utt_wave(utterance).contents
        samples = np.ctypeslib.as_array(wave.samples, (wave.num_samples,)).copy()
        end = b"R:SylStructure.daughtern.daughtern.R:Segment.end"
        words = [
            (lib.item_feat_string(item, b"name").decode(), lib.flite_ffeature_float(item, end))
            for item in self._items(utterance, b"Word")
        ]
        phones = [
            (lib.item_feat_string(item, b"name").decode(), lib.item_feat_float(item, b"end"))
            for item in self._items(utterance, b"Segment")
        ]
        rate = wave.sample_rate
        lib.delete_utterance(utterance)
        if rate != SAMPLE_RATE:
            raise SystemExit(f"flite gave {rate} Hz, this recipe wants {SAMPLE_RATE} Hz voices.")
        return Spoken(samples, words, phones)


def spoken_words(text: str) -> list[str]:
    """Return the words of a normalised text, as flite counts them."""
    return [word.strip(",.?!") for word in text.split()]


def write_shard(
    texts: list[str], voice: Flite, folder: Path, name: str, speed: float, normalizer, hours: float
) -> None:
    """Speak texts until `hours` are full and write the shard;
    a text whose words flite counts differently is left out.
    """
    rows, total = [], 0
    with open(folder / f"{name}.pcm.part", "wb") as sound:
        for raw in track(texts, description=name):
            text = normalizer(raw)
            spoken = voice.say(text)
            if [w for w, _ in spoken.words] != spoken_words(text) or len(spoken.samples) > 9 * SAMPLE_RATE:
                continue
            spoken = spoken.resampled(speed)
            sound.write(spoken.samples.tobytes())
            rows.append(
                {"text": text, "offset": total, "samples": len(spoken.samples)}
                | {"word_ends": [round(t, 3) for _, t in spoken.words]}
                | {
                    "phones": [p for p, _ in spoken.phones],
                    "phone_ends": [round(t, 3) for _, t in spoken.phones],
                }
            )
            total += len(spoken.samples)
            if total >= hours * 3600 * SAMPLE_RATE:
                break
    if total < hours * 3600 * SAMPLE_RATE:
        raise SystemExit(
            f"{name}: the texts ran out after {total / SAMPLE_RATE / 3600:.2f} h. Give more, or fewer hours."
        )
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / f"{name}.pcm.part").rename(folder / f"{name}.pcm")
    (folder / f"{name}.jsonl.part").write_text(lines, encoding="utf-8")
    (folder / f"{name}.jsonl.part").rename(folder / f"{name}.jsonl")
    print(f"{name}: {len(rows)} utterances, {total / SAMPLE_RATE / 3600:.2f} h")


def main() -> None:
    """Write one shard of one voice."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("texts", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--voice", required=True, help="rms, slt, awb, kal16 or kal")
    parser.add_argument("--hours", type=float, required=True)
    parser.add_argument("--skip", type=int, default=0, help="lines of `texts` to pass over first")
    parser.add_argument("--stretch", type=float, default=1.0)
    parser.add_argument("--pitch", type=float, default=0.0, help="mean pitch, Hz; not for rms")
    parser.add_argument("--speed", type=float, default=1.0, help="resampling variant")
    parser.add_argument("--name", help="name of the shard")
    args = parser.parse_args()
    from llasa.text.normalize import normalize

    name = args.name or f"{args.voice}-{args.skip}"
    if (args.folder / f"{name}.jsonl").exists():
        print(f"{name}: already there")
        return
    args.folder.mkdir(parents=True, exist_ok=True)
    texts = args.texts.read_text(encoding="utf-8").splitlines()[args.skip :]
    voice = Flite(args.voice, args.stretch, args.pitch)
    write_shard(texts, voice, args.folder, name, args.speed, lambda t: normalize(t).text, args.hours)


if __name__ == "__main__":
    main()

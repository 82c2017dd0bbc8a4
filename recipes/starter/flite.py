"""Debian's flite voices, called through their C library."""

import ctypes
from collections.abc import Iterable, Iterator

import numpy as np

from spoken import SAMPLE_RATE, Spoken

LIBRARIES = ("libflite.so.1", "libflite_cmulex.so.1", "libflite_usenglish.so.1")


class _Wave(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_char_p),
        ("sample_rate", ctypes.c_int),
        ("num_samples", ctypes.c_int),
        ("num_channels", ctypes.c_int),
        ("samples", ctypes.POINTER(ctypes.c_short)),
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
        return Spoken(text, samples, words, phones)

    def say_all(self, texts: Iterable[str]) -> Iterator[Spoken]:
        """Yield the sound of each text with its words and phones."""
        yield from map(self.say, texts)

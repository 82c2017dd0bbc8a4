"""CMU Sphinx with the English model of its wheel: small, offline, and unlike every recogniser trained here.

Knows no codec and no language model. It hears US English only, at about a quarter of real time on one core.
"""

import math
from collections.abc import Sequence
from importlib import metadata
from typing import Any

import numpy as np

from llasa.audio import resample, to_int16
from llasa.core import Audio
from llasa.errors import MissingExtra
from llasa.recognizers.base import TextForm, Transcript
from llasa.recognizers.cache import Memory, checked

RATE_HZ, FRAMES_PER_S = 16000, 100
QUIET_S = 0.2  # put on both sides: its silence model needs some before the first word


class PocketsphinxRecognizer:
    """A `Recognizer` of lower-case words with times and posterior probabilities."""

    text_form: TextForm = "characters"

    def __init__(self, remembered: int = 1024) -> None:
        """Load the model; remembered: how many transcripts are kept.

        Raises:
            MissingExtra: pocketsphinx is not installed.
        """
        try:
            from pocketsphinx import Decoder
        except ImportError as error:
            raise MissingExtra("Listening with pocketsphinx", "pocketsphinx", "eval") from error
        self.name = f"pocketsphinx@{metadata.version('pocketsphinx')}"
        self._decoder: Any = Decoder(samprate=RATE_HZ, loglevel="FATAL")
        self.memory: Memory[Transcript] = Memory(remembered)

    def transcribe(self, audio: Sequence[Audio]) -> list[Transcript]:
        """See `Recognizer.transcribe`. tokens are words, their logprobs of the word lattice."""
        # `Memory` lets one thread at a time in, which the decoder needs.
        return self.memory.get(checked(audio), lambda clips: [self._hear(clip) for clip in clips])

    def _hear(self, clip: Audio) -> Transcript:
        quiet = np.zeros(round(QUIET_S * RATE_HZ), np.float32)
        samples = np.concatenate((quiet, resample(clip, RATE_HZ).samples, quiet))
        self._decoder.reinit_feat()  # forgets the noise and the level of the clip before
        self._decoder.start_utt()
        self._decoder.process_raw(to_int16(samples).tobytes(), full_utt=True)
        self._decoder.end_utt()
        # Names of fillers begin with a sign: <s>, <sil>, [NOISE], ++UH++.
        found = self._decoder.seg() if self._decoder.hyp() else ()
        words = [part for part in found if part.word[0].isalpha() or part.word[0] == "'"]
        tokens = tuple(part.word.partition("(")[0].lower() for part in words)
        spans = tuple(_span(part.start_frame, part.end_frame, clip.duration_s) for part in words)
        logprobs = tuple(math.log(min(max(part.prob, 1e-10), 1.0)) for part in words)
        return Transcript(" ".join(tokens), tokens, spans, logprobs)


def _span(first: int, last: int, duration_s: float) -> tuple[float, float]:
    """Return the seconds of frames `first` to `last` in the clip without the quiet around it."""
    start, end = (min(max(frame / FRAMES_PER_S - QUIET_S, 0.0), duration_s) for frame in (first, last + 1))
    return start, end

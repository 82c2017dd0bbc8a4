"""What a round trip through a codec leaves of speech: STOI, PESQ, what a recogniser hears, and code usage.

Knows codecs and recognisers by their protocols only.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from typing import Any

import numpy as np
from rapidfuzz.distance import Levenshtein

from llasa.audio import resample
from llasa.codec.base import Codec
from llasa.core import Audio, Clip, Codes
from llasa.errors import InputError, MissingExtra
from llasa.recognizers.base import Recognizer

RATE_HZ = 16000  # both measures are made for it
_SHORTEST_S = 0.5  # STOI needs 30 frames


@dataclass(frozen=True)
class Passage:
    """One clip's round trip. stoi: in [0, 1]; pesq: wide band, 1 to 4.64; None where it cannot be told.

    heard, heard_copy: what the recogniser made of the clip and of its copy; None without a recogniser.
    """

    id: str
    seconds: float
    stoi: float | None
    pesq: float | None
    heard: str | None = None
    heard_copy: str | None = None


@dataclass
class Usage:
    """How often each entry of a codebook was used."""

    codebook_size: int
    counts: Counter[int] = field(default_factory=Counter)

    def add(self, codes: Codes) -> None:
        """Count the codes of one clip."""
        self.counts.update(codes)

    @property
    def measures(self) -> dict[str, float]:
        """Codes seen, share of entries used at least once, and entropy in bits a code."""
        n = self.counts.total()
        share = np.array(list(self.counts.values())) / max(1, n)
        bits = float(-(share * np.log2(share)).sum()) if n else 0.0
        return {"codes": float(n), "used": len(self.counts) / self.codebook_size, "bits": bits}


@dataclass(frozen=True)
class RoundTrip:
    """The round trips of some clips through one codec."""

    codec: str
    passages: tuple[Passage, ...]
    usage: Usage

    @property
    def measures(self) -> dict[str, float]:
        """Means over the clips; error rates are edits over what was heard of all originals together.

        cer, wer: of the copies against the recogniser's own transcripts of the originals.
        """
        found: dict[str, float] = {"clips": float(len(self.passages))}
        for name in ("stoi", "pesq"):
            values = [v for p in self.passages if (v := getattr(p, name)) is not None]
            if values:
                found[name] = float(np.mean(values))
        pairs = [(p.heard, p.heard_copy or "") for p in self.passages if p.heard]
        if pairs:
            found["cer"] = _error_rate(pairs)
            found["wer"] = _error_rate([(a.split(), b.split()) for a, b in pairs])
        return found | self.usage.measures

    def report(self) -> dict[str, Any]:
        """Return all of it for a JSON file."""
        return {"codec": self.codec} | self.measures | {"passages": [asdict(p) for p in self.passages]}


def measure(
    codec: Codec, clips: Iterable[tuple[Clip, Audio]], recognizer: Recognizer | None = None
) -> tuple[RoundTrip, list[tuple[Audio, Audio]]]:
    """Return the round trip of each clip, and the pairs of original and copy at 16 kHz.

    Raises:
        MissingExtra: pystoi or pesq is not installed.
        InputError: there is no clip.
    """
    check_installed()
    usage, passages, pairs = Usage(codec.codebook_size), [], []
    for clip, sound in clips:
        codes = codec.encode([sound])[0]
        usage.add(codes)
        pair = _aligned(sound, codec.decode([codes])[0])
        pairs.append(pair)
        heard = [t.text for t in recognizer.transcribe(list(pair))] if recognizer else (None, None)
        passages.append(Passage(clip.id, sound.duration_s, *_likeness(*pair), heard[0], heard[1]))
    if not passages:
        raise InputError("Measuring a round trip: found no clip of use. Name recordings of speech.")
    return RoundTrip(codec.name, tuple(passages), usage), pairs


def check_installed() -> None:
    """Raise MissingExtra if what `measure` measures with is not installed: before the work, not after."""
    for module in ("pystoi", "pesq"):
        if find_spec(module) is None:
            raise MissingExtra("Measuring a round trip", module, "train")


def _aligned(original: Audio, copy: Audio) -> tuple[Audio, Audio]:
    a, b = resample(original, RATE_HZ).samples, resample(copy, RATE_HZ).samples
    size = min(len(a), len(b))
    return Audio(a[:size], RATE_HZ), Audio(b[:size], RATE_HZ)


def _likeness(original: Audio, copy: Audio) -> tuple[float | None, float | None]:
    from pesq import NoUtterancesError, pesq  # pyright: ignore[reportMissingImports]
    from pystoi import stoi  # pyright: ignore[reportMissingImports]

    if original.duration_s < _SHORTEST_S:
        return None, None
    near = float(stoi(original.samples, copy.samples, RATE_HZ))
    if not np.abs(copy.samples).max() > 0:
        return near, None
    try:
        return near, float(pesq(RATE_HZ, original.samples, copy.samples, "wb"))
    except NoUtterancesError:  # no speech in it
        return near, None


def _error_rate(pairs: Iterable[tuple[Any, Any]]) -> float:
    edits = length = 0
    for wanted, found in pairs:
        edits, length = edits + Levenshtein.distance(wanted, found), length + len(wanted)
    return edits / max(1, length)


def line(measures: Mapping[str, float]) -> str:
    """Return the measures as one line for people."""
    shown = {"stoi": "STOI {:.3f}", "pesq": "PESQ {:.2f}", "cer": "CER {:.1%}", "wer": "WER {:.1%}"}
    shown |= {"used": "{:.1%} of the codebook used", "bits": "{:.2f} bits a code"}
    return ", ".join(form.format(measures[name]) for name, form in shown.items() if name in measures)

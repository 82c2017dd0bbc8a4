"""Codes as they come to audio chunks, and segments to one long sound, without clicks.

Knows codecs by their protocol only, no engine, text or voice. Codecs need not be causal: each chunk is
decoded between codes already given (left) and codes not yet given (look-ahead). Shapes: N codes, T samples.
"""

from collections.abc import Iterable, Iterator

import numpy as np

from llasa.audio import trim_silence
from llasa.codec.base import Codec
from llasa.core import Audio, Codes
from llasa.errors import ConfigError, InputError


def decode_stream(
    codec: Codec,
    chunks: Iterable[Codes],
    context: Codes | None = None,
    *,
    left: int | None = None,
    look_ahead: int | None = None,
    step: int = 1,
    fade_s: float = 0.005,
) -> Iterator[Audio]:
    """Yield the sound of codes while they come.

    Joined, the pieces have exactly `N * hop_length` samples and approach `codec.decode` of all codes; a
    single chunk gives it exactly. The work is `(left + chunk + look_ahead) / chunk` times that of one decode.

    Args:
        codec: any codec.
        chunks: codes that will not be withdrawn, in pieces of any length.
        context: codes of the voice, heard by the decoder before the first code.
        left: codes decoded again before each later chunk; by default what the codec names in its `window`
            (left, look-ahead), or 75.
        look_ahead: codes held back until more come or the end; by default the codec's, or 10.
        step: codes given out at a time, at least; the end may be shorter.
        fade_s: length of the linear cross-fade where two decodes meet, at most one code, seconds.

    Raises:
        ConfigError: `left`, `look_ahead` or `fade_s` below 0, or `step` below 1.
        InputError: a code outside the codebook.
    """
    window = getattr(codec, "window", (75, 10))
    left, look_ahead = window[0] if left is None else left, window[1] if look_ahead is None else look_ahead
    if min(left, look_ahead, fade_s) < 0 or step < 1:
        found = f"{left=}, {look_ahead=}, {step=}, {fade_s=}"
        raise ConfigError(f"Decoding a stream: found {found}. Give step 1 or more, the rest 0 or more.")
    return _decode_stream(codec, chunks, list(context or []), left, look_ahead, step, fade_s)


def _decode_stream(
    codec: Codec,
    chunks: Iterable[Codes],
    history: Codes,
    left: int,
    look_ahead: int,
    step: int,
    fade_s: float,
) -> Iterator[Audio]:
    # pending: codes not given out yet. held: what the last decode said of them, if it saw them all
    pending: Codes = []
    held = np.zeros(0, np.float32)
    fade = min(round(fade_s * codec.sample_rate), codec.hop_length)
    for chunk in chunks:
        pending = pending + list(chunk)
        ready = len(pending) - look_ahead
        if ready < step or not chunk:
            continue
        samples = _decode(codec, pending, history, held[:fade])
        held = samples[ready * codec.hop_length :]
        yield Audio(samples[: ready * codec.hop_length], codec.sample_rate)
        history, pending = ((history + pending[:ready])[-left:] if left else [], pending[ready:])
    if len(held) < len(pending) * codec.hop_length:
        held = _decode(codec, pending, history, held[:fade])
    if len(held):
        yield Audio(held, codec.sample_rate)


def _decode(codec: Codec, codes: Codes, history: Codes, old: np.ndarray) -> np.ndarray:
    """Return the sound of `codes`, entered by a linear cross-fade from `old`, the last decode's view."""
    samples = np.array(codec.decode([codes], history or None)[0].samples, np.float32)
    rise = np.arange(1, len(old) + 1, dtype=np.float32) / (len(old) + 1)
    samples[: len(old)] = rise * samples[: len(old)] + (1 - rise) * old
    return samples


def join(
    parts: Iterable[Audio],
    pauses_s: Iterable[float],
    fade_s: float = 0.005,
    max_silence_s: float | None = None,
) -> Iterator[Audio]:
    """Yield the sounds of segments and the pauses between them, each part faded in and out.

    Args:
        parts: sounds of one rate; taken one at a time, as they come.
        pauses_s: silence after each part, seconds; the one behind the last part is not used.
        fade_s: length of the fades, seconds; at most half the part.
        max_silence_s: silence longer than this at the ends of a part is cut down to it, seconds.

    Raises:
        ConfigError: a pause is missing or below 0.
        InputError: parts of different rates.
    """
    pauses, rate = iter(pauses_s), 0
    for part in parts:
        if rate and part.sample_rate != rate:
            found = f"found {part.sample_rate} Hz after {rate} Hz"
            raise InputError(f"Joining segments: {found}. Resample them to one rate.")
        if rate:
            yield _silence(next(pauses, None), rate)
        rate = part.sample_rate
        yield _faded(part if max_silence_s is None else trim_silence(part, max_silence_s), fade_s)


def _silence(pause_s: float | None, sample_rate: int) -> Audio:
    if pause_s is None or pause_s < 0:
        raise ConfigError(f"Joining segments: found a pause of {pause_s}. Give 0 s or more for each gap.")
    return Audio(np.zeros(round(pause_s * sample_rate), np.float32), sample_rate)


def _faded(part: Audio, fade_s: float) -> Audio:
    samples = np.array(part.samples, np.float32)
    length = min(round(fade_s * part.sample_rate), len(samples) // 2)
    rise = np.arange(length, dtype=np.float32) / max(length, 1)
    samples[:length] *= rise
    samples[len(samples) - length :] *= rise[::-1]
    return Audio(samples, part.sample_rate)

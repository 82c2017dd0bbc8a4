"""Codes as they come to audio chunks, without clicks.

Knows codecs by their protocol only, no engine, text or voice. A codec with a streaming decoder is given each
code once. Others need not be causal: each chunk is decoded between codes already given (left) and codes not
yet given (look-ahead). Shapes: N codes, T samples.
"""

from collections.abc import Iterable, Iterator

import numpy as np

from llasa.codec.base import Codec, DecodeStream, SupportsStreaming
from llasa.core import Audio, Codes
from llasa.errors import ConfigError

LEFT, LOOK_AHEAD = 75, 20  # codes; benchmarks/streaming.py tells what they cost and what they change
FIRST_LOOK_AHEAD = 10  # of speech, whose first piece someone waits for


def decode_stream(
    codec: Codec,
    chunks: Iterable[Codes],
    context: Codes | None = None,
    *,
    left: int = LEFT,
    look_ahead: int = LOOK_AHEAD,
    first_look_ahead: int | None = None,
    step: int = 1,
    fade_s: float = 0.005,
) -> Iterator[Audio]:
    """Yield the sound of codes while they come; joined, it has exactly `N * hop_length` samples.

    A codec's streaming decoder gives the same sound however the codes come, each computed once; it is another
    decoder than that of `codec.decode`, and needs no windows.

    Without one, pieces approach `codec.decode` of all codes; a single chunk gives it exactly. The work is
    `(left + chunk + look_ahead) / chunk` times that of one decode.

    Args:
        codec: any codec.
        chunks: codes that will not be withdrawn, in pieces of any length.
        context: codes of the voice, heard by the decoder before the first code.
        left: codes decoded again before each later chunk.
        look_ahead: codes held back until more come or the end.
        first_look_ahead: the same, before the first piece, for which someone waits; as `look_ahead` if None.
        step: codes given out at a time, at least; the end may be shorter.
        fade_s: length of the linear cross-fade where two decodes meet, at most one code, seconds.

    Raises:
        ConfigError: `left`, a look-ahead or `fade_s` below 0, or `step` below 1.
        InputError: a code outside the codebook.
    """
    at_first = look_ahead if first_look_ahead is None else first_look_ahead
    if min(left, look_ahead, at_first, fade_s) < 0 or step < 1:
        found = f"{left=}, {look_ahead=}, {first_look_ahead=}, {step=}, {fade_s=}"
        raise ConfigError(f"Decoding a stream: found {found}. Give step 1 or more, the rest 0 or more.")
    if stream := _streaming(codec, context):
        return _decoded_once(stream, chunks)
    return _decode_windows(codec, chunks, list(context or []), left, (at_first, look_ahead), step, fade_s)


def behind(codec: Codec) -> int:
    """Return how many codes a codec's streaming decoder holds back; 0 where it has none."""
    stream = _streaming(codec, None)
    return stream.look_ahead if stream else 0


def held_back(codec: Codec) -> tuple[int, int]:
    """Return how many codes of speech are held back before the first piece, and later."""
    late = behind(codec)
    return (late, late) if late else (FIRST_LOOK_AHEAD, LOOK_AHEAD)


def _streaming(codec: Codec, context: Codes | None) -> DecodeStream | None:
    return codec.streaming(context) if isinstance(codec, SupportsStreaming) else None


def _decoded_once(stream: DecodeStream, chunks: Iterable[Codes]) -> Iterator[Audio]:
    for chunk in chunks:
        if len((sound := stream.push(list(chunk))).samples):
            yield sound
    if len((sound := stream.close()).samples):
        yield sound


def _decode_windows(
    codec: Codec,
    chunks: Iterable[Codes],
    history: Codes,
    left: int,
    look_ahead: tuple[int, int],
    step: int,
    fade_s: float,
) -> Iterator[Audio]:
    # pending: codes not given out yet. held: what the last decode said of them, if it saw them all
    pending: Codes = []
    held = np.zeros(0, np.float32)
    back, later = look_ahead
    fade = min(round(fade_s * codec.sample_rate), codec.hop_length)
    for chunk in chunks:
        pending = pending + list(chunk)
        ready = len(pending) - back
        if ready < step or not chunk:
            continue
        samples = _decode(codec, pending, history, held[:fade])
        held = samples[ready * codec.hop_length :]
        yield Audio(samples[: ready * codec.hop_length], codec.sample_rate)
        back = later
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

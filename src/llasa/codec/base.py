"""The codec contract: sound to codes and back. Knows no language model and no text."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from llasa.core import Audio, Codes
from llasa.errors import InputError

STREAMING = "streaming"  # folder in a codec's folder: its streaming decoder


class Codec(Protocol):
    """What a codec must offer.

    name: `kind@weights-hash`; voices and shards remember it.
    sample_rate: Hz, of the sound that codes decode to; a codec may hear at another, which it says in
    `input_rate`. codebook_size: entries. hop_length: samples a code at `sample_rate`, exact:
    N codes decode to `N * hop_length` samples.
    """

    name: str
    sample_rate: int
    codebook_size: int
    hop_length: int

    def encode(self, audio: Sequence[Audio]) -> list[Codes]:
        """Return the codes of each clip; ragged in, ragged out, order kept;
        each row equals encoding it alone.

        Clips at another rate are resampled, straight to the rate the codec hears at. A clip shorter than a
        code may have none. Raises InputError for an empty clip or samples that are not finite.
        """
        ...

    def decode(self, codes: Sequence[Codes], context: Codes | None = None) -> list[Audio]:
        """Return the sound of each code sequence, `N * hop_length` samples each.

        `context`: codes (of the voice) decoded before each row and cut off afterwards; they give a decoder
        with a wide view its left surroundings. Raises InputError for a code outside [0, codebook_size).
        """
        ...

    def code_count(self, n_samples: int) -> int:
        """Return the stated length law: how many codes `n_samples` samples at `sample_rate` become.

        A clip at another rate may have one code more or less, as its length is rounded to whole samples.
        """
        ...


class DecodeStream(Protocol):
    """Decodes one stream of codes as they come, each once. Not for several threads at a time.

    look_ahead: codes by which its sound is behind, rounded up.
    """

    look_ahead: int

    def push(self, codes: Codes) -> Audio:
        """Return the sound that the next codes complete, which may be none.

        Raises InputError for a code outside the codebook.
        """
        ...

    def close(self) -> Audio:
        """Return the rest: with it, all pieces are `hop_length` samples a code."""
        ...


@runtime_checkable
class SupportsStreaming(Protocol):
    """A codec that may have a decoder for streams, trained apart from its own, which looks ahead little."""

    def streaming(self, context: Codes | None = None) -> DecodeStream | None:
        """Return the decoder of a new stream, behind `context` as in `Codec.decode`; None if it has none."""
        ...


def check_codes(codec: Codec, codes: Codes) -> None:
    """Raise InputError for a code outside the codebook."""
    for position, code in enumerate(codes):
        if not 0 <= code < codec.codebook_size:
            raise InputError(
                f"Decoding with {codec.name}: found code {code} at position {position}, outside "
                f"[0, {codec.codebook_size}). Pass codes that this codec made."
            )

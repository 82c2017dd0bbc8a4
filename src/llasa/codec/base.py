"""The codec contract: sound to codes and back. Knows no language model and no text."""

from collections.abc import Sequence
from typing import Protocol

from llasa.core import Audio, Codes


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

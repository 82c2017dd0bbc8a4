"""Rows that are codes already: they are imported, not encoded. Sources of them have `coded`."""

from dataclasses import dataclass

from llasa.core import Codes


@dataclass(frozen=True)
class Coded:
    """One utterance of an imported data set.

    codes: [N], as numbers of the codec's codebook, not token ids. place: file and row, for messages.
    """

    id: str
    text: str
    codes: Codes
    split: str = ""
    place: str = ""
    speaker: str = ""
    language: str = ""

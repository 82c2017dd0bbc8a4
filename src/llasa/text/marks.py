"""Marks in a text that ask for a pause. Must not know: how long it is."""

import re

_INNER = re.compile(r"[,.;:?!]+[\"')\]]*\s+(?=\S)|[—…。、，；：？！]+(?=\S)")


def inner_marks(text: str) -> int:
    """Return how many marks that ask for a pause stand between the words of a text, as people write it."""
    return len(_INNER.findall(text))

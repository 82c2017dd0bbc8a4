"""A text that comes in pieces -> whole sentences as soon as they are sure. Must not know: protocols."""

from itertools import pairwise

from llasa.errors import InputError
from llasa.text.segment import segment

ENDS = tuple(".!?…\u3002\uff01\uff1f")  # the last three of Chinese


def sentences(text: str, language: str, longest: int) -> tuple[list[str], str]:
    """Return the whole sentences at the beginning of a text, and the rest, which may still grow.

    A sentence is sure once another one has begun: the dot of "3." may be that of "3.5".

    Raises:
        InputError: the rest has more than `longest` characters.
    """
    whole, rest = _sentences(text, language)
    if len(rest) > longest:
        raise InputError(f"Speaking: {len(rest)} characters hold no end of a sentence. Send one.")
    return whole, rest


def _sentences(text: str, language: str) -> tuple[list[str], str]:
    if not any(sign in text for sign in ENDS):
        return [], text
    try:
        parts = segment(text, language=language)
    except InputError:  # nothing in it can be said, as yet
        return [], text
    ends = [0, *(part.end for part in parts[:-1] if part.text.rstrip()[-1:] in ENDS)]
    return [text[start:end].strip() for start, end in pairwise(ends)], text[ends[-1] :]

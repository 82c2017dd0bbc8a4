"""A text that comes in pieces -> whole sentences as soon as they are sure. Must not know: protocols."""

from llasa.text.segment import segment

ENDS = tuple(".!?…\u3002\uff01\uff1f")  # the last three of Chinese


def sentences(text: str, language: str = "en") -> tuple[str, str]:
    """Return the whole sentences at the beginning of a text, and the rest, which may still grow.

    A sentence is sure once another one has begun: the dot of "3." may be that of "3.5".
    """
    if not any(map(str.isalnum, text)):
        return "", text
    parts = segment(text, language=language)
    ends = [part.end for part in parts[:-1] if part.text.rstrip()[-1:] in ENDS]
    return (text[: ends[-1]], text[ends[-1] :]) if ends else ("", text)

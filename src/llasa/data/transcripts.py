"""What is odd about a transcript: signs that nobody says, and texts that look like a model's markers.

Text can never become a marker (`prompt.py`); one that looks like it was not written by a listener.
"""

import re
import unicodedata

LONGEST = 20_000  # characters looked at; nobody says more in one clip
_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_JOINERS = "\u200c\u200d"  # parts of words in some scripts
_KINDS = {
    "Cc": "control character",
    "Cs": "half of a character",
    "Co": "character of private use",
    "Cn": "character that is not assigned",
    "Cf": "invisible character",
}
_MARKER = re.compile(r"<\s*\|[^<>]{0,60}\|\s*>|\[/?INST\]|</?s>", re.IGNORECASE)
_MARKUP = re.compile(r"</?[a-z][a-z0-9]*(?:\s[^<>]{0,100})?/?>|https?://|&(?:amp|lt|gt|quot|nbsp|#\d+);")
_NOTE = re.compile(r"\[[^\[\]]{1,40}\]|\*[^*]{1,40}\*|\((?:laugh\w*|music|noise|applause|inaudible)\)", re.I)


def oddities(text: str) -> list[str]:
    """Return what is odd about a transcript, one phrase each; time is linear in its length."""
    text = text[:LONGEST]
    found = dict.fromkeys(filter(None, map(_odd, dict.fromkeys(text))))
    patterns = {"looks like a marker": _MARKER, "markup": _MARKUP, "a note, not speech": _NOTE}
    folded = unicodedata.normalize("NFKC", text)
    for what, pattern in patterns.items():
        match = pattern.search(text) or pattern.search(folded)
        if match:
            found[f"{what}: {shown(match[0], 40)}"] = None
    return list(found)


def _odd(character: str) -> str:
    if character == "\ufffd":
        return "replacement character U+FFFD: it was decoded wrongly"
    if character in "\t\n\r" or character in _JOINERS:
        return ""
    kind = "direction control" if character in _BIDI else _KINDS.get(unicodedata.category(character), "")
    return f"{kind} U+{ord(character):04X}" if kind else ""


def shown(text: str, most: int = 100) -> str:
    """Return a text as a page can show it: short, and with what cannot be printed written out."""
    cut = text[:most] + ("..." if len(text) > most else "")
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in cut)

"""Heard words -> a text as it is shown: what was missed, added or changed, and when each word is heard.

Must not know: pages, recognisers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from llasa.core import Word

Kind = Literal["between", "said", "changed", "missed", "added"]


@dataclass(frozen=True)
class Mark:
    """A stretch of a text. kind: `between` is what stands between words.

    text: as written, empty for what was added. heard: in its place. start_s, end_s: in the sound, if known.
    """

    kind: Kind
    text: str
    heard: str = ""
    start_s: float | None = None
    end_s: float | None = None


def marks(text: str, words: Sequence[Word]) -> list[Mark]:
    """Return a text cut into marks, in order; the `text` of all of them together is the text.

    Args:
        words: with places in `text` that never go back, such as of a receipt.
    """
    found, at = list[Mark](), 0
    for word in words:
        if word.start > at:
            found.append(Mark("between", text[at : word.start]))
        if word.status == "added":
            found.append(Mark("added", "", word.heard, word.start_s, word.end_s))
            continue
        start, at = max(word.start, at), max(word.end, at)
        found.append(Mark(word.status, text[start:at], word.heard, word.start_s, word.end_s))
    return [*found, Mark("between", text[at:])] if at < len(text) else found


def error_rate(words: Sequence[Word]) -> float | None:
    """Return errors per word of the text: changed, missed and added ones; None if it has no words."""
    written = [word for word in words if word.status != "added"]
    added = sum(max(1, len(word.heard.split())) for word in words if word.status == "added")
    wrong = sum(word.status != "said" for word in written) + added
    return wrong / len(written) if written else None

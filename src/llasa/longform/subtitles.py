"""Lines and words with their times -> subtitles: SRT, WebVTT, JSON. Knows no sound."""

import json
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from html import escape

from llasa.core import Word, plain

FORMATS = ("srt", "vtt", "json")
_WIDTH = 42  # characters of a row on a screen


@dataclass(frozen=True)
class Cue:
    """A line of a book and when it is heard, seconds. words: with places in `text` and times in the book."""

    number: int
    chapter: int
    text: str
    start_s: float
    end_s: float
    words: tuple[Word, ...] = ()


def subtitles(cues: Sequence[Cue], format: str) -> str:
    """Return a file of subtitles.

    Args:
        format: one of `FORMATS`; json tells of words too.
    """
    if format == "json":
        return json.dumps([plain(asdict(cue)) for cue in cues], ensure_ascii=False, indent=1) + "\n"
    mark, head = (",", "") if format == "srt" else (".", "WEBVTT\n\n")
    return head + "".join(_block(at, cue, mark) for at, cue in enumerate(cues, 1))


def _block(number: int, cue: Cue, mark: str) -> str:
    text = cue.text if mark == "," else escape(cue.text, quote=False)
    rows = "\n".join(textwrap.wrap(text, _WIDTH))
    return f"{number}\n{_time(cue.start_s, mark)} --> {_time(cue.end_s, mark)}\n{rows}\n\n"


def _time(seconds: float, mark: str) -> str:
    whole, milli = divmod(round(1000 * seconds), 1000)
    return f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}{mark}{milli:03}"

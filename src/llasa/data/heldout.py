"""Which rows are held out, so that nothing is trained on them. Looks once at a source's rows, at no sound."""

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePath
from typing import Protocol

from llasa.core import Clip
from llasa.data.encode import Options
from llasa.data.index import Split
from llasa.data.rejects import Reject
from llasa.data.sources.coded import Coded
from llasa.errors import ConfigError

_OWN = re.compile(r"(test|dev|val|eval|held)", re.IGNORECASE)


class Rows(Protocol):
    """What is needed of a source: its kind, and its rows, each time in the same order."""

    @property
    def kind(self) -> str: ...
    def rows(self) -> Iterator[Clip | Coded | Reject]:
        """Yield the rows; called more than once."""
        ...


@dataclass(frozen=True)
class Survey:
    """What one look at the rows tells.

    rows: how many. digest: changes with any of them, not with the folder they lie in.
    own: rows that the source holds out itself. speakers: rows of each; "" if the source does not say.
    """

    rows: int
    digest: str
    own: int
    speakers: Counter[str]


def survey(source: Rows) -> Survey:
    """Return what the rows of a source tell."""
    digest, speakers, rows, own = hashlib.sha256(), Counter[str](), 0, 0
    for row in source.rows():
        rows += 1
        digest.update(_facts(row).encode("utf-8", "backslashreplace"))
        if not isinstance(row, Reject):
            speakers[row.speaker] += 1
            own += _is_own(row.split)
    return Survey(rows, digest.hexdigest(), own, speakers)


def _facts(row: Clip | Coded | Reject) -> str:
    # The data set may move to another folder.
    name = PurePath(row.audio if isinstance(row, Clip) else row.place).name
    return repr(vars(row) | {"audio" if isinstance(row, Clip) else "place": name})


def _is_own(split: str) -> bool:
    return bool(_OWN.match(split))


@dataclass(frozen=True)
class HeldOut:
    """The rule. speakers: those held out, as `same` has them, if the rule is `speakers`."""

    rule: str
    share: float
    speakers: frozenset[str] = frozenset()

    def split(self, text: str, speaker: str, own: str) -> Split:
        """Return the split of a row by its text, its speaker and what the source says it is for."""
        if self.rule == "source":
            held = _is_own(own)
        elif self.rule == "speakers":
            held = same(speaker) in self.speakers
        else:
            held = self.rule == "text" and _chance(_spoken(text)) < self.share
        return "heldout" if held else "train"


def same(name: str) -> str:
    """Return what is equal for ids or names that differ in case or in how Unicode writes them alone."""
    # Folding may take apart what the first pass put together.
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


def _spoken(text: str) -> str:
    """Return what is equal for texts that differ in case, writing and punctuation alone."""
    return " ".join(re.findall(r"\w+", same(text)))


def _chance(text: str) -> float:
    """Return a number in [0, 1) that is always the same for a text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big") / (1 << 56)


def held_out(options: Options, found: Survey) -> HeldOut:
    """Return the rule that the options ask for.

    Raises:
        ConfigError: the source has no held-out rows of its own, or too few speakers.
    """
    rule = options.held_out
    if rule == "auto":
        rule = "source" if found.own else "text"
    if rule == "source" and not found.own:
        raise ConfigError(
            "Holding rows out: the source marks none for test or development. Use held_out=text or speakers."
        )
    speakers = _chosen(found.speakers, options.held_out_share) if rule == "speakers" else frozenset[str]()
    return HeldOut(rule, options.held_out_share, speakers)


def _chosen(speakers: Counter[str], share: float) -> frozenset[str]:
    """Return speakers, by hash, until they have `share` of the rows: one at least and never all."""
    writings = dict[str, list[str]]()
    for name in filter(None, speakers):
        writings.setdefault(same(name), []).append(name)
    named = sorted(writings, key=lambda name: _chance(min(writings[name])))
    if len(named) < 2 or speakers[""]:
        said = (
            f"{speakers['']} rows do not say who speaks"
            if speakers[""]
            else f"there are {len(named)} speakers"
        )
        raise ConfigError(f"Holding speakers out: {said}. Use held_out=text.")
    wanted, rows, chosen = share * speakers.total(), 0, set[str]()
    for name in named[:-1]:
        if rows < wanted:
            chosen.add(name)
            rows += sum(speakers[writing] for writing in writings[name])
    return frozenset(chosen)

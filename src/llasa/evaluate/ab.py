"""A page that asks people which of two sounds is better, and what their votes say.

The page is one file beside the sounds: it opens from disk, hides what made which, and loads nothing else. It
is in `ab.html.jinja`. Must not know: how sides are made, what is trained on votes.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from llasa import audio, journal
from llasa.audio import replace_file
from llasa.core import Audio
from llasa.data.report import template_of
from llasa.errors import MissingExtra
from llasa.evaluate.drawing import Drawn
from llasa.pairs import CHOICES, Decided, Pair, Vote, pair_of

PAGE, _DRAWN = "index.html", "drawn.jsonl"
_TEMPLATE = Path(__file__).with_name("ab.html.jinja")


@dataclass(frozen=True)
class Share:
    """How often one side won, of pairs that one of two won, with the exact 95 % interval."""

    wins: int
    of: int
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Tally:
    """What votes say.

    counts: pairs by what most voters chose, and `open`: those nobody has voted on, or not agreed on.
    left: how often the left side won, which says of a listener and not of a model. bundles: how often each
    of two bundles won; empty if there is one only. seconds: the median of a vote, None if not told.
    """

    pairs: int
    counts: dict[str, int]
    left: Share
    bundles: dict[str, Share]
    seconds: float | None


def write_sounds(folder: Path, pair: Pair, sounds: Mapping[str, Audio]) -> None:
    """Write `ID-a.wav` and `ID-b.wav`, which tell nothing of what made them."""
    for side, sound in sounds.items():
        audio.write(folder / _file(pair, side), sound)


def keep(folder: Path, drawn: Drawn) -> None:
    """Write the sounds of a text, if it gave a pair, and then the row that says that it is done."""
    if drawn.pair:
        write_sounds(folder, drawn.pair, drawn.sounds or {})
    pair, vote = (one and asdict(one) for one in (drawn.pair, drawn.vote))
    row = {"text": drawn.text, "pair": pair, "vote": vote, "reason": drawn.reason}
    journal.append(folder / _DRAWN, [row], durable=True)


def kept(folder: Path) -> list[Drawn]:
    """Return what was kept of the first texts, without their sounds."""
    return [
        Drawn(row["text"], row["pair"] and pair_of(row["pair"]), None, row["vote"] and Vote(**row["vote"]),
              row["reason"])
        for row in journal.mended(folder / _DRAWN)
    ]  # fmt: skip


def write_page(folder: Path, pairs: Sequence[Pair]) -> None:
    """Write `index.html` over sounds that are there, whole or not at all."""
    rows = [
        {
            "id": pair.id, "text": pair.text, "language": pair.language,
            "sounds": {side: _file(pair, side) for side in pair.sides},
        }
        for pair in pairs
    ]  # fmt: skip
    replace_file(folder / PAGE, template_of(_TEMPLATE).render(pairs=rows).encode("utf-8", "replace"))


def _file(pair: Pair, side: str) -> str:
    return f"{pair.id}-{side}.wav"


def tally(pairs: Sequence[Pair], decided: Decided) -> Tally:
    """Return what voters together say of pairs.

    Raises:
        MissingExtra: scipy is not installed.
    """
    chosen = {pair.id: decided.choices[pair.id] for pair in pairs if pair.id in decided.choices}
    counts: dict[str, int] = dict.fromkeys(CHOICES, 0) | Counter(chosen.values())
    won = [pair for pair in pairs if chosen.get(pair.id) in ("a", "b")]
    winners = Counter(pair.sides[chosen[pair.id]].bundle for pair in won if pair.a.bundle != pair.b.bundle)
    names = dict.fromkeys(side.bundle for pair in pairs for side in pair.sides.values())
    bundles = {name: share(winners[name], winners.total()) for name in names} if len(names) == 2 else {}
    took = [vote.seconds for vote in decided.votes if vote.seconds is not None]
    left = share(counts["a"], counts["a"] + counts["b"])
    counts["open"] = len(pairs) - len(chosen)
    return Tally(len(pairs), counts, left, bundles, median(took) if took else None)


def share(wins: int, of: int) -> Share:
    """Return a share of wins with its interval; of nothing it is one half, and may be anything.

    Raises:
        MissingExtra: scipy is not installed.

    Source: C. Clopper, E. Pearson, *The use of confidence or fiducial limits* (1934).
    """
    if not of:
        return Share(0, 0, 0.5, 0.0, 1.0)
    try:
        from scipy.stats import binomtest
    except ImportError as error:
        raise MissingExtra("Finding an interval", "scipy", "eval") from error
    found = binomtest(wins, of).proportion_ci(0.95, "exact")
    return Share(wins, of, wins / of, float(found.low), float(found.high))

"""Two ways to say a text, side by side, and what was thought of them: the rows of two files, and a verdict.

`pairs.jsonl` says what was made, a `votes.jsonl` is what one voter thinks of it. Must not know: how sides are
made, what is done with a verdict.
"""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from llasa.audio import replace_file
from llasa.core import Codes, Finish
from llasa.data.rejects import Reason, Reject
from llasa.errors import ConfigError

Choice = Literal["a", "b", "same", "bad"]
CHOICES: tuple[Choice, ...] = get_args(Choice)
PAIRS, VOTES = "pairs.jsonl", "votes.jsonl"
_CLASHES: dict[str, Reason] = {
    "tied": "failed", "changed": "duplicate-id", "unknown": "missing", "malformed": "malformed",
}  # fmt: skip


@dataclass(frozen=True)
class Side:
    """One of the two. bundle: what made it. candidate: its number among those of one seed, from 0."""

    bundle: str
    codec: str
    seed: int
    candidate: int
    codes: Codes
    finish: Finish


@dataclass(frozen=True)
class Pair:
    """A text, said twice; a stands left. voice: a name; None: said without one.

    id: a hash of the rest, so that a vote for another pair cannot be taken for one of it.
    """

    id: str
    text: str
    voice: str | None
    language: str
    a: Side
    b: Side

    @property
    def sides(self) -> dict[str, Side]:
        """Return the two by the names that votes use."""
        return {"a": self.a, "b": self.b}


@dataclass(frozen=True)
class Vote:
    """What a voter thinks of a pair. same: one is as good as the other. bad: neither can be used.

    seconds: that it took, None if nobody looked at a clock.
    """

    id: str
    choice: Choice
    seconds: float | None = None


@dataclass(frozen=True)
class Decided:
    """What all voters together think.

    choices: by pair, what most of them chose; a pair whose voters do not agree on one has none.
    clashes: how many are `tied` pairs, `changed` votes (a voter's last counts), votes for `unknown` pairs,
    and `malformed` lines. problems: which. voters: files with a vote that counts. votes: that count.
    """

    choices: dict[str, Choice]
    clashes: dict[str, int]
    problems: list[Reject]
    voters: int
    votes: list[Vote]


def paired(text: str, voice: str | None, language: str, a: Side, b: Side) -> Pair:
    """Return a pair with its id."""
    told = json.dumps([text, voice, language, a.codes, b.codes])
    return Pair(hashlib.sha256(told.encode()).hexdigest()[:16], text, voice, language, a, b)


def write_pairs(folder: Path, pairs: Iterable[Pair]) -> None:
    """Write `pairs.jsonl`, whole or not at all."""
    _write(folder / PAIRS, pairs)


def write_votes(path: Path, votes: Iterable[Vote]) -> None:
    """Write votes, whole or not at all."""
    _write(path, votes)


def _write(path: Path, rows: Iterable[Pair] | Iterable[Vote]) -> None:
    lines = (json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rows)
    replace_file(path, "".join(lines).encode())


def pair_of(row: Mapping[str, Any]) -> Pair:
    """Return a row as a pair."""
    return Pair(**{**row, **{side: Side(**row[side]) for side in ("a", "b")}})


def read_pairs(folder: Path) -> list[Pair]:
    """Return the pairs of a folder.

    Raises:
        ConfigError: it has none, or a line is not what `write_pairs` wrote: names it.
    """
    path, found = folder / PAIRS, list[Pair]()
    for number, line in _lines(path):
        try:
            row = json.loads(line)
            pair = pair_of(row)
            known = pair == paired(pair.text, pair.voice, pair.language, pair.a, pair.b)
        except (ValueError, TypeError, KeyError) as error:
            raise ConfigError(f"Reading '{path}': line {number} is damaged ({error!r}). {_AGAIN}") from error
        if not known:
            raise ConfigError(f"Reading '{path}': line {number} has been changed. {_AGAIN}")
        found.append(pair)
    return found


_AGAIN = "Make the pairs again, or bring their file back."


def read_votes(path: Path) -> tuple[list[Vote], list[Reject]]:
    """Return the votes of a file in order, and the lines that are none.

    Raises:
        ConfigError: there is no such file.
    """
    votes, odd = list[Vote](), list[Reject]()
    for number, line in _lines(path):
        try:
            votes.append(_vote(json.loads(line)))
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            odd.append(Reject("", f"{path}, line {number}", "malformed", f"no vote: {error!r}"))
    return votes, odd


def _vote(row: dict[str, Any]) -> Vote:
    """Return a row as a vote; keys that others have added do not matter."""
    if row["choice"] not in CHOICES:
        raise ValueError(f"choice {row['choice']!r}")
    seconds = None if row.get("seconds") is None else float(row["seconds"])
    if seconds is not None and not 0 <= seconds < math.inf:
        raise ValueError(f"seconds {seconds}")
    return Vote(str(row["id"]), row["choice"], seconds)


def _lines(path: Path) -> list[tuple[int, str]]:
    """Return the lines of a file that are not empty, with their numbers from 1."""
    try:
        lines = enumerate(path.read_text(encoding="utf-8").split("\n"), 1)
        return [(number, line) for number, line in lines if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8"
        raise ConfigError(f"Reading '{path}': {why}. Name what `llasa evaluate ab` made.") from error


def decide(pairs: Sequence[Pair], files: Sequence[Path]) -> Decided:
    """Return what the voters think, each file one voter: a pair is what most of them chose.

    Raises:
        ConfigError: a file is not there.
    """
    known = {pair.id for pair in pairs}
    ballots, problems = list[dict[str, Vote]](), list[Reject]()
    for path in files:
        own, odd = _ballot(path, known)
        ballots.append(own)
        problems += odd
    choices, tied = _majorities(ballots)
    problems += [Reject(id, "all votes", "failed", "its voters do not agree") for id in tied]
    found = Counter(one.reason for one in problems)
    clashes = {name: found[reason] for name, reason in _CLASHES.items()}
    votes = [vote for own in ballots for vote in own.values()]
    return Decided(choices, clashes, problems, sum(map(bool, ballots)), votes)


def _ballot(path: Path, known: set[str]) -> tuple[dict[str, Vote], list[Reject]]:
    """Return the votes of one voter that count, by pair, and what is odd about the others."""
    votes, odd = read_votes(path)
    own = dict[str, Vote]()
    for vote in votes:
        if vote.id not in known:
            odd.append(Reject(vote.id, str(path), "missing", "there is no such pair"))
            continue
        if vote.id in own and own[vote.id].choice != vote.choice:
            odd.append(Reject(vote.id, str(path), "duplicate-id", "voted twice: the last counts"))
        own[vote.id] = vote
    return own, odd


def _majorities(ballots: Sequence[Mapping[str, Vote]]) -> tuple[dict[str, Choice], list[str]]:
    """Return the choice of each pair, and the pairs where two choices come first together."""
    choices, tied = dict[str, Choice](), list[str]()
    for id in dict.fromkeys(id for own in ballots for id in own):
        counts: Counter[Choice] = Counter(own[id].choice for own in ballots if id in own)
        ranked = counts.most_common(2)
        if len(ranked) == 2 and ranked[0][1] == ranked[1][1]:
            tied.append(id)
        else:
            choices[id] = ranked[0][0]
    return choices, tied

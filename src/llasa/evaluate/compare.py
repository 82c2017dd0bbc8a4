"""Two evaluations side by side: what changed from one to the other, and whether it got worse than allowed.

Must not know: pages, models.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from llasa.errors import ConfigError
from llasa.evaluate.columns import Column, columns
from llasa.evaluate.results import Evaluation, Row
from llasa.evaluate.summary import Change, change, told_change


@dataclass(frozen=True)
class Difference:
    """What changed of a measure. system: its name, or both names. broken: worse than allowed."""

    test_set: str
    system: str
    column: Column
    change: Change
    broken: bool = False

    def row(self) -> dict[str, Any]:
        """Return it as plain values."""
        told = {"set": self.test_set, "system": self.system, "measure": self.column.key}
        return told | told_change(self.change, self.column) | {"broken": self.broken}


def differences(
    old: Evaluation, new: Evaluation, limits: Mapping[str, float], only: Sequence[str] = ()
) -> list[Difference]:
    """Return what changed, over the utterances that both have.

    Args:
        limits: by how much a measure may get worse; broken only where the whole interval lies beyond, so that
            the noise of a small test set breaks nothing.
        only: measures to tell of; all if empty.

    Raises:
        ConfigError: they share no system, test set or utterance, or a limit's measure is not there.
    """
    doing = f"Comparing '{old.folder}' with '{new.folder}'"
    old, pairs = _paired(old, new, doing)
    known = columns(replace(new, rows=[*old.rows, *new.rows]))
    _check(doing, known, [*limits, *only])
    sides = {
        (test_set, name): (old.of(test_set, called), new.of(test_set, called))
        for test_set in new.sets for name, called in pairs.items()
    }  # fmt: skip
    found = [
        Difference(*place, column, moved, _broken(column, moved, limits.get(column.key)))
        for place, (before, after) in sides.items()
        for column in _shared(known, new, before, after)
        if (not only or column.key in only or column.key in limits)
        and (moved := change(column, before, after))
    ]
    if not found:
        raise ConfigError(f"{doing}: they share no utterance. Evaluate the same texts and takes.")
    told = {one.column.key for one in found}
    if lost := [key for key in limits if key not in told]:
        raise ConfigError(f"{doing}: '{lost[0]}' was not measured on both sides. Limit another measure.")
    return found


def _paired(old: Evaluation, new: Evaluation, doing: str) -> tuple[Evaluation, dict[str, str]]:
    """Return the old side, of it what is compared, and the systems: those of one name, or the only ones."""
    shared = {name: name for name in new.systems if name in old.systems}
    rows = [row for row in old.rows if row["system"] in shared]
    if not shared and len(old.systems) == len(new.systems) == 1:
        [before], [after] = old.systems, new.systems
        rows, shared = [row | {"system": after} for row in old.rows], {f"{before} → {after}": after}
    if not shared:
        found = f"no system has one name on both sides ({', '.join(old.systems)}; {', '.join(new.systems)})"
        raise ConfigError(f"{doing}: {found}. Give those to be compared one `name`.")
    return replace(old, rows=rows), shared


def _shared(known: Sequence[Column], new: Evaluation, *sides: list[Row]) -> list[Column]:
    """Return what both sides measured; one that only failed has the worst there is of everything."""
    tried = (rows for rows in sides if not all(row["failure"] for row in rows))
    keys = [{one.key for one in columns(replace(new, rows=rows))} for rows in tried]
    return [column for column in known if all(column.key in some for some in keys)]


def _check(doing: str, every: Sequence[Column], named: Sequence[str]) -> None:
    known = [column.key for column in every]
    for key in named:
        if key not in known:
            raise ConfigError(f"{doing}: found no measure '{key}'. Known: {', '.join(known)}.")


def _broken(column: Column, moved: Change, limit: float | None) -> bool:
    if limit is None:
        return False
    if column.better == 0:  # neither way is worse: any move counts
        return moved.found.low > limit or moved.found.high < -limit
    return moved.found.low > limit if column.better < 0 else moved.found.high < -limit

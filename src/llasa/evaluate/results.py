"""What an evaluation wrote, read back: rows, and what it was begun with. Must not know what they come to."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llasa import journal
from llasa.errors import ConfigError

RESULTS, SOUNDS = "results.jsonl", "sounds"
Row = dict[str, Any]


@dataclass(frozen=True)
class Evaluation:
    """What a folder holds. facts: of `run.json`. rows: in order."""

    folder: Path
    facts: Mapping[str, Any]
    rows: list[Row]

    @property
    def sets(self) -> list[str]:
        """Names of the test sets."""
        return list(dict.fromkeys(row["set"] for row in self.rows))

    @property
    def systems(self) -> list[str]:
        """Names of the systems, the one that others are compared with first."""
        said = {row["system"] for row in self.rows}
        return [name for name in self.facts["systems"] if name in said]

    def of(self, test_set: str, system: str) -> list[Row]:
        """Return the rows of a system on a test set."""
        return [row for row in self.rows if (row["set"], row["system"]) == (test_set, system)]

    @property
    def total(self) -> int:
        """How many rows there are once all is said."""
        lines = sum(one["lines"] for one in self.facts["texts"].values())
        return lines * self.facts["recipe"]["takes"] * len(self.facts["systems"])

    @property
    def listeners(self) -> list[str]:
        """Recognisers, the one that counts first."""
        return list(self.facts["recognizers"])


def is_evaluation(folder: Path) -> bool:
    """Tell whether a folder is one that `llasa evaluate` wrote."""
    return (folder / RESULTS).is_file()


def read_evaluation(folder: Path) -> Evaluation:
    """Return what a folder holds, also of a run that still goes on.

    Raises:
        ConfigError: it is none of `llasa evaluate`, damaged, or there is no row yet.
    """
    doing = f"Reading the evaluation '{folder}'"
    try:
        facts = json.loads((folder / "run.json").read_text("utf-8"))
        rows = journal.read(folder / RESULTS)
        facts = facts["facts"] | {
            "began": facts["began"],
            "versions": facts["versions"],
            "commit": facts["commit"],
        }
        if facts["verb"] != "evaluate":
            raise KeyError("verb")
    except (OSError, ValueError, KeyError, TypeError) as error:
        found = (
            getattr(error, "strerror", None) or "run.json or results.jsonl is damaged or of something else"
        )
        raise ConfigError(f"{doing}: {found}. Name the folder that 'llasa evaluate' wrote.") from error
    known = facts["systems"], facts["texts"]  # others were in an earlier recipe
    rows = [row for row in rows if row["system"] in known[0] and row["set"] in known[1]]
    if not rows:
        raise ConfigError(f"{doing}: found no row yet. Let the evaluation go on: llasa evaluate RECIPE.")
    return Evaluation(folder, facts, rows)

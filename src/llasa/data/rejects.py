"""Why a row of a data set is not used. A reject is data: counted and kept with its reason, never lost."""

from dataclasses import asdict, dataclass
from typing import Literal

from llasa.errors import InputError

Reason = Literal[
    "missing", "unreadable", "empty", "too-short", "too-long", "silent", "clipped", "not-finite", "bad-rate",
    "channels", "no-text", "bad-text", "text-too-long", "duplicate-id", "duplicate-audio", "malformed",
    "failed",
]  # fmt: skip


@dataclass(frozen=True)
class Reject:
    """A row that is not used. id: its clip's, or empty; place: file and row; detail: one sentence."""

    id: str
    place: str
    reason: Reason
    detail: str

    def row(self) -> dict[str, str]:
        """Return it as a row of `rejects.jsonl`."""
        return asdict(self)


class BadClip(InputError):
    """A clip that cannot be used; `reason` is the one its `Reject` carries."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message, reason)
        self.reason: Reason = reason

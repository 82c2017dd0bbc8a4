"""How far a run is, on standard error: a bar on a terminal, elsewhere a line for each report."""

import sys

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class Bar:
    """Shows the steps of a run and its latest numbers."""

    def __init__(self, done: int, total: int) -> None:
        """Take the steps that are done, and all of them."""
        columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        text = TextColumn("{task.fields[measures]}")
        self._bar = Progress(TextColumn("Training"), *columns, text, console=Console(stderr=True))
        self._task = self._bar.add_task("", total=total, completed=done, measures="")
        if sys.stderr.isatty():
            self._bar.start()

    @property
    def live(self) -> bool:
        """Whether a terminal shows it now."""
        return self._bar.live.is_started

    def move(self, done: int) -> None:
        """Tell how many steps are done."""
        self._bar.update(self._task, completed=done)

    def tell(self, step: int, measures: str) -> None:
        """Show the numbers of a step."""
        if self.live:
            self._bar.update(self._task, measures=measures)
        else:
            print(f"step {step}: {measures}", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Give the terminal back."""
        self._bar.stop()

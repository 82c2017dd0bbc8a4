"""Looks whether the engines of a service still move, and ends it if one does not come back.

Must not know: routes, what is said.
"""

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from llasa.errors import EngineError

LOOK_S = 0.25
GIVEN_UP_S = 60.0  # that an engine may be late: nothing can be done then but to start the service again
MOST_FAILURES = 3


class Watchdog:
    """Watches engines by name; those without a pulse, which are elsewhere, tell of themselves by errors."""

    def __init__(self, engines: Mapping[str, Any]) -> None:
        self._engines = {name: one for name, one in engines.items() if hasattr(one, "pulse")}

    @property
    def late_s(self) -> float:
        """Seconds by which the slowest engine is late with what it does."""
        return max((engine.pulse.late_s for engine in self._engines.values()), default=0.0)

    @property
    def trouble(self) -> str:
        """What is wrong, if anything."""
        return "; ".join(self._troubles())

    def _troubles(self) -> Iterator[str]:
        for name, engine in self._engines.items():
            if late_s := engine.pulse.late_s:
                yield f"the model '{name}' is late by {late_s:.1f} s"
            if engine.pulse.failures >= MOST_FAILURES:
                yield f"the model '{name}' failed {engine.pulse.failures} times in a row"

    async def watch(self) -> None:
        """Watch until an engine is given up: what is in flight there has failed then.

        Raises:
            EngineError: it is.
        """
        looks = Counter[str]()  # that found one late, in a row: clocks go on while the service is stopped
        while True:
            await asyncio.sleep(LOOK_S)
            for name, engine in self._engines.items():
                looks[name] = looks[name] + 1 if engine.pulse.late_s else 0
                if looks[name] * LOOK_S > GIVEN_UP_S:
                    found = f"the model took no step for more than {GIVEN_UP_S:.0f} s"
                    error = EngineError(f"Generating with '{name}': {found}. Start the service again.")
                    await asyncio.to_thread(engine.abandon, error)
                    raise error

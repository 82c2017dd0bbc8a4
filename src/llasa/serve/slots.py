"""Who may speak next: so many at once, so many waiting, and every key its turn. Runs on one event loop."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from llasa.errors import EngineBusy


class Slots:
    """Lets `count` requests in at once; the others wait, keys in turn, each key's in order.

    most_waiting: of all keys together; who comes then is refused.
    """

    def __init__(self, count: int, most_waiting: int) -> None:
        self.count, self.most_waiting = count, most_waiting
        self.taken = 0
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    @property
    def waiting(self) -> int:
        """How many wait."""
        return sum(map(len, self._waiting.values()))

    @asynccontextmanager
    async def slot(self, key: str) -> AsyncIterator[None]:
        """Wait for a turn and hold it.

        Raises:
            EngineBusy: too many wait already.
        """
        await self._enter(key)
        try:
            yield
        finally:
            self.taken -= 1
            self._next()

    async def _enter(self, key: str) -> None:
        if self.taken < self.count and not self._waiting:
            self.taken += 1
            return
        if self.waiting >= self.most_waiting:
            raise EngineBusy(f"Speaking: {self.waiting} requests wait already. Ask again in a moment.")
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # it had its turn and will not use it
                self.taken -= 1
                self._next()
            else:
                self._forget(key, turn)
            raise

    def _next(self) -> None:
        while self._waiting and self.taken < self.count:
            key, turns = self._waiting.popitem(last=False)
            turn = turns.popleft()
            if turns:
                self._waiting[key] = turns  # behind all others
            if not turn.done():
                self.taken += 1
                turn.set_result(None)

    def _forget(self, key: str, turn: asyncio.Future[None]) -> None:
        turns = self._waiting.get(key)
        if turns and turn in turns:
            turns.remove(turn)
            if not turns:
                del self._waiting[key]

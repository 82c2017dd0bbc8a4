"""Who may speak next: so many at once, so many waiting, and every key its turn. Runs on one event loop."""

import asyncio
import math
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from llasa.errors import EngineBusy

PATIENCE_S = 0.3  # that a client may take to read before somebody else has the place


class Slots:
    """Lets `count` requests in at once; the others wait, keys in turn, each key's in order.

    most_waiting: of all keys together; who comes then is refused. keys: how many there are: no key fills more
    than its share of the queue.
    """

    def __init__(self, count: int, most_waiting: int, keys: int = 1) -> None:
        self.count, self.most_waiting = count, most_waiting
        self._share = math.ceil(most_waiting / keys)
        self.taken = 0
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    @property
    def waiting(self) -> int:
        """How many wait."""
        return sum(map(len, self._waiting.values()))

    @asynccontextmanager
    async def slot(self, key: str) -> AsyncIterator["Place"]:
        """Wait for a turn and hold it.

        Raises:
            EngineBusy: too many wait already.
        """
        self.check(key)
        await self.enter(key)
        place = Place(self, key)
        try:
            yield place
        finally:
            place.leave()

    def check(self, key: str) -> None:
        """Raise EngineBusy if too many wait already."""
        own = len(self._waiting.get(key, ()))
        if not self._free() and (self.waiting >= self.most_waiting or own >= self._share):
            raise EngineBusy(f"Speaking: {self.waiting} requests wait already. Ask again in a moment.")

    def _free(self) -> bool:
        return self.taken < self.count and not self._waiting

    async def enter(self, key: str, first: bool = False) -> None:
        """Wait for a turn, before all others or behind those of the key."""
        if self._free():
            self.taken += 1
            return
        turn = asyncio.get_running_loop().create_future()
        turns = self._waiting.setdefault(key, deque())
        if first:
            turns.appendleft(turn)
            self._waiting.move_to_end(key, last=False)
        else:
            turns.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # it had its turn and will not use it
                self.leave()
            else:
                self._forget(key, turn)
            raise

    def leave(self) -> None:
        """Let the next one in."""
        self.taken -= 1
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


class Place:
    """A turn that is held."""

    def __init__(self, slots: Slots, key: str) -> None:
        self._slots, self._key, self._held = slots, key, True

    def leave(self) -> None:
        """Give it to somebody else."""
        if self._held:
            self._held = False
            self._slots.leave()

    @asynccontextmanager
    async def lent(self) -> AsyncIterator[None]:
        """Wait for a client inside: if it takes long, others speak, and this one goes on first."""
        timer = asyncio.get_running_loop().call_later(PATIENCE_S, self.leave)
        try:
            yield
        finally:
            timer.cancel()
        if not self._held:
            await self._slots.enter(self._key, first=True)
            self._held = True

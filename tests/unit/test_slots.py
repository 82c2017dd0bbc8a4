"""Who may speak next: as many at once as there are places, keys in turn, and nobody beyond the queue."""

import asyncio

import pytest

from llasa.errors import EngineBusy
from llasa.serve.slots import Slots


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


class Guest:
    """Takes a place and holds it until it is let go."""

    def __init__(self, slots: Slots, key: str, told: list[str]) -> None:
        self.key, self.leave = key, asyncio.Event()
        self.task = asyncio.create_task(self._stay(slots, told))

    async def _stay(self, slots: Slots, told: list[str]) -> None:
        async with slots.slot(self.key):
            told.append(self.key)
            await self.leave.wait()


def test_keys_take_turns_and_each_keeps_its_order() -> None:
    async def run() -> list[str]:
        slots, told = Slots(1, 10), list[str]()
        guests = [Guest(slots, key, told) for key in ("a", "a", "a", "b", "c")]
        await settled()
        assert (slots.taken, slots.waiting) == (1, 4)
        for number in range(len(guests)):
            here = next(one for one in guests if one.key == told[number] and not one.leave.is_set())
            here.leave.set()
            await settled()
        await asyncio.gather(*(guest.task for guest in guests))
        assert (slots.taken, slots.waiting) == (0, 0)
        return told

    assert asyncio.run(run()) == ["a", "a", "b", "c", "a"]


def test_nobody_waits_beyond_the_queue() -> None:
    async def run() -> None:
        slots, told = Slots(1, 1), list[str]()
        guests = [Guest(slots, "a", told), Guest(slots, "b", told)]
        await settled()
        with pytest.raises(EngineBusy, match="1 requests wait already"):
            async with slots.slot("c"):
                pass
        for guest in guests:
            guest.leave.set()
        await asyncio.gather(*(guest.task for guest in guests))

    asyncio.run(run())


def test_who_leaves_the_queue_or_loses_his_turn_takes_no_place() -> None:
    async def run() -> None:
        slots, told = Slots(1, 5), list[str]()
        first, second, third = (Guest(slots, key, told) for key in "abc")
        await settled()
        second.task.cancel()
        await settled()
        assert slots.waiting == 1
        first.leave.set()
        third.task.cancel()  # in the same breath as its turn comes
        await settled()
        assert (slots.taken, slots.waiting) == (0, 0)
        last = Guest(slots, "d", told)
        await settled()
        assert told == ["a", "d"]
        last.leave.set()
        await last.task

    asyncio.run(run())

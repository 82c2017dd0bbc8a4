"""A proxy that spoils what goes through it: what a network, or a process at its end, does on a bad day.

`Faults` runs in a thread of its own; what it does to a connection is decided when that is opened, by `plan`.
"""

import asyncio
import random
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from threading import Thread
from typing import Literal

Kind = Literal["pass", "latency", "reset", "half-close", "trickle", "garbage", "blackhole"]


@dataclass(frozen=True)
class Fault:
    """What happens to a connection.

    `pass`: nothing. `latency`: the answer begins after `delay_s`. `reset`: RST after `after` bytes of the
    answer. `half-close`: the answer ends after `after` bytes, the connection stays. `trickle`: a byte of it
    every `delay_s`. `garbage`: random bytes instead. `blackhole`: nothing comes back, ever.
    """

    kind: Kind = "pass"
    delay_s: float = 0.05
    after: int = 20


Plan = Callable[[int], Fault]


class Faults:
    """Stands before a TCP service at `target`. url: of the proxy. connections: opened so far.

    plan: the fault of connection 0, 1, ...; may be replaced at any time.
    """

    def __init__(self, target: tuple[str, int], plan: Plan = lambda n: Fault()) -> None:
        self.plan, self.connections = plan, 0
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop, and cut what is open."""
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(5)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._end = asyncio.Event()
        self._loop.run_until_complete(self._until_closed())
        self._loop.close()

    async def _until_closed(self) -> None:
        server = await asyncio.start_server(self._connected, sock=self._listener)
        await self._end.wait()
        server.close()
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        fault = self.plan(self.connections)
        self.connections += 1
        with suppress(OSError, asyncio.CancelledError):  # asyncio complains of handlers that were cancelled
            if fault.kind == "blackhole":
                while await reader.read(1 << 16):
                    pass
            elif fault.kind == "garbage":
                await reader.read(1 << 16)
                writer.write(random.Random(self.connections).randbytes(300))
                await writer.drain()
            else:
                await self._forward(fault, reader, writer)
        writer.close()

    async def _forward(
        self, fault: Fault, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        far_reader, far_writer = await asyncio.open_connection(*self._target)
        asking = asyncio.create_task(_copied(reader, far_writer))
        asking.add_done_callback(lambda task: far_writer.close())  # who asked has hung up
        try:
            await self._spoiled(fault, far_reader, writer)
        finally:
            asking.cancel()
            far_writer.close()

    async def _spoiled(
        self, fault: Fault, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Pass the answer on, spoiled."""
        if fault.kind == "latency":
            await asyncio.sleep(fault.delay_s)
        if fault.kind in ("pass", "latency"):
            return await _copied(reader, writer)
        if fault.kind == "trickle":
            while piece := await reader.read(1):
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(fault.delay_s)
            return None
        writer.write(await reader.read(fault.after))
        await writer.drain()
        if fault.kind == "half-close":
            writer.write_eof()
            await asyncio.sleep(3600)
        linger = struct.pack("ii", 1, 0)  # closing now sends RST
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()


async def _copied(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while piece := await reader.read(1 << 16):
        writer.write(piece)
        await writer.drain()


@contextmanager
def faulty(url: str, plan: Plan) -> Iterator[Faults]:
    """A proxy before the service at a URL, for as long as the block runs."""
    host, _, port = url.removeprefix("http://").partition(":")
    proxy = Faults((host, int(port)), plan)
    try:
        yield proxy
    finally:
        proxy.close()

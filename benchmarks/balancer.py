"""Balancer of TCP connections that misbehaves when it is told to."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Self

CONNECT_WITHIN: Final = 1.0
"""Seconds after which an instance that does not answer is passed over."""

FORGOTTEN_AFTER: Final = 120.0
"""Seconds after which a silent connection ends that neither of its ends has given up."""

UP, DOWN = 0, 1
"""Directions: to an instance, and to a device."""


class Way:
    """One connection of a device, and that to its instance.

    Attributes:
        device: Address that the device has connected to.
        instance: Address of the instance.
        left: Bytes that pass before the way is cut, both directions together; None for all.
        cut: Set where it was cut for that.
        held: By direction, whether something is held back.
    """

    def __init__(self, device: str, instance: str, *writers: asyncio.StreamWriter) -> None:
        self.device = device
        self.instance = instance
        self.writers = writers  # to the device, to the instance
        self.left: int | None = None
        self.cut: asyncio.Event | None = None
        self.vanishes = False  # rather than being reset, when nothing is left
        self.held = [False, False]
        self._lost = [False, False]
        self._passes = asyncio.Event()
        self._passes.set()

    @property
    def is_lossy(self) -> bool:
        """True if what is sent in one direction at least does not arrive, and nobody learns of it."""
        return any(self._lost)

    def end(self) -> None:
        """Reset both ends."""
        for side in (UP, DOWN):
            self.end_at(side)

    def end_at(self, side: int) -> None:
        """Reset the end at the instance (UP) or the device (DOWN)."""
        _reset(self.writers[1 - side])

    def lose(self, *directions: int) -> None:
        """Let nothing arrive any more, for good; without directions in both. Nobody learns of it."""
        for direction in directions or (UP, DOWN):
            self._lost[direction] = True

    def hold(self) -> None:
        """Let nothing pass, and read nothing more, until :meth:`release`: what is sent comes late."""
        self._passes.clear()

    def release(self) -> None:
        self._passes.set()

    async def passes(self, direction: int, size: int) -> bool:
        """Wait until data may pass; return whether it does."""
        if not self._passes.is_set():
            self.held[direction] = True
            await self._passes.wait()
            self.held[direction] = False
        if self.left is not None and not self.is_lossy:
            self.left -= size
            if self.left < 0:
                if self.cut is not None:
                    self.cut.set()
                if self.vanishes:
                    self.lose()
                else:
                    self.end()
                return False
        return not self._lost[direction]


def _reset(writer: asyncio.StreamWriter) -> None:
    if not writer.transport.is_closing():
        connected: socket.socket = writer.get_extra_info("socket")
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()


@dataclass
class Plan:
    """Cut of a connection that a device has not made yet.

    Attributes:
        skip: Connections of the device before it.
        left: Bytes that pass on it.
        vanishes: Nothing is reset: what is sent is gone.
        cut: Set when it has happened.
    """

    skip: int
    left: int
    vanishes: bool
    cut: asyncio.Event = field(default_factory=asyncio.Event)


class Balancer:
    """Spreads connections over instances in turns; one that does not listen is passed over.

    Attributes:
        addresses: Of the instances.
        port: Port of all of them, and of the balancer.
        down: Instances that its health check has found down.
        is_away: True to refuse all connections.
        delays: Seconds for which everything of a device, by the address that it connects to, is held up.
        plans: Cuts to come, by such addresses.
    """

    def __init__(self, port: int) -> None:
        self.addresses: list[str] = []
        self.port = port
        self.down: set[str] = set()
        self.is_away = False
        self.delays: dict[str, float] = {}
        self.plans: dict[str, Plan] = {}
        self.ways: set[Way] = set()
        self._turn = 0
        self._tasks: set[asyncio.Task[None]] = set()

    @classmethod
    @contextlib.asynccontextmanager
    async def running(cls, port: int, devices: Sequence[str]) -> AsyncIterator[Self]:
        """Listen at one loopback address for each device, so that its connections are known; they keep it."""
        made = cls(port)
        server = await asyncio.start_server(made._serve, devices, port)
        try:
            yield made
        finally:
            server.close()
            made.end(made.ways)
            for task in list(made._tasks):
                task.cancel()
            await asyncio.gather(*made._tasks, return_exceptions=True)

    def of(self, device: str) -> list[Way]:
        """Return the connections of a device."""
        return [way for way in self.ways if way.device == device]

    def some(self, chance: random.Random, share: float) -> list[Way]:
        """Return so many of all connections."""
        return [way for way in sorted(self.ways, key=lambda way: way.device) if chance.random() < share]

    def end(self, ways: Iterable[Way]) -> None:
        """Reset connections."""
        for way in list(ways):
            way.end()

    def take_down(self, address: str) -> None:
        """Reset all connections of an instance, and give it no new ones."""
        self.down.add(address)
        self.end({way for way in self.ways if way.instance == address})

    async def _connect(self, source: str) -> tuple[str, asyncio.StreamReader, asyncio.StreamWriter] | None:
        for _ in self.addresses:
            self._turn += 1
            address = self.addresses[self._turn % len(self.addresses)]
            if address in self.down:
                continue
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(CONNECT_WITHIN):
                    return address, *await asyncio.open_connection(address, self.port, local_addr=(source, 0))
        return None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        with contextlib.suppress(asyncio.CancelledError):  # asyncio's server logs it as an error
            await self._forward(reader, writer)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        device = writer.get_extra_info("sockname")[0]
        streams = None if self.is_away else await self._connect(device)
        if streams is None or self.is_away:
            _reset(writer)
            if streams is not None:
                _reset(streams[2])
            return
        address, far_reader, far_writer = streams
        way = Way(device, address, writer, far_writer)
        self._plan(way)
        self.ways.add(way)
        copies = [
            asyncio.ensure_future(self._copy(way, UP, reader, far_writer)),
            asyncio.ensure_future(self._copy(way, DOWN, far_reader, writer)),
        ]
        try:
            await asyncio.wait(copies, return_when=asyncio.FIRST_COMPLETED)
            # The other direction may still have some words; where all is lost the other end has to find out.
            await asyncio.wait(copies, timeout=FORGOTTEN_AFTER if way.is_lossy else 1.0)
        finally:
            for copy in copies:
                copy.cancel()
            await asyncio.gather(*copies, return_exceptions=True)
            for one in way.writers:
                one.transport.abort()
            self.ways.discard(way)

    def _plan(self, way: Way) -> None:
        plan = self.plans.get(way.device)
        if plan is None:
            return
        if plan.skip:
            plan.skip -= 1
            return
        del self.plans[way.device]
        way.left, way.vanishes, way.cut = plan.left, plan.vanishes, plan.cut

    async def _copy(self, way: Way, direction: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                if delay := self.delays.get(way.device, 0.0):
                    await asyncio.sleep(delay)
                if await way.passes(direction, len(data)):
                    writer.write(data)
                    await writer.drain()
            if not way.is_lossy:
                writer.write_eof()

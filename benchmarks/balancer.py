"""Balancer of TCP connections that misbehaves when it is told to."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from typing import Self

CONNECT_WITHIN = 1.0
"""Seconds after which an instance that does not answer is passed over."""


class Way:
    """One connection of a device, and that to its instance."""

    def __init__(self, address: str, *writers: asyncio.StreamWriter) -> None:
        self.address = address
        self.writers = writers
        self.silent = False

    def end(self) -> None:
        """Reset both."""
        for writer in self.writers:
            writer.transport.abort()


class Balancer:
    """Spreads connections over instances in turns; one that does not listen is passed over.

    Attributes:
        addresses: Of the instances.
        port: Port of all of them, and of the balancer itself at 127.0.0.1.
        down: Instances that its health check has found down.
        delay: Seconds for which everything is held up.
    """

    def __init__(self, port: int) -> None:
        self.addresses: list[str] = []
        self.port = port
        self.down: set[str] = set()
        self.delay = 0.0
        self.ways: set[Way] = set()
        self._turn = 0
        self._tasks: set[asyncio.Task[None]] = set()

    @classmethod
    @contextlib.asynccontextmanager
    async def running(cls, port: int) -> AsyncIterator[Self]:
        """Listen at 127.0.0.1."""
        made = cls(port)
        server = await asyncio.start_server(made._serve, "127.0.0.1", port)
        try:
            yield made
        finally:
            server.close()
            made.end(made.ways)
            for task in list(made._tasks):
                task.cancel()
            await asyncio.gather(*made._tasks, return_exceptions=True)

    def cut(self, chance: random.Random, share: float) -> None:
        """Reset so many of the connections."""
        self.end(set(self._some(chance, share)))

    def silence(self, chance: random.Random, share: float) -> set[Way]:
        """Let nothing pass on so many of the connections; nobody is told."""
        some = set(self._some(chance, share))
        for way in some:
            way.silent = True
        return some

    def end(self, ways: set[Way]) -> None:
        """Reset connections."""
        for way in list(ways):
            way.end()

    def take_down(self, address: str) -> None:
        """Reset all connections of an instance, and give it no new ones."""
        self.down.add(address)
        self.end({way for way in self.ways if way.address == address})

    def _some(self, chance: random.Random, share: float) -> list[Way]:
        ways = sorted(self.ways, key=id)
        return [way for way in ways if chance.random() < share]

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        for _ in self.addresses:
            self._turn += 1
            address = self.addresses[self._turn % len(self.addresses)]
            if address in self.down:
                continue
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(CONNECT_WITHIN):
                    return await asyncio.open_connection(address, self.port)
        return None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        streams = await self._connect()
        if streams is None:
            writer.transport.abort()
            return
        way = Way(streams[1].get_extra_info("peername")[0], writer, streams[1])
        self.ways.add(way)
        copies = [
            asyncio.ensure_future(self._copy(way, reader, streams[1])),
            asyncio.ensure_future(self._copy(way, streams[0], writer)),
        ]
        try:
            await asyncio.wait(copies, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait(copies, timeout=1.0)  # the other direction may still have some words
        finally:
            for copy in copies:
                copy.cancel()
            await asyncio.gather(*copies, return_exceptions=True)
            way.end()
            self.ways.discard(way)

    async def _copy(self, way: Way, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                if self.delay:
                    await asyncio.sleep(self.delay)
                if way.silent:
                    continue  # what was sent is gone
                writer.write(data)
                await writer.drain()
            writer.write_eof()

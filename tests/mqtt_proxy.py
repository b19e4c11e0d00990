"""A broker not to be trusted: it ends TLS in front of a real one, and may change, keep or stop what goes through."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager

from websockets.asyncio.server import ServerConnection, serve
from websockets.typing import Subprotocol

from s2connect.model.url import MqttUrl
from tests.mosquitto import HOST, Mosquitto
from tests.waits import within

Change = Callable[[int, bytes], Iterable[bytes]]
"""Gets each packet on its way to a client, its first byte and the whole of it; gives what goes there instead."""


class Proxy:
    """One address in front of a Mosquitto.

    Attributes:
        change: See :data:`Change`; None lets everything through.
        passing: Cleared, it holds everything in both directions, as a cut cable does.
        url: Where clients connect.
    """

    def __init__(self, broker: Mosquitto) -> None:
        self._broker = broker
        self._running = 0
        self._stopped = asyncio.Event()
        self.change: Change | None = None
        self.passing = asyncio.Event()
        self.passing.set()
        self.url = MqttUrl("mqtts://localhost")

    def server_context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._broker.ca.issue_cert(HOST).configure_cert(context)
        return context

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(
            "127.0.0.1", self._broker.port, ssl=self._broker.context(), server_hostname=HOST
        )

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await self.connect()

        async def up() -> None:
            while data := await reader.read(65536):
                await self.passing.wait()
                back.write(data)

        async def down() -> None:
            async for packet in packets(there):
                await self.passing.wait()
                for part in [packet] if self.change is None else self.change(packet[0], packet):
                    writer.write(part)

        await self._both(up(), down())
        for end in (writer, back):
            end.transport.abort()

    async def serve_websocket(self, socket: ServerConnection) -> None:
        there, back = await self.connect()

        async def up() -> None:
            async for data in socket:
                assert isinstance(data, bytes)
                back.write(data)

        async def down() -> None:
            while data := await there.read(1000):  # frames that do not end where packets do
                await socket.send(data)

        await self._both(up(), down())
        back.transport.abort()

    async def _both(self, *ways: Coroutine[None, None, None]) -> None:
        """Run both until one ends, or the proxy does."""
        tasks = {asyncio.create_task(way) for way in (*ways, self._stop())}
        self._running += 1
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._running -= 1

    async def _stop(self) -> None:
        await self._stopped.wait()

    async def close(self) -> None:
        self._stopped.set()
        async with within(5):
            while self._running:
                await asyncio.sleep(0.001)


async def packets(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """Cut a stream into the packets of MQTT."""
    with contextlib.suppress(asyncio.IncompleteReadError, OSError):
        while True:
            packet = await reader.readexactly(2)
            while packet[-1] & 128:
                packet += await reader.readexactly(1)
            length = sum((byte & 127) << 7 * place for place, byte in enumerate(packet[1:]))
            yield packet + await reader.readexactly(length)


@asynccontextmanager
async def proxy(broker: Mosquitto) -> AsyncIterator[Proxy]:
    """Put a proxy in front of a broker."""
    made = Proxy(broker)
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0, ssl=made.server_context())
    made.url = MqttUrl(f"mqtts://{HOST}:{server.sockets[0].getsockname()[1]}")
    try:
        yield made
    finally:
        server.close()
        await made.close()


@asynccontextmanager
async def websocket_proxy(broker: Mosquitto) -> AsyncIterator[Proxy]:
    """Let a broker speak MQTT over WebSocket, which Debian's Mosquitto is built without."""
    made = Proxy(broker)
    protocols = [Subprotocol("mqtt")]
    async with serve(
        made.serve_websocket, "127.0.0.1", 0, ssl=made.server_context(), subprotocols=protocols, compression=None
    ) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        made.url = MqttUrl(f"wss://{HOST}:{port}/mqtt")
        try:
            yield made
        finally:
            await made.close()

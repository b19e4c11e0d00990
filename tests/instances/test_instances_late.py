"""Late messages of a session that goes on elsewhere: an instance that hears nothing of that does not deliver them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

pytest.importorskip("psycopg")

from websockets.asyncio.client import ClientConnection

from s2connect.messages.enums import Check
from s2connect.messages.envelope import Message
from s2connect.pairing.code import PairingToken
from s2connect.session.session import Session
from s2connect.transports.websocket_connection import WebSocketConnection
from tests.instances.instances import NODES, TOKEN, Instance, instances
from tests.instances.test_instances_at_once import pair
from tests.instances.test_instances_offers import come, offered
from tests.instances.test_instances_ownership import follow
from tests.postgresql import Cluster
from tests.store.postgresql_cutter import SOCKET
from tests.waits import until, within

Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Way:
    """A proxy that holds back what passes, or cuts it.

    Attributes:
        passes: Set while anything does.
        is_cut: Whether new connections are ended.
    """

    def __init__(self, there: Callable[[], Awaitable[Ends]]) -> None:
        self.passes = asyncio.Event()
        self.passes.set()
        self.is_cut = False
        self._there = there
        self._writers: list[asyncio.StreamWriter] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._tasks.add(asyncio.ensure_future(self._both(reader, writer)))

    async def _both(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.is_cut:
            writer.transport.abort()
            return
        back, there = await self._there()
        self._writers += writer, there
        await asyncio.gather(self._pass(reader, there), self._pass(back, writer))

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass on until the end, of which the other side does not learn."""
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                await self.passes.wait()
                writer.write(data)

    def cut(self) -> None:
        self.is_cut = True
        for writer in self._writers:
            writer.transport.abort()

    async def close(self) -> None:
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class Site:
    """Two instances; one reaches the database, and is reached by the device, over ways of the test."""

    def __init__(self, one: Instance, other: Instance, database: Way, device: Way, ports: list[int]) -> None:
        self.one, self.other, self.database, self.device, self.ports = one, other, database, device, ports
        self.delivered: list[str | None] = []
        self.access = ""

    async def begin(self, at: int, known: Sequence[Instance]) -> tuple[ClientConnection, Session]:
        """Begin a session at an instance."""
        token, self.access = await offered(known, self.access)
        client = await come(self.ports[at], token)
        assert isinstance(client, ClientConnection)
        connections = (self.one, self.other)[at].connections[NODES[0]]
        return client, await connections.next_session(None, Check.ENVELOPE, self._note)

    def _note(self, _: Session, message: Message) -> None:
        self.delivered.append(message.id)

    def is_certain(self) -> bool:
        """Return True if the first instance would know of a takeover."""
        owners = self.one.pairings.ownership
        assert owners is not None
        return owners.is_certain()


@pytest.fixture
async def site(postgresql_cluster: Cluster, postgresql: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    monkeypatch.setattr(WebSocketConnection, "close_timeout", 0.2)
    there = str(postgresql_cluster.directory)
    database = Way(lambda: asyncio.open_unix_connection(f"{there}/{SOCKET}"))
    with TemporaryDirectory(prefix="s2way") as directory:
        server = await asyncio.start_unix_server(database.accept, str(Path(directory) / SOCKET))
        through = postgresql.replace(there, directory)
        async with (
            instances(postgresql, first=1) as (other,),
            instances(through) as (one,),
            one.listening() as port,
            other.listening() as other_port,
        ):
            device = Way(lambda: asyncio.open_connection("127.0.0.1", port))
            front = await asyncio.start_server(device.accept, "127.0.0.1", 0)
            made = Site(one, other, database, device, [front.sockets[0].getsockname()[1], other_port])
            await other.pairing.new_code(other.state.local.nodes[NODES[0]], PairingToken(TOKEN))
            made.access = await pair([other, other], 1)
            follow([one, other])
            await until(made.is_certain)
            try:
                yield made
            finally:
                device.passes.set()
                database.passes.set()
                await device.close()
                await database.close()
                front.close()
                server.close()


def message(identifier: str) -> str:
    return f'{{"message_type": "PowerMeasurement", "message_id": "{identifier}", "values": []}}'


LOST = pytest.mark.parametrize("is_silent", [True, False])


def lose(site: Site, *, is_silent: bool) -> None:
    """Take the database from the one instance."""
    if is_silent:
        site.database.passes.clear()
    else:
        site.database.cut()


@pytest.mark.rule("WS-06")
@LOST
async def test_what_comes_late_is_not_delivered_after_what_came_elsewhere(site: Site, is_silent: bool) -> None:
    async with within(20):
        first, former = await site.begin(0, [site.one, site.other])
        await first.send(message("old"))
        await until(lambda: site.delivered == ["old"])
        lose(site, is_silent=is_silent)
        site.device.passes.clear()
        await first.send(message("late"))
        second, session = await site.begin(1, [site.other, site.other])
        await second.send(message("new"))
        await until(lambda: site.delivered == ["old", "new"])
        first.transport.abort()  # the device has given it up, and the instance does not learn of that
        site.device.passes.set()
        await until(lambda: former._reading._withheld is not None or len(site.delivered) > 2)
        assert site.delivered == ["old", "new"]
        site.database.is_cut = False
        site.database.passes.set()
        await former.wait_closed()
        assert site.delivered == ["old", "new"]
        await second.send(message("newer"))
        await until(lambda: site.delivered == ["old", "new", "newer"])
        await session.close()


@pytest.mark.rule("WS-06")
@LOST
async def test_a_peer_that_is_still_there_goes_on(site: Site, is_silent: bool) -> None:
    async with within(20):
        client, session = await site.begin(0, [site.one, site.other])
        lose(site, is_silent=is_silent)
        await until(lambda: not site.is_certain())
        sent = [f"m{number}" for number in range(60)]
        for identifier in sent:
            await client.send(message(identifier))
            assert f'"{identifier}"' in str(await client.recv())
        assert site.delivered == sent
        assert session.end_reason == "open"
        site.database.is_cut = False
        site.database.passes.set()
        await until(site.is_certain)
        await client.send(message("last"))
        assert '"last"' in str(await client.recv())
        client.transport.abort()

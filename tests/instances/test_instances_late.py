"""Late messages of a session that goes on elsewhere: an instance that hears nothing of that does not deliver them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import pytest

pytest.importorskip("psycopg")

from websockets.asyncio.client import ClientConnection

from s2connect.messages.enums import Check
from s2connect.messages.envelope import Message
from s2connect.model.common import MQTT, WEBSOCKET, NodeId, Role
from s2connect.model.session_init import CommunicationDetails
from s2connect.pairing.code import PairingToken
from s2connect.session.session import Session
from s2connect.transports.base import ConnectionInfo
from s2connect.transports.mqtt.connection import MqttConnection
from s2connect.transports.mqtt.transport import MqttTransport
from s2connect.transports.websocket_connection import WebSocketConnection
from tests.instances.instances import NODES, TOKEN, Instance, client_id, instances, session_request
from tests.instances.test_instances_at_once import pair
from tests.instances.test_instances_offers import come
from tests.instances.test_instances_ownership import follow
from tests.mosquitto import Mosquitto, access_list
from tests.mqtt_proxy import proxy
from tests.postgresql import Cluster
from tests.store.postgresql_cutter import SOCKET
from tests.waits import until, within

PROTOCOLS = [WEBSOCKET, MQTT]

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


class Device(Protocol):
    """The device in one session, of which nothing is known at the instance but what comes over the network."""

    async def send(self, text: str) -> None: ...

    async def recv(self) -> str: ...

    def leave(self) -> None:
        """Have nothing to do with the session any more, without a word."""


class WebSocketDevice:
    """A device that is a library of others, over a WebSocket."""

    def __init__(self, client: ClientConnection) -> None:
        self._client = client

    async def send(self, text: str) -> None:
        await self._client.send(text)

    async def recv(self) -> str:
        return str(await self._client.recv())

    def leave(self) -> None:
        self._client.transport.abort()


class MqttDevice:
    """A device over MQTT."""

    def __init__(self, connection: MqttConnection) -> None:
        self.send, self.recv, self.leave = connection.send, connection.recv, connection.abandon


class Devices(Protocol):
    """Ways of a device to the instances.

    Attributes:
        protocol: Their name.
        passes: Set while anything passes between the device and the first instance.
    """

    protocol: str
    passes: asyncio.Event

    async def come(self, at: int, details: dict[str, Any]) -> Device:
        """Connect to an instance, as the answer to confirmAccessToken says."""


class Site:
    """Two instances; one reaches the database, and is reached by the device, over ways of the test."""

    def __init__(self, one: Instance, other: Instance, database: Way, devices: Devices) -> None:
        self.one, self.other, self.database, self.devices = one, other, database, devices
        self.delivered: list[str | None] = []
        self.access = ""

    async def begin(self, at: int) -> tuple[Device, Session]:
        """Begin a session at an instance."""
        request, instance = session_request(1, protocol=self.devices.protocol), (self.one, self.other)[at]
        pending = await self.other.ask("session/initiateSession", request, self.access)
        self.access = pending.body["accessToken"]
        confirmed = await instance.ask("session/confirmAccessToken", b"", self.access)
        device = await self.devices.come(at, confirmed.body)
        return device, await instance.connections[NODES[0]].next_session(None, Check.ENVELOPE, self._note)

    def _note(self, _: Session, message: Message) -> None:
        self.delivered.append(message.id)

    def is_certain(self) -> bool:
        """Return True if the first instance would know of a takeover."""
        owners = self.one.pairings.ownership
        assert owners is not None
        return owners.is_certain()


class WebSocketDevices:
    """Devices over WebSocket: the way to the first instance is one of the test."""

    protocol = WEBSOCKET

    def __init__(self, way: Way, ports: list[int]) -> None:
        self.passes = way.passes
        self._ports = ports

    async def come(self, at: int, details: dict[str, Any]) -> Device:
        client = await come(self._ports[at], details["websocketToken"])
        assert isinstance(client, ClientConnection)
        return WebSocketDevice(client)


@contextlib.asynccontextmanager
async def over_websocket(one: Instance, other: Instance, directory: Path) -> AsyncIterator[Devices]:
    async with one.listening() as port, other.listening() as other_port:
        way = Way(lambda: asyncio.open_connection("127.0.0.1", port))
        front = await asyncio.start_server(way.accept, "127.0.0.1", 0)
        try:
            yield WebSocketDevices(way, [front.sockets[0].getsockname()[1], other_port])
        finally:
            way.passes.set()
            await way.close()
            front.close()


class MqttDevices:
    """Devices over a real Mosquitto, which the first instance reaches over a proxy of the test."""

    protocol = MQTT

    def __init__(self, passes: asyncio.Event, transport: MqttTransport, url: str) -> None:
        self.passes = passes
        self._transport = transport
        self._url = url

    async def come(self, at: int, details: dict[str, Any]) -> Device:
        info = ConnectionInfo(MQTT, NodeId(client_id(1)), NODES[0], "v1.0.0")
        details = {**details, "mqttUrl": self._url}
        connection = await self._transport.connect(info, CommunicationDetails.from_value(details), None)
        assert isinstance(connection, MqttConnection)
        return MqttDevice(connection)


@contextlib.asynccontextmanager
async def over_mqtt(one: Instance, other: Instance, directory: Path) -> AsyncIterator[Devices]:
    def transport(user: str, **changes: Any) -> MqttTransport:
        return MqttTransport(
            broker.settings(user, **changes), role_of=lambda node: Role.CEM if node == NODES[0] else Role.RM
        )

    node = str(NODES[0])
    broker = Mosquitto(directory, ["one", "other", "device"], access_list({"one": [node], "other": [node]})).start()
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(broker.kill)
        front = await stack.enter_async_context(proxy(broker))
        served = [(one, transport("one", url=front.url)), (other, transport("other"))]
        device = transport("device")
        stack.push_async_callback(device.close)
        for instance, its in served:
            instance.transports[MQTT] = its
            stack.push_async_callback(its.close)
            await its.serve(NODES[0])
        stack.callback(front.passing.set)
        yield MqttDevices(front.passing, device, broker.url)


@pytest.fixture(params=[over_websocket, over_mqtt])
async def site(
    request: pytest.FixtureRequest,
    postgresql_cluster: Cluster,
    postgresql: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> AsyncIterator[Site]:
    monkeypatch.setattr(WebSocketConnection, "close_timeout", 0.2)
    there = str(postgresql_cluster.directory)
    database = Way(lambda: asyncio.open_unix_connection(f"{there}/{SOCKET}"))
    with TemporaryDirectory(prefix="s2way") as directory:
        server = await asyncio.start_unix_server(database.accept, str(Path(directory) / SOCKET))
        through = postgresql.replace(there, directory)
        async with (
            instances(postgresql, first=1, protocols=PROTOCOLS) as (other,),
            instances(through, protocols=PROTOCOLS) as (one,),
            request.param(one, other, tmp_path) as devices,
        ):
            made = Site(one, other, database, devices)
            await other.pairing.new_code(other.state.local.nodes[NODES[0]], PairingToken(TOKEN))
            made.access = await pair([other, other], 1)
            follow([one, other])
            await until(made.is_certain)
            try:
                yield made
            finally:
                devices.passes.set()
                database.passes.set()
                await database.close()
                server.close()


def message(identifier: str) -> str:
    return f'{{"message_type": "PowerMeasurement", "message_id": "{identifier}", "values": []}}'


LOST = pytest.mark.parametrize("is_silent", [True, False])


def lose(database: Way, *, is_silent: bool) -> None:
    """Take the database from the one instance."""
    if is_silent:
        database.passes.clear()
    else:
        database.cut()


def is_withheld(session: Session) -> bool:
    withholding = session._reading.withholding
    return withholding is None or withholding._withheld is not None


@pytest.mark.rule("WS-06")
@LOST
async def test_what_comes_late_is_not_delivered_after_what_came_elsewhere(site: Site, is_silent: bool) -> None:
    async with within(20):
        first, former = await site.begin(0)
        await first.send(message("old"))
        await until(lambda: site.delivered == ["old"])
        lose(site.database, is_silent=is_silent)
        site.devices.passes.clear()
        await first.send(message("late"))
        second, session = await site.begin(1)
        await second.send(message("new"))
        await until(lambda: site.delivered == ["old", "new"])
        first.leave()  # the device has given it up, and the instance does not learn of that
        site.devices.passes.set()
        await until(lambda: is_withheld(former) or len(site.delivered) > 2)
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
        client, session = await site.begin(0)
        lose(site.database, is_silent=is_silent)
        await until(lambda: not site.is_certain())
        sent = [f"m{number}" for number in range(60)]
        for identifier in sent:
            await client.send(message(identifier))
            assert f'"{identifier}"' in await client.recv()
        assert site.delivered == sent
        assert session.end_reason == "open"
        site.database.is_cut = False
        site.database.passes.set()
        await until(site.is_certain)
        await client.send(message("last"))
        assert '"last"' in await client.recv()
        client.leave()

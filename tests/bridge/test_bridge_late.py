"""Late messages of a link that goes on at another instance: one that hears nothing of that does not pass them on."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

import pytest

pytest.importorskip("psycopg")

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from s2connect import NodeId, Role, connect_plain
from s2connect.bridge.bridge import Bridge
from s2connect.bridge.config_file import load
from s2connect.bridge.link import Link
from s2connect.bridge.link_state import LinkState
from s2connect.store.postgresql.sealing import KEY_VARIABLE
from s2connect.transports.plain import PlainConnection
from tests.bridge.instance_fixtures import free_port
from tests.endpoint.conftest import Wan, wan
from tests.instances.test_instances_late import LOST, Way, lose, message
from tests.postgresql import STORE_KEYS, Cluster
from tests.store.postgresql_cutter import SOCKET
from tests.waits import until, within

__all__ = ["wan"]


class Manager:
    """An energy manager of another maker with plain S2, which reads every connection of a device, also a former one.

    Attributes:
        received: Ids of the messages over all connections, in the order in which they came.
    """

    def __init__(self) -> None:
        self.received: list[str] = []

    async def __call__(self, socket: ServerConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            async for text in socket:
                found = json.loads(text)
                if found["message_type"] == "ReceptionStatus":
                    continue
                status = {"subject_message_id": found["message_id"], "status": "OK"}
                await socket.send(json.dumps({"message_type": "ReceptionStatus", **status}))
                if found["message_type"] == "Handshake":
                    version = {"selected_protocol_version": found["supported_protocol_versions"][0]}
                    response = {"message_type": "HandshakeResponse", "message_id": str(uuid4()), **version}
                    await socket.send(json.dumps(response))
                elif found["message_type"] == "PowerMeasurement":
                    self.received.append(found["message_id"])


class Site:
    """Two instances of a bridge; the first reaches the database, and its device reaches it, over ways of the test."""

    def __init__(
        self, one: Bridge, other: Bridge, database: Way, device: Way, ports: list[int], manager: Manager
    ) -> None:
        self.bridges = [one, other]
        self.database, self.device, self.manager = database, device, manager
        self._ports = ports

    async def begin(self, at: int) -> PlainConnection:
        """Let the device connect to an instance; return when the link is up there."""
        made = await connect_plain(f"ws://127.0.0.1:{self._ports[at]}/battery", role=Role.RM, local=NodeId(uuid4()))
        assert isinstance(made, PlainConnection)
        await until(lambda: self.link(at).state is LinkState.UP, 20)
        return made

    def link(self, at: int) -> Link:
        """The link of the device at an instance."""
        (link,) = self.bridges[at].routes["old"].links.values()
        return link

    def is_certain(self) -> bool:
        """Return True if the first instance would know of a takeover."""
        hold = self.link(0).hold
        return hold is not None and hold.guard.is_certain()

    def is_withheld(self) -> bool:
        """Return True if a message of the device is withheld at the first instance."""
        side = self.link(0)._connected.get(Role.RM)
        withholding = None if side is None else side._withholding
        return withholding is not None and bool(withholding._withheld)


@pytest.fixture
async def site(
    wan: Wan, postgresql_cluster: Cluster, postgresql: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Site]:
    wan.config(Role.CEM, "localhost")
    monkeypatch.setenv(KEY_VARIABLE, base64.b64encode(STORE_KEYS[0]).decode())
    there = str(postgresql_cluster.directory)
    database = Way(lambda: asyncio.open_unix_connection(f"{there}/{SOCKET}"))
    ports = [free_port(), free_port()]
    device = Way(lambda: asyncio.open_connection("127.0.0.1", ports[0]))
    manager = Manager()

    def file(number: int, store: str, managing: Server) -> Path:
        made = tmp_path / f"h{number}.toml"
        made.write_text(
            f'home = "h{number}"\n[page]\nenabled = false\n[endpoint]\ndeployment = "WAN"\nhost = "localhost"\n'
            'port = 0\nbind = "127.0.0.1"\ncertificate = "localhost.pem"\nprivate_key = "localhost.key"\n'
            f'trust_anchors = "public-ca.pem"\nvault = "files"\nstore = "{store}"\ninstance = "i{number}"\n'
            f'[[route]]\nname = "old"\n[route.manager]\ntype = "plain-client"\nurl = "ws://127.0.0.1:{managing.sockets[0].getsockname()[1]}/{{id}}"\n'
            f'[route.devices]\ntype = "plain-server"\nport = {ports[number]}\n'
            '[[route.devices.device]]\nid = "battery"\nname = "battery"\n'
        )
        return made

    with TemporaryDirectory(prefix="s2way") as directory:
        server = await asyncio.start_unix_server(database.accept, str(Path(directory) / SOCKET))
        front = await asyncio.start_server(device.accept, "127.0.0.1", 0)
        through = postgresql.replace(there, directory)
        async with (
            serve(manager, "127.0.0.1", 0, compression=None) as managing,
            Bridge.open(load(file(1, postgresql, managing))[0]) as other,
            Bridge.open(load(file(0, through, managing))[0]) as one,
        ):
            made = Site(one, other, database, device, [front.sockets[0].getsockname()[1], ports[1]], manager)
            await until(made.is_certain, 20)
            try:
                yield made
            finally:
                device.passes.set()
                database.passes.set()
                await device.close()
                await database.close()
                front.close()
                server.close()


@pytest.mark.rule("WS-06")
@LOST
async def test_what_comes_late_is_not_passed_on_after_what_came_elsewhere(site: Site, is_silent: bool) -> None:
    async with within(60):
        received = site.manager.received
        first = await site.begin(0)
        await first.send(message("old"))
        await until(lambda: received == ["old"])
        lose(site.database, is_silent=is_silent)
        site.device.passes.clear()
        await first.send(message("late"))
        second = await site.begin(1)
        await second.send(message("new"))
        await until(lambda: received == ["old", "new"], 20)
        first._websocket.abort()  # the device has given it up, and the instance does not learn of that
        site.device.passes.set()
        await until(lambda: site.is_withheld() or len(received) > 2)
        assert site.link(0).state is LinkState.UP
        assert received == ["old", "new"]
        site.database.is_cut = False
        site.database.passes.set()
        await until(lambda: site.link(0).state is LinkState.ELSEWHERE, 30)
        await second.send(message("newer"))
        await until(lambda: len(received) > 2)
        assert received == ["old", "new", "newer"]
        await second.close()


@pytest.mark.rule("WS-06")
@LOST
async def test_a_link_whose_peers_are_still_there_goes_on(site: Site, is_silent: bool) -> None:
    async with within(60):
        device = await site.begin(0)
        lose(site.database, is_silent=is_silent)
        await until(lambda: not site.is_certain())
        sent = [f"m{number}" for number in range(60)]
        for identifier in sent:
            await device.send(message(identifier))
            assert f'"{identifier}"' in await device.recv()
        assert site.manager.received == sent
        await device.close()

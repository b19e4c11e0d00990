"""Static MQTT whose sessions the bridge opens, as several instances: one of them does, and another goes on."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

pytest.importorskip("psycopg")

from s2connect import NodeDescription, NodeId, Role, Session
from s2connect.bridge import Bridge
from s2connect.store.postgresql.sealing import KEY_VARIABLE
from s2connect.transports import (
    Connection,
    ListedDevice,
    MqttTransport,
    SessionToken,
    StaticGateway,
    StaticSession,
)
from tests.bridge.instance_fixtures import cloud, opened, up_at
from tests.bridge.test_bridge_instances_leases import Old, one_each
from tests.command import Running, start
from tests.endpoint.conftest import Wan, wan
from tests.mosquitto import PREFIX, Mosquitto, access_list, password
from tests.postgresql import STORE_KEYS
from tests.waits import until, within

__all__ = ["start", "wan"]

Start = Callable[..., Running]

CLOUD, METER = NodeId(uuid4()), NodeId(uuid4())
SECRET = SessionToken(base64.b64encode(bytes(range(32))).decode())
GATEWAY = StaticGateway(
    topic_prefix=PREFIX, server=CLOUD, mc="bridge", client_role=Role.RM, versions=("v1.0.0",), secret=SECRET
)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    """A broker whose access list lets both instances use the topics of the bridge, beside their own presence."""
    place = tmp_path / "broker"
    place.mkdir()
    acl = access_list({"cloud": [str(CLOUD)], "meter": [str(METER)]})
    acl += "".join(f"user bridge-{name}\ntopic readwrite {PREFIX}/s2/0/+/bridge/#\n" for name in "ab")
    made = Mosquitto(place, ["cloud", "meter", "bridge-a", "bridge-b"], acl)
    made.start()
    yield made
    made.stop()


class Programs:
    """An energy manager at the broker, which waits for the devices that the bridge lists, and a device that waits.

    Attributes:
        listed: Names of the devices that the bridge has listed.
    """

    def __init__(self, broker: Mosquitto, old: Old) -> None:
        self.broker = broker
        self.old = old
        self.listed: dict[str, str] = {}
        self.meters: asyncio.Queue[Connection] = asyncio.Queue()

    def _changed(self, added: list[ListedDevice], removed: list[ListedDevice]) -> None:
        self.listed |= {str(device.id): device.name for device in added}
        for device in removed:
            del self.listed[str(device.id)]

    def _take(self, connection: Connection, device: ListedDevice) -> None:
        peer = NodeDescription(id=device.id, brand="-", type="-", model_name="-", role=Role.RM)
        self.old.spawn(self.old.receive(device.name, Session(connection, peer=peer, role=Role.CEM)))

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        cem = MqttTransport(self.broker.settings("cloud"), role_of=lambda _: Role.CEM)
        cem.start()
        try:
            await cem.listen_gateway(GATEWAY, self._take, changed=self._changed)
            yield
        finally:
            await cem.close()


class AtBroker(Old):
    """The devices with plain S2, to which the bridge connects; their energy manager waits at the broker."""

    def __init__(self, names: list[str], broker: Mosquitto, secret: Path) -> None:
        super().__init__(names)
        self.programs = Programs(broker, self)
        self._secret = secret

    @contextlib.asynccontextmanager
    async def managing(self) -> AsyncIterator[str]:
        async with self.programs.running():
            yield f'type = "mqtt"\nid = "{CLOUD}"\nsecret_file = "{self._secret}"\n'


def account(broker: Mosquitto, directory: Path, name: str) -> str:
    """The table [mqtt] of an instance."""
    secret = directory / f"{name}.password"
    secret.write_text(password(f"bridge-{name}").reveal())
    secret.chmod(0o600)
    return (
        f'[mqtt]\nurl = "{broker.url}"\nca_file = "{broker.ca_file}"\nprefix = "{PREFIX}"\ngateway = "bridge"\n'
        f'client_id = "bridge-{{instance}}"\nusername = "bridge-{{instance}}"\npassword_file = "{secret}"\n'
    )


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    made = tmp_path / "programs.secret"
    made.write_text(SECRET.reveal())
    made.chmod(0o600)
    return made


@pytest.mark.timeout(120)
async def test_sessions_that_the_bridge_opens_at_a_broker_are_at_one_instance_and_go_on_at_the_other(
    wan: Wan, postgresql: str, tmp_path: Path, broker: Mosquitto, secret: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both directions: to an energy manager that waits there, and to a device that does."""
    monkeypatch.setenv(KEY_VARIABLE, base64.b64encode(STORE_KEYS[0]).decode())
    meter = MqttTransport(broker.settings("meter"), role_of=lambda _: Role.RM)
    meter.start()
    async with (
        within(90),
        AtBroker(["one", "two"], broker, secret).running() as old,
        Old([]).running() as plain,
        contextlib.AsyncExitStack() as stack,
    ):
        stack.push_async_callback(meter.close)
        routes = f'{old.routes}[[route]]\nname = "meters"\n[route.manager]\n{plain.manager}'
        routes += '[route.devices]\ntype = "mqtt"\n'
        routes += f'[[route.devices.device]]\nname = "Meter"\nid = "{METER}"\nsecret_file = "{secret}"\n'
        bridges: dict[str, Bridge] = {}
        ends: dict[str, contextlib.AsyncExitStack] = {}
        for name in "ab":
            ends[name] = await stack.enter_async_context(contextlib.AsyncExitStack())
            rest = account(broker, tmp_path, name) + routes
            bridges[name] = await ends[name].enter_async_context(opened(wan, tmp_path, postgresql, name, rest))
        own = next(r for r in bridges["a"].status()["routes"] if r["name"] == "meters")["id"]
        came: list[Connection] = []
        await meter.listen_static(
            StaticSession(
                topic_prefix=PREFIX,
                server=METER,
                client=NodeId(UUID(own)),
                mc="bridge",
                client_role=Role.CEM,
                versions=("v1.0.0",),
                secret=SECRET,
            ),
            came.append,
        )

        everything = ["meters/Meter", "old/one", "old/two"]
        await until(lambda: up_at(*bridges.values()) == everything, 30)
        await old.flows()
        assert sorted(old.programs.listed.values()) == ["one", "two"]
        assert len(came) == 1

        # One ends: the other has all of it, and the list has stayed.
        first = "a" if "meters/Meter" in up_at(bridges["a"]) else "b"
        other = "b" if first == "a" else "a"
        await ends[first].aclose()
        await until(lambda: up_at(bridges[other]) == everything, 30)
        await old.flows()
        assert sorted(old.programs.listed.values()) == ["one", "two"]
        old.check()


@pytest.mark.long
@pytest.mark.timeout(400)
async def test_a_session_at_a_broker_goes_on_elsewhere_when_its_instance_is_killed_stopped_or_ends(
    wan: Wan, postgresql: str, tmp_path: Path, start: Start, broker: Mosquitto, secret: Path
) -> None:
    names = ["one", "two", "three"]
    async with (
        within(380),
        AtBroker(names, broker, secret).running() as old,
        cloud(wan, tmp_path, postgresql, start) as made,
    ):

        async def begin(name: str) -> Any:
            return await made.begin(name, routes=account(broker, tmp_path, name) + old.routes)

        a = await begin("a")
        await one_each(made, "a")
        await begin("b")
        await old.flows()

        # Stopped for longer than the lease, and continued: what had come to it goes no further.
        os.kill(a.running.process.pid, signal.SIGSTOP)
        assert set((await one_each(made, "b")).values()) == {"b"}
        await old.flows()
        os.kill(a.running.process.pid, signal.SIGCONT)
        for name in names:
            await a.link(name, "elsewhere", "up")
        await old.flows()
        where = await one_each(made, "a", "b")

        # Killed: the other one has the links when their leases are over.
        victim = where["one"]
        other = "b" if victim == "a" else "a"
        os.kill(made.instances[victim].running.process.pid, signal.SIGKILL)
        await asyncio.to_thread(made.instances[victim].running.process.wait, 10)
        assert set((await one_each(made, other)).values()) == {other}
        await old.flows()

        # Back, and the other one ends in order.
        await begin(victim)
        made.instances[other].running.process.terminate()
        assert await asyncio.to_thread(made.instances[other].running.ended, 40) == 0
        assert set((await one_each(made, victim)).values()) == {victim}
        await old.flows()
        assert sorted(old.programs.listed.values()) == sorted(names)
        old.check()

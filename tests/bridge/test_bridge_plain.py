"""Plain S2 as sides of the bridge: clients and servers, at the side of the devices and of the energy manager."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
import pytest

from s2connect.bridge.config import ConfiguredDevice, PathDevice, PlainClientDevice, PlainServerDevice
from s2connect.bridge.devices import read_secret
from s2connect.bridge.link_state import LinkState
from s2connect.bridge.plain import (
    PlainClientDevicesSide,
    PlainClientManagerSide,
    PlainServerDevicesSide,
    PlainServerManagerSide,
)
from s2connect.bridge.relay import Policy
from s2connect.bridge.route import Route
from s2connect.bridge.sides import DevicesSide, ManagerSide
from s2connect.endpoint.plain_server import PlainServer
from s2connect.errors import ConfigurationError, InsecurePermissions, PeerBusy, SessionRefused
from s2connect.model.common import NodeId, Role
from s2connect.model.proxy import Proxies
from s2connect.model.secret import Secret
from s2connect.transports.base import Connection
from s2connect.transports.plain import PlainAcceptor, connect_plain
from tests.bridge.bridge_fixtures import PLAIN, WSS, BridgeSetup, both
from tests.bridge.route_fixtures import (
    client_devices,
    client_manager,
    converse,
    ended,
    part,
    private_file,
    server_devices,
    server_manager,
    until_up,
)
from tests.waits import until, within

BRIDGE, PEER = NodeId(uuid4()), NodeId(uuid4())
BATTERY = PlainServerDevice(id="battery", name="Battery in the cellar", brand="ACME", type="Battery", path="/battery")


@contextlib.asynccontextmanager
async def opened(devices: DevicesSide, manager: ManagerSide) -> AsyncIterator[Route]:
    route = Route("house", devices, manager, Policy())
    try:
        await route.start()
        yield route
    finally:
        await route.close()


def acceptor(role: Role, token: str | None = None) -> PlainAcceptor:
    return PlainAcceptor(role=role, local=PEER, tokens=None if token is None else {"bridge": Secret(token)})


async def connect(port: int, path: str, role: Role, token: str | None = None) -> Connection:
    return await connect_plain(
        f"ws://127.0.0.1:{port}{path}", role=role, local=PEER, token=Secret(token) if token is not None else None
    )


async def test_a_device_that_connects_meets_an_energy_manager_that_is_connected_to(tmp_path: Path) -> None:
    token, far = private_file(tmp_path / "device", "for-the-device\n"), private_file(tmp_path / "far", "for-the-cem")
    async with PlainServer(acceptor(Role.CEM, "for-the-cem")) as cem_server:
        target = client_manager(f"ws://127.0.0.1:{cem_server.port}/", token_file=far)
        devices = PlainServerDevicesSide(BRIDGE, server_devices(BATTERY.model_copy(update={"token_file": token})))
        async with opened(devices, PlainClientManagerSide(BRIDGE, target, Proxies())) as route, within(10):
            with pytest.raises(SessionRefused):
                await connect(devices.port, "/battery", Role.RM, "another")
            device = await connect(devices.port, "/battery", Role.RM, "for-the-device")
            cem = await anext(cem_server)
            await converse(device, cem)
            (status,) = route.status()
            assert (status.name, status.state) == ("house/Battery in the cellar", LinkState.UP)
            assert status.sides[Role.RM].protocol == "S2-WebSocket"
            await cem.close()
            assert await ended(device)


async def test_a_client_gets_503_before_the_upgrade_while_the_other_side_cannot_be_opened() -> None:
    async with PlainServer(acceptor(Role.CEM)) as cem_server:
        gone = cem_server.port
    devices = PlainServerDevicesSide(BRIDGE, server_devices(BATTERY))
    manager = PlainClientManagerSide(BRIDGE, client_manager(f"ws://127.0.0.1:{gone}/"), Proxies())
    async with opened(devices, manager) as route, within(10):
        with pytest.raises(PeerBusy):
            await connect(devices.port, "/battery", Role.RM)
        async with aiohttp.ClientSession() as http:
            upgrade = {
                "Connection": "Upgrade",
                "Upgrade": "websocket",
                "Sec-WebSocket-Version": "13",
                "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
            }
            async with http.get(f"http://127.0.0.1:{devices.port}/battery", headers=upgrade) as response:
                assert (response.status, response.headers["Retry-After"]) == (503, "5")
                assert str(gone) not in await response.text()
            async with http.get(f"http://127.0.0.1:{devices.port}/unknown", headers=upgrade) as response:
                assert response.status == 404
        assert route.status()[0].state is LinkState.FAILED
        async with PlainServer(acceptor(Role.CEM), port=gone) as cem_server:
            device = await connect(devices.port, "/battery", Role.RM)
            cem = await anext(cem_server)
            await converse(device, cem)
            await part(route, device, cem)


async def test_the_bridge_connects_to_both_where_both_are_servers() -> None:
    async with (
        PlainServer(acceptor(Role.RM)) as device_server,
        PlainServer(acceptor(Role.CEM), path="/Battery") as cem_server,
    ):
        device = PlainClientDevice(name="Battery", url=f"ws://127.0.0.1:{device_server.port}/")
        devices = PlainClientDevicesSide(BRIDGE, client_devices(device), Proxies())
        manager = PlainClientManagerSide(
            BRIDGE, client_manager(f"ws://127.0.0.1:{cem_server.port}/{{name}}"), Proxies()
        )
        async with opened(devices, manager) as route, within(10):
            rm, cem = await asyncio.gather(anext(device_server), anext(cem_server))
            await converse(rm, cem)
            await until_up(route)
            await part(route, rm, cem)


async def test_an_energy_manager_that_connects_has_one_path_for_each_device(tmp_path: Path) -> None:
    token = private_file(tmp_path / "token", "for-the-cem")
    async with PlainServer(acceptor(Role.RM)) as one, PlainServer(acceptor(Role.RM)) as two:
        devices = PlainClientDevicesSide(
            BRIDGE,
            client_devices(
                PlainClientDevice(id="one", name="Heat pump/1", url=f"ws://127.0.0.1:{one.port}/"),
                PlainClientDevice(id="two", name="Heat pump 2", url=f"ws://127.0.0.1:{two.port}/"),
            ),
            Proxies(),
        )
        manager = PlainServerManagerSide(BRIDGE, server_manager("/s2/{name}", token_file=token))
        async with opened(devices, manager) as route, within(10):
            assert paths(manager) == {"one": "/s2/Heat-pump-1", "two": "/s2/Heat-pump-2"}
            first = await connect(manager.port, "/s2/Heat-pump-1", Role.CEM, "for-the-cem")
            one_device = await anext(one)
            await converse(one_device, first)
            second = await connect(manager.port, "/s2/Heat-pump-2", Role.CEM, "for-the-cem")
            two_device = await anext(two)
            await converse(two_device, second)
            await until_up(route, 2)
            await asyncio.gather(route.remove_device("one"), ended(first, one_device))
            assert "one" not in paths(manager)
            assert [s.name for s in route.status()] == ["house/Heat pump 2"]
            await part(route, two_device, second)


def paths(manager: PlainServerManagerSide) -> dict[str, str]:
    return {key: side.path for key, side in manager._sides.items()}


async def test_a_device_cannot_take_the_path_of_another_by_its_name(tmp_path: Path) -> None:
    manager = PlainServerManagerSide(
        BRIDGE, server_manager("/s2/{name}", token_file=private_file(tmp_path / "token", "t"))
    )
    devices = PlainClientDevicesSide(BRIDGE, client_devices(), Proxies())
    async with opened(devices, manager):
        for key in ("one", "two"):
            await manager.represent(PlainServerDevice(id=key, name="Pump ../x?y=1#{id}").device())
        assert paths(manager)["one"] == "/s2/Pump-..-x-y-1-id"
        assert paths(manager)["two"].startswith("/s2/Pump-..-x-y-1-id-")
        (tmp_path / "token").unlink()
        with pytest.raises(ConfigurationError):
            await manager.represent(PlainServerDevice(id="three", name="Third").device())
        assert "three" not in paths(manager)


async def test_a_listener_for_other_machines_needs_tls_or_a_permission() -> None:
    devices = PlainServerDevicesSide(BRIDGE, server_devices(host="0.0.0.0"))
    manager = PlainClientManagerSide(BRIDGE, client_manager("ws://127.0.0.1:1/"), Proxies())
    route = Route("house", devices, manager, Policy())
    with pytest.raises(ConfigurationError, match="without TLS"):
        await route.start()
    await route.close()


async def test_a_secret_that_others_can_read_or_that_is_missing_is_not_used(tmp_path: Path) -> None:
    secret = private_file(tmp_path / "secret", "x")
    secret.chmod(0o644)
    with pytest.raises(InsecurePermissions):
        await read_secret(secret, "a token", Secret)
    with pytest.raises(ConfigurationError, match="does not hold a token"):
        await read_secret(tmp_path / "none", "a token", Secret)


def test_a_device_of_the_configuration_has_the_same_node_id_for_ever() -> None:
    again = PlainServerDevice(id="battery", name="Other").device()
    assert BATTERY.device().description.id == again.description.id
    own = uuid4()
    assert ConfiguredDevice(name=str(own)).device().description.id == own


DETAILS = """{"message_type": "ResourceManagerDetails", "message_id": "d-1", "resource_id": "r-1", "name": "Cellar",
 "roles": [{"role": "ENERGY_STORAGE", "commodity": "ELECTRICITY"}], "instruction_processing_delay": 0,
 "available_control_types": ["NOT_CONTROLABLE"], "provides_forecast": false, "manufacturer": "ACME \\u001b[31m",
 "provides_power_measurement_types": ["ELECTRIC.POWER.L1"], "model": "X 5"}"""


@contextlib.asynccontextmanager
async def by_path(**access: Path) -> AsyncIterator[tuple[Route, int, PlainServer]]:
    async with PlainServer(acceptor(Role.CEM)) as cem_server:
        target = client_manager(f"ws://127.0.0.1:{cem_server.port}/")
        devices = PlainServerDevicesSide(BRIDGE, server_devices(BATTERY, path="/s2/{id}", max_devices=2, **access))
        async with opened(devices, PlainClientManagerSide(BRIDGE, target, Proxies())) as route, within(20):
            yield route, devices.port, cem_server


async def test_devices_that_nobody_configured_come_in_by_their_ids_up_to_a_number(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with by_path() as (route, port, cem_server):
        pairs = []
        for name in ("pump-1", "6a5bd1b6-6d7e-4a5c-9d0e-0f5f7b1f2a31"):
            device = await connect(port, f"/s2/{name}", Role.RM)
            cem = await anext(cem_server)
            await converse(device, cem)
            pairs += [device, cem]
        for name in ("a-third", "battery"):  # one too many, and one that has a path of its own
            with pytest.raises(PeerBusy):
                await connect(port, f"/s2/{name}", Role.RM)
        assert "a-third is one device more than max_devices = 2" in caplog.text
        configured = await connect(port, "/battery", Role.RM)
        pairs += [configured, await anext(cem_server)]
        assert [status.name for status in route.status()] == [
            "house/6a5bd1b6-6d7e-4a5c-9d0e-0f5f7b1f2a31",
            "house/Battery in the cellar",
            "house/pump-1",
        ]
        await pairs[0].close()
        await pairs[1].close()
        again = await connect(port, "/s2/pump-1", Role.RM)
        pairs += [again, await anext(cem_server)]
        await converse(*pairs[-2:])
        assert len(route.links) == 3
        await asyncio.gather(*(end.close() for end in pairs))


async def test_ids_that_never_became_anything_give_way_to_the_next_and_others_do_not() -> None:
    async with PlainServer(acceptor(Role.CEM)) as cem_server:
        gone = cem_server.port
    devices = PlainServerDevicesSide(BRIDGE, server_devices(path="/s2/{id}", max_devices=2))
    manager = PlainClientManagerSide(BRIDGE, client_manager(f"ws://127.0.0.1:{gone}/"), Proxies())
    async with opened(devices, manager) as route, within(20):
        for number in range(5):  # strangers
            with pytest.raises(PeerBusy):
                await connect(devices.port, f"/s2/stranger-{number}", Role.RM)
        assert list(route.links) == ["stranger-3", "stranger-4"]
        async with PlainServer(acceptor(Role.CEM), port=gone) as cem_server:
            ends = []
            for name in ("pump", "battery"):
                device = await connect(devices.port, f"/s2/{name}", Role.RM)
                ends += [device, await anext(cem_server)]
                await converse(*ends[-2:])
            assert sorted(route.links) == ["battery", "pump"]
            with pytest.raises(PeerBusy):
                await connect(devices.port, "/s2/stranger", Role.RM)
            await asyncio.gather(*(end.close() for end in ends))
            with pytest.raises(PeerBusy):  # they are only away
                await connect(devices.port, "/s2/stranger", Role.RM)


async def test_a_device_by_path_shows_the_token_or_login_that_all_of_them_have(tmp_path: Path) -> None:
    token, login = private_file(tmp_path / "token", "for-all"), private_file(tmp_path / "login", "s2:for-all\n")
    async with by_path(token_file=token, login_file=login) as (route, port, cem_server):
        wrong: list[dict[str, Any]] = [{}, {"token": Secret("other")}, {"login": Secret("s2:other")}]
        for shown in wrong:
            with pytest.raises(SessionRefused):
                await connect_plain(f"ws://127.0.0.1:{port}/s2/stranger", role=Role.RM, local=PEER, **shown)
        assert list(route.links) == ["battery"], "a stranger's id takes no place"
        right: list[dict[str, Any]] = [{"token": Secret("for-all")}, {"login": Secret("s2:for-all")}]
        for shown in right:
            name = "-".join(shown)
            device = await connect_plain(f"ws://127.0.0.1:{port}/s2/{name}", role=Role.RM, local=PEER, **shown)
            cem = await anext(cem_server)
            await converse(device, cem)
            await asyncio.gather(device.close(), cem.close())


async def test_an_energy_manager_with_a_login_is_connected_to(tmp_path: Path) -> None:
    login = private_file(tmp_path / "login", "bridge:its password\n")
    far = PlainAcceptor(role=Role.CEM, local=PEER, tokens=None, logins={"bridge": Secret("bridge:its password")})
    async with PlainServer(far) as cem_server:
        target = client_manager(f"ws://127.0.0.1:{cem_server.port}/", login_file=login)
        devices = PlainServerDevicesSide(BRIDGE, server_devices(BATTERY))
        async with opened(devices, PlainClientManagerSide(BRIDGE, target, Proxies())), within(10):
            device = await connect(devices.port, "/battery", Role.RM)
            cem = await anext(cem_server)
            await converse(device, cem)
            await asyncio.gather(device.close(), cem.close())


async def test_what_a_device_says_of_itself_becomes_its_description_where_the_file_says_nothing(tmp_path: Path) -> None:
    async with BridgeSetup(tmp_path, PLAIN, WSS) as setup:
        represented = setup.bridge.nodes[setup.ids["representative"]]
        assert (represented.description.brand, represented.description.type) == ("unknown", "Generic")
        async with within(20):
            sessions = {role: setup.sessions(role) for role in Role}
            ends = await both(setup, sessions)
            await ends[Role.RM].send(DETAILS)
            await until(lambda: represented.description.brand != "unknown")
        shown = represented.description
        assert (shown.brand, shown.model_name, shown.type) == ("ACME [31m", "X 5", "Energy storage")
        assert shown.user_defined_name == "Battery", "the file has a name for it"
        # The description stays over a restart of the bridge, before the device has spoken again.
        await setup.route.manager.represent(PlainServerDevice(id=setup.key, name="Battery").device())
        assert represented.description.brand == "ACME [31m"


@pytest.mark.parametrize(
    "details",
    [{}, {"roles": 1}, {"roles": []}, {"roles": [1]}, {"roles": [{"role": []}]}, {"manufacturer": ["x"], "model": " "}],
)
def test_details_that_say_nothing_useful_change_nothing(details: dict[str, object]) -> None:
    device = PathDevice(name="k1")
    assert device.introduced(details) == device.device()


def test_what_the_configuration_says_counts_more_than_what_a_device_says() -> None:
    told = {"manufacturer": "Other", "model": "M", "name": "Mine", "roles": [{"role": "ENERGY_PRODUCER"}]}
    shown = BATTERY.introduced(told).description
    assert (shown.brand, shown.type, shown.model_name) == ("ACME", "Battery", "M")
    assert shown.user_defined_name == "Battery in the cellar"
    by_path = PathDevice(name="k1").introduced(told)
    assert (by_path.name, by_path.description.user_defined_name) == ("k1", "Mine")

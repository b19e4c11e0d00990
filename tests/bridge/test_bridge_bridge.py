"""The bridge from its file: ids that stay, links that a reload leaves alone, what it says of itself."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID, uuid4

import aiohttp
import pytest

from s2connect import Endpoint, EndpointConfig, Home, NodeConfig, PlainServer, read_config
from s2connect.bridge.bridge import Bridge
from s2connect.bridge.config_file import load
from s2connect.bridge.link_state import LinkState, LinkStatus
from s2connect.errors import ConfigurationError, HomeInUse
from s2connect.https.server import free_port
from s2connect.model.common import NodeId, Role
from s2connect.transports.base import Connection
from s2connect.transports.plain import PlainAcceptor, connect_plain
from s2connect.web.metrics import Metrics
from s2connect.web.observation import Observation
from tests.bridge.route_fixtures import POWER, converse, ended, until_up
from tests.waits import until, within

PEER = NodeId(uuid4())


class FileSetup:
    """Two plain devices and a plain energy manager around a bridge from a file."""

    def __init__(self, directory: Path) -> None:
        self.file = directory / "bridge.toml"
        self.port = free_port()
        self.cem_port = 9
        self.changes: list[tuple[str, LinkState]] = []

    def write(self, *devices: str, head: str = "", route: str = "", check: str = "envelope", tail: str = "") -> None:
        entries = "".join(f'[[route.devices.device]]\nname = "{name}"\n' for name in devices)
        self.file.write_text(
            f'home = "home"\n{head}[[route]]\nname = "old"\ncheck = "{check}"\n{route}'
            f'[route.devices]\ntype = "plain-server"\nport = {self.port}\n{entries}'
            f'[route.manager]\ntype = "plain-client"\nurl = "ws://127.0.0.1:{self.cem_port}/{{id}}"\n{tail}'
        )

    @contextlib.asynccontextmanager
    async def bridge(self) -> AsyncIterator[Bridge]:
        async with Bridge.open(load(self.file)[0], on_change=self.changed) as bridge:
            yield bridge

    def changed(self, route: str, status: LinkStatus) -> None:
        self.changes.append((status.name, status.state))

    async def device(self, name: str) -> Connection:
        return await connect_plain(f"ws://127.0.0.1:{self.port}/{name}", role=Role.RM, local=PEER)

    @contextlib.asynccontextmanager
    async def managers(self, *names: str) -> AsyncIterator[dict[str, PlainAcceptor]]:
        """An energy manager with a path for each device."""
        acceptors = {name: PlainAcceptor(role=Role.CEM, local=PEER, tokens=None) for name in names}
        async with PlainServer() as server:
            self.cem_port = server.port
            for name, acceptor in acceptors.items():
                server.add(f"/{name}", acceptor)
            yield acceptors


@pytest.fixture
def setup(tmp_path: Path) -> FileSetup:
    return FileSetup(tmp_path)


async def test_the_first_run_makes_the_home_and_ids_stay(setup: FileSetup) -> None:
    setup.write("a")
    async with setup.bridge() as bridge:
        first = bridge.status()
        with pytest.raises(HomeInUse):
            async with setup.bridge():
                pass
    async with setup.bridge() as bridge:
        again = bridge.status()
    assert (first["id"], first["routes"][0]["id"]) == (again["id"], again["routes"][0]["id"])
    assert (setup.file.parent / "home").stat().st_mode & 0o077 == 0


async def test_a_reload_leaves_what_did_not_change_alone(setup: FileSetup) -> None:
    async with setup.managers("a", "b", "c") as acceptors, within(20):
        setup.write("a", "b")
        async with setup.bridge() as bridge:
            a, b = await setup.device("a"), await setup.device("b")
            cem_a, cem_b = await anext(acceptors["a"]), await anext(acceptors["b"])
            route = bridge.routes["old"]
            await until_up(route, 2)
            link = route.links["a"]

            done = await bridge.reload(load(setup.file)[0])
            assert done.kept == ["old"]
            setup.write("a", "c")
            done, _ = await asyncio.gather(bridge.reload(load(setup.file)[0]), ended(b, cem_b))
            assert done.updated == {"old": 2}
            assert bridge.routes["old"].links["a"] is link
            assert link.status().state is LinkState.UP
            await converse(a, cem_a)
            c = await setup.device("c")
            cem_c = await anext(acceptors["c"])
            await converse(c, cem_c)

            setup.write("a", "c", check="schema")
            done, _ = await asyncio.gather(bridge.reload(load(setup.file)[0]), ended(a, cem_a, c, cem_c))
            assert done.begun == ["old"]
            again = await setup.device("a")
            cem_a = await anext(acceptors["a"])
            await converse(again, cem_a)
            await asyncio.gather(bridge._close(), ended(again, cem_a))


async def test_a_route_that_cannot_be_begun_is_reported_and_the_others_run(setup: FileSetup) -> None:
    setup.write("a")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        busy = taken.getsockname()[1]
        async with setup.bridge() as bridge:
            text = setup.file.read_text()
            second = text[text.index("[[route]]") :].replace('"old"', '"new"').replace(f"= {setup.port}", f"= {busy}")
            setup.file.write_text(text + second)
            done = await bridge.reload(load(setup.file)[0])
            assert done.kept == ["old"]
            assert "Cannot listen" in done.failed["new"]
            assert bridge.status()["failed"][0]["name"] == "new"
            setup.file.write_text(text)
            done = await bridge.reload(load(setup.file)[0])
            assert not bridge.failed
        setup.file.write_text(text.replace(f"= {setup.port}", f"= {busy}"))
        with pytest.raises(ConfigurationError, match="Cannot listen"):
            async with setup.bridge():
                pass


async def test_what_takes_a_restart_is_said(setup: FileSetup) -> None:
    setup.write("a")
    async with setup.bridge() as bridge:
        setup.write("a", head="[metrics]\nport = 9999\n")
        assert (await bridge.reload(load(setup.file)[0])).restart == ["metrics"]


async def test_status_metrics_and_log_say_the_same(setup: FileSetup, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "s2connect.bridge")
    async with setup.managers("a") as acceptors, within(20):
        setup.write("a", "b")
        async with (
            setup.bridge() as bridge,
            Metrics(Observation(bridge.endpoint, bridge), 0) as metrics,
            aiohttp.ClientSession() as http,
        ):

            async def scrape() -> list[str]:
                async with http.get(f"http://127.0.0.1:{metrics.port}/metrics") as response:
                    assert response.status == 200
                    return (await response.text()).splitlines()

            device = await setup.device("a")
            cem = await anext(acceptors["a"])
            await converse(device, cem)
            await device.send(POWER % "x" + "garbage")
            await device.recv()
            (a, b) = bridge.status()["routes"][0]["links"]
            assert (a["state"], b["state"]) == ("up", "waiting")
            assert a["messages"]["rm"]["forwarded"] == 1
            assert a["messages"]["rm"]["refused"] == 1
            assert a["sides"]["cem"]["connected"]
            assert not b["sides"]["rm"]["connected"]
            lines = await scrape()
            assert 's2connect_bridge_links{route="old",state="up"} 1.0' in lines
            assert 's2connect_bridge_link_up{link="old/a"} 1.0' in lines
            assert 's2connect_bridge_messages_total{fate="forwarded",route="old",sender="RM"} 1.0' in lines
            assert bridge.alive()
            setup.write("b")
            await asyncio.gather(bridge.reload(load(setup.file)[0]), ended(device, cem))
            after = [line for line in await scrape() if "forwarded" in line and 'sender="RM"' in line]
            assert after[0].endswith(" 1.0"), "a counter never goes down"
    assert ("old/a", LinkState.UP) in setup.changes
    assert any("link old/a: up" in record.getMessage() for record in caplog.records)


async def test_a_reload_changes_what_the_bridge_says_of_itself_and_keeps_its_node(tmp_path: Path) -> None:
    file = tmp_path / "bridge.toml"
    text = (
        'home = "home"\n[endpoint]\nhost = "127.0.0.1"\nbind = "127.0.0.1"\nport = 0\nvault = "files"\n'
        '[[route]]\nname = "house"\n[route.devices]\ntype = "s2-connect"\n[route.manager]\ntype = "s2-connect"\n'
    )
    file.write_text(text)
    async with Bridge.open(load(file)[0]) as bridge:
        node = bridge.endpoint.node()
        file.write_text(text.replace("[route.manager]", 'protocols = ["X-MQTT5-0"]\nname = "Ours"\n[route.manager]'))
        assert (await bridge.reload(load(file)[0])).begun == ["house"]
        assert bridge.endpoint.node() is node
        assert node.description.user_defined_name == "Ours"
        (stored,) = bridge.endpoint.config.nodes
        assert stored.communication_protocols == ("X-MQTT5-0",)
    async with Bridge.open(load(file)[0]) as bridge:
        assert bridge.endpoint.node().id == node.id


async def test_a_home_that_is_another_programs_is_not_mistaken(tmp_path: Path) -> None:
    file = tmp_path / "bridge.toml"
    file.write_text(
        'home = "home"\n[endpoint]\nport = 0\nvault = "files"\n[[route]]\nname = "r"\n'
        '[route.devices]\ntype = "s2-connect"\n[route.manager]\ntype = "s2-connect"\n'
    )
    config = load(file)[0]
    names = []
    for _ in range(2):
        async with Bridge.open(config) as bridge:
            names.append((bridge.endpoint.config.host, bridge.id))
    assert names[0] == names[1], "the name that was made up stays"
    (config.home / "bridge.json").write_text("[]")
    with pytest.raises(ConfigurationError, match=r"bridge\.json"):
        async with Bridge.open(config):
            pass


async def test_the_home_keeps_the_settings_of_the_file_with_which_the_bridge_runs(tmp_path: Path) -> None:
    file = tmp_path / "bridge.toml"
    text = (
        'home = "home"\n[endpoint]\nport = {}\nbind = "{}"\nvault = "files"\n[[route]]\nname = "r"\n'
        '[route.devices]\ntype = "s2-connect"\n[route.manager]\ntype = "s2-connect"\n'
    )
    for bind in ("127.0.0.1", "127.0.0.2"):
        port = free_port(bind)
        file.write_text(text.format(port, bind))
        async with Bridge.open(load(file)[0]) as bridge:
            stored = read_config(Home.open(tmp_path / "home"))
            assert (stored.bind, stored.port) == (bind, port), "doctor and status read them there"
            assert stored == bridge.endpoint.config


@pytest.mark.long
async def test_one_cloud_represents_each_device_by_a_node_of_its_own(tmp_path: Path) -> None:
    """S2 Connect on both sides, from a file: pairings and representatives outlive a restart of the bridge."""
    file, port = tmp_path / "bridge.toml", free_port()
    file.write_text(
        f'home = "home"\n[endpoint]\nhost = "127.0.0.1"\nbind = "127.0.0.1"\nport = {port}\nvault = "files"\n'
        '[[route]]\nname = "house"\n[route.devices]\ntype = "s2-connect"\n[route.manager]\ntype = "s2-connect"\n'
    )
    local = {"host": "127.0.0.1", "bind": "127.0.0.1", "port": 0}
    rm_config = EndpointConfig(nodes=(NodeConfig(role=Role.RM, user_defined_name="Battery"),), **local)
    cem_config = EndpointConfig(nodes=(NodeConfig(role=Role.CEM),), **local)
    async with (
        within(40),
        Endpoint.open(config=rm_config) as rm,
        Endpoint.open(config=cem_config) as cem,
    ):
        async with Bridge.open(load(file)[0]) as bridge:
            route = bridge.status()["routes"][0]
            node = bridge.endpoint.node(NodeId(UUID(route["devices"]["node"])))
            await rm.node().pair(bridge.endpoint.pairing_url, node.issue_pairing_code())
            await until(lambda: bridge.routes["house"].links)
            (link,) = bridge.status()["routes"][0]["links"]
            assert link["state"] == "unpaired"
            assert link["representative"]["paired_with"] is None
            representative = bridge.endpoint.node(NodeId(UUID(link["representative"]["node"])))
            assert representative.description.user_defined_name == "Battery"
            await representative.pair(cem.pairing_url, cem.node().issue_pairing_code())
            rm_connections, cem_connections = rm.node().connections(), cem.node().connections()
            (device, _), (manager, _) = await asyncio.gather(anext(rm_connections), anext(cem_connections))
            await converse(device, manager)
            await asyncio.gather(bridge._close(), ended(device, manager))
        async with Bridge.open(load(file)[0]) as bridge:
            (device, _), (manager, _) = await asyncio.gather(anext(rm_connections), anext(cem_connections))
            await converse(device, manager)
            (again,) = bridge.status()["routes"][0]["links"]
            assert again["representative"]["node"] == link["representative"]["node"]
            assert again["state"] == "up"
            await asyncio.gather(bridge._close(), ended(device, manager))

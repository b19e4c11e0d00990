"""The first start of a bridge with many devices: what it costs grows with their number, and not with its square."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from s2connect import Endpoint, EndpointConfig, Node, NodeConfig, NodeId, Role
from s2connect.bridge.bridge import Bridge
from s2connect.bridge.config_file import load
from s2connect.endpoint.config import CONFIG_FILE
from s2connect.endpoint.offline import create_home
from s2connect.endpoint.server import Server
from s2connect.errors import UsageError
from s2connect.https.server import free_port
from s2connect.store.home import Home


def write(directory: Path, devices: int, model: str = "one") -> Path:
    entries = "".join(
        f'[[route.devices.device]]\nname = "device-{number}"\nmodel = "{model}"\n' for number in range(devices)
    )
    file = directory / "bridge.toml"
    file.write_text(
        'home = "home"\n[endpoint]\nhost = "127.0.0.1"\nbind = "127.0.0.1"\nport = 0\nvault = "files"\n'
        f'[[route]]\nname = "many"\n[route.devices]\ntype = "plain-server"\nport = {free_port()}\n{entries}'
        '[route.manager]\ntype = "s2-connect"\n'
    )
    return file


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of files that a home has written since."""
    written: list[str] = []
    real = Home.write_private

    def counted(self: Home, name: str, content: bytes) -> None:
        written.append(name)
        real(self, name, content)

    monkeypatch.setattr(Home, "write_private", counted)
    return written


@pytest.mark.parametrize("devices", [3, 60])
async def test_the_first_start_writes_and_validates_its_settings_once_for_all_devices(
    tmp_path: Path, writes: list[str], monkeypatch: pytest.MonkeyPatch, devices: int
) -> None:
    validated: list[int] = []
    real = EndpointConfig.model_validate

    def counted(settings: Any) -> EndpointConfig:
        validated.append(len(settings["nodes"]))
        return real(settings)

    monkeypatch.setattr(EndpointConfig, "model_validate", counted)
    file = write(tmp_path, devices)
    async with Bridge.open(load(file)[0]) as bridge:
        assert len(bridge.endpoint.nodes) == len(bridge.routes["many"].links) == devices
    assert writes.count(CONFIG_FILE) == 2  # the home, and its nodes
    assert validated[-2:] == [0, devices]
    writes.clear()
    # Devices that present themselves in another way cost one write as well, and those that do not, none.
    async with Bridge.open(load(write(tmp_path, devices, "two"))[0]) as bridge:
        assert {node.model_name for node in bridge.endpoint.config.nodes} == {"two"}
    assert writes == [CONFIG_FILE]
    async with Bridge.open(load(write(tmp_path, devices, "two"))[0]):
        pass
    assert writes == [CONFIG_FILE]


async def test_it_listens_when_there_is_somebody_for_every_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there: list[bool] = []
    hooked: set[NodeId] = set()
    set_hook, start = Node.set_preparing_hook, Server.start

    def hook(node: Node, preparing_hook: Any) -> None:
        hooked.add(node.id)
        set_hook(node, preparing_hook)

    async def listening(server: Server) -> None:
        there.append(len(hooked) == 20)
        await start(server)

    monkeypatch.setattr(Node, "set_preparing_hook", hook)
    monkeypatch.setattr(Server, "start", listening)
    async with Bridge.open(load(write(tmp_path, 20))[0]) as bridge:
        assert there == [True]
        assert hooked == set(bridge.endpoint.nodes)
        assert bridge.endpoint._server is not None
        await bridge.endpoint.listen()  # it does already
    assert there == [True]


async def test_nodes_are_added_all_or_none(tmp_path: Path) -> None:
    create_home(tmp_path / "home", EndpointConfig(host="127.0.0.1", port=0, vault="files"))
    async with Endpoint.open(tmp_path / "home", serve=False) as endpoint:
        nodes = [NodeConfig(role=Role.RM, alias=f"N{number}") for number in range(3)]
        assert [node.id for node in await endpoint.create_nodes(nodes)] == [node.id for node in nodes]
        more = [NodeConfig(role=Role.RM, alias="N4"), NodeConfig(role=Role.RM, alias="N1")]
        with pytest.raises(UsageError):
            await endpoint.create_nodes(more)
        assert set(endpoint.nodes) == {node.id for node in nodes}
        with pytest.raises(UsageError):
            await endpoint.describe_nodes([nodes[0].model_copy(update={"model_name": "x"}), more[0]])
        assert endpoint.config.nodes[0].model_name != "x"
        assert await endpoint.create_nodes([]) == []

"""Transports that other packages bring, found by their entry points."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from s2connect import Endpoint, NodeConfig, Role
from s2connect.errors import ConfigurationError
from tests.endpoint.conftest import OpenEndpoint, lan_config
from tests.endpoint.test_endpoint_mqtt import exchange, meet

PIGEON = """
from s2connect.transports import MemoryHub, MemoryTransport

LOFT = MemoryHub()
made = []

class Pigeon(MemoryTransport):
    name = "X-Pigeon"

    def __init__(self, config):
        super().__init__(LOFT)
        made.append(config)

class Stuck(Pigeon):
    name = "X-Stuck"

    async def close(self):
        raise OSError("no way out")

def broken(config):
    raise OSError("no pigeon")
"""
ENTRY_POINTS = """[s2connect.transports]
X-Pigeon = pigeon:Pigeon
X-Dove = pigeon:Pigeon
X-Broken = pigeon:broken
X-Stuck = pigeon:Stuck
"""


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install a little distribution."""
    place = tmp_path / "packages"
    info = place / "pigeon_post-1.0.dist-info"
    info.mkdir(parents=True)
    (place / "pigeon.py").write_text(PIGEON)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: pigeon-post\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    monkeypatch.syspath_prepend(place)
    monkeypatch.delitem(sys.modules, "pigeon", raising=False)


async def opened(open_endpoint: OpenEndpoint, role: Role, *protocols: str) -> Endpoint:
    config = lan_config(role)
    node = config.nodes[0].model_copy(update={"communication_protocols": protocols})
    return await open_endpoint(config.model_copy(update={"nodes": (node,)}))


async def test_two_endpoints_have_a_session_over_the_transport_of_another_package(open_endpoint: OpenEndpoint) -> None:
    cem = await opened(open_endpoint, Role.CEM, "X-Pigeon", "WebSocket")
    rm = await opened(open_endpoint, Role.RM, "X-Nobody-Has-It", "X-Pigeon", "WebSocket")
    assert sys.modules["pigeon"].made == [cem.config, rm.config]
    await rm.node().pair(cem.pairing_url, cem.node().issue_pairing_code())
    device, manager = await meet(rm, cem)
    assert device.info.protocol == manager.info.protocol == "X-Pigeon"
    await exchange(device, manager)


async def test_a_package_whose_transport_no_node_names_is_not_loaded(open_endpoint: OpenEndpoint) -> None:
    await opened(open_endpoint, Role.RM, "WebSocket")
    assert "pigeon" not in sys.modules


@pytest.mark.parametrize("name", ["X-Dove", "X-Broken"])
async def test_a_transport_that_cannot_be_used_is_said_with_its_package(open_endpoint: OpenEndpoint, name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{name} of the package pigeon-post"):
        await opened(open_endpoint, Role.RM, name)


async def test_a_node_whose_transport_cannot_be_used_is_not_created(open_endpoint: OpenEndpoint) -> None:
    endpoint = await opened(open_endpoint, Role.RM, "WebSocket")
    with pytest.raises(ConfigurationError, match="pigeon-post"):
        await endpoint.create_nodes([NodeConfig(role=Role.RM, alias="B", communication_protocols=("X-Broken",))])
    assert len(endpoint.config.nodes) == len(endpoint.nodes) == 1


async def test_a_transport_that_cannot_be_closed_keeps_no_port_open(caplog: pytest.LogCaptureFixture) -> None:
    node = NodeConfig(role=Role.RM, communication_protocols=("X-Stuck", "WebSocket"))
    async with Endpoint.open(config=lan_config(Role.RM, nodes=(node,))) as endpoint:
        host, port = endpoint.pairing_url.host, endpoint.pairing_url.port
    assert "X-Stuck could not be closed" in caplog.text
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(host, port)

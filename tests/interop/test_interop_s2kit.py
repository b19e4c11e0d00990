"""s2-kit 0.3.0, the S2 Connect of the Rust registry: pairing client or server, device or energy manager, in the LAN.

Its users do what its documentation does: they give the URL that the other side shows, and their own in its style.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from s2connect import Endpoint, EndpointConfig, NodeConfig, Role
from s2connect.endpoint.node import Node
from s2connect.endpoint.offline import create_home
from s2connect.errors import ProtocolViolation, WrongPairingCode
from s2connect.https.server import free_port
from s2connect.model.common import MQTT, WEBSOCKET
from s2connect.model.roles import CommunicationRole
from s2connect.model.url import MqttUrl
from s2connect.transports.mqtt.settings import MqttSettings
from tests.interop.plain_fixtures import be_device, manage
from tests.interop.s2kit_process import CODE, Failed, S2Kit, s2kit
from tests.waits import within

DEVICE_SAID = ["ResourceManagerDetails", "FRBC.SystemDescription", "FRBC.StorageStatus", *["FRBC.ActuatorStatus"] * 2]


async def endpoint_of(
    tmp_path: Path, role: Role, *, protocols: tuple[str, ...] = (WEBSOCKET,), mqtt: MqttSettings | None = None
) -> AbstractAsyncContextManager[Endpoint]:
    node = NodeConfig(role=role, communication_protocols=protocols)
    config = EndpointConfig(host="localhost", port=0, bind="127.0.0.1", nodes=(node,), vault="files", mqtt=mqtt)
    await asyncio.to_thread(create_home, tmp_path / "home", config)
    return Endpoint.open(tmp_path / "home")


@pytest.fixture
async def cem(tmp_path: Path) -> AsyncIterator[Endpoint]:
    async with await endpoint_of(tmp_path, Role.CEM) as endpoint:
        yield endpoint


@pytest.fixture
async def rm(tmp_path: Path) -> AsyncIterator[Endpoint]:
    async with await endpoint_of(tmp_path, Role.RM) as endpoint:
        yield endpoint


def code_of(node: Node) -> str:
    return node.issue_pairing_code(token=CODE).token.reveal()


async def control(node: Node, peer: S2Kit, sessions: int = 2) -> None:
    """Control s2-kit's device, and have nothing of either side refused."""
    async with within(30):
        coming = node.sessions()
        for _ in range(sessions):
            session = await anext(coming)
            assert session.peer.id == peer.id
            assert await manage(session, "FRBC") == ["ACCEPTED", "SUCCEEDED"]
            await session.close()
    await peer.until("closed", times=sessions)
    assert peer.all("refused") == []


async def be_controlled(node: Node, peer: S2Kit, sessions: int = 2) -> None:
    """Be controlled by s2-kit's energy manager, and have nothing of either side refused."""
    async with within(30):
        coming = node.sessions()
        for _ in range(sessions):
            session = await anext(coming)
            assert session.peer.id == peer.id
            await be_device(session, "FRBC")
            await session.close()
    await peer.until("closed", times=sessions)
    assert peer.all("refused") == []
    received = [told["type"] for told in peer.all("received")]
    assert [kind for kind in received if kind in DEVICE_SAID] == DEVICE_SAID * sessions
    statuses = [told["status"] for told in peer.all("received") if told["type"] == "InstructionStatusUpdate"]
    assert statuses == ["Accepted", "Succeeded"] * sessions


@pytest.mark.rule("HMAC-02", "TRUST-06", "VER-02", "PAIR-05", "SES-02", "SES-03", "UNP-01")
@pytest.mark.parametrize("version", ["", "v1/"], ids=["the URL as it is shown", "with the version"])
async def test_its_device_pairs_with_our_energy_manager_as_client_and_is_controlled(
    cem: Endpoint, version: str
) -> None:
    node = cem.node()
    url = f"{cem.pairing_url}{version}"
    settings = {"pairing": "client", "role": "RM", "url": url, "code": code_of(node), "session_suffix": version}
    async with s2kit(**settings, sessions=2, then="unpair") as peer:
        await peer.until("paired")
        await control(node, peer)

        await peer.until("unpaired")
        assert await cem.pairings() == []


@pytest.mark.rule("HMAC-02", "TRUST-07", "VER-03", "VER-08", "PAIR-05", "SESC-03", "UNP-01")
@pytest.mark.parametrize("path", ["/", "", "/v1/"], ids=["base URL", "no slash", "with the version"])
async def test_its_energy_manager_pairs_with_our_device_as_client_and_controls_it(rm: Endpoint, path: str) -> None:
    node = rm.node()
    settings = {"pairing": "client", "role": "CEM", "url": str(rm.pairing_url), "code": code_of(node)}
    async with s2kit(**settings, session_path=path) as peer:
        await peer.until("paired")
        await be_controlled(node, peer)

        (pairing,) = await rm.pairings()
        assert pairing.communication_role is CommunicationRole.CLIENT
        await node.unpair(pairing.key.remote)
        assert await rm.pairings() == []


@pytest.mark.rule("HMAC-02", "TRUST-07", "VER-03", "VER-08", "PAIRC-05", "SES-03")
@pytest.mark.parametrize("path", ["", "v1/"], ids=["base URL", "as it shows it"])
async def test_our_energy_manager_pairs_with_its_device_as_client_and_controls_it(cem: Endpoint, path: str) -> None:
    node = cem.node()
    async with s2kit(pairing="server", role="RM", sessions=2, then="unpair") as peer:
        port = (await peer.until("ready"))["port"]
        await node.pair(f"https://localhost:{port}/{path}", CODE)
        await control(node, peer)

        await peer.until("unpaired")
        assert await cem.pairings() == []


@pytest.mark.rule("HMAC-02", "TRUST-06", "VER-03", "VER-08", "PAIRC-06", "SESC-03", "UNP-01")
@pytest.mark.parametrize("path", ["/", "/v1/"], ids=["base URL", "with the version"])
async def test_our_device_pairs_with_its_energy_manager_as_client_and_is_controlled(rm: Endpoint, path: str) -> None:
    node = rm.node()
    async with s2kit(pairing="server", role="CEM", session_path=path) as peer:
        port = (await peer.until("ready"))["port"]
        await node.pair(f"https://localhost:{port}/", CODE)
        await be_controlled(node, peer)

        (pairing,) = await rm.pairings()
        await node.unpair(pairing.key.remote)
        assert await rm.pairings() == []


@pytest.mark.rule("VER-07", "MQ-01")
async def test_our_protocol_names_that_it_does_not_know_are_left_out_the_second_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It answers 422 to a request that holds one, against VER-07."""
    caplog.set_level("INFO", "s2connect")
    broker = MqttSettings(url=MqttUrl(f"mqtts://localhost:{free_port()}"))
    async with (
        await endpoint_of(tmp_path, Role.RM, protocols=(MQTT, WEBSOCKET), mqtt=broker) as rm,
        s2kit(pairing="server", role="CEM") as peer,
    ):
        node = rm.node()
        port = (await peer.until("ready"))["port"]
        await node.pair(f"https://localhost:{port}/", CODE)
        await be_controlled(node, peer, sessions=1)
    assert "localhost may not support every protocol name of ours" in caplog.text
    assert f"{peer.id} does not support every protocol name of ours" in caplog.text


@pytest.mark.rule("HMAC-02")
async def test_a_wrong_code_is_noticed_in_both_directions(cem: Endpoint) -> None:
    node = cem.node()
    node.issue_pairing_code(token="another2345")
    async with s2kit(pairing="client", role="RM", url=str(cem.pairing_url)) as peer:
        with pytest.raises(Failed, match="the challenge response does not match"):
            await peer.until("paired")
    async with s2kit(pairing="server", role="RM") as peer:
        port = (await peer.until("ready"))["port"]
        with pytest.raises(WrongPairingCode):
            await node.pair(f"https://localhost:{port}/", "another2345")
    assert await cem.pairings() == []


async def test_a_node_id_that_is_no_uuid_is_refused_by_name_on_both_sides(cem: Endpoint) -> None:
    """Its documentation has such ids; the OpenAPI file has UUIDs."""
    node = cem.node()
    settings = {"pairing": "client", "role": "RM", "url": str(cem.pairing_url), "code": code_of(node)}
    async with s2kit(**settings, id="rm-1") as peer:
        with pytest.raises(Failed, match=r"400.*ParsingError.*clientNodeDescription\.id is not a UUID"):
            await peer.until("paired")
    async with s2kit(pairing="server", role="RM", id="rm-1") as peer:
        port = (await peer.until("ready"))["port"]
        with pytest.raises(ProtocolViolation, match=r"serverNodeDescription\.id is not a UUID"):
            await node.pair(f"https://localhost:{port}/", CODE)
    assert await cem.pairings() == []


@pytest.mark.rule("TRUST-07")
async def test_the_fingerprint_of_its_leaf_where_that_of_its_ca_belongs_is_taken_with_a_warning(
    rm: Endpoint, caplog: pytest.LogCaptureFixture
) -> None:
    """Its example sends that of the leaf; a person who follows it cannot be paired otherwise."""
    node = rm.node()
    settings = {"pairing": "client", "role": "CEM", "url": str(rm.pairing_url), "code": code_of(node)}
    async with s2kit(**settings, fingerprint="leaf") as peer:
        await peer.until("paired")
        await be_controlled(node, peer)
    assert "localhost gave the fingerprint of its certificate when pairing" in caplog.text

"""s2auth's PairingClient pairs with our endpoint: real processes, real TLS, validation always on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from s2connect.endpoint.config import EndpointConfig, NodeConfig
from s2connect.endpoint.endpoint import Endpoint
from s2connect.endpoint.offline import create_home
from s2connect.events import Paired, PairingFailed
from s2connect.model.common import Deployment, Role
from s2connect.model.roles import CommunicationRole
from tests.interop.peer_processes import S2authClient, issue

CEM = NodeConfig(role=Role.CEM)
RM = NodeConfig(role=Role.RM)


def lan(node: NodeConfig) -> EndpointConfig:
    return EndpointConfig(host="127.0.0.1", port=0, bind="127.0.0.1", nodes=(node,), vault="files")


@pytest.fixture
async def lan_cem(tmp_path: Path) -> AsyncIterator[tuple[Endpoint, Path]]:
    """An energy manager in the LAN, and the file with its CA."""
    home = tmp_path / "home"
    await asyncio.to_thread(create_home, home, lan(CEM))
    async with Endpoint.open(home) as endpoint:
        yield endpoint, home / "ca.pem"


@pytest.fixture
async def wan_cem(tmp_path: Path) -> AsyncIterator[tuple[Endpoint, Path]]:
    """An energy manager in the WAN, and the file with the CA that signed its certificate."""
    files = await asyncio.to_thread(issue, tmp_path, "localhost")
    config = EndpointConfig(
        deployment=Deployment.WAN,
        allow_private_addresses=True,
        host="localhost",
        port=0,
        bind="127.0.0.1",
        nodes=(CEM,),
        certificate=files.chain,
        private_key=files.key,
    )
    async with Endpoint.open(config=config) as endpoint:
        yield endpoint, files.ca


def client_of(python: Path, directory: Path, endpoint: Endpoint, ca: Path, **settings: Any) -> S2authClient:
    """s2auth, set to pair with the only node of an endpoint."""
    node = endpoint.node()
    return S2authClient(
        python,
        directory,
        {
            "server_url": f"{endpoint.pairing_url}v1",  # it does not ask for the version index
            "pairing_token": node.issue_pairing_code(token="s2authToken9").token.reveal(),
            "pairing_s2_node_id": str(node.id),
            "client_s2_node_id": str(uuid4()),
            "client_role": "RM",
            "ssl_certfile": str(ca),
            "supported_s2_versions": ["v1.0.0"],
            **settings,
        },
    )


async def assert_healthy(endpoint: Endpoint, python: Path, directory: Path, ca: Path, **settings: Any) -> None:
    """Another client can still pair."""
    directory.mkdir()
    other = client_of(python, directory, endpoint, ca, **settings)
    assert (await other.run("pair"))[0].get("success"), "the endpoint does not work any more"


@pytest.mark.rule("HMAC-02", "HMAC-03", "TRUST-02", "PAIR-03", "PAIR-05")
@pytest.mark.parametrize("version", ["v1", ""], ids=["with the version", "without"])
async def test_pairs_as_rm_with_our_cem_in_the_lan(
    s2auth: Path, tmp_path: Path, lan_cem: tuple[Endpoint, Path], version: str
) -> None:
    endpoint, ca = lan_cem
    events = endpoint.events()
    url = f"{endpoint.pairing_url}{version}".removesuffix("/")
    client = client_of(s2auth, tmp_path, endpoint, ca, client_deployment="LAN", server_url=url)

    (paired,) = await client.run("pair")

    assert paired["success"], paired
    (ours,) = await endpoint.pairings()
    assert str(ours.key.remote) == client.settings["client_s2_node_id"]
    assert ours.communication_role is CommunicationRole.SERVER
    assert ours.peer_endpoint.deployment is Deployment.LAN
    assert paired["details"]["initiate_session_url"] == str(endpoint.session_url)
    assert isinstance(await anext(events), Paired)


@pytest.mark.rule("HMAC-02", "TRUST-03", "PAIR-05")
async def test_pairs_as_rm_with_our_cem_in_the_wan(
    s2auth: Path, tmp_path: Path, wan_cem: tuple[Endpoint, Path]
) -> None:
    endpoint, ca = wan_cem
    client = client_of(s2auth, tmp_path, endpoint, ca, client_deployment="WAN", domain_name="localhost")

    (paired,) = await client.run("pair")

    assert paired["success"], paired
    (ours,) = await endpoint.pairings()
    assert ours.communication_role is CommunicationRole.SERVER
    assert ours.peer_endpoint.deployment is Deployment.WAN


@pytest.mark.rule("HMAC-02")
async def test_wrong_code_is_noticed_by_s2auth_and_keeps_nothing(
    s2auth: Path, tmp_path: Path, lan_cem: tuple[Endpoint, Path]
) -> None:
    endpoint, ca = lan_cem
    client = client_of(s2auth, tmp_path, endpoint, ca, client_deployment="LAN")
    client.settings["pairing_token"] = "another9"

    (paired,) = await client.run("pair")

    assert paired["error"] == "VerificationError"
    assert await endpoint.pairings() == []
    await assert_healthy(endpoint, s2auth, tmp_path / "other", ca, client_deployment="LAN")


@pytest.mark.rule("HMAC-02")
async def test_client_in_the_lan_and_server_in_the_wan_do_not_agree_on_the_formula(
    s2auth: Path, tmp_path: Path, wan_cem: tuple[Endpoint, Path]
) -> None:
    """s2auth chooses the formula by the deployment of the client, the standard by that of the server."""
    endpoint, ca = wan_cem
    client = client_of(s2auth, tmp_path, endpoint, ca, client_deployment="LAN")

    (paired,) = await client.run("pair")

    assert paired["error"] == "VerificationError"
    assert await endpoint.pairings() == []


@pytest.mark.rule("TRUST-07", "PAIRC-07")
async def test_connection_details_of_a_cem_are_refused_and_the_member_is_named_on_both_sides(
    s2auth: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As CEM s2auth sends the pairing token as access token, no fingerprint, and a URL with version and operation."""
    home = tmp_path / "home"
    await asyncio.to_thread(create_home, home, lan(RM))
    async with Endpoint.open(home) as endpoint:
        events = endpoint.events()
        client = client_of(s2auth, tmp_path, endpoint, home / "ca.pem", client_deployment="LAN", client_role="CEM")

        (paired,) = await client.run("pair")

        assert paired["status"] == 400, paired
        fault = "connectionDetails.certificateFingerprint is missing"
        assert fault in paired["answer"]
        assert any(fault in text for text in caplog.messages)
        assert await endpoint.pairings() == []
        failed = await anext(events)
        assert isinstance(failed, PairingFailed)
        assert failed.reason == "malformed"


async def test_connect_stops_at_the_pairing_url(s2auth: Path, tmp_path: Path, lan_cem: tuple[Endpoint, Path]) -> None:
    """s2auth sends initiateSession and unpair to the pairing URL, not to the initiateSessionUrl that it has stored."""
    endpoint, ca = lan_cem
    client = client_of(s2auth, tmp_path, endpoint, ca, client_deployment="LAN")

    paired, connected, unpaired = await client.run("pair", "connect", "unpair")

    assert paired["success"]
    assert (connected["error"], connected["status"]) == ("HTTPStatusError", 404)
    assert connected["url"] == f"{endpoint.pairing_url}v1/initiateSession"
    assert (unpaired["error"], unpaired["status"]) == ("HTTPStatusError", 404)
    assert len(await endpoint.pairings()) == 1
    await assert_healthy(endpoint, s2auth, tmp_path / "other", ca, client_deployment="LAN")
    assert len(await endpoint.pairings()) == 2


@pytest.mark.rule("PAIR-08", "SES-01", "SES-02", "SES-03", "SES-05")
async def test_connect_and_unpair_succeed_at_the_session_url(
    s2auth: Path, tmp_path: Path, lan_cem: tuple[Endpoint, Path]
) -> None:
    """With the URL that it stored put right, s2auth initiates a session and unpairs."""
    endpoint, ca = lan_cem
    client = client_of(s2auth, tmp_path, endpoint, ca, client_deployment="LAN")
    sessions = endpoint.node().sessions()
    waiting = asyncio.create_task(anext(sessions))
    mended = {"store": {"pairing_server_url": f"{endpoint.session_url}v1"}}

    operations = ("pair", mended, "connect", "connect", "unpair", "connect")
    paired, _, connected, again, unpaired, too_late = await client.run(*operations)

    assert paired["success"]
    assert connected["success"], connected
    assert connected["details"]["access_token"] != paired["details"]["access_token"]
    assert again["success"], again
    assert unpaired["success"], unpaired
    assert too_late["status"] == 400
    assert "NoLongerPaired" in too_late["answer"]
    assert await endpoint.pairings() == []
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)

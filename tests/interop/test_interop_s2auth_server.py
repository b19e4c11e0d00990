"""Our RM pairs with s2auth's reference server: real processes, real TLS, validation always on."""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from pathlib import Path

import pytest

from s2connect.endpoint.config import EndpointConfig, NodeConfig
from s2connect.endpoint.endpoint import Endpoint
from s2connect.errors import CertificateRefused, WrongPairingCode
from s2connect.events import Paired, SessionFailed
from s2connect.model.common import Deployment, Role
from s2connect.model.roles import CommunicationRole
from tests.interop.peer_processes import Files, issue, s2auth_server

RM = NodeConfig(role=Role.RM)
LAN_RM = EndpointConfig(host="127.0.0.1", port=0, bind="127.0.0.1", nodes=(RM,))


def wan_rm(anchors: Path | None) -> EndpointConfig:
    return EndpointConfig(
        deployment=Deployment.WAN,
        host="localhost",
        port=0,
        nodes=(RM,),
        trust_anchors=anchors,
        allow_private_addresses=True,
    )


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return issue(tmp_path, "localhost", "127.0.0.1")


@pytest.mark.rule("HMAC-02", "TRUST-04", "TRUST-06", "VER-02", "PAIRC-06")
async def test_our_rm_pairs_in_the_lan(s2auth: Path, tmp_path: Path, files: Files) -> None:
    async with (
        s2auth_server(s2auth, tmp_path, files, domain="localhost", deployment="LAN") as server,
        Endpoint.open(config=LAN_RM, serve=False) as endpoint,
    ):
        pairing = await endpoint.node().pair(f"https://127.0.0.1:{server.port}/pairing/", server.token)

        assert pairing.confirmed
        assert str(pairing.key.remote) == server.node
        assert pairing.communication_role is CommunicationRole.CLIENT
        assert str(pairing.initiate_session_url) == f"https://127.0.0.1:{server.port}/connection/"
        assert pairing.pin is not None
        root = ssl.PEM_cert_to_DER_cert(files.ca.read_text())
        assert pairing.pin.ca_fingerprint == hashlib.sha256(root).digest()
        assert await endpoint.pairings() == [pairing]


@pytest.mark.rule("HMAC-02", "TRUST-03", "PAIRC-06")
async def test_our_rm_pairs_in_the_wan(s2auth: Path, tmp_path: Path, files: Files) -> None:
    async with (
        s2auth_server(s2auth, tmp_path, files, domain="localhost", deployment="WAN") as server,
        Endpoint.open(config=wan_rm(files.ca), serve=False) as endpoint,
    ):
        pairing = await endpoint.node().pair(f"https://localhost:{server.port}/pairing/", server.token)

        assert pairing.confirmed
        assert pairing.pin is None
        assert pairing.peer_endpoint.deployment is Deployment.WAN


@pytest.mark.rule("TRUST-03", "TRUST-04")
async def test_a_wan_server_of_a_ca_that_is_not_trusted_is_refused(s2auth: Path, tmp_path: Path, files: Files) -> None:
    async with (
        s2auth_server(s2auth, tmp_path, files, domain="localhost", deployment="WAN") as server,
        Endpoint.open(config=wan_rm(None), serve=False) as endpoint,
    ):
        # Nobody vouches for its name, and a server in the WAN is not taken at its word (TRUST-03).
        with pytest.raises(CertificateRefused):
            await endpoint.node().pair(f"https://localhost:{server.port}/pairing/", server.token)
        assert await endpoint.pairings() == []


@pytest.mark.rule("HMAC-02")
async def test_wrong_code_is_noticed_and_keeps_nothing(s2auth: Path, tmp_path: Path, files: Files) -> None:
    async with (
        s2auth_server(s2auth, tmp_path, files, domain="localhost", deployment="LAN") as server,
        Endpoint.open(config=LAN_RM, serve=False) as endpoint,
    ):
        url = f"https://127.0.0.1:{server.port}/pairing/"
        with pytest.raises(WrongPairingCode):
            await endpoint.node().pair(url, "another9")
        assert await endpoint.pairings() == []
        pairing = await endpoint.node().pair(url, server.token)
        assert pairing.confirmed


@pytest.mark.rule("SESC-05")
async def test_session_initiation_fails_and_keeps_the_pairing(s2auth: Path, tmp_path: Path, files: Files) -> None:
    """s2auth's initiateSessionUrl leads to an API whose operation is called initiateConnection: 404 for us."""
    async with (
        s2auth_server(s2auth, tmp_path, files, domain="localhost", deployment="LAN") as server,
        Endpoint.open(config=LAN_RM, serve=False) as endpoint,
    ):
        events = endpoint.events()
        pairing = await endpoint.node().pair(f"https://127.0.0.1:{server.port}/pairing/", server.token)
        assert isinstance(await anext(events), Paired)
        waiting = asyncio.create_task(anext(endpoint.node().sessions()))

        failed = await anext(events)

        assert isinstance(failed, SessionFailed)
        assert failed.kind == "protocol_violation"
        assert "answered the session request initiateSession with HTTP 404" in failed.sentence
        assert failed.retry_in is not None
        assert await endpoint.pairings() == [pairing]
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)

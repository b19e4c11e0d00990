"""The LAN-only operations over real HTTPS."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from s2connect.errors import PairingRefused, ProtocolViolation
from s2connect.https.server import HttpsServer
from s2connect.model.common import EndpointDescription, NodeId, Role
from s2connect.pairing import lan_http
from s2connect.pairing.lan_core import LanOperations
from s2connect.pairing.lan_http import LanService, cancel_prepare_pairing, get_endpoint, get_nodes, prepare_pairing
from s2connect.pairing.neighbourhood import Neighbourhood, list_interfaces
from tests.pairing.lan_fixtures import PATH, base_url, https_client, outside_address, serving, trusting
from tests.pairing.pairing_fixtures import SERVER_ID, endpoint, node
from tests.waits import until

OWN = node(Role.RM, 7)
OPERATIONS = [("GET", "endpoint"), ("GET", "nodes"), ("POST", "preparePairing"), ("POST", "cancelPreparePairing")]


class LanServer:
    def __init__(self, neighbourhood: Neighbourhood | None = None) -> None:
        self.own = endpoint(Role.CEM)
        self.told: list[Any] = []
        self.service = LanService(
            LanOperations(lambda: self.own),
            neighbourhood or Neighbourhood(),
            ready=lambda: True,
            on_prepare=lambda *what: self.told.append(what),
            on_cancel=lambda *what: self.told.append(what),
        )

    def mount(self, server: HttpsServer) -> None:
        self.service.mount(server, PATH)


@pytest.fixture
async def lan() -> AsyncIterator[LanServer]:
    made = LanServer()
    yield made
    made.service.close()


@pytest.mark.rule("LAN-01", "LAN-03", "LAN-04", "LAN-05")
async def test_a_client_sees_the_nodes_and_announces_and_cancels_a_pairing(lan: LanServer) -> None:
    async with serving(lan.mount) as server, https_client() as http:
        url = base_url(server)
        version = await http.api_version(url)
        assert (await get_endpoint(http, url, version)).name == "server"
        assert [n.id for n in await get_nodes(http, url, version)] == [SERVER_ID]
        me = EndpointDescription(name="me")
        await prepare_pairing(http, url, version, node=OWN.description, endpoint=me, server_node=SERVER_ID)
        await cancel_prepare_pairing(http, url, version, node=OWN.id, server_node=SERVER_ID)
    assert lan.told == [(SERVER_ID, OWN.description, me), (SERVER_ID, OWN.id)]


@pytest.mark.rule("LAN-03")
async def test_a_refused_announcement_says_why(lan: LanServer) -> None:
    async with serving(lan.mount) as server, https_client() as http:
        cem = node(Role.CEM, 8).description
        with pytest.raises(PairingRefused) as refused:
            await prepare_pairing(
                http, base_url(server), "v1", node=cem, endpoint=EndpointDescription(), server_node=SERVER_ID
            )
    assert refused.value.reason == "InvalidCombinationOfRoles"
    assert lan.told == []


@pytest.mark.rule("LAN-01")
async def test_an_endpoint_that_does_not_mount_them_answers_404() -> None:
    async with serving(lambda _: None) as server, https_client() as http:
        for call in (
            get_endpoint(http, base_url(server), "v1"),
            get_nodes(http, base_url(server), "v1"),
            cancel_prepare_pairing(http, base_url(server), "v1", node=OWN.id, server_node=SERVER_ID),
        ):
            with pytest.raises(PairingRefused) as refused:
                await call
            assert refused.value.reason == "NotOffered"


@pytest.mark.rule("LAN-02")
async def test_whoever_is_in_another_subnet_gets_401_whatever_its_headers_say() -> None:
    host = outside_address()
    lan = LanServer(Neighbourhood(lambda: ()))  # no subnet holds the peer
    async with serving(lan.mount, host) as server, aiohttp.ClientSession() as session:
        headers = {"X-Forwarded-For": host, "Forwarded": f"for={host}", "X-Real-IP": "127.0.0.1"}
        for method, operation in OPERATIONS:
            url = f"{base_url(server, host)}v1/{operation}"
            async with session.request(method, url, ssl=trusting(), headers=headers) as response:
                assert (operation, response.status) == (operation, 401)
                assert await response.read() == b""
        async with https_client() as http:
            with pytest.raises(PairingRefused) as refused:
                await get_nodes(http, base_url(server, host), "v1")
            assert refused.value.reason == "NotInSameNetwork"
    lan.service.close()


@pytest.mark.rule("LAN-02")
async def test_a_loopback_address_in_front_of_an_outside_one_is_no_neighbour(lan: LanServer) -> None:
    host = outside_address()
    async with serving(lan.mount, host) as server:
        for source, expected in ((host, 200), ("127.0.0.1", 401)):
            connector = aiohttp.TCPConnector(local_addr=(source, 0))
            async with aiohttp.ClientSession(connector=connector) as session:
                url = f"{base_url(server, host)}v1/nodes"
                async with session.get(url, ssl=trusting()) as response:
                    assert response.status == expected


@pytest.mark.rule("LAN-02")
async def test_an_address_that_was_added_a_moment_ago_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    host = outside_address()
    known: list[Any] = []
    neighbourhood = Neighbourhood(lambda: tuple(known))
    lan = LanServer(neighbourhood)
    monkeypatch.setattr("s2connect.pairing.neighbourhood.REFUSED_FOR", 0.0)
    async with serving(lan.mount, host) as server, https_client() as http:
        url = base_url(server, host)
        with pytest.raises(PairingRefused):
            await get_nodes(http, url, "v1")
        known.extend(list_interfaces())
        assert len(await get_nodes(http, url, "v1")) == 1
    lan.service.close()


@pytest.mark.rule("SEC-03")
async def test_what_a_strange_endpoint_says_of_its_nodes_is_bounded(
    lan: LanServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    lan.own = endpoint(Role.CEM, lan.own.deployment, *(node(Role.CEM, n, f"a{n}") for n in range(1200)))
    async with serving(lan.mount) as server, https_client() as http:
        assert len(await get_nodes(http, base_url(server), "v1")) == 1000
        monkeypatch.setattr(lan_http, "MAX_NODES_BYTES", 1000)
        with pytest.raises(ProtocolViolation, match="longer than 1000"):
            await get_nodes(http, base_url(server), "v1")


async def test_an_announcement_ends_by_itself_while_the_server_runs(
    lan: LanServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("s2connect.pairing.lan_core.PREPARED_LIFETIME", 0.05)
    async with serving(lan.mount) as server, https_client() as http:
        await prepare_pairing(
            http,
            base_url(server),
            "v1",
            node=OWN.description,
            endpoint=EndpointDescription(),
            server_node=NodeId(SERVER_ID),
        )
        await until(lambda: len(lan.told) == 2)
    assert lan.told[1] == (SERVER_ID, OWN.id)

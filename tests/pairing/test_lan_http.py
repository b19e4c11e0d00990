"""The LAN-only operations over real HTTPS."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from s2connect.errors import PairingRefused, ProtocolViolation
from s2connect.https.own_addresses import own_addresses
from s2connect.https.server import HttpsServer
from s2connect.model.common import EndpointDescription, Role
from s2connect.model.local import LocalNode
from s2connect.model.pairing import CancelPreparePairing, PreparePairing
from s2connect.pairing import lan_http
from s2connect.pairing.lan_core import AnnouncementCancelled, LanOperations, PairingAnnounced
from s2connect.pairing.lan_http import LanService, announce, look_at
from s2connect.pairing.neighbourhood import Neighbourhood
from tests.pairing.lan_fixtures import PATH, base_url, https_client, outside_address, serving, trusting
from tests.pairing.pairing_fixtures import SERVER_ID, endpoint, node
from tests.waits import until

OWN = node(Role.RM, 7)
ME = EndpointDescription(name="me")
CANCEL = CancelPreparePairing(client_node_id=OWN.id, server_node_id=SERVER_ID)
OPERATIONS = [("GET", "endpoint"), ("GET", "nodes"), ("POST", "preparePairing"), ("POST", "cancelPreparePairing")]


def prepare(client: LocalNode = OWN) -> PreparePairing:
    return PreparePairing(
        client_node_description=client.description, client_endpoint_description=ME, server_node_id=SERVER_ID
    )


class LanServer:
    def __init__(self, neighbourhood: Neighbourhood | None = None) -> None:
        self.own = endpoint(Role.CEM)
        self.told: list[Any] = []
        self.service = LanService(
            LanOperations(lambda: self.own),
            neighbourhood or Neighbourhood(),
            ready=lambda: True,
            on_event=self.told.append,
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
        seen, nodes = await look_at(http, url)
        assert (seen.name, [n.id for n in nodes]) == ("server", [SERVER_ID])
        await announce(http, url, prepare())
        await announce(http, url, CANCEL)
    assert lan.told == [PairingAnnounced(SERVER_ID, OWN.description, ME), AnnouncementCancelled(SERVER_ID, OWN.id)]


@pytest.mark.rule("LAN-03")
async def test_a_refused_announcement_says_why(lan: LanServer) -> None:
    async with serving(lan.mount) as server, https_client() as http:
        with pytest.raises(PairingRefused) as refused:
            await announce(http, base_url(server), prepare(node(Role.CEM, 8)))
    assert refused.value.reason == "InvalidCombinationOfRoles"
    assert lan.told == []


@pytest.mark.rule("LAN-01")
async def test_an_endpoint_that_does_not_mount_them_answers_404() -> None:
    async with serving(lambda _: None) as server, https_client() as http:
        for call in (look_at(http, base_url(server)), announce(http, base_url(server), CANCEL)):
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
                await look_at(http, base_url(server, host))
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
            await look_at(http, url)
        known.extend(own_addresses())
        assert len((await look_at(http, url))[1]) == 1
    lan.service.close()


@pytest.mark.rule("SEC-03")
async def test_what_a_strange_endpoint_says_of_its_nodes_is_bounded(
    lan: LanServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    lan.own = endpoint(Role.CEM, lan.own.deployment, *(node(Role.CEM, n, f"a{n}") for n in range(1200)))
    async with serving(lan.mount) as server, https_client() as http:
        assert len((await look_at(http, base_url(server)))[1]) == 1000
        monkeypatch.setattr(lan_http, "MAX_NODES_BYTES", 1000)
        with pytest.raises(ProtocolViolation, match="longer than 1000"):
            await look_at(http, base_url(server))


async def test_an_announcement_ends_by_itself_while_the_server_runs(
    lan: LanServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("s2connect.pairing.lan_core.PREPARED_LIFETIME", 0.05)
    async with serving(lan.mount) as server, https_client() as http:
        await announce(http, base_url(server), prepare())
        await until(lambda: len(lan.told) == 2)
    assert lan.told[1] == AnnouncementCancelled(SERVER_ID, OWN.id)

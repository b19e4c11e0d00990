"""Long-polling over real HTTPS, as the server sees it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import aiohttp
import pytest

from s2connect.errors import NotReachable
from s2connect.https.server import HttpsServer
from s2connect.model.common import NodeId
from s2connect.model.pairing import WaitForPairingAction
from s2connect.pairing import long_poll_core, long_poll_http
from s2connect.pairing.long_poll_core import LongPollEvent, LongPollServer, NodeWaits, NoTokenOnClient
from s2connect.pairing.long_poll_http import LongPollService
from s2connect.pairing.neighbourhood import Neighbourhood
from tests.pairing.lan_fixtures import PATH, base_url, node_id, outside_address, serving, trusting
from tests.waits import until

PAIR = WaitForPairingAction.REQUEST_PAIRING


def item(node: UUID, **more: Any) -> dict[str, Any]:
    description = {"id": str(node), "brand": "B", "type": "T", "modelName": "M", "role": "RM"}
    return {"clientNodeId": str(node), "clientNodeDescription": description, **more}


class LongPollEndpoint:
    def __init__(self, neighbourhood: Neighbourhood | None = None) -> None:
        self.core = LongPollServer()
        self.told: list[LongPollEvent] = []
        self.offered = True
        self.service = LongPollService(
            self.core,
            neighbourhood or Neighbourhood(),
            offered=lambda: self.offered,
            on_event=self.told.append,
        )

    @property
    def hanging(self) -> int:
        return len(self.core._waiters)

    def mount(self, server: HttpsServer) -> None:
        self.service.mount(server, PATH)


class Client:
    """Sends requests on connections of its own."""

    def __init__(self, server: HttpsServer, host: str = "127.0.0.1") -> None:
        self.url = f"{base_url(server, host)}v1/waitForPairing"
        self.context: ssl.SSLContext = trusting()
        self.session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, ssl=self.context))
        self.tasks: list[asyncio.Task[Any]] = []

    async def wait(self, *items: dict[str, Any]) -> tuple[int, Any]:
        async with self.session.post(self.url, data=json.dumps(items).encode()) as response:
            body = await response.read()
            return response.status, json.loads(body) if body else None

    def start(self, *items: dict[str, Any]) -> asyncio.Task[tuple[int, Any]]:
        task = asyncio.create_task(self.wait(*items), name="client")
        self.tasks.append(task)
        return task


@contextlib.asynccontextmanager
async def client_of(server: HttpsServer, host: str = "127.0.0.1") -> AsyncIterator[Client]:
    client = Client(server, host)
    try:
        yield client
    finally:
        for task in client.tasks:
            task.cancel()
        await asyncio.gather(*client.tasks, return_exceptions=True)
        await client.session.close()


@pytest.fixture
async def waiting() -> AsyncIterator[LongPollEndpoint]:
    made = LongPollEndpoint()
    yield made
    made.service.close()


A = NodeId(node_id(0))


@pytest.mark.rule("LP-04", "LP-07")
async def test_a_click_wakes_the_hanging_request(waiting: LongPollEndpoint) -> None:
    async with serving(waiting.mount) as server, client_of(server) as client:
        request = client.start(item(A))
        await until(lambda: waiting.hanging == 1)
        assert [type(event) for event in waiting.told] == [NodeWaits]
        waiting.service.ask(A, PAIR)
        assert waiting.hanging == 0  # before anything else could run
        assert await request == (200, [{"clientNodeId": str(A), "action": "requestPairing"}])
        again = client.start(item(A, errorMessage="NoValidTokenOnPairingClient"))
        await until(lambda: waiting.hanging == 1)
        assert waiting.told[1:] == [NoTokenOnClient(A)]
        assert not again.done()


@pytest.mark.rule("LP-03")
async def test_a_request_for_which_there_is_nothing_is_answered_with_204(
    waiting: LongPollEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert long_poll_core.ANSWER_WITHIN == 25.0
    monkeypatch.setattr(long_poll_core, "ANSWER_WITHIN", long_poll_core.TRAVEL_TIME + 0.05)
    async with serving(waiting.mount) as server, client_of(server) as client:
        assert await client.wait(item(A)) == (204, None)
        assert await client.wait(item(A)) == (204, None)
        assert waiting.hanging == 0


@pytest.mark.rule("LAN-01")
async def test_an_endpoint_that_does_not_mount_it_answers_404() -> None:
    async with serving(lambda _: None) as server, client_of(server) as client:
        assert (await client.wait(item(A)))[0] == 404


@pytest.mark.rule("LAN-02", "LP-06")
async def test_a_client_of_another_subnet_gets_401() -> None:
    host = outside_address()
    waiting = LongPollEndpoint(Neighbourhood(lambda: ()))
    async with serving(waiting.mount, host) as server, client_of(server, host) as client:
        assert await client.wait(item(A)) == (401, None)
    assert not waiting.core.nodes()


@pytest.mark.rule("LP-06")
async def test_an_endpoint_that_does_not_offer_it_answers_400(waiting: LongPollEndpoint) -> None:
    waiting.offered = False
    async with serving(waiting.mount) as server, client_of(server) as client:
        assert await client.wait(item(A)) == (400, None)


async def test_a_node_that_is_not_there_cannot_be_asked(waiting: LongPollEndpoint) -> None:
    with pytest.raises(NotReachable):
        waiting.service.ask(A, PAIR)


@pytest.mark.rule("LP-07", "SEC-03")
async def test_a_client_that_closes_its_connection_frees_its_place(
    waiting: LongPollEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(long_poll_http, "SWEEP_INTERVAL", 0.05)
    async with serving(waiting.mount) as server:
        async with client_of(server) as client:
            for n in range(5):
                client.start(item(node_id(n)))
            await until(lambda: waiting.hanging == 5)
            for task in client.tasks[:2]:
                task.cancel()  # closes the connection
            await until(lambda: waiting.hanging == 3)
        await until(lambda: waiting.hanging == 0)
    assert not waiting.service._hanging


async def test_a_server_that_stops_sends_all_away_at_once(waiting: LongPollEndpoint) -> None:
    async with serving(waiting.mount) as server, client_of(server) as client:
        requests = [client.start(item(node_id(n))) for n in range(3)]
        await until(lambda: waiting.hanging == 3)
        waiting.service.close()
        assert [(await r)[0] for r in requests] == [503, 503, 503]
        assert (await client.wait(item(A)))[0] == 503
    assert waiting.hanging == 0


@pytest.mark.rule("LP-07", "SEC-03")
async def test_many_hanging_clients_are_held_woken_and_bounded(
    waiting: LongPollEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = 150
    monkeypatch.setattr(long_poll_core, "MAX_HANGING_PER_ADDRESS", many)
    monkeypatch.setattr(long_poll_http, "SWEEP_INTERVAL", 0.2)
    async with serving(waiting.mount) as server:
        async with client_of(server) as client:
            requests: list[Any] = []
            for first in range(0, many, 50):  # more at once would be refused, and come again
                requests.extend(client.start(item(node_id(first + n))) for n in range(50))
                await until(lambda: waiting.hanging == len(requests))
            assert waiting.hanging == many
            statuses = [(await client.wait(item(node_id(1000 + n))))[0] for n in range(5)]
            assert statuses == [503] * 5
            assert len(waiting.core.nodes()) == many
            buffers = {
                len(request.transport._ssl_protocol._ssl_buffer)  # type: ignore[union-attr]
                for request, _ in waiting.service._hanging.values()
            }
            assert max(buffers) <= 16 * 1024  # what a hanging connection costs most
            waiting.service.ask(NodeId(node_id(many - 1)), PAIR)
            assert (await requests[many - 1])[1] == [
                {"clientNodeId": str(node_id(many - 1)), "action": "requestPairing"}
            ]
            assert sum(r.done() for r in requests) == 1
        await until(lambda: waiting.hanging == 0)

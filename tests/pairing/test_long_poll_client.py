"""Long-polling as the client sees it: every status, every action, and the pairing that comes of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import pytest
from aiohttp import web

from s2connect.certs.tls import leaf_fingerprint_of
from s2connect.errors import WrongPairingCode
from s2connect.https.server import HttpsServer, answer, read_body, tls_object
from s2connect.model.common import Deployment, NodeId, Role
from s2connect.model.local import LocalEndpoint
from s2connect.model.pairing import WaitForPairingAction, WaitForPairingOrder
from s2connect.model.secret import AccessToken
from s2connect.model.url import BaseUrl
from s2connect.pairing import http_client, long_poll_client
from s2connect.pairing.code import PairingCode, PairingToken
from s2connect.pairing.http_server import PairingService
from s2connect.pairing.interface import AttemptFailed, PairingServerEvent
from s2connect.pairing.long_poll_client import (
    LONGEST_WAIT,
    MAX_QUICK_ANSWERS,
    POLL_TIMEOUT,
    AfterPoll,
    LongPollClient,
    wait_for_pairing,
)
from s2connect.pairing.long_poll_core import LongPollServer, NodeWaits, NoTokenOnClient
from s2connect.pairing.long_poll_http import LongPollService
from s2connect.pairing.neighbourhood import Neighbourhood
from s2connect.pairing.server_core import PairingServer
from s2connect.pairing.shared import MemoryPairing
from s2connect.store.base import Pairing
from s2connect.supervisor import Supervisor
from tests.pairing.lan_fixtures import PATH, base_url, serving
from tests.pairing.pairing_fixtures import SERVER_ID, SESSION_URL, endpoint, node
from tests.waits import until, within

RM = endpoint(Role.RM, Deployment.LAN, node(Role.RM, 1, "a"), node(Role.RM, 2, "b"))
A, B = RM.nodes
STRANGER = NodeId(UUID(int=99))
SLOW = 20.0


def orders(*pairs: tuple[UUID, str]) -> bytes:
    return json.dumps([{"clientNodeId": str(n), "action": a} for n, a in pairs]).encode()


class LongPollSetup:
    def __init__(self, own: LocalEndpoint = RM) -> None:
        self.own = own
        self.with_token: set[NodeId] = set()
        self.core = LongPollClient(lambda: self.own, lambda n: n in self.with_token)

    def body(self) -> dict[UUID, set[str]]:
        raw = self.core.body()
        assert raw is not None
        return {UUID(i.pop("clientNodeId")): set(i) for i in json.loads(raw.to_json())}

    def answer(self, status: int, body: bytes = b"", lasted: float = SLOW) -> tuple[AfterPoll, list[tuple[UUID, str]]]:
        result = self.core.on_answer(status, body, lasted=lasted)
        return result.then, [(o.client_node_id, o.action.value) for o in result.actions]


@pytest.fixture
def setup() -> LongPollSetup:
    return LongPollSetup()


@pytest.mark.rule("LP-06")
@pytest.mark.parametrize(
    ("status", "then"),
    [
        (204, AfterPoll.AGAIN),
        (400, AfterPoll.STOP),
        (401, AfterPoll.STOP_FOR_GOOD),
        (403, AfterPoll.STOP),
        (404, AfterPoll.STOP),
        (413, AfterPoll.STOP),
        (429, AfterPoll.WAIT),
        (500, AfterPoll.WAIT),
        (502, AfterPoll.WAIT),
        (503, AfterPoll.WAIT),
        (504, AfterPoll.WAIT),
        (202, AfterPoll.WAIT),
        (302, AfterPoll.WAIT),
    ],
)
def test_what_follows_a_status(setup: LongPollSetup, status: int, then: AfterPoll) -> None:
    assert setup.answer(status) == (then, [])


@pytest.mark.rule("LP-02", "LP-04")
@pytest.mark.parametrize(
    ("action", "valid_token", "done", "next_request"),
    [
        ("sendNodeDescription", False, [], {"clientNodeDescription", "clientEndpointDescription"}),
        ("preparePairing", False, ["preparePairing"], set()),
        ("preparePairing", True, ["preparePairing"], set()),
        ("cancelPreparePairing", False, ["cancelPreparePairing"], set()),
        ("requestPairing", True, ["requestPairing"], set()),
        ("requestPairing", False, [], {"errorMessage"}),
        ("somethingOfVersion1.1", True, [], set()),
    ],
)
@pytest.mark.rule("LP-05", "VER-07")
def test_what_follows_an_action(
    setup: LongPollSetup, action: str, valid_token: bool, done: list[str], next_request: set[str]
) -> None:
    if valid_token:
        setup.with_token.add(A)
    assert setup.body() == {A: set(), B: set()}
    assert setup.answer(200, orders((A, action))) == (AfterPoll.AGAIN, [(A, name) for name in done])
    assert setup.body() == {A: next_request, B: set()}
    setup.answer(204)
    assert setup.body() == {A: set(), B: set()}


@pytest.mark.rule("LP-02", "LP-05")
def test_what_was_asked_for_is_sent_until_the_server_has_read_it(setup: LongPollSetup) -> None:
    setup.answer(200, orders((A, "sendNodeDescription"), (B, "requestPairing")))
    wanted = {A: {"clientNodeDescription", "clientEndpointDescription"}, B: {"errorMessage"}}
    assert setup.body() == wanted
    assert setup.answer(503)[0] is AfterPoll.WAIT
    assert setup.body() == wanted
    raw = setup.core.body()
    assert raw is not None
    assert b"NoValidTokenOnPairingClient" in raw.to_json()
    setup.answer(204)
    assert setup.body() == {A: set(), B: set()}


@pytest.mark.rule("LP-04")
def test_one_answer_acts_on_each_node_once_and_on_no_strangers(setup: LongPollSetup) -> None:
    setup.with_token |= {A, B, STRANGER}
    answer = orders(
        (A, "preparePairing"), (A, "requestPairing"), (STRANGER, "requestPairing"), (B, "cancelPreparePairing")
    )
    assert setup.answer(200, answer)[1] == [(A, "preparePairing"), (B, "cancelPreparePairing")]


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b"[1]", b'[{"action": "requestPairing"}]', b"<html>"])
def test_an_answer_that_is_no_list_of_orders_is_waited_out(setup: LongPollSetup, body: bytes) -> None:
    assert setup.answer(200, body) == (AfterPoll.WAIT, [])


@pytest.mark.rule("LP-01")
def test_without_nodes_there_is_no_request() -> None:
    nobody = LocalEndpoint(RM.description, Deployment.LAN, {})
    assert LongPollSetup(nobody).core.body() is None


@pytest.mark.rule("SEC-03")
@pytest.mark.parametrize(("status", "body"), [(204, b""), (200, orders((A, "sendNodeDescription")))])
def test_a_server_that_answers_at_once_for_ever_does_not_make_the_client_spin(
    setup: LongPollSetup, status: int, body: bytes
) -> None:
    found = [setup.answer(status, body, lasted=0.001)[0] for _ in range(MAX_QUICK_ANSWERS + 5)]
    assert found == [AfterPoll.AGAIN] * MAX_QUICK_ANSWERS + [AfterPoll.WAIT] * 5
    assert setup.answer(204)[0] is AfterPoll.AGAIN
    assert setup.answer(204, lasted=0.001)[0] is AfterPoll.AGAIN


@pytest.mark.rule("LP-06")
def test_the_client_waits_longer_after_each_failure_and_starts_over_after_a_success(setup: LongPollSetup) -> None:
    waits = [setup.core.delay(1.0) for _ in range(20)]
    assert waits[:3] == [2.0, 4.0, 8.0]
    assert max(waits) == waits[-1] == LONGEST_WAIT
    assert setup.core.delay(0.0) == LONGEST_WAIT / 2
    setup.answer(204)
    assert setup.core.delay(1.0) == 2.0


@pytest.mark.rule("PAIR-12")
def test_descriptions_that_do_not_fit_into_one_request_go_with_the_next() -> None:
    setup = LongPollSetup(endpoint(Role.RM, Deployment.LAN, *(node(Role.RM, n, f"a{n}") for n in range(250))))
    setup.answer(200, orders(*((n, "sendNodeDescription") for n in setup.own.nodes)))
    described = 0
    for _ in range(3):
        raw = setup.core.body()
        assert raw is not None
        assert len(raw.to_json()) < 64 * 1024
        described += raw.to_json().count(b"clientNodeDescription")
        setup.answer(204)
    assert described == 250


@pytest.mark.rule("LP-03")
def test_the_client_waits_at_least_thirty_seconds() -> None:
    assert POLL_TIMEOUT >= 30


# With a real server


class Device:
    """An endpoint of RMs without a server."""

    def __init__(self, own: LocalEndpoint = RM) -> None:
        self.own = own
        self.codes: dict[NodeId, PairingToken] = {}
        self.told: list[tuple[str, NodeId]] = []
        self.kept: list[Pairing] = []
        self.pairings: dict[NodeId, asyncio.Task[Pairing]] = {}
        self.pki = ssl.create_default_context()

    def follow(self, order: WaitForPairingOrder, url: BaseUrl) -> None:
        if order.action is WaitForPairingAction.REQUEST_PAIRING:
            self.start_pairing(order.client_node_id, url)
        else:
            self.told.append((order.action, order.client_node_id))

    def start_pairing(self, node: NodeId, url: BaseUrl) -> None:
        work = http_client.pair(
            self.own,
            self.own.nodes[node],
            url,
            PairingCode(self.codes[node]),
            pairings=self,
            pki=self.pki,
            session_url=None,
            ca_fingerprint=None,
        )
        self.pairings[node] = asyncio.create_task(work, name="pairing")

    async def commit(self, pairing: Pairing, token: AccessToken) -> None:
        raise AssertionError("a device without a server is no pairing server")

    async def hold(self, pairing: Pairing, token: AccessToken) -> None:
        self.kept.append(pairing)

    async def confirm(self, pairing: Pairing) -> None:
        pass

    async def drop(self, pairing: Pairing) -> None:
        self.kept.remove(pairing)

    def leave(self, pairing: Pairing) -> None:
        pass

    def gives_way(self, pairing: Pairing) -> bool:
        return False

    @contextlib.asynccontextmanager
    async def waiting_at(self, url: BaseUrl) -> AsyncIterator[asyncio.Task[AfterPoll]]:
        task = asyncio.create_task(
            wait_for_pairing(
                url, lambda: self.own, has_valid_token=self.codes.__contains__, on_order=self.follow, pki=self.pki
            ),
            name="long poll",
        )
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.gather(task, *self.pairings.values(), return_exceptions=True)


class Manager:
    """An energy manager with two nodes, that pairs with devices which wait."""

    def __init__(self) -> None:
        self.own = endpoint(Role.CEM, Deployment.LAN, node(Role.CEM), node(Role.CEM, 40, "x"))
        self.cem = self.own.nodes[SERVER_ID]
        self.pairing = PairingServer(lambda: self.own, session_url=lambda: SESSION_URL, response_delay=0.0)
        self.supervisor = Supervisor("test")
        self.failed: list[PairingServerEvent] = []
        self.kept: list[Pairing] = []
        self.faults: list[Exception] = []
        self.events: asyncio.Queue[Any] = asyncio.Queue()
        self.polls = LongPollService(
            LongPollServer(), Neighbourhood(), offered=lambda: True, on_event=self.events.put_nowait
        )
        self.service = PairingService(
            MemoryPairing(self.pairing),
            self,
            self.supervisor,
            binding=lambda request: leaf_fingerprint_of(tls_object(request)),
            ready=lambda: True,
            on_failed=self.failed.append,
        )

    async def commit(self, pairing: Pairing, token: AccessToken) -> None:
        if self.faults:
            raise self.faults.pop()
        self.kept.append(pairing)

    async def hold(self, pairing: Pairing, token: AccessToken) -> None:
        raise AssertionError("an energy manager is pairing server here")

    async def confirm(self, pairing: Pairing) -> None:
        raise AssertionError("an energy manager is pairing server here")

    drop = confirm

    def leave(self, pairing: Pairing) -> None:
        raise AssertionError("an energy manager is pairing server here")

    def gives_way(self, pairing: Pairing) -> bool:
        raise AssertionError("an energy manager is pairing server here")

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[HttpsServer]:
        def mount(server: HttpsServer) -> None:
            server.add_operation(PATH, "waitForPairing", self.polls._wait_for_pairing)
            for operation, handler in (
                ("requestPairing", self.service._request_pairing),
                ("requestConnectionDetails", self.service._of_attempt(self.service._request_connection_details)),
                ("finalizePairing", self.service._of_attempt(self.service._finalize_pairing)),
            ):
                server.add_operation(PATH, operation, handler)

        async with serving(mount) as server:
            try:
                yield server
            finally:
                self.polls.close()
                self.service.close()
                await self.supervisor.close()

    async def nodes(self, count: int) -> list[NodeId]:
        found: list[NodeId] = []
        async with within(10):
            while len(found) < count:
                event = await self.events.get()
                assert isinstance(event, NodeWaits)
                found.append(event.peer.id)
        return found

    def click(self, client: NodeId, token: str) -> None:
        now = asyncio.get_running_loop().time()
        self.pairing.tokens(self.cem.id).expect(client, PairingToken(token), now=now)
        self.polls.ask(client, WaitForPairingAction.REQUEST_PAIRING)


@pytest.mark.rule("LP-02", "LP-05", "LP-07", "ROLE-03", "ROLE-04")
async def test_a_device_without_a_server_is_paired_from_the_other_side_by_its_static_code() -> None:
    manager, device = Manager(), Device()
    device.codes[B] = PairingToken("STICKER42")
    async with manager.running() as server, device.waiting_at(base_url(server)):
        assert await manager.nodes(2) == [A, B]
        manager.polls.ask(B, WaitForPairingAction.PREPARE_PAIRING)
        async with within(10):
            await until(lambda: ("preparePairing", B) in device.told)
            manager.click(B, "STICKER42")
            await until(lambda: B in device.pairings)
            pairing = await device.pairings[B]
    assert pairing.key.local == B
    assert pairing.key.remote == SERVER_ID  # of two nodes, the one at which the code was typed
    assert [p.key.remote for p in manager.kept] == [B]
    assert device.kept[0].key == pairing.key
    assert not manager.failed


@pytest.mark.rule("PAIR-07", "PAIR-10")
async def test_an_error_while_a_pairing_is_stored_is_reported_and_the_client_repeats_its_request() -> None:
    manager, device = Manager(), Device()
    device.codes[B] = PairingToken("STICKER42")
    manager.faults = [RuntimeError()]
    async with manager.running() as server, device.waiting_at(base_url(server)):
        await manager.nodes(2)
        async with within(10):
            manager.click(B, "STICKER42")
            await until(lambda: B in device.pairings)
            await device.pairings[B]
    assert manager.supervisor.failures.counts["commit"] == 1
    assert [p.key.remote for p in manager.kept] == [B]
    assert not manager.failed


@pytest.mark.rule("LP-05")
async def test_the_user_hears_of_a_wrong_code_and_of_a_device_without_one() -> None:
    manager, device = Manager(), Device()
    device.codes[B] = PairingToken("STICKER42")
    async with manager.running() as server, device.waiting_at(base_url(server)):
        await manager.nodes(2)
        async with within(10):
            manager.click(A, "ANYTHING1")
            assert await manager.events.get() == NoTokenOnClient(A)
            manager.click(B, "STICKER24")
            await until(lambda: B in device.pairings)
            with pytest.raises(WrongPairingCode):
                await device.pairings[B]
    assert [f.reason for f in manager.failed if isinstance(f, AttemptFailed)] == ["refused_by_client"]
    assert not manager.kept


@pytest.mark.rule("LP-06")
@pytest.mark.parametrize(
    ("statuses", "result"),
    [
        ([204, 204, 400], AfterPoll.STOP),
        ([204, 401], AfterPoll.STOP_FOR_GOOD),
        ([503, 204, 500, 204, 404], AfterPoll.STOP),
        ([0, 204, 0, 400], AfterPoll.STOP),
    ],
)
async def test_the_loop_goes_on_waits_and_stops_as_the_answers_say(
    statuses: list[int], result: AfterPoll, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(long_poll_client, "FIRST_WAIT", 0.01)
    left = list(statuses)

    async def scripted(request: web.Request) -> web.Response:
        await read_body(request)
        status = left.pop(0)
        if status == 0:
            assert request.transport is not None
            request.transport.abort()
        return answer(status or 204)

    device = Device()
    async with (
        serving(lambda server: server.add_operation(PATH, "waitForPairing", scripted)) as server,
        device.waiting_at(base_url(server)) as task,
        within(10),
    ):
        assert await task is result
    assert left == []


@pytest.mark.rule("LP-01", "ROLE-04")
@pytest.mark.parametrize("nodes", [(), (Role.CEM,), (Role.RM, Role.CEM)])
async def test_only_an_endpoint_of_devices_waits(nodes: tuple[Role, ...]) -> None:
    hosted = {n.id: n for n in (node(role, number) for number, role in enumerate(nodes))}
    device = Device(LocalEndpoint(RM.description, Deployment.LAN, hosted))
    async with device.waiting_at(BaseUrl("https://127.0.0.1:1/pairing/")) as task:
        assert await task is AfterPoll.STOP


@pytest.mark.rule("LP-06", "TRUST-04")
async def test_a_server_that_cannot_be_trusted_or_reached_is_sent_nothing_and_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(long_poll_client, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(long_poll_client, "LONGEST_WAIT", 0.01)
    tried = asyncio.Event()
    asked: list[str] = []
    real = http_client.authenticate

    async def counted(*arguments: Any, **named: Any) -> Any:
        asked.append("again")
        if len(asked) == 3:
            tried.set()
        return await real(*arguments, **named)

    monkeypatch.setattr(long_poll_client, "authenticate", counted)

    async def never(_: web.Request) -> web.Response:
        raise AssertionError("nothing may be sent")

    def mount(server: HttpsServer) -> None:
        server.add_operation(PATH, "waitForPairing", never)

    async with serving(mount) as server:
        url = BaseUrl(f"https://localhost:{server.port}{PATH}")  # the certificate is made out to the address
        async with Device().waiting_at(url) as task, within(10):
            await tried.wait()
            assert not task.done()

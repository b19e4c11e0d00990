"""An error in any background task of an endpoint is seen, as event and in the log, and the endpoint recovers."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from s2connect import Endpoint, Handlers, NodeConfig, Role, Session, SessionEnd, events, join_nodes, supervisor
from s2connect.certs import chain
from s2connect.certs.authority import ServerIdentity
from s2connect.endpoint.connections import LiveConnection
from s2connect.endpoint.pairings import Pairings
from s2connect.errors import NameConflict, PairingUnconfirmed, StorageError
from s2connect.model.roles import CommunicationRole
from s2connect.session.http_client import SessionClient
from s2connect.store.memory import MemoryStore
from tests.endpoint import supervision_program
from tests.endpoint.conftest import MEASUREMENT, OpenEndpoint, Wan, lan_config
from tests.netns import Lan, require_netns
from tests.waits import until, within

SECRET = supervision_program.SECRET


class Fault:
    """An error in place of one call, and what came after.

    Attributes:
        calls: How many there were, the one that failed included.
    """

    def __init__(self, patch: pytest.MonkeyPatch, owner: Any, name: str, error: Exception | None = None) -> None:
        real = getattr(owner, name)
        self.calls = 0
        self.armed = True

        def faulty(*arguments: Any, **more: Any) -> Any:
            self.calls += 1
            if self.armed:
                self.armed = False
                raise error or RuntimeError(SECRET)
            return real(*arguments, **more)

        patch.setattr(owner, name, faulty)


class EndpointPair:
    """Two endpoints, applications that take their sessions, and what both tell."""

    def __init__(self, cem: Endpoint, rm: Endpoint) -> None:
        self.cem, self.rm = cem, rm
        self.events: list[events.Event] = []
        self.sessions: list[Any] = []
        self._tasks = [asyncio.create_task(self._follow(one)) for one in (cem, rm)]
        self._tasks += [asyncio.create_task(self._take(one)) for one in (cem, rm)]

    async def _follow(self, endpoint: Endpoint) -> None:
        async for event in endpoint.events():
            self.events.append(event)

    async def _take(self, endpoint: Endpoint) -> None:
        async for session in endpoint.node().sessions():
            self.sessions.append(session)

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def pair(self) -> None:
        self.cem._pairing.server.delay = 0.0
        await self.rm.node().pair(self.cem.pairing_url, self.cem.node().issue_pairing_code())

    async def connected(self) -> None:
        await until(lambda: bool(self.cem.connected()) and bool(self.rm.connected()))

    def failures(self) -> list[events.TaskFailed]:
        return [event for event in self.events if isinstance(event, events.TaskFailed)]

    async def failed(self, task: str, error: str = "RuntimeError", *, again: bool = True) -> events.TaskFailed:
        """Wait for the one failure, which is published without its text."""
        await until(lambda: bool(self.failures()))
        (failure,) = self.failures()
        assert (failure.task, failure.error, failure.retry_in is not None) == (task, error, again)
        assert SECRET not in repr(failure) + failure.sentence
        return failure


MakeEndpoints = Callable[..., Awaitable[EndpointPair]]


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "FIRST_DELAY", 0.01)
    monkeypatch.setattr("s2connect.transports.backoff.BASE_DELAY", 0.05)


@pytest.fixture
async def endpoints(cem: Endpoint, rm: Endpoint) -> AsyncIterator[EndpointPair]:
    made = EndpointPair(cem, rm)
    await asyncio.sleep(0)
    yield made
    await made.stop()


def logged_once(caplog: pytest.LogCaptureFixture, task: str) -> None:
    """The failure is in the log, once, with its traceback."""
    found = [r for r in caplog.records if r.levelno >= logging.ERROR and task in r.getMessage()]
    assert [bool(record.exc_info) for record in found] == [True]
    assert not [r for r in caplog.records if r.levelno >= logging.ERROR and r not in found]


@pytest.mark.rule("REC-01")
async def test_a_connector_that_fails_connecting_connects_again(
    endpoints: EndpointPair, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    Fault(monkeypatch, SessionClient, "open")
    await endpoints.pair()
    await endpoints.connected()
    await endpoints.failed("connector")
    logged_once(caplog, "connector")


@pytest.mark.rule("REC-01")
async def test_a_connector_that_fails_while_its_session_stands_makes_another(
    endpoints: EndpointPair, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    Fault(monkeypatch, LiveConnection, "ended")
    await endpoints.pair()
    await endpoints.failed("connector")
    await until(lambda: len(endpoints.sessions) == 4)
    await endpoints.connected()
    logged_once(caplog, "connector")


async def test_a_store_that_cannot_be_read_for_a_while_stops_no_connector(
    endpoints: EndpointPair, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await endpoints.pair()
    await until(lambda: len(endpoints.sessions) == 2)
    endpoints.events.clear()
    Fault(monkeypatch, endpoints.rm._state.store, "pairings_of", StorageError("The disk is full."))
    for session in endpoints.sessions:
        await session.close()
    await endpoints.failed("connector", "StorageError")
    await until(lambda: len(endpoints.sessions) == 4)
    assert "The disk is full." in caplog.text


async def test_the_renewal_of_the_certificate_goes_on_after_an_error(
    open_endpoint: OpenEndpoint, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("s2connect.endpoint.certificate.RENEWAL_CHECK", 0.01)
    fault = Fault(monkeypatch, ServerIdentity, "needs_renewal")
    endpoint = await open_endpoint(lan_config(Role.CEM))
    news = endpoint.events()
    async with within(10):
        event = await anext(news)
    assert isinstance(event, events.TaskFailed)
    assert event.task == "renewal"
    await until(lambda: fault.calls > 2)
    logged_once(caplog, "renewal")


@pytest.mark.rule("PAIRC-06")
async def test_an_unconfirmed_pairing_is_dropped_after_an_error_all_the_same(
    open_endpoint: OpenEndpoint, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("s2connect.endpoint.pairings.UNCONFIRMED_LIFETIME", 0.01)
    Fault(monkeypatch, MemoryStore, "drop_unconfirmed")

    async def confirm(*_: Any, **__: Any) -> None:
        raise StorageError("The disk is full.")

    # An energy manager that is pairing client and communication server, and dies between its two writes.
    cem, rm = await open_endpoint(lan_config(Role.CEM)), await open_endpoint(lan_config(Role.RM))
    monkeypatch.setattr(cem._state.store, "confirm_pairing", confirm)
    news = cem.events()
    rm._pairing.server.delay = 0.0
    with pytest.raises(PairingUnconfirmed, match="The disk is full"):
        await cem.node().pair(rm.pairing_url, rm.node().issue_pairing_code())
    async with within(10):
        failure, dropped = await anext(news), await anext(news)
    assert isinstance(failure, events.TaskFailed)
    assert isinstance(dropped, events.PairingFailed)
    assert (failure.task, dropped.reason) == ("unconfirmed", "unconfirmed")
    assert not [p for p in await cem.pairings() if not p.confirmed]
    logged_once(caplog, "unconfirmed")


async def test_a_change_of_pairings_that_fails_after_its_caller_was_cancelled_is_told(
    endpoints: EndpointPair, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def save(*_: Any, **__: Any) -> None:
        begun.set()
        await go_on.wait()
        raise RuntimeError(SECRET)

    monkeypatch.setattr(endpoints.rm._state.store, "save_pairing", save)
    pairing = asyncio.create_task(endpoints.pair())
    await begun.wait()
    pairing.cancel()
    await asyncio.wait({pairing})
    go_on.set()
    await endpoints.failed("change", again=False)
    logged_once(caplog, "change")


async def test_a_client_whose_arrival_meets_an_error_comes_again(
    endpoints: EndpointPair, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    Fault(monkeypatch, Pairings, "opened")
    await endpoints.pair()
    await endpoints.failed("offer", again=False)
    await endpoints.connected()
    logged_once(caplog, "offer")


async def test_a_farewell_that_fails_is_told_and_the_new_pairing_stands(
    endpoints: EndpointPair,
    open_endpoint: OpenEndpoint,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    await endpoints.pair()
    await endpoints.connected()
    Fault(monkeypatch, SessionClient, "unpair")
    other = await open_endpoint(lan_config(Role.CEM))
    other._pairing.server.delay = 0.0
    await endpoints.rm.node().pair(other.pairing_url, other.node().issue_pairing_code())
    await endpoints.failed("farewell", again=False)
    assert [p.key.remote for p in await endpoints.rm.pairings()] == [other.node().id]
    logged_once(caplog, "farewell")


async def test_a_look_at_a_device_with_our_name_that_fails_is_told_and_the_notice_stands(
    endpoints: EndpointPair, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    Fault(monkeypatch, chain, "capture_chain")
    conflict = NameConflict("Another device has the name.")
    conflict.address = "127.0.0.1"
    assert endpoints.cem._lan is not None
    endpoints.cem._lan._conflict(conflict)
    await endpoints.failed("recognise", again=False)
    assert [event.kind for event in endpoints.events if isinstance(event, events.Notice)] == ["name_conflict"]
    logged_once(caplog, "recognise")


@pytest.mark.parametrize("task", ["end", "replace"])
async def test_a_session_that_cannot_take_its_leave_is_closed_all_the_same(
    task: str, endpoints: EndpointPair, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await endpoints.pair()
    await endpoints.connected()
    await until(lambda: len(endpoints.sessions) == 2)
    (live,) = endpoints.cem.connected().values()
    Fault(monkeypatch, live.session, "close")
    connections = endpoints.cem._connections[endpoints.cem.node().id]
    if task == "replace":
        connections.attach(live.connection, live.pairing)
    else:
        await connections.end(live.pairing.key.remote, "test")
    await endpoints.failed(task, again=False)
    async with within(5):
        await live.connection.wait_closed()
    logged_once(caplog, task)


async def test_closing_an_endpoint_ends_every_task_that_it_began(
    open_endpoint: OpenEndpoint, endpoints: EndpointPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    await endpoints.pair()
    await endpoints.connected()
    assert endpoints.rm.supervisor._tasks
    await endpoints.rm._close()
    assert not endpoints.rm.supervisor._tasks


@pytest.mark.rule("UNP-03")
async def test_unpairing_one_peer_does_not_wait_for_the_sessions_with_others(
    open_endpoint: OpenEndpoint, wan: Wan
) -> None:
    """Of an energy manager that is communication client of resource managers in a cloud."""
    hosts = ["one.example", "two.example"]
    devices = [await open_endpoint(wan.config(Role.RM, host)) for host in hosts]
    manager = await open_endpoint(
        lan_config(Role.CEM, trust_anchors=wan.anchors), addresses=dict.fromkeys(hosts, "127.0.0.1")
    )

    async def take(endpoint: Endpoint) -> None:
        async for session in endpoint.node().sessions():
            assert session.end_reason is SessionEnd.OPEN

    tasks = [asyncio.create_task(take(endpoint)) for endpoint in (manager, *devices)]
    for device in devices:
        device._pairing.server.delay = 0.0
        pairing = await manager.node().pair(device.pairing_url, device.node().issue_pairing_code())
        assert pairing.communication_role is CommunicationRole.CLIENT
    await until(lambda: len(manager.connected()) == 2)
    async with within(5):
        await manager.node().unpair(devices[0].node().id)
    assert [key.remote for key in manager.connected()] == [devices[1].node().id]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.rule("LP-01", "DISC-09")
@pytest.mark.parametrize(
    "task",
    [
        pytest.param(task, marks=() if task in ("advertise", "long-polling") else pytest.mark.long)
        for task in supervision_program.CASES
    ],
)
def test_a_task_of_the_local_network_that_fails_is_told_and_overcome(task: str) -> None:
    require_netns()
    with Lan(1, ipv6=False) as network:
        done = network.hosts[0].run(sys.executable, "-m", "tests.endpoint.supervision_program", task, timeout=55)
    assert ("Traceback" in done.stderr) == (task != "no network"), done.stderr
    assert done.stderr.count(supervision_program.SECRET) == (task != "no network"), done.stderr
    assert f"{task} failed" in done.stderr or f"{task}-" in done.stderr or task == "no network", done.stderr


@pytest.mark.parametrize("task", ["handlers", "handled"])
async def test_handled_sessions_go_on_after_an_error(
    cem: Endpoint, rm: Endpoint, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, task: str
) -> None:
    """In what takes sessions, and in what handles one of them."""
    seen, opened = cem.events(), asyncio.Queue[Session]()
    handlers = Handlers()
    handlers.on_open(opened.put_nowait)
    if task == "handlers":
        Fault(monkeypatch, cem.node(), "sessions")
    else:
        Fault(monkeypatch, handlers, "_log_unhandled")
        Fault(monkeypatch, Session, "request_reconnect")
    cem.node().handle(handlers)
    rm.node().handle(Handlers())
    cem._pairing.server.delay = 0.0
    await rm.node().pair(cem.pairing_url, cem.node().issue_pairing_code())
    async with within(20):
        session = await opened.get()
        if task == "handled":  # an error within this program, and another in what follows from it
            await session.send({"message_type": "SelectControlType", "control_type": "NO_SELECTION"})
            await next(iter(rm.connected().values())).session.send(MEASUREMENT)  # type: ignore[union-attr]
            await opened.get()
        async for event in seen:
            if isinstance(event, events.TaskFailed):
                assert event.error == "RuntimeError"
                break
    assert SECRET not in [record.getMessage() for record in caplog.records]


async def test_the_endpoint_that_closes_ends_what_handles_its_sessions(open_endpoint: OpenEndpoint) -> None:
    ended = asyncio.Event()
    handlers = Handlers()
    handlers.on_close(lambda _: ended.set())
    cem = await open_endpoint(lan_config(Role.CEM))
    cem.node().handle(Handlers())
    async with Endpoint.open(config=lan_config(Role.RM)) as rm:
        task = rm.node().handle(handlers)
        cem._pairing.server.delay = 0.0
        await rm.node().pair(cem.pairing_url, cem.node().issue_pairing_code())
        await until(lambda: bool(rm.connected()) and bool(cem.connected()))
    async with within(5):
        await ended.wait()
        await asyncio.wait({task})


@pytest.mark.parametrize("task", ["codes", "join"])
async def test_a_small_task_of_a_node_begins_anew(
    open_endpoint: OpenEndpoint, monkeypatch: pytest.MonkeyPatch, task: str
) -> None:
    nodes = [NodeConfig(role=role, brand="B", type="T", model_name="M", alias=role.value) for role in Role]
    endpoint = await open_endpoint(lan_config(Role.RM, nodes=tuple(nodes)), serve=False)
    manager, device = endpoint.node(role=Role.CEM), endpoint.node(role=Role.RM)
    seen, done = endpoint.events(), asyncio.Event()
    if task == "codes":
        Fault(monkeypatch, device._pairing, "code_to_show")
        device.show_codes(lambda _: done.set())
    else:
        Fault(monkeypatch, manager._connections, "admit")
        handlers = Handlers()
        handlers.on_open(lambda _: done.set())
        manager.handle(Handlers())
        device.handle(handlers)
        join_nodes(manager, device)
    async with within(20):
        await done.wait()
        failure = await anext(seen)
    assert isinstance(failure, events.TaskFailed)
    assert (failure.task, failure.error, failure.retry_in is not None) == (task, "RuntimeError", True)

"""An error in a background task of a bridge or service is reported and logged, and the task goes on."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from s2connect import Role, events, supervisor
from s2connect.bridge.nodes import NodeDevicesSide, NodeManagerSide
from s2connect.bridge.route import Route
from s2connect.endpoint.connections import ConnectionManager
from s2connect.errors import ConnectionClosed
from s2connect.service import events as service_events
from s2connect.service import open_sessions
from s2connect.service.bridge import _Changes
from s2connect.service.events import Event, Warned
from s2connect.service.sidecar import Service
from s2connect.service.systemd import Notifier
from s2connect.supervisor import FailureLog, Supervisor, TaskFailure
from tests.bridge.bridge_fixtures import WSS, BridgeSetup, both
from tests.bridge.frbc_texts import FROM_RM_FIRST
from tests.bridge.link_fixtures import connection_pair
from tests.endpoint.test_endpoint_supervision import SECRET, Fault
from tests.waits import until, within

RM, CEM = Role.RM, Role.CEM


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "FIRST_DELAY", 0.05)
    monkeypatch.setattr("s2connect.transports.backoff.BASE_DELAY", 0.1)


class Told:
    """Failures of a bridge's route."""

    def __init__(self, setup: BridgeSetup) -> None:
        self.failures: list[TaskFailure] = []
        setup.route.supervisor.failures._publish = self.failures.append

    async def failed(self, task: str, *, again: bool = True) -> None:
        await until(lambda: bool(self.failures))
        (failure,) = self.failures
        assert (failure.task, failure.error, failure.retry_in is not None) == (task, "RuntimeError", again)
        assert SECRET not in repr(failure)


def logged_once(caplog: pytest.LogCaptureFixture) -> None:
    found = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert [bool(record.exc_info) for record in found] == [True]


async def test_what_takes_the_connections_of_a_port_goes_on_after_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The task "accept"."""
    fault = Fault(monkeypatch, ConnectionManager, "next_connection")
    fault.armed = False
    async with BridgeSetup(tmp_path, WSS, WSS) as setup:
        told = Told(setup)
        iterators = {role: setup.sessions(role) for role in Role}
        sessions = await both(setup, iterators)
        fault.armed = True
        await sessions[RM].close()
        again = await both(setup, iterators)
        await told.failed("accept")
        again = again if again[RM].end_reason.value == "open" else await both(setup, iterators)
        await again[RM].send(FROM_RM_FIRST)
        assert (await again[CEM].receive()).text == FROM_RM_FIRST
        await asyncio.gather(
            *(live.end("over") for e in (setup.device, setup.manager) for live in e.connected().values())
        )
    logged_once(caplog)


@pytest.mark.parametrize("side", [NodeDevicesSide, NodeManagerSide])
async def test_a_pairing_that_a_side_missed_by_an_error_is_seen_when_it_looks_again(
    side: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The task "pairings"."""
    async with BridgeSetup(tmp_path, WSS, WSS) as setup:
        told = Told(setup)
        iterators = {role: setup.sessions(role) for role in Role}
        await both(setup, iterators)
        Fault(monkeypatch, Route, "remove_device" if side is NodeDevicesSide else "pairing_changed")
        if side is NodeDevicesSide:
            await setup.device.node().unpair(setup.ids["bridge"])
        else:
            await setup.manager.node().unpair(setup.ids["representative"])
        await told.failed("pairings")
        if side is NodeDevicesSide:
            await until(lambda: not setup.bridge.node(role=CEM)._connections.peers())
        else:
            await until(lambda: str(setup.link.status().state) == "unpaired")
    logged_once(caplog)


async def test_a_connection_whose_arrival_meets_an_error_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with BridgeSetup(tmp_path, WSS, WSS) as setup:
        told = Told(setup)
        iterators = {role: setup.sessions(role) for role in Role}
        await both(setup, iterators)
        route = setup.route
        monkeypatch.setattr(setup.link, "hand_over", lambda *_: 1 / 0)
        ours, theirs = connection_pair()
        assert route.hand_over(setup.key, RM, ours) is False
        with pytest.raises(ConnectionClosed):
            await theirs.recv()
        assert [failure.task for failure in told.failures] == ["arrival"]
        await asyncio.gather(
            *(live.end("over") for e in (setup.device, setup.manager) for live in e.connected().values())
        )
    logged_once(caplog)


# The service


class Sink(service_events.Sink):
    """Takes the events of a service, but for one."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.refuses = ""

    async def put(self, event: Event) -> None:
        self.put_nowait(event)

    def put_nowait(self, event: Event) -> None:
        if self.refuses and event.event == self.refuses:
            self.refuses = ""
            raise RuntimeError(SECRET)
        self.events.append(event)

    def named(self, name: str) -> list[Event]:
        return [event for event in self.events if event.event == name]

    async def warned(self, task: str) -> Warned:
        def warnings() -> list[Warned]:
            return [event for event in self.events if isinstance(event, Warned) and event.reason == "task_failed"]

        await until(lambda: bool(warnings()))
        (warning,) = warnings()
        assert (warning.task, warning.error) == (task, "RuntimeError")
        assert SECRET not in str(self.events)
        return warning


async def test_the_events_of_a_service_go_on_after_one_that_could_not_be_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The task "report"."""
    sink = Sink()
    async with BridgeSetup(tmp_path, WSS, WSS) as setup:
        service = Service(setup.device, tmp_path, sink)
        service.follow(sessions=False)
        await asyncio.sleep(0)
        sink.refuses = "warning"
        for kind in ("lost", "told"):
            setup.device._state.events.publish(events.Notice(kind=kind, sentence="A sentence."))
        await sink.warned("report")
        await until(lambda: any(isinstance(e, Warned) and e.reason == "told" for e in sink.events))
    await service.finish(1.0)
    logged_once(caplog)


@pytest.mark.parametrize("task", ["session", "sessions"])
async def test_an_error_with_one_session_costs_a_service_that_session_alone(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sink = Sink()
    async with BridgeSetup(tmp_path, WSS, WSS) as setup:
        manager = setup.sessions(CEM)
        taking = asyncio.ensure_future(anext(manager))
        if task == "session":
            sink.refuses = "session_opened"
        else:
            Fault(monkeypatch, open_sessions, "_OpenSession")
        service = Service(setup.device, tmp_path, sink)
        service.follow()
        assert ((await sink.warned(task)).retry_in is None) == (task == "session")
        if task == "session":
            await until(lambda: bool(sink.named("session_closed")))
        again = asyncio.ensure_future(anext(manager))
        async with within(20):
            await until(lambda: bool(sink.named("session_opened")))
        for one in (taking, again):
            one.cancel()
        await asyncio.gather(taking, again, return_exceptions=True)
        await asyncio.gather(*(live.end("over") for live in setup.manager.connected().values()))
    await service.finish(1.0)
    logged_once(caplog)


async def test_the_changes_of_links_are_written_on_after_one_that_could_not_be(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The task "changes"."""
    sink, changes = Sink(), _Changes()
    sink.refuses = "link"
    async with BridgeSetup(tmp_path, WSS, WSS) as setup, Supervisor("test", FailureLog()) as background:
        background.keep(lambda: changes.write(sink), "changes")
        for _ in range(2):
            changes.add("house", setup.link.status())
        await until(lambda: bool(sink.named("link")))
        assert background.failures.counts == {"changes": 1}
    logged_once(caplog)


async def test_the_signs_of_life_for_systemd_go_on_after_an_error(caplog: pytest.LogCaptureFixture) -> None:
    """The task "watchdog"."""
    asked: list[bool] = []

    def alive() -> bool:
        asked.append(True)
        if len(asked) == 1:
            raise RuntimeError(SECRET)
        return True

    notifier = Notifier({})
    notifier.watchdog = 0.03
    async with Supervisor("test", FailureLog()) as background:
        background.keep(lambda: notifier.keep_alive(alive), "watchdog")
        await until(lambda: len(asked) > 2)
    logged_once(caplog)

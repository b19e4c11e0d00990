"""Observation of a running service over real connections: what it shows is so."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from s2connect import Endpoint, EndpointConfig, Message, NodeConfig, Pairing, RefuseMessage, Role, Session
from s2connect.bridge.bridge import Bridge
from s2connect.bridge.config_file import load
from s2connect.bridge.link_state import LinkState
from s2connect.errors import MessageRefused, NotReachable, StorageUnavailable, UsageError
from s2connect.events import Paired
from s2connect.model.roles import CommunicationRole
from s2connect.transports.websocket_connection import WebSocketConnection
from s2connect.web.facts import CodeState, LinkFacts, PeerFacts, PeerState, write_json
from s2connect.web.neighbours import Neighbours
from s2connect.web.observation import QUIET, Observation
from s2connect.web.ring import MAX_MESSAGES
from tests.bridge.bridge_fixtures import introduce
from tests.bridge.link_fixtures import answer
from tests.bridge.test_bridge_bridge import FileSetup
from tests.bridge.test_bridge_relay import measurement
from tests.waits import until, within

DETAILS = {
    "message_type": "ResourceManagerDetails",
    "resource_id": "battery",
    "roles": [{"role": "ENERGY_CONSUMER", "commodity": "ELECTRICITY"}],
    "instruction_processing_delay": 0,
    "available_control_types": ["NOT_CONTROLABLE"],
    "provides_forecast": False,
    "provides_power_measurement_types": ["ELECTRIC.POWER.L1"],
}


def power(watts: float) -> dict[str, Any]:
    return json.loads(measurement("x")) | {
        "message_id": None,
        "values": [{"commodity_quantity": "ELECTRIC.POWER.L1", "value": watts}],
    }


def config(role: Role) -> EndpointConfig:
    node = NodeConfig(role=role, brand="Acme", type="Device", model_name="One")
    return EndpointConfig(host="127.0.0.1", port=0, bind="127.0.0.1", advertise=False, nodes=(node,))


def watched(endpoint: Endpoint) -> Observation:
    observation = Observation(endpoint)
    endpoint.supervisor.keep(observation.run, "observation")
    return observation


class House:
    """An energy manager and a device, paired, the device being communication client, both observed."""

    def __init__(self, cem: Endpoint, rm: Endpoint) -> None:
        self.cem, self.rm = cem, rm
        self.manager, self.device = watched(cem), watched(rm)
        self.refusing = ""
        self._opened: asyncio.Queue[Session] = asyncio.Queue()

    async def start(self) -> Session:
        """Take sessions on both sides; return that of the device."""
        self.cem.supervisor.spawn(self._take(self.cem, None), "test-take")
        self.rm.supervisor.spawn(self._take(self.rm, self._opened), "test-take")
        return await self._opened.get()

    async def _take(self, endpoint: Endpoint, opened: asyncio.Queue[Session] | None) -> None:
        async for session in endpoint.node().sessions(answer=self._answer):
            if opened is not None:
                opened.put_nowait(session)
            endpoint.supervisor.spawn(self._read(session), "test-read")

    @staticmethod
    async def _read(session: Session) -> None:
        async for _ in session:
            pass

    def _answer(self, _: Session, message: Message) -> None:
        if self.refusing:
            raise RefuseMessage("INVALID_CONTENT", self.refusing)

    @staticmethod
    def peer(observation: Observation) -> PeerFacts:
        (peer,) = observation.snapshot().peers
        return peer


@asynccontextmanager
async def house(*, by_code: bool = False) -> AsyncIterator[House]:
    async with within(30), Endpoint.open(config=config(Role.CEM)) as cem, Endpoint.open(config=config(Role.RM)) as rm:
        made = House(cem, rm)
        if by_code:
            await rm.node().pair(str(cem.pairing_url), cem.node().issue_pairing_code())
        else:
            await introduce(rm, rm.node().id, cem, cem.node().id, rm.node().id)
            made.manager._stale = made.device._stale = True
        await until(lambda: made.manager.snapshot().peers and made.device.snapshot().peers)
        yield made


async def test_a_new_endpoint_shows_itself_and_nobody_else() -> None:
    async with Endpoint.open(config=config(Role.CEM)) as endpoint:
        snapshot = Observation(endpoint).snapshot()
    assert snapshot.service.kind == "serve"
    assert [(node.role, node.code.state) for node in snapshot.nodes] == [(Role.CEM, CodeState.NONE)]
    assert snapshot.peers == ()
    assert snapshot.certificate is not None
    assert snapshot.certificate.left > 0
    assert json.loads(write_json(snapshot))["nodes"][0]["description"]["brand"] == "Acme"


@pytest.mark.long
async def test_a_pairing_is_shown_idle_until_an_application_takes_sessions_and_its_code_is_spent() -> None:
    async with house(by_code=True) as found:
        peer = found.peer(found.manager)
        assert peer.peer.id == found.rm.node().id
        assert peer.state is PeerState.IDLE
        assert peer.missing
        await found.manager.read_codes()
        (node,) = found.manager.snapshot().nodes
        assert node.code.state is CodeState.USED
        assert node.code.since is not None
        assert "s2connect code" in node.code.helps


async def test_messages_and_their_numbers_are_shown_on_both_sides_and_so_is_power() -> None:
    async with house() as found:
        session = await found.start()
        await session.send(DETAILS)
        for watts in (10.0, 30.0, 20.0):
            await session.send(power(watts))
        await until(lambda: found.manager.messages(kind="ReceptionStatus")[3:])
        there, here = found.peer(found.manager), found.peer(found.device)
        assert (there.state, here.state) == (PeerState.CONNECTED, PeerState.CONNECTED)
        assert (there.missing, there.helps) == ("", "")
        assert (there.traffic.received, there.traffic.received_last_minute, there.traffic.sent) == (4, 4, 0)
        assert (here.traffic.sent, here.traffic.sent_last_minute, here.traffic.received) == (4, 4, 0)
        assert there.traffic.slowest_acknowledgement is None
        assert here.traffic.slowest_acknowledgement is not None
        assert there.connection is not None
        assert there.connection.heard_ago is not None
        assert there.connection.heartbeat == WebSocketConnection.peer_timeout
        for observation, direction in ((found.manager, "received"), (found.device, "sent")):
            seen = observation.messages(kind="PowerMeasurement")
            assert [one.direction for one in seen] == [direction] * 3
            assert json.loads(seen[-1].text)["values"][0]["value"] == 20.0
            assert observation.messages(after=seen[-2].number, kind="PowerMeasurement") == [seen[-1]]
            assert observation.messages(key="nobody") == []
            assert len(observation.messages(limit=2)) == 2
            (curve,) = observation.curves()
            assert (curve.key, curve.quantity, curve.unit) == (found.peer(observation).key, "ELECTRIC.POWER.L1", "W")
            values = [(point.low, point.high, point.last) for point in curve.points]
            assert min(low for low, _, _ in values) == 10.0
            assert max(high for _, high, _ in values) == 30.0
            assert values[-1][2] == 20.0
            assert abs(curve.points[-1].at - observation.snapshot().at.timestamp()) < 60


async def test_a_refused_message_is_shown_with_type_and_label_by_both_sides() -> None:
    async with house() as found:
        session = await found.start()
        found.refusing = "no \x1b[31m such device"
        with pytest.raises(MessageRefused):
            await session.send(DETAILS)
        for observation, by in ((found.manager, "us"), (found.device, "peer")):
            traffic = found.peer(observation).traffic
            assert (traffic.refused_by_us if by == "us" else traffic.refused_by_peer) == {"INVALID_CONTENT": 1}
            (refusal,) = traffic.refusals
            assert (refusal.by, refusal.type, refusal.status) == (by, "ResourceManagerDetails", "INVALID_CONTENT")
            assert refusal.label == found.refusing, "as it came"


async def test_a_measurement_that_is_refused_is_on_no_curve() -> None:
    async with house() as found:
        session = await found.start()
        await session.send(DETAILS)
        await session.send(power(10.0))
        found.refusing = "a meter of another house"
        with pytest.raises(MessageRefused):
            await session.send(power(1e9))
        found.refusing = ""
        await session.send(power(20.0))
        for observation in (found.manager, found.device):
            (curve,) = observation.curves()
            assert {value for point in curve.points for value in (point.low, point.high)} == {10.0, 20.0}


async def test_a_peer_that_falls_silent_is_shown_as_gone_within_its_heartbeat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WebSocketConnection, "ping_interval", 0.1)
    monkeypatch.setattr(WebSocketConnection, "peer_timeout", 0.5)
    async with house() as found:
        await found.start()
        assert found.peer(found.manager).state is PeerState.CONNECTED
        (live,) = found.rm.connected().values()
        connection = live.connection
        assert isinstance(connection, WebSocketConnection)
        assert connection._heart is not None
        connection._heart.cancel()  # the device is switched off, and says nothing about it
        connection._transport.pause_reading()
        monkeypatch.setattr(found.rm.node()._connections, "connect", lambda _: None)
        await until(lambda: found.peer(found.manager).state is PeerState.WAITING, 2)
        peer = found.peer(found.manager)
        assert peer.connection is None
        assert peer.missing == "The device is not connected. It has to connect to this side."
        assert peer.since > peer.paired_since
        assert peer.last_connected == peer.since
        connection._transport.abort()


async def test_a_client_says_why_when_again_and_tries_at_once_where_a_person_wants_it() -> None:
    async with house() as found:
        session = await found.start()
        key = found.peer(found.device).key
        with pytest.raises(UsageError):
            found.device.try_now(key)  # they are connected
        server = found.cem._server
        assert server is not None
        await server.close()
        await session.close()
        connections = found.rm.node()._connections
        await until(lambda: found.peer(found.device).tries.error == "not_reachable")
        await until(lambda: found.peer(found.device).tries.can_try_now)
        peer = found.peer(found.device)
        assert peer.state is PeerState.TRYING
        assert peer.tries.sentence in peer.missing
        assert peer.tries.last is not None
        assert peer.tries.next is not None
        assert "s2connect doctor" in peer.helps
        (pause,) = connections._pauses.values()
        found.device.try_now(key)
        assert pause.over.is_set()
        before = peer.tries.last
        await until(lambda: (last := found.peer(found.device).tries.last) is not None and last > before)
        with pytest.raises(UsageError):
            found.device.try_now("nobody")


async def test_a_pairing_that_the_peer_has_ended_is_shown_with_the_next_step_until_it_is_made_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with house() as found:
        await found.rm.node().unpair(found.cem.node().id)
        await until(lambda: not found.manager.snapshot().peers)
        (ended,) = found.manager.snapshot().ended
        assert (ended.by, ended.peer.id) == ("peer", found.rm.node().id)
        assert ended.sentence == "The device has ended the pairing."
        assert "s2connect pair" in ended.helps
        assert "have to be paired again" in caplog.text
        (ours,) = found.device.snapshot().ended
        assert ours.by == "us"
        await introduce(found.rm, found.rm.node().id, found.cem, found.cem.node().id, found.rm.node().id)
        server = CommunicationRole.SERVER
        found.cem._state.events.publish(Paired(node=ended.node, peer=ended.peer, communication_role=server))
        await until(lambda: found.manager.snapshot().peers and not found.manager.snapshot().ended)


async def test_news_wake_those_who_wait_and_come_at_most_a_few_times_a_second() -> None:
    async with house() as found:
        session = await found.start()
        loop, observation = asyncio.get_running_loop(), found.manager
        observation.snapshot()
        waiting = [asyncio.ensure_future(observation.changed()) for _ in range(3)]
        began = loop.time()
        await session.send(DETAILS)
        await asyncio.gather(*waiting)
        assert loop.time() - began < QUIET
        observation.snapshot()
        waiting = [asyncio.ensure_future(observation.changed())]
        await asyncio.sleep(0.5)
        waiting[0].cancel()
        await asyncio.wait(waiting)
        assert observation.journal.sleepers == []


async def test_nothing_is_kept_where_nobody_observes() -> None:
    async with Endpoint.open(config=config(Role.CEM)) as cem, Endpoint.open(config=config(Role.RM)) as rm, within(20):
        await introduce(rm, rm.node().id, cem, cem.node().id, rm.node().id)
        cem.supervisor.spawn(anext(aiter(cem.node().sessions())), "test-take")
        session = await anext(rm.node().sessions())
        assert session._observers.callbacks == ()
        assert session._awaited._ledger.latencies is None


@pytest.mark.long
async def test_a_search_in_the_network_that_fails_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = list[int]()

    async def follow(self: Neighbours) -> None:
        failed.append(1)
        if len(failed) == 1:
            raise RuntimeError("broken")
        raise NotReachable("There is no network.")

    monkeypatch.setattr(Neighbours, "_follow", follow)
    async with Endpoint.open(config=config(Role.CEM)) as endpoint, within(20):
        observation = Observation(endpoint)
        endpoint.supervisor.keep(observation.follow_network, "look-around")
        await until(lambda: observation.neighbours.note)
        assert endpoint.supervisor.failures.counts["look-around"] == 1
        assert observation.snapshot().found_note.startswith("Nothing can be found: There is no network.")


async def test_pairings_that_cannot_be_read_are_read_later(monkeypatch: pytest.MonkeyPatch) -> None:
    real, failed = Endpoint.pairings, list[int]()

    async def pairings(*arguments: Any, **named: Any) -> list[Pairing]:
        if not failed:
            failed.append(1)
            raise StorageUnavailable("The disk is gone.")
        return await real(*arguments, **named)

    async with within(20), Endpoint.open(config=config(Role.CEM)) as cem, Endpoint.open(config=config(Role.RM)) as rm:
        await introduce(rm, rm.node().id, cem, cem.node().id, rm.node().id)
        monkeypatch.setattr(Endpoint, "pairings", pairings)
        observation = watched(cem)
        await until(lambda: observation.snapshot().peers)
        assert cem.supervisor.failures.counts["observation"] == 1


# Links of a bridge


def link_of(observation: Observation) -> LinkFacts:
    (link,) = observation.snapshot().links
    return link


async def test_a_link_shows_both_sides_their_messages_and_what_the_bridge_itself_answered(tmp_path: Path) -> None:
    setup = FileSetup(tmp_path)
    async with setup.managers("a") as acceptors, within(30):
        setup.write("a", check="schema")
        async with setup.bridge() as bridge:
            observation = Observation(bridge.endpoint, bridge)
            before = link_of(observation)
            assert before.state != "up"
            assert before.missing.startswith("The device is not connected")
            assert before.device.opens == "peer"
            assert before.manager.opens == "bridge"
            device = await setup.device("a")
            manager = await anext(acceptors["a"])
            await device.send(measurement("m1"))
            await manager.recv()
            await manager.send(answer("m1", "INVALID_CONTENT"))
            await device.recv()
            await device.send('{"message_type":"PowerMeasurement","message_id":"m2"}')
            await device.recv()
            assert observation.curves() == [], "both were refused"
            link = link_of(observation)
            assert (link.state, link.missing, link.helps) == ("up", "", "")
            assert link.device.connected
            assert link.device.connection is not None
            assert link.device.connection.heard_ago is not None
            sent, got = link.device.traffic, link.manager.traffic
            assert (sent.received, sent.received_last_minute, sent.sent) == (2, 1 + 1, 0)
            assert (got.sent, got.received) == (1, 0)
            assert sent.refused_by_us == {"INVALID_MESSAGE": 1}
            assert got.refused_by_peer == {"INVALID_CONTENT": 1}
            assert got.slowest_acknowledgement is not None
            assert [one.by for one in sent.refusals] == ["us"]
            assert [one.by for one in got.refusals] == ["peer"]
            seen = [(one.key, one.direction, one.type, one.status) for one in observation.messages(key=link.key)]
            rm, cem = link.device.key, link.manager.key
            assert seen == [
                (rm, "received", "PowerMeasurement", ""),
                (cem, "received", "ReceptionStatus", "INVALID_CONTENT"),
                (rm, "received", "PowerMeasurement", ""),
                (rm, "sent", "ReceptionStatus", "INVALID_MESSAGE"),
            ]
            assert {one.key for one in observation.messages(key=cem)} == {cem}
            await device.send(measurement("m3"))
            await manager.recv()
            await manager.send(answer("m3", "OK"))
            await device.recv()
            (curve,) = observation.curves()
            assert curve.key == rm
            assert observation.snapshot().routes[0].up == 1
            json.loads(write_json(observation.snapshot()))
            await asyncio.gather(device.close(), manager.close())


async def test_an_observer_that_fails_does_not_end_a_link(tmp_path: Path) -> None:
    setup = FileSetup(tmp_path)
    async with setup.managers("a") as acceptors, within(30):
        setup.write("a")
        async with setup.bridge() as bridge:
            observation = Observation(bridge.endpoint, bridge)
            (link,) = bridge.routes["old"].links.values()

            class Broken:
                def passed(self, *_: object) -> None:
                    raise RuntimeError("broken")

                answered = passed

            link.watch = Broken()
            device = await setup.device("a")
            manager = await anext(acceptors["a"])
            await device.send(measurement("m1"))
            assert json.loads(await manager.recv())["message_id"] == "m1"
            assert link_of(observation).state == "up"
            assert bridge.endpoint.supervisor.failures.counts["observer"] == 1
            await asyncio.gather(device.close(), manager.close())


def test_the_ring_is_large_enough_for_a_conversation_and_bounded() -> None:
    assert 100 <= MAX_MESSAGES <= 10_000


async def test_a_link_whose_sides_the_bridge_opens_is_tried_at_once_where_a_person_wants_it(tmp_path: Path) -> None:
    file = tmp_path / "bridge.toml"
    file.write_text(
        'home = "home"\n[[route]]\nname = "old"\n[route.devices]\ntype = "plain-client"\n'
        '[[route.devices.device]]\nname = "a"\nurl = "ws://127.0.0.1:9/a"\n'
        '[route.manager]\ntype = "plain-client"\nurl = "ws://127.0.0.1:9/{id}"\n'
    )
    async with within(20), Bridge.open(load(file)[0]) as bridge:
        observation = Observation(bridge.endpoint, bridge)
        (link,) = bridge.routes["old"].links.values()
        await until(lambda: link.state is LinkState.FAILED)
        link._machine.retry_at = 1e9
        shown = link_of(observation)
        assert shown.tries.can_try_now
        assert shown.tries.last == shown.since
        assert shown.tries.sentence == shown.reason
        assert shown.missing.startswith("The device and the energy manager are not connected. Last attempt: ")
        observation.try_now(shown.key)
        assert link._machine.retry_at < 1e9
        await until(lambda: link_of(observation).since > shown.since)

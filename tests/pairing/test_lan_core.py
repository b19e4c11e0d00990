"""Answers of the LAN-only operations, and notices for the user."""

from __future__ import annotations

from typing import Any

import pytest

from s2connect.model.common import NodeId, Role
from s2connect.model.reply import Reply
from s2connect.pairing.lan_core import (
    ADDRESS_BURST,
    MAX_PREPARED,
    PREPARED_LIFETIME,
    AnnouncementCancelled,
    LanOperations,
    PairingAnnounced,
)
from tests.pairing.pairing_fixtures import CLIENT_ID, SERVER_ID, answered, dump, endpoint

OTHER_ID = "00000000-0000-4000-8000-000000000001"


class LanSetup:
    def __init__(self) -> None:
        self.own = endpoint(Role.CEM)
        self.core = LanOperations(lambda: self.own)
        self.now = 1000.0

    def prepare(
        self, body: dict[str, Any] | bytes | None = None, *, ready: bool = True, address: str = "10.0.0.1"
    ) -> Reply:
        raw = body if isinstance(body, bytes) else dump(body or prepare())
        return self.core.prepare_pairing(raw, address=address, ready=ready, now=self.now)

    def cancel(self, client: object = CLIENT_ID, server: object = SERVER_ID) -> Reply:
        body = dump({"clientNodeId": str(client), "serverNodeId": str(server)})
        return self.core.cancel_prepare_pairing(body, now=self.now)

    def events(self) -> list[object]:
        found, self.core.events = self.core.events, []
        return list(found)


def prepare(client: object = CLIENT_ID, *, role: str = "RM", server: object = SERVER_ID) -> dict[str, Any]:
    return {
        "clientNodeDescription": {"id": str(client), "brand": "B", "type": "T", "modelName": "M", "role": role},
        "clientEndpointDescription": {"name": "client", "deployment": "LAN"},
        "serverNodeId": str(server),
    }


@pytest.fixture
def setup() -> LanSetup:
    return LanSetup()


@pytest.mark.rule("LAN-03")
def test_the_application_is_told_who_is_about_to_pair(setup: LanSetup) -> None:
    assert setup.prepare() == Reply(204)
    (event,) = setup.events()
    assert isinstance(event, PairingAnnounced)
    assert (event.node, event.peer.id, event.peer_endpoint.name) == (SERVER_ID, CLIENT_ID, "client")


@pytest.mark.rule("LAN-03")
def test_an_unknown_node_is_answered_like_a_known_one_and_nobody_is_told(setup: LanSetup) -> None:
    assert setup.prepare(prepare(server=OTHER_ID)) == Reply(204)
    assert setup.events() == []


@pytest.mark.rule("LAN-03")
@pytest.mark.parametrize(
    ("body", "ready", "reason"),
    [
        (b"{", True, "ParsingError"),
        (b"[]", True, "ParsingError"),
        ({"serverNodeId": str(SERVER_ID)}, True, "ParsingError"),
        ({**prepare(), "serverNodeId": "no id"}, True, "ParsingError"),
        (prepare(role="CEM"), True, "InvalidCombinationOfRoles"),
        (prepare(role="EV"), True, "ParsingError"),
        (prepare(), False, "Other"),
    ],
)
def test_what_would_be_refused_is_refused_at_once(setup: LanSetup, body: Any, ready: bool, reason: str) -> None:
    reply = setup.prepare(body, ready=ready)
    assert reply.status == 400
    assert answered(reply)["errorMessage"] == reason
    assert setup.events() == []


@pytest.mark.rule("LAN-04")
def test_a_cancellation_is_told_once_and_an_unknown_one_not_at_all(setup: LanSetup) -> None:
    setup.prepare()
    setup.events()
    assert setup.cancel(client=OTHER_ID) == Reply(204)
    assert setup.cancel(server=OTHER_ID) == Reply(204)
    assert setup.events() == []
    assert setup.cancel() == Reply(204)
    assert setup.events() == [AnnouncementCancelled(SERVER_ID, NodeId(CLIENT_ID))]
    assert setup.cancel() == Reply(204)
    assert setup.events() == []


def test_a_malformed_cancellation_is_a_400(setup: LanSetup) -> None:
    reply = setup.core.cancel_prepare_pairing(b"{}", now=setup.now)
    assert (reply.status, answered(reply)["errorMessage"]) == (400, "ParsingError")


@pytest.mark.rule("SEC-03")
def test_a_client_opens_one_pop_up_a_second_at_most(setup: LanSetup) -> None:
    for _ in range(50):
        assert setup.prepare() == Reply(204)
        setup.now += 0.01
    assert len(setup.events()) == 1
    setup.now += 1.0
    setup.prepare()
    assert len(setup.events()) == 1


@pytest.mark.rule("SEC-03")
def test_an_address_that_invents_clients_is_held_back_and_others_are_not(setup: LanSetup) -> None:
    for number in range(200):
        assert setup.prepare(prepare(OTHER_ID[:-4] + f"{number:04}")) == Reply(204)
    assert len(setup.events()) == ADDRESS_BURST
    setup.prepare(address="10.0.0.2")
    assert len(setup.events()) == 1


@pytest.mark.rule("SEC-03")
def test_open_pop_ups_are_bounded_however_many_addresses_ask(setup: LanSetup) -> None:
    open_ones = 0
    for number in range(300):
        setup.prepare(prepare(OTHER_ID[:-4] + f"{number:04}"), address=f"10.0.1.{number % 250}")
        for event in setup.events():
            open_ones += 1 if isinstance(event, PairingAnnounced) else -1
        assert open_ones <= MAX_PREPARED
    assert open_ones == MAX_PREPARED


def test_an_announcement_nobody_cancels_ends_by_itself(setup: LanSetup) -> None:
    assert setup.core.next_deadline() is None
    setup.prepare()
    setup.events()
    assert setup.core.next_deadline() == setup.now + PREPARED_LIFETIME
    setup.core.expire(now=setup.now + PREPARED_LIFETIME - 0.1)
    assert setup.events() == []
    setup.core.expire(now=setup.now + PREPARED_LIFETIME)
    assert setup.events() == [AnnouncementCancelled(SERVER_ID, NodeId(CLIENT_ID))]
    assert setup.core.next_deadline() is None

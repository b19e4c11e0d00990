"""Round trips to PostgreSQL of a session initiation and of a pairing: each costs more CPU than most statements do."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from s2connect.endpoint.ownership import InstanceOwnership
from s2connect.session.http_server import UNKNOWN_CHANGES
from s2connect.shared import state
from s2connect.transports.memory import memory_pair
from tests.instances.instances import Instance, instances, session_request
from tests.instances.test_instances_at_once import begin, exchange, finalize, issue
from tests.store.postgresql_wire import Wire, wire

WARM = 8
"""Times after which psycopg has prepared every statement."""

Trips = dict[str, list[list[str]]]


@pytest.fixture
async def counted(postgresql: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Instance, Wire]]:
    """An instance whose round trips are counted, without tasks of its own, and without the second of PAIR-02."""
    monkeypatch.setattr(InstanceOwnership, "start", lambda _: None)
    monkeypatch.setattr(state, "SWEEP_EVERY", 3600.0)
    async with wire(postgresql) as between, instances(between.through) as (one,):
        one.pairing.server.delay = 0.0
        await issue(one, lifetime=None)
        yield one, between


async def paired(one: Instance, between: Wire) -> tuple[str, Trips]:
    between.trips()
    trips: Trips = {}
    begun = await begin(one, 1)
    trips["requestPairing"] = between.trips()
    access = str((await exchange(one, begun)).body["accessToken"])
    trips["requestConnectionDetails"] = between.trips()
    assert (await finalize(one, begun)).status == 204
    trips["finalizePairing"] = between.trips()
    return access, trips


def counts(trips: Trips) -> dict[str, list[int]]:
    """Return the number of statements of each round trip."""
    return {step: [len(trip) for trip in one] for step, one in trips.items()}


@pytest.mark.rule("SES-02")
async def test_a_session_initiation_makes_seven_round_trips(counted: tuple[Instance, Wire]) -> None:
    one, between = counted
    access, _ = await paired(one, between)
    trips: Trips = {}
    for _ in range(WARM):
        between.trips()
        access = (await one.ask("session/initiateSession", session_request(1), access)).body["accessToken"]
        trips["initiateSession"] = between.trips()
        details = (await one.ask("session/confirmAccessToken", b"", access)).body
        trips["confirmAccessToken"] = between.trips()
        assert one.pairings.offers is not None
        taken = await one.pairings.offers.take(details["websocketToken"])
        assert taken is not None
        connection, _ = memory_pair(taken.info, taken.info)
        await one.pairings.opened(connection, taken.pairing, UNKNOWN_CHANGES, taken.claim)
        trips["upgrade"] = between.trips()
    expected = {"initiateSession": [1, 1], "confirmAccessToken": [2, 3], "upgrade": [2, 1, 1]}
    assert counts(trips) == expected, trips


@pytest.mark.rule("PAIR-01")
async def test_a_pairing_makes_sixteen_round_trips(counted: tuple[Instance, Wire]) -> None:
    one, between = counted
    for _ in range(WARM):
        _, trips = await paired(one, between)
    expected = {
        # The node is locked to queue the request, to take its turn, and to begin the attempt.
        "requestPairing": [5, 2, 1, 4, 4, 5, 1, 2],
        "requestConnectionDetails": [1, 5, 2],
        "finalizePairing": [1, 5, 1, 5, 5],
    }
    assert counts(trips) == expected, trips

"""Drain of many sessions: each is asked to connect anew, at a bounded rate."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

pytest.importorskip("psycopg")

from s2connect import Role, Session, SessionEnd
from s2connect.endpoint import draining
from s2connect.endpoint.connections import ConnectionManager
from s2connect.endpoint.draining import STEP, drain
from s2connect.errors import StorageUnavailable
from s2connect.model.common import DEFAULT_S2_VERSION, NodeDescription
from s2connect.transports.base import ConnectionInfo
from s2connect.transports.memory import MEMORY, memory_pair
from tests.instances.instances import NODES, instances
from tests.session.session_fixtures import pairing
from tests.waits import until, within


class Peer:
    """A device with a session at an instance.

    Attributes:
        asked_at: When it was asked to connect anew; 0.0 if it was not.
    """

    def __init__(self, manager: ConnectionManager, number: int) -> None:
        known = pairing(number)
        local, remote = NODES[0], known.key.remote
        sides = memory_pair(
            ConnectionInfo(MEMORY, local, remote, DEFAULT_S2_VERSION),
            ConnectionInfo(MEMORY, remote, local, DEFAULT_S2_VERSION),
        )
        cem = NodeDescription(id=local, brand="b", type="t", model_name="m", role=Role.CEM)
        live = manager.attach(sides[0], known)
        live.session = Session(sides[0], peer=known.peer, role=Role.CEM)
        self.session = Session(sides[1], peer=cem, role=Role.RM)
        self.asked_at = 0.0
        self.session.observe(self._note)

    def _note(self, direction: str, message: Any) -> None:
        if message.type == "SessionRequest":
            self.asked_at = time.monotonic()


async def test_each_of_500_sessions_is_asked_to_connect_anew_at_a_bounded_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draining, "NOTICED_AFTER", 0.0)
    rate = 500.0
    async with within(30), instances(None) as (one,):
        manager = one.connections[NODES[0]]
        peers = [Peer(manager, number) for number in range(500)]
        began = time.monotonic()
        drained = asyncio.create_task(drain(one.state, one.connections, None, None, wait=1.0, rate=rate))
        await until(lambda: sum(peer.asked_at > 0 for peer in peers) > 100)
        peers.append(Peer(manager, 500))  # its connection was taken before the port was closed
        assert await drained == 501
        assert {peer.session.end_reason for peer in peers} == {SessionEnd.RECONNECT_REQUESTED}
        for number, asked_at in enumerate(sorted(peer.asked_at for peer in peers[:500])):
            assert asked_at - began >= number / rate - STEP, "never faster"


async def test_without_the_database_the_balancer_has_its_time_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    class Lost:
        async def open_offers(self, _: object) -> None:
            raise StorageUnavailable("The database does not answer.")

    monkeypatch.setattr(draining, "NOTICED_AFTER", 0.3)
    async with within(30), instances(None) as (one,):
        peer = Peer(one.connections[NODES[0]], 0)
        began = time.monotonic()
        lost: Any = Lost()
        assert await drain(one.state, one.connections, lost, None, wait=5.0, rate=100.0) == 1
        assert time.monotonic() - began >= 0.3
        assert peer.session.end_reason is SessionEnd.RECONNECT_REQUESTED

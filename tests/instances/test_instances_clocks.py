"""Instances on machines whose clocks differ: what is young for one is young for all."""

from __future__ import annotations

import random
import time
from uuid import UUID

import pytest

from s2connect.model.common import EndpointDescription, NodeDescription, NodeId, Role
from s2connect.model.roles import CommunicationRole
from s2connect.model.secret import AccessToken
from s2connect.store.base import Pairing, PairKey
from tests.instances.instances import NODES, Instance, client_id, instances, session_request
from tests.instances.test_instances_at_once import issue, pair

CLIENT = NodeId(UUID(int=client_id(1).int))


async def read_clock(several: list[Instance]) -> None:
    for instance in several:
        assert instance.state.shared is not None
        await instance.state.shared.owners().probe()


def differ(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Let the clock of this machine be another one from now on."""
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + seconds)


async def unconfirmed(instance: Instance, token: AccessToken) -> Pairing:
    """A pairing of which this instance is pairing client and communication server, and has not got the last answer."""
    peer = NodeDescription(id=CLIENT, brand="Brand", type="Heat pump", model_name="HP", role=Role.RM)
    key = PairKey(NODES[0], CLIENT)
    made = Pairing(key, CommunicationRole.SERVER, peer, EndpointDescription(), confirmed=False)
    await instance.store.save_pairing(made, token)
    return made


@pytest.mark.rule("PAIRC-06")
@pytest.mark.parametrize("seconds", [60.0, -60.0])
async def test_a_session_settles_a_pairing_at_an_instance_whose_clock_differs(
    postgresql: str, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    token = AccessToken.from_bytes(random.randbytes(32))
    async with instances(postgresql, 2) as several:
        await read_clock(several)
        await unconfirmed(several[0], token)
        differ(monkeypatch, seconds)
        answered = await several[1].ask("session/initiateSession", session_request(1), token.reveal())
        assert answered.status == 200
        (pairing,) = await several[0].store.pairings()
        assert pairing.confirmed


@pytest.mark.rule("PAIRC-06")
async def test_an_instance_whose_clock_is_ahead_ends_no_young_pairing_of_another(
    postgresql: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with instances(postgresql, 2) as several:
        await read_clock(several)
        made = await unconfirmed(several[0], AccessToken.from_bytes(random.randbytes(32)))
        differ(monkeypatch, 60)
        assert several[1].pairings.is_under_way(made)
        await several[1].pairings.settle_unconfirmed()
        assert await several[0].store.pairings() == [made]


async def test_a_pairing_has_the_time_of_the_database(postgresql: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with instances(postgresql, 2) as several:
        await read_clock(several)
        await issue(several[0], lifetime=None)
        differ(monkeypatch, -3600)
        await pair(several, 1)
        (pairing,) = await several[0].store.pairings()
        assert 3500 < pairing.paired_at - time.time() < 3700


async def test_an_instance_without_a_time_of_the_database_takes_its_own(postgresql: str) -> None:
    async with instances(postgresql) as (one,):
        assert abs(one.state.wall_time() - time.time()) < 5

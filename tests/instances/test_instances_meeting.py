"""Two parties of a link that each come to whichever instance: the second is led to the one at which the first waits."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import psycopg
import pytest
from websockets.asyncio.client import ClientConnection

from s2connect.model.common import NodeId
from s2connect.session.ownership import LinkRow, Meeting
from s2connect.session.server_core import LedTo
from s2connect.store.base import Pairing, PairKey
from s2connect.store.postgresql.rows import pair_values
from tests.instances.instances import NODES, client_id, session_request
from tests.instances.test_instances_at_once import pair
from tests.instances.test_instances_offers import CLIENT, come
from tests.instances.test_instances_through import Through, through
from tests.waits import until

RM, CEM = Meeting("RM", "CEM", 20.0), Meeting("CEM", "RM", 20.0)


def new_link() -> PairKey:
    return PairKey(NodeId(uuid4()), NodeId(uuid4()))


def told(taken: tuple[LinkRow, str | None]) -> tuple[str, int]:
    return taken[0].owner, taken[0].generation


async def test_the_second_party_finds_the_instance_of_the_first_once(postgresql: str) -> None:
    async with through(postgresql) as cloud:
        a, b, c = (one.state.shared.owners() for one in cloud.several)  # type: ignore[union-attr]
        key = new_link()
        assert told(await a.take_link(key, RM)) == ("i0", 1)
        assert told(await b.take_link(key, CEM)) == ("i0", 1)
        assert told(await c.take_link(key, CEM)) == ("i2", 2), "the first may be dead, without being known to"
        assert told(await a.take_link(key, RM)) == ("i2", 2), "now this one is awaited there"
        assert told(await b.take_link(key, None)) == ("i1", 3)


@pytest.mark.parametrize("why", ["same", "dead", "drains", "gone", "late", "cannot be led", "itself"])
async def test_it_takes_the_link_where_nobody_awaits_it(postgresql: str, why: str) -> None:
    async with through(postgresql) as cloud:
        a, b, _ = (one.state.shared.owners() for one in cloud.several)  # type: ignore[union-attr]
        key, second = new_link(), CEM
        await a.take_link(key, Meeting("RM", "CEM", 0.0) if why == "late" else RM)
        match why:
            case "same":
                second = RM
            case "dead":
                cloud.seen("i0", ago=16)
            case "cannot be led":
                second = Meeting("", "RM", 20.0)
            case "drains" | "gone":
                with psycopg.connect(postgresql, autocommit=True) as connection:
                    change = "UPDATE instance SET draining = true" if why == "drains" else "DELETE FROM instance"
                    connection.execute(f"{change} WHERE name = 'i0'".encode())
        taker = a if why == "itself" else b
        assert told(await taker.take_link(key, second)) == (taker.instance, 2)


async def test_of_two_parties_that_come_at_once_one_is_led_to_the_other(postgresql: str) -> None:
    async with through(postgresql) as cloud:
        a, b, c = (one.state.shared.owners() for one in cloud.several)  # type: ignore[union-attr]
        for _ in range(10):
            key = new_link()
            one, other = await asyncio.gather(a.take_link(key, RM), b.take_link(key, CEM))
            assert told(one) == told(other)
            assert await c.links([key]) == {key: one[0]}


@pytest.mark.parametrize("known", [True, False])
async def test_a_party_that_comes_while_the_other_one_is_just_taking_the_link_is_led_to_it(
    postgresql: str, known: bool
) -> None:
    """Also where nobody has had the link before, so that there is no row to lock."""
    waits = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    taking = (
        "INSERT INTO link (local, remote, owner, until, generation, awaits, awaits_until)"
        " VALUES (%s, %s, 'i0', now() + interval '30 s', 7, 'CEM', now() + interval '20 s')"
        " ON CONFLICT (local, remote) DO UPDATE SET owner = excluded.owner, generation = excluded.generation,"
        " awaits = excluded.awaits, awaits_until = excluded.awaits_until"
    )
    async with through(postgresql) as cloud:
        _, b, c = (one.state.shared.owners() for one in cloud.several)  # type: ignore[union-attr]
        key = new_link()
        if known:
            await c.take_link(key, None)
        with psycopg.connect(postgresql) as first, psycopg.connect(postgresql, autocommit=True) as looking:
            first.execute(taking, pair_values(key))
            second = asyncio.create_task(b.take_link(key, CEM))
            await until(lambda: looking.execute(waits).fetchone())
            first.commit()
            assert told(await second) == ("i0", 7)
        assert told(await b.take_link(key, CEM)) == ("i1", 8)


# Over HTTPS and WebSocket


async def led(cloud: Through) -> list[tuple[int, UUID]]:
    """Have every instance lead its clients to the first, where it may; return who prepared a session for whom."""
    prepared: list[tuple[int, UUID]] = []
    for number, instance in enumerate(cloud.several):

        async def prepare(pairing: Pairing, version: str, may_lead: bool, number: int = number) -> str | LedTo | None:
            if may_lead:
                return LedTo("i0")
            prepared.append((number, pairing.key.remote))
            return "not now" if number in cloud.refuse else None

        instance.connections[NODES[0]].preparing_hook = prepare
    return prepared


@pytest.mark.rule("SES-04")
async def test_a_client_that_is_led_comes_to_that_instance_which_prepares_its_session_then(postgresql: str) -> None:
    async with through(postgresql) as cloud:
        prepared = await led(cloud)
        confirmed = await cloud.confirm(2, await cloud.initiate(1))
        assert urlsplit(confirmed.body["websocketUrl"]).netloc == "i0.i.cloud.example:443"
        assert not prepared
        client = await come(cloud.ports[0], confirmed.body["websocketToken"])
        assert isinstance(client, ClientConnection)
        assert prepared == [(0, CLIENT)]
        await until(lambda: bool(cloud.several[0].connections[NODES[0]].peers()))
        await client.close()


@pytest.mark.rule("SES-04")
async def test_where_that_instance_is_dead_another_one_prepares_it(postgresql: str) -> None:
    async with through(postgresql) as cloud:
        prepared = await led(cloud)
        pending = await cloud.initiate(1)
        cloud.seen("i0", ago=16)
        confirmed = await cloud.confirm(1, pending)
        assert urlsplit(confirmed.body["websocketUrl"]).netloc == "cloud.example:443"
        cloud.refuse.add(2)
        assert await come(cloud.ports[2], confirmed.body["websocketToken"]) == 503
        client = await come(cloud.ports[1], confirmed.body["websocketToken"])
        assert isinstance(client, ClientConnection)
        assert prepared == [(2, CLIENT), (1, CLIENT)]
        await client.close()


async def test_nobody_is_led_without_urls_of_instances(postgresql: str) -> None:
    async with through(postgresql, named=False) as cloud:
        prepared = await led(cloud)
        client = await come(cloud.ports[1], (await cloud.confirm(1, await cloud.initiate(1))).body["websocketToken"])
        assert isinstance(client, ClientConnection)
        assert prepared == [(1, CLIENT)]
        await client.close()


@pytest.mark.rule("SES-04")
async def test_a_token_of_another_pairing_at_the_url_of_an_instance_opens_the_session_of_that_pairing_only(
    postgresql: str,
) -> None:
    """Reflection: what one peer is told of an instance is of no use with what another one has."""
    async with through(postgresql) as cloud:
        prepared = await led(cloud)
        token = (await cloud.confirm(1, await cloud.initiate(1))).body["websocketToken"]
        theirs = await pair(cloud.several, 2)
        first = cloud.several[0].connections[NODES[0]]
        for wrong in (theirs, cloud.access, "", token[:-1], f"{token}="):
            assert await come(cloud.ports[0], wrong) == 401, "an access token opens no connection"
        assert not prepared, "nothing is prepared for them"
        initiated = await cloud.several[2].ask("session/initiateSession", session_request(2), theirs)
        confirmed = await cloud.several[2].ask("session/confirmAccessToken", b"", str(initiated.body["accessToken"]))
        other = await come(cloud.ports[0], confirmed.body["websocketToken"])
        assert isinstance(other, ClientConnection)
        await until(lambda: len(first.peers()) == 1)
        assert prepared == [(0, client_id(2))]
        client = await come(cloud.ports[0], token)
        assert isinstance(client, ClientConnection)
        await until(lambda: len(first.peers()) == 2)
        assert prepared == [(0, client_id(2)), (0, client_id(1))], "each its own"
        assert [await come(port, token) for port in cloud.ports] == [401] * 3
        await asyncio.gather(client.close(), other.close())

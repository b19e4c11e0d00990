"""A session that one instance has prepared: its connection is led there, or prepared anew where it comes to."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from urllib.parse import urlsplit

import psycopg
import pytest
from websockets.asyncio.client import ClientConnection

from s2connect.pairing.code import PairingToken
from s2connect.store.base import Pairing
from tests.instances.instances import NODES, TOKEN, Answered, Instance, instances, session_request
from tests.instances.test_instances_at_once import pair
from tests.instances.test_instances_offers import CLIENT, come
from tests.waits import until


class Through:
    """Three instances, each of which prepares the sessions that are requested there.

    Attributes:
        prepared: Number of sessions that each has prepared.
        refuse: Instances that refuse to prepare any.
        access: The access token of a paired device.
    """

    def __init__(self, several: Sequence[Instance], ports: Sequence[int], url: str) -> None:
        self.several = several
        self.ports = ports
        self.prepared = [0] * len(several)
        self.refuse: set[int] = set()
        self.access = ""
        self._url = url

    async def begin(self, *, named: bool) -> None:
        """Have the instances prepare, and pair a device."""
        local = self.several[0].state.local.nodes[NODES[0]]
        await self.several[0].pairing.new_code(local, PairingToken(TOKEN))
        self.access = await pair(self.several, 1)
        for number, instance in enumerate(self.several):
            connections = instance.connections[NODES[0]]
            connections.preparing_hook = self._admit(number)
            if named:
                config = instance.state.config
                instance.state.config = config.model_copy(update={"instance_url": "wss://{instance}.i.cloud.example"})

    def _admit(self, number: int):  # type: ignore[no-untyped-def]
        async def admit(pairing: Pairing, s2_version: str, may_lead: bool) -> str | None:
            self.prepared[number] += 1
            return "not now" if number in self.refuse else None

        return admit

    def seen(self, *names: str, ago: float = 0.0) -> None:
        """Let instances have been seen so long ago."""
        with psycopg.connect(self._url, autocommit=True) as connection:
            for name in names:
                connection.execute(
                    "INSERT INTO instance (name, started, seen, version, schema)"
                    " VALUES (%s, now(), clock_timestamp() - make_interval(secs => %s), '', 0)"
                    " ON CONFLICT (name) DO UPDATE SET seen = excluded.seen",
                    (name, ago),
                )

    async def initiate(self, instance: int) -> str:
        """Initiate at an instance; return the pending token."""
        answered = await self.several[instance].ask("session/initiateSession", session_request(1), self.access)
        assert answered.status == 200, answered
        return str(answered.body["accessToken"])

    async def confirm(self, instance: int, pending: str) -> Answered:
        """Confirm at an instance; the client has a new access token then."""
        answered = await self.several[instance].ask("session/confirmAccessToken", b"", pending)
        if answered.status == 200:
            self.access = pending
        return answered


@contextlib.asynccontextmanager
async def through(url: str, *, named: bool = True) -> AsyncIterator[Through]:
    """Three instances that prepare sessions, with a paired device."""
    async with instances(url, 3) as several, contextlib.AsyncExitStack() as stack:
        ports = [await stack.enter_async_context(one.listening()) for one in several]
        made = Through(several, ports, url)
        await made.begin(named=named)
        made.seen("i0", "i1", "i2")
        yield made


@pytest.mark.rule("SES-04")
async def test_the_url_of_the_connection_names_the_instance_that_has_prepared_it(postgresql: str) -> None:
    async with through(postgresql) as cloud:
        confirmed = await cloud.confirm(1, await cloud.initiate(0))
        assert confirmed.status == 200
        assert urlsplit(confirmed.body["websocketUrl"]).netloc == "i0.i.cloud.example:443"
        token = confirmed.body["websocketToken"]
        client = await come(cloud.ports[0], token)
        assert isinstance(client, ClientConnection)
        await until(lambda: CLIENT in cloud.several[0].connections[NODES[0]].peers())
        assert [await come(port, token) for port in cloud.ports] == [401] * 3, "once"
        assert cloud.prepared == [1, 0, 0]
        await client.close()


async def test_without_a_url_for_instances_it_is_that_of_all_of_them(postgresql: str) -> None:
    async with through(postgresql, named=False) as cloud:
        confirmed = await cloud.confirm(1, await cloud.initiate(0))
        assert urlsplit(confirmed.body["websocketUrl"]).netloc == "cloud.example:443"
        client = await come(cloud.ports[0], confirmed.body["websocketToken"])
        assert isinstance(client, ClientConnection)
        assert cloud.prepared == [1, 0, 0]
        await client.close()


@pytest.mark.rule("SES-04")
async def test_an_instance_that_has_not_prepared_it_does_so_before_it_takes_the_connection(postgresql: str) -> None:
    async with through(postgresql, named=False) as cloud:
        token = (await cloud.confirm(1, await cloud.initiate(0))).body["websocketToken"]
        assert await come(cloud.ports[2], "nobody knows it") == 401
        assert cloud.prepared == [1, 0, 0], "for those only who have the token"
        client = await come(cloud.ports[2], token)
        assert isinstance(client, ClientConnection)
        assert cloud.prepared == [1, 0, 1]
        await until(lambda: CLIENT in cloud.several[2].connections[NODES[0]].peers())
        assert [await come(port, token) for port in cloud.ports] == [401] * 3, "once"
        await client.close()


@pytest.mark.rule("SES-04")
async def test_an_instance_that_cannot_prepare_it_uses_no_offer_up(postgresql: str) -> None:
    async with through(postgresql, named=False) as cloud:
        cloud.refuse |= {1, 2}
        token = (await cloud.confirm(1, await cloud.initiate(0))).body["websocketToken"]
        assert [await come(port, token) for port in cloud.ports[1:]] == [503, 503]
        client = await come(cloud.ports[0], token)
        assert isinstance(client, ClientConnection)
        await client.close()


async def test_of_those_who_come_with_one_token_to_several_instances_one_is_taken(postgresql: str) -> None:
    async with through(postgresql, named=False) as cloud:
        token = (await cloud.confirm(1, await cloud.initiate(0))).body["websocketToken"]
        came = await asyncio.gather(*(come(port, token) for port in [*cloud.ports, *cloud.ports]))
        connected = [one for one in came if isinstance(one, ClientConnection)]
        assert len(connected) == 1
        assert sorted(one for one in came if isinstance(one, int)) == [401] * 5
        await connected[0].close()


async def test_a_node_that_prepares_nothing_takes_connections_at_any_instance(postgresql: str) -> None:
    async with through(postgresql) as cloud:
        for instance in cloud.several:
            instance.connections[NODES[0]].preparing_hook = None
        confirmed = await cloud.confirm(1, await cloud.initiate(0))
        assert urlsplit(confirmed.body["websocketUrl"]).netloc == "cloud.example:443"
        client = await come(cloud.ports[2], confirmed.body["websocketToken"])
        assert isinstance(client, ClientConnection)
        await client.close()


@pytest.mark.rule("SES-03")
async def test_nobody_is_led_to_a_dead_instance(postgresql: str) -> None:
    async with through(postgresql) as cloud:
        pending = await cloud.initiate(0)
        cloud.seen("i0", ago=16)
        confirmed = await cloud.confirm(1, pending)
        assert urlsplit(confirmed.body["websocketUrl"]).netloc == "cloud.example:443"
        client = await come(cloud.ports[2], confirmed.body["websocketToken"])
        assert isinstance(client, ClientConnection)
        assert cloud.prepared == [1, 0, 1]
        await client.close()


async def test_an_instance_leads_to_itself_also_where_its_row_is_lost(postgresql: str) -> None:
    """As after a crash of the database, until it is renewed."""
    async with through(postgresql) as cloud:
        pending = await cloud.initiate(0)
        cloud.seen("i0", ago=100)
        assert urlsplit((await cloud.confirm(0, pending)).body["websocketUrl"]).netloc == "i0.i.cloud.example:443"

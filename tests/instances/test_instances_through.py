"""A session that one instance has prepared: its connection comes to that instance, whoever confirms the token."""

from __future__ import annotations

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
        access: The access token of a paired device.
    """

    def __init__(self, several: Sequence[Instance], ports: Sequence[int], url: str) -> None:
        self.several = several
        self.ports = ports
        self.prepared = [0] * len(several)
        self.access = ""
        self._url = url

    async def begin(self, *, named: bool) -> None:
        """Have the instances prepare, and pair a device."""
        local = self.several[0].state.local.nodes[NODES[0]]
        await self.several[0].pairing.new_code(local, PairingToken(TOKEN))
        self.access = await pair(self.several, 1)
        for number, instance in enumerate(self.several):
            connections = instance.connections[NODES[0]]
            connections.admission_hook, connections.prepares = self._admit(number), True
            if named:
                config = instance.state.config
                instance.state.config = config.model_copy(update={"instance_url": "wss://{instance}.i.cloud.example"})

    def _admit(self, number: int):  # type: ignore[no-untyped-def]
        async def admit(pairing: Pairing, s2_version: str) -> str | None:
            self.prepared[number] += 1
            return None

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
        assert [await come(port, token) for port in cloud.ports[1:]] == [503, 503]
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
        assert await come(cloud.ports[2], confirmed.body["websocketToken"]) == 503
        client = await come(cloud.ports[0], confirmed.body["websocketToken"])
        assert isinstance(client, ClientConnection)
        await client.close()


async def test_a_node_that_prepares_nothing_takes_connections_at_any_instance(postgresql: str) -> None:
    async with through(postgresql) as cloud:
        for instance in cloud.several:
            instance.connections[NODES[0]].prepares = False
        confirmed = await cloud.confirm(1, await cloud.initiate(0))
        assert urlsplit(confirmed.body["websocketUrl"]).netloc == "cloud.example:443"
        client = await come(cloud.ports[2], confirmed.body["websocketToken"])
        assert isinstance(client, ClientConnection)
        await client.close()


@pytest.mark.rule("SES-02")
async def test_a_token_of_a_dead_instance_is_not_confirmed_and_the_old_one_still_counts(postgresql: str) -> None:
    async with through(postgresql) as cloud:
        pending = await cloud.initiate(0)
        cloud.seen("i0", ago=16)
        assert (await cloud.confirm(1, pending)).status == 401
        confirmed = await cloud.confirm(2, await cloud.initiate(1))
        assert urlsplit(confirmed.body["websocketUrl"]).netloc == "i1.i.cloud.example:443"
        client = await come(cloud.ports[1], confirmed.body["websocketToken"])
        assert isinstance(client, ClientConnection)
        await client.close()


async def test_an_instance_confirms_what_it_has_prepared_also_where_its_row_is_lost(postgresql: str) -> None:
    """As after a crash of the database, until it is renewed."""
    async with through(postgresql) as cloud:
        pending = await cloud.initiate(0)
        cloud.seen("i0", ago=100)
        assert (await cloud.confirm(0, pending)).status == 200

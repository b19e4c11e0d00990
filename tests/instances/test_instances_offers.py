"""A connection that was offered at one instance is taken at any of them, once."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

import psycopg
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

from s2connect.model.common import NodeId
from s2connect.pairing.code import PairingToken
from tests.instances.instances import NODES, TOKEN, Instance, client_id, instances, session_request
from tests.instances.test_instances_at_once import pair
from tests.waits import until

CLIENT = NodeId(client_id(1))


@contextlib.asynccontextmanager
async def served(url: str) -> AsyncIterator[tuple[list[Instance], list[int], str]]:
    """Three instances, their ports, and the access token of a paired device."""
    async with instances(url, 3) as several, contextlib.AsyncExitStack() as stack:
        local = several[0].state.local.nodes[NODES[0]]
        await several[0].pairing.new_code(local, PairingToken(TOKEN))
        access = await pair(several, 1)
        ports = [await stack.enter_async_context(one.listening()) for one in several]
        yield several, ports, access


async def offered(several: Sequence[Instance], access: str) -> tuple[str, str]:
    """Begin a session at two instances; return the token of the connection, and the next access token."""
    pending = await several[0].ask("session/initiateSession", session_request(1), access)
    confirmed = await several[1].ask("session/confirmAccessToken", b"", pending.body["accessToken"])
    assert confirmed.body["websocketUrl"].startswith("wss://cloud.example")
    return str(confirmed.body["websocketToken"]), str(pending.body["accessToken"])


async def come(port: int, token: str) -> ClientConnection | int:
    """Connect; return the connection, or the status of the refusal."""
    headers = {"Authorization": f"Bearer {token}"}
    try:
        return await connect(f"ws://127.0.0.1:{port}/", additional_headers=headers, proxy=None)
    except InvalidStatus as refused:
        return refused.response.status_code


@pytest.mark.rule("SES-04")
async def test_the_connection_comes_to_the_instance_that_is_asked(postgresql: str) -> None:
    async with served(postgresql) as (several, ports, access):
        token, _ = await offered(several, access)
        client = await come(ports[2], token)
        assert isinstance(client, ClientConnection)
        await until(lambda: CLIENT in several[2].connections[NODES[0]].peers())
        assert not several[0].connections[NODES[0]].peers()
        assert [await come(port, token) for port in ports] == [401] * 3, "once"
        await client.close()


@pytest.mark.rule("SES-04")
async def test_of_those_who_come_with_one_token_at_once_one_is_taken(postgresql: str) -> None:
    async with served(postgresql) as (several, ports, access):
        for _ in range(2):
            token, access = await offered(several, access)
            came = await asyncio.gather(*(come(port, token) for port in ports * 2))
            connected = [one for one in came if isinstance(one, ClientConnection)]
            assert len(connected) == 1
            assert sorted(one for one in came if isinstance(one, int)) == [401] * 5
            await connected[0].close()


@pytest.mark.rule("SES-04")
async def test_an_offer_is_void_after_a_later_one_or_an_unpairing(postgresql: str) -> None:
    async with served(postgresql) as (several, ports, access):
        first, access = await offered(several, access)
        second, access = await offered(several, access)
        assert await come(ports[2], first) == 401
        await several[0].pairings.unpair(NODES[0], CLIENT)
        assert await come(ports[2], second) == 401


async def test_an_offer_whose_pairing_is_gone_makes_no_connection(postgresql: str) -> None:
    """As between the removal of a pairing and what follows from it."""
    async with served(postgresql) as (several, ports, access):
        token, _ = await offered(several, access)
        with psycopg.connect(postgresql, autocommit=True) as connection:
            connection.execute("UPDATE pairing SET paired_at = paired_at + 1")
        assert await come(ports[0], token) == 401


@pytest.mark.rule("WS-02")
async def test_a_request_that_is_no_upgrade_uses_no_offer_up(postgresql: str) -> None:
    import aiohttp

    async with served(postgresql) as (several, ports, access):
        token, _ = await offered(several, access)
        async with aiohttp.ClientSession() as http:
            for bearer, status in (("nobody knows it", 401), (token, 400)):
                headers = {"Authorization": f"Bearer {bearer}"}
                async with http.get(f"http://127.0.0.1:{ports[0]}/", headers=headers) as answered:
                    assert answered.status == status
        client = await come(ports[1], token)
        assert isinstance(client, ClientConnection)
        await client.close()

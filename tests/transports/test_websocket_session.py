"""A session over WebSocket with real TLS: what a user of the library has."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest

from s2connect.errors import ConnectionClosed
from s2connect.messages.enums import Check
from s2connect.model.common import NodeDescription, Role
from s2connect.session.budget import PeerLimits
from s2connect.session.session import Session, SessionEnd
from tests.session.test_session_release import STORIES, is_freed
from tests.waits import within


def node(role: Role) -> NodeDescription:
    return NodeDescription(id=UUID(int=3), brand="B", type="T", model_name="M", role=role)


@pytest.mark.rule("MSG-03", "MSG-04", "MSG-06")
async def test_messages_go_both_ways_and_each_is_acknowledged(rig: Any) -> None:
    async with rig() as made:
        server, client = await made.pair()
        cem = Session(server, peer=node(Role.RM), role=Role.CEM, check=Check.ENVELOPE)
        rm = Session(client, peer=node(Role.CEM), role=Role.RM, check=Check.ENVELOPE)
        async with cem, rm, within(10):

            async def exchange(ours: Session) -> None:
                await asyncio.gather(*(ours.send({"message_type": "A", "n": n, "ü": "€" * n}) for n in range(90)))

            await asyncio.gather(exchange(cem), exchange(rm))
            for ours in (cem, rm):
                assert [(await ours.receive()).body["n"] for _ in range(90)] == list(range(90))


@pytest.mark.rule("WS-06", "REC-03")
async def test_a_session_ends_on_both_sides(rig: Any) -> None:
    async with rig() as made:
        server, client = await made.pair()
        cem = Session(server, peer=node(Role.RM), role=Role.CEM)
        rm = Session(client, peer=node(Role.CEM), role=Role.RM)
        async with cem, rm, within(5):
            await cem.request_reconnect()
            await rm.wait_closed()
            assert (cem.end_reason, rm.end_reason) == (SessionEnd.CLOSED_BY_US, SessionEnd.RECONNECT_REQUESTED)


async def test_a_cut_wire_is_a_lost_session(rig: Any) -> None:
    async with rig() as made:
        server, client = await made.pair()
        async with Session(server, peer=node(Role.RM), role=Role.CEM) as cem, within(5):
            client._transport.abort()
            await cem.wait_closed()
            assert cem.end_reason is SessionEnd.LOST
        await client.close()


@pytest.mark.parametrize("story", STORIES)
@pytest.mark.parametrize("side", ["server", "client"])
async def test_a_session_that_has_ended_is_freed_without_the_garbage_collector(
    rig: Any, side: str, story: Callable[..., Any]
) -> None:
    async with rig() as made, within(10):
        pair = await made.pair()
        ours, theirs = pair if side == "server" else pair[::-1]
        await is_freed(ours, theirs, story)
        await asyncio.gather(*(end.close() for end in pair))


@pytest.mark.rule("WS-07")
@pytest.mark.parametrize("side", ["server", "client"])
@pytest.mark.parametrize("end", ["by us", "by the peer", "cut"])
async def test_a_session_that_pauses_reading_ends_at_once(rig: Any, side: str, end: str) -> None:
    slow = PeerLimits(messages_per_second=0.001, message_burst=1)
    async with rig() as made, within(10):
        pair = await made.pair()
        ours, theirs = pair if side == "server" else pair[::-1]
        session = Session(ours, peer=node(Role.RM), role=Role.CEM, check=Check.ENVELOPE, limits=slow)
        sending = asyncio.create_task(session.send({"message_type": "A"}))
        for number in range(5):
            await theirs.send(f'{{"message_type":"A","message_id":"m{number}"}}')
        assert (await session.receive()).id == "m0"
        if end == "by us":
            await session.close()
        elif end == "by the peer":
            await theirs.close()
        else:
            theirs._transport.abort()
        await session.wait_closed()
        with pytest.raises(ConnectionClosed):
            await sending
        received = [message.id async for message in session]
        assert received == [f"m{number}" for number in range(1, 1 + len(received))]
        await theirs.close()


@pytest.mark.rule("MSG-04", "WS-07")
async def test_a_slow_wire_loses_and_reorders_nothing(rig: Any) -> None:
    """More than the buffers hold, both ways, without anybody receiving until all is begun."""
    async with rig(compression=False) as made, within(60):
        server, client = await made.pair()
        free = PeerLimits(messages_per_second=0, bytes_per_second=0, busy_share=0)
        sessions = [
            Session(connection, peer=node(role), role=role.other, check=Check.ENVELOPE, limits=free, inbox_limit=1000)
            for connection, role in ((server, Role.RM), (client, Role.CEM))
        ]
        body = "x" * 30_000
        sends = [
            asyncio.create_task(one.send({"message_type": "A", "n": number, "body": body}))
            for number in range(150)
            for one in sessions
        ]
        await asyncio.gather(*sends)
        for one in sessions:
            assert [(await one.receive()).body["n"] for _ in range(150)] == list(range(150))
        await asyncio.gather(*(one.close() for one in sessions))

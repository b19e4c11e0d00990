"""What a session releases at its end: tasks, timers, and its memory without the garbage collector."""

from __future__ import annotations

import asyncio
import gc
import json
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from uuid import UUID

import pytest

from s2connect.errors import ConnectionClosed, UsageError
from s2connect.messages.enums import Check
from s2connect.model.common import NodeDescription, NodeId, Role
from s2connect.session.answers import LATER
from s2connect.session.budget import PeerLimits
from s2connect.session.outgoing import STATUS_LIMIT
from s2connect.session.session import Session, SessionEnd
from s2connect.transports.base import Connection, ConnectionInfo
from s2connect.transports.memory import memory_pair
from tests.session.test_session_order import WithoutCallbacks
from tests.waits import until_still, within

CEM, RM = NodeId(UUID(int=1)), NodeId(UUID(int=2))
NO_LIMITS = PeerLimits(messages_per_second=0, bytes_per_second=0, busy_share=0)


def session(connection: Connection, **options: Any) -> Session:
    role = Role.CEM if connection.info.local == CEM else Role.RM
    peer = NodeDescription(id=connection.info.remote, brand="B", type="T", model_name="M", role=role.other)
    return Session(connection, peer=peer, role=role, **{"check": Check.ENVELOPE, **options})


def text(identifier: str, kind: str = "A", **members: Any) -> str:
    return json.dumps({"message_type": kind, "message_id": identifier, **members})


def connections(*, callbacks: bool) -> tuple[Connection, Connection]:
    ours, theirs = memory_pair(
        ConnectionInfo("Memory", CEM, RM, "v1.0.0"), ConnectionInfo("Memory", RM, CEM, "v1.0.0"), capacity=2
    )
    return (ours if callbacks else WithoutCallbacks(ours)), theirs


async def closes(ours: Session, far: Connection) -> None:
    await ours.close()


async def is_left(ours: Session, far: Connection) -> None:
    await far.close()


async def asks_for_the_end(ours: Session, far: Connection) -> None:
    await far.send(text("m1", "SessionRequest", request="TERMINATE"))
    with suppress(ConnectionClosed):
        while True:
            await far.recv()


async def sends_in_vain(ours: Session, far: Connection) -> None:
    sends = [asyncio.create_task(ours.send(text(f"m{number}"))) for number in range(10)]
    with suppress(ConnectionClosed):
        await far.recv()
    await far.close()
    assert all(isinstance(end, ConnectionClosed) for end in await asyncio.gather(*sends, return_exceptions=True))


async def is_refused(ours: Session, far: Connection) -> None:
    for message in (text("m1", "Handshake"), {"message_type": "A", "n": float("nan")}):
        with pytest.raises(UsageError):
            await ours.send(message)
    await far.send("no message")
    await far.recv()
    await ours.close()


async def keeps_messages(ours: Session, far: Connection) -> None:
    await far.send(text("later"))
    while ours._inbox.deadline is None:
        await asyncio.sleep(0)
    await far.close()


async def fails(ours: Session, far: Connection) -> None:
    ours._failed(ZeroDivisionError())
    await ours.wait_closed()


STORIES = [closes, is_left, asks_for_the_end, sends_in_vain, is_refused, keeps_messages, fails]


async def is_freed(connection: Connection, far: Connection, story: Callable[..., Any]) -> None:
    """A session on a connection lives through a story; then reference counting frees it, with all that it made."""
    gc.collect()
    gc.disable()
    try:
        ours = session(connection, answer=lambda _, message: LATER if message.id == "later" else None)
        receiving = asyncio.create_task(ours.__anext__())
        await story(ours, far)
        await ours.wait_closed()
        await asyncio.wait({receiving})
        receiving.exception()
        del receiving
        assert ours.end_reason is not SessionEnd.OPEN
        names = [task.get_name() for task in asyncio.all_tasks()]
        assert not [name for name in names if name.startswith("s2connect-session")]
        gone = weakref.ref(ours)
        del ours
        assert gone() is None, [type(referrer) for referrer in gc.get_referrers(gone())]
    finally:
        gc.enable()


@pytest.mark.parametrize("story", STORIES)
@pytest.mark.parametrize("callbacks", [True, False])
async def test_a_session_that_has_ended_is_freed_without_the_garbage_collector(
    story: Callable[..., Any], *, callbacks: bool
) -> None:
    async with within(10):
        await is_freed(*connections(callbacks=callbacks), story)


@pytest.mark.rule("WS-07")
@pytest.mark.parametrize("callbacks", [True, False])
async def test_a_peer_that_takes_no_answers_is_read_from_until_their_limit_and_gets_all_of_them_in_the_end(
    *, callbacks: bool
) -> None:
    connection, far = connections(callbacks=callbacks)
    async with within(60):
        ours = session(connection, inbox_limit=10**6, limits=NO_LIMITS)
        count = 0

        async def flood() -> None:
            nonlocal count
            while count < 2 * STATUS_LIMIT:
                await far.send(text(f"m{count}"))
                count += 1

        flooding = asyncio.create_task(flood())
        await until_still(lambda: count)
        assert STATUS_LIMIT <= count < STATUS_LIMIT + 10
        for number in range(2 * STATUS_LIMIT):
            assert json.loads(await far.recv())["subject_message_id"] == f"m{number}"
        await flooding
        await ours.close()

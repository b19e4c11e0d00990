"""A recorded connection: it shows every message in the order on the wire, and is otherwise the connection itself."""

from __future__ import annotations

import asyncio

import pytest

from s2connect import Message, SessionEnd
from s2connect.bridge.recording import ObservedConnection
from s2connect.errors import ConnectionClosed
from tests.bridge.link_fixtures import answer, message
from tests.bridge.test_bridge_side_connection import Scripted


class Texts:
    """A receiver that keeps what comes."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.ends: list[int] = []

    def text_received(self, text: str) -> None:
        self.texts.append(text)

    def connection_ended(self, error: ConnectionClosed) -> None:
        self.ends.append(error.code)


@pytest.mark.parametrize(("code", "why"), [(1006, SessionEnd.LOST), (1000, SessionEnd.CLOSED_BY_PEER)])
async def test_callbacks_room_and_pauses_are_those_of_the_connection_and_every_message_is_shown(
    code: int, why: SessionEnd
) -> None:
    inner, shown, ends = Scripted(), list[tuple[str, str]](), list[SessionEnd]()

    def observe(direction: str, seen: Message) -> None:
        shown.append((direction, seen.text))

    connection, receiver = ObservedConnection(inner, observe, ends.append), Texts()
    connection.receive_into(receiver)
    inner.says(message("m1"), "no message")
    await asyncio.sleep(0)
    assert connection.try_send(answer("m1"))
    inner.makes_room(0)
    assert not connection.try_send(message("m2")), "and it is not shown"
    inner.makes_room(1)
    await connection.send(message("m3"))
    connection.pause_reading()
    assert inner.paused
    connection.resume_reading()
    assert not inner.paused
    inner.says(message("m4"))
    inner.ends(code)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert receiver.texts == [message("m1"), "no message", message("m4")]
    assert receiver.ends == [code]
    assert shown == [
        ("received", message("m1")),
        ("sent", answer("m1")),
        ("sent", message("m3")),
        ("received", message("m4")),
    ]
    assert ends == [why]
    with pytest.raises(ConnectionClosed):
        connection.try_send(message("m5"))

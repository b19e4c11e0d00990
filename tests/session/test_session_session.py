"""Session: every message acknowledged, nobody blocked, one end."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import UUID

import pytest

from s2connect.errors import AcknowledgementTimeout, ConnectionClosed, MessageRefused, UsageError
from s2connect.messages.enums import Check
from s2connect.messages.envelope import Message
from s2connect.model.common import NodeDescription, NodeId, Role
from s2connect.session.session import Session, SessionEnd
from s2connect.supervisor import FailureLog
from s2connect.transports.base import INTERNAL_ERROR, NORMAL_CLOSURE, Connection, ConnectionInfo
from s2connect.transports.memory import memory_pair
from tests.session.guards import Guard
from tests.waits import until, within

CEM, RM = NodeId(UUID(int=1)), NodeId(UUID(int=2))
NIL = "00000000-0000-0000-0000-000000000000"


def node(role: Role) -> NodeDescription:
    number = CEM if role is Role.CEM else RM
    return NodeDescription(id=number, brand="Brand", type="Type", model_name="Model", role=role)


def connections(capacity: int = 16) -> tuple[Connection, Connection]:
    return memory_pair(
        ConnectionInfo("Memory", CEM, RM, "v1.0.0"), ConnectionInfo("Memory", RM, CEM, "v1.0.0"), capacity=capacity
    )


def session(connection: Connection, **options: Any) -> Session:
    role = Role.CEM if connection.info.local == CEM else Role.RM
    options = {"check": Check.ENVELOPE, **options}  # what messages say is the subject of other tests
    return Session(connection, peer=node(role.other), role=role, **options)


def text(identifier: str, kind: str = "PowerMeasurement", **members: Any) -> str:
    return json.dumps({"message_type": kind, "message_id": identifier, **members})


def status(subject: str, value: str = "OK", **members: Any) -> str:
    return json.dumps({"message_type": "ReceptionStatus", "subject_message_id": subject, "status": value, **members})


async def answer(connection: Connection) -> tuple[str, str]:
    value = json.loads(await connection.recv())
    assert value["message_type"] == "ReceptionStatus"
    return value["subject_message_id"], value["status"]


@pytest.fixture
async def raw() -> AsyncIterator[tuple[Callable[..., Session], Connection]]:
    """Return a function that makes our session, and the far connection in the hands of the test."""
    made: list[Session] = []
    ours, theirs = connections(capacity=1000)

    def make(**options: Any) -> Session:
        made.append(session(ours, **options))
        return made[-1]

    yield make, theirs
    for item in made:
        await item.close()


Raw = tuple[Callable[..., Session], Connection]


@pytest.mark.rule("MSG-03", "MSG-06")
async def test_a_message_is_delivered_as_it_came_and_acknowledged_without_the_application(raw: Raw) -> None:
    make, far = raw
    ours = make()
    sent = text("m1", value="ü")
    await far.send(sent)
    assert await answer(far) == ("m1", "OK")
    assert (await ours.receive()).text == sent


@pytest.mark.parametrize(
    ("received", "expected"),
    [
        ("no json", (NIL, "INVALID_DATA")),
        ("[1]", (NIL, "INVALID_DATA")),
        ('{"message_type":"A"}', (NIL, "INVALID_DATA")),
        ('{"message_type":"A","message_id":"m1","a":1,"a":2}', (NIL, "INVALID_DATA")),
        ('{"message_type":"A","message_id":"m1","a":NaN}', (NIL, "INVALID_DATA")),
        ('{"message_id":"m1"}', ("m1", "INVALID_MESSAGE")),
        (text("m1", "SessionRequest"), ("m1", "INVALID_MESSAGE")),
        (text("m1", "SessionRequest", request=["RECONNECT"]), ("m1", "INVALID_MESSAGE")),
    ],
)
@pytest.mark.rule("MSG-03", "SEC-04")
async def test_what_cannot_be_read_is_answered_and_the_session_goes_on(
    raw: Raw, received: str, expected: tuple[str, str]
) -> None:
    make, far = raw
    ours = make()
    await far.send(received)
    assert await answer(far) == expected
    await far.send(text("m2"))
    assert await answer(far) == ("m2", "OK")
    assert (await ours.receive()).id == "m2"


@pytest.mark.rule("MSG-01")
@pytest.mark.parametrize("kind", ["Handshake", "HandshakeResponse"])
async def test_handshakes_are_refused_in_both_directions(raw: Raw, kind: str) -> None:
    make, far = raw
    ours = make()
    await far.send(text("m1", kind))
    assert await answer(far) == ("m1", "INVALID_CONTENT")
    with pytest.raises(UsageError):
        await ours.send({"message_type": kind})
    with pytest.raises(UsageError):
        await ours.send(text("m2", kind))


@pytest.mark.rule("MSG-03")
async def test_a_reception_status_is_never_answered(raw: Raw) -> None:
    make, far = raw
    make()
    for received in (status("unknown"), '{"message_type":"ReceptionStatus"}', status(NIL, "INVALID_DATA")):
        await far.send(received)
    await far.send(text("m1"))
    assert await answer(far) == ("m1", "OK")


async def test_send_returns_when_the_peer_has_acknowledged(raw: Raw) -> None:
    make, far = raw
    ours = make()
    sending = asyncio.create_task(ours.send({"message_type": "A"}))
    message = json.loads(await far.recv())
    await asyncio.sleep(0.01)
    assert not sending.done()
    await far.send(status(message["message_id"]))
    await sending


@pytest.mark.rule("MSG-06")
async def test_a_text_is_sent_as_it_is(raw: Raw) -> None:
    make, far = raw
    ours = make()
    mine = ' {"message_id": "m1", "message_type":"A", "ü":1.50}'
    sending = asyncio.create_task(ours.send(mine))
    assert await far.recv() == mine
    await far.send(status("m1"))
    await sending


@pytest.mark.parametrize("value", ["INVALID_CONTENT", "TEMPORARY_ERROR", "SOMETHING_NEW"])
async def test_a_refusal_of_the_peer_is_an_error_with_its_status_and_label(raw: Raw, value: str) -> None:
    make, far = raw
    ours = make()
    sending = asyncio.create_task(ours.send(text("m1")))
    await far.recv()
    await far.send(status("m1", value, diagnostic_label="no\x1b[31m"))
    with pytest.raises(MessageRefused) as caught:
        await sending
    assert (caught.value.status, caught.value.label) == (value, "no\x1b[31m")
    assert "\x1b" not in str(caught.value)


async def test_many_sends_wait_at_the_same_time_and_are_told_apart(raw: Raw) -> None:
    make, far = raw
    ours = make()
    sends = [asyncio.create_task(ours.send(text(f"m{number}"))) for number in range(50)]
    for _ in sends:
        await far.recv()
    for number in reversed(range(50)):
        await far.send(status(f"m{number}", "OK" if number % 2 else "INVALID_CONTENT"))
    ends = await asyncio.gather(*sends, return_exceptions=True)
    assert [end == f"m{number}" for number, end in enumerate(ends)] == [bool(number % 2) for number in range(50)]


async def test_without_an_answer_send_gives_up_and_the_session_stays(
    raw: Raw, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    make, far = raw
    ours = make(ack_timeout=0.05)
    with pytest.raises(AcknowledgementTimeout):
        await ours.send(text("m1"))
    assert ours.end_reason is SessionEnd.OPEN
    await far.recv()
    await far.send(status("m1"))
    await far.send(text("m2"))
    assert await answer(far) == ("m2", "OK")
    assert "late" in caplog.text
    assert ours.late_acknowledgements == 1


@pytest.mark.rule("MSG-03")
async def test_only_the_first_reception_status_about_a_message_counts(
    raw: Raw, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    make, far = raw
    ours = make()
    sending = asyncio.create_task(ours.send(text("m1")))
    await far.recv()
    for value in ("OK", "PERMANENT_ERROR", "OK"):
        await far.send(status("m1", value))
    await sending
    await far.send(text("m2"))
    assert await answer(far) == ("m2", "OK")
    assert caplog.text.count("nothing that waits") == 2
    assert ours.late_acknowledgements == 0


@pytest.mark.rule("MSG-03")
async def test_a_message_is_acknowledged_once_however_long_its_ok_waits_for_the_application(raw: Raw) -> None:
    make, far = raw
    ours = make(inbox_limit=1, overflow_limit=3)
    for number in range(4):
        await far.send(text(f"m{number}"))
    answers = [await answer(far)]
    for _ in range(4):
        await ours.receive()
    await far.send(text("last"))
    while answers[-1][0] != "last":
        answers.append(await answer(far))
    assert answers == [*((f"m{number}", "OK") for number in range(4)), ("last", "OK")]


async def test_an_application_s_message_never_overtakes_the_answer_to_what_it_follows_from(raw: Raw) -> None:
    """Also where the answer has to wait for room, and the application is woken first."""
    a, b = connections(capacity=1)
    async with session(a) as ours, within(5):
        for number in range(20):
            await b.send(text(f"m{number}"))
            await b.send(text(f"n{number}"))

            async def reply() -> None:
                await ours.send(text(f"r-{(await ours.receive()).id}"))

            replies = [asyncio.create_task(reply()) for _ in range(2)]
            seen: list[str] = []
            while len(seen) < 4:
                value = json.loads(await b.recv())
                seen.append(value.get("message_id") or value["subject_message_id"])
                if "message_id" in value:
                    await b.send(status(value["message_id"]))
            await asyncio.gather(*replies)
            for one in (f"m{number}", f"n{number}"):
                assert seen.index(one) < seen.index(f"r-{one}")


async def test_a_cancelled_send_leaves_the_session_as_it_was(raw: Raw) -> None:
    make, far = raw
    ours = make()
    sending = asyncio.create_task(ours.send(text("m1")))
    await far.recv()
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    await far.send(status("m1"))
    again = asyncio.create_task(ours.send(text("m1")))
    assert json.loads(await far.recv())["message_id"] == "m1"
    await far.send(status("m1"))
    await again


async def test_messages_that_wait_for_acknowledgement_are_bounded(raw: Raw) -> None:
    make, far = raw
    ours = make()
    sends = [asyncio.create_task(ours.send({"message_type": "A"})) for _ in range(1000)]
    await asyncio.sleep(0)
    with pytest.raises(UsageError):
        await ours.send({"message_type": "A"})
    await far.close()
    assert all(isinstance(end, ConnectionClosed) for end in await asyncio.gather(*sends, return_exceptions=True))


@pytest.mark.rule("MSG-03", "MSG-04", "WS-07")
async def test_beyond_the_inbox_the_ok_waits_for_the_application_and_beyond_that_messages_are_refused(raw: Raw) -> None:
    make, far = raw
    ours = make(inbox_limit=2, overflow_limit=2)
    for number in range(6):
        await far.send(text(f"m{number}"))
    # In the order of reading: two stand in the inbox, two are kept without an answer, two are refused.
    assert [await answer(far) for _ in range(4)] == [
        ("m0", "OK"),
        ("m1", "OK"),
        ("m4", "TEMPORARY_ERROR"),
        ("m5", "TEMPORARY_ERROR"),
    ]
    assert (await ours.receive()).id == "m0"
    assert await answer(far) == ("m2", "OK")
    assert (await ours.receive()).id == "m1"
    assert await answer(far) == ("m3", "OK")
    await far.send(text("m6"))
    assert [(await ours.receive()).id for _ in range(2)] == ["m2", "m3"]
    assert await answer(far) == ("m6", "OK")
    assert (await ours.receive()).id == "m6"


@pytest.mark.rule("MSG-03", "SEC-03")
async def test_messages_that_wait_are_bounded_in_size_as_well(raw: Raw, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("s2connect.session.session.WAITING_LIMIT", 2 * len(text("m0")))
    make, far = raw
    ours = make()
    for number in range(3):
        await far.send(text(f"m{number}"))
    assert [await answer(far) for _ in range(3)] == [("m0", "OK"), ("m1", "OK"), ("m2", "TEMPORARY_ERROR")]
    assert [(await ours.receive()).id for _ in range(2)] == ["m0", "m1"]
    monkeypatch.setattr("s2connect.session.session.WAITING_LIMIT", 1)
    await far.send(text("m3"))  # one always fits
    assert await answer(far) == ("m3", "OK")
    assert (await ours.receive()).id == "m3"


@pytest.mark.rule("MSG-04")
@pytest.mark.parametrize("capacity", [1, 16])
async def test_two_applications_that_send_without_reading_do_not_block_each_other(capacity: int) -> None:
    a, b = connections(capacity)
    async with session(a) as left, session(b) as right, within(5):

        async def exchange(ours: Session) -> None:
            for _ in range(100):
                await ours.send({"message_type": "A"})

        await asyncio.gather(exchange(left), exchange(right))


@pytest.mark.rule("MSG-04")
async def test_many_sends_at_once_both_ways_over_a_narrow_connection_do_not_block_each_other() -> None:
    a, b = connections(capacity=1)
    async with session(a) as left, session(b) as right, within(5):

        async def exchange(ours: Session) -> None:
            await asyncio.gather(*(ours.send({"message_type": "A"}) for _ in range(100)))

        await asyncio.gather(exchange(left), exchange(right))


@pytest.mark.rule("REC-03")
@pytest.mark.parametrize(
    ("request_", "end"),
    [("RECONNECT", SessionEnd.RECONNECT_REQUESTED), ("TERMINATE", SessionEnd.TERMINATE_REQUESTED)],
)
async def test_a_session_request_is_acknowledged_and_ends_the_session(raw: Raw, request_: str, end: SessionEnd) -> None:
    make, far = raw
    ours = make()
    await far.send(text("m1"))
    await far.send(text("m2", "SessionRequest", request=request_))
    assert [await answer(far) for _ in range(2)] == [("m1", "OK"), ("m2", "OK")]
    with pytest.raises(ConnectionClosed) as caught:
        await far.recv()
    assert caught.value.code == 1000
    await ours.wait_closed()
    assert ours.end_reason is end
    assert [message.id async for message in ours] == ["m1"]


@pytest.mark.rule("REC-03")
@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("request_reconnect", SessionEnd.RECONNECT_REQUESTED),
        ("request_terminate", SessionEnd.TERMINATE_REQUESTED),
    ],
)
async def test_our_session_request_is_heard_by_the_peer_and_ends_the_session(name: str, end: SessionEnd) -> None:
    a, b = connections()
    async with session(a) as left, session(b) as right:
        await getattr(left, name)()
        await right.wait_closed()
        assert (left.end_reason, right.end_reason) == (SessionEnd.CLOSED_BY_US, end)


@pytest.mark.parametrize(
    ("code", "end"), [(1000, SessionEnd.CLOSED_BY_PEER), (1009, SessionEnd.CLOSED_BY_PEER), (1006, SessionEnd.LOST)]
)
async def test_the_end_of_the_connection_ends_all_that_waits(raw: Raw, code: int, end: SessionEnd) -> None:
    make, far = raw
    ours = make()
    sending = asyncio.create_task(ours.send(text("m1")))
    receiving = asyncio.create_task(ours.receive())
    await far.recv()
    await far.close(code, "reason")
    for task in (sending, receiving):
        with pytest.raises(ConnectionClosed) as caught:
            await task
        assert (caught.value.code, caught.value.reason) == (code, "reason")
    await ours.wait_closed()
    assert ours.end_reason is end
    with pytest.raises(ConnectionClosed):
        await ours.send(text("m2"))


async def test_what_was_received_before_the_end_is_still_delivered(raw: Raw) -> None:
    make, far = raw
    ours = make()
    for number in range(3):
        await far.send(text(f"m{number}"))
    await far.close()
    await ours.wait_closed()
    assert [message.id async for message in ours] == ["m0", "m1", "m2"]
    with pytest.raises(ConnectionClosed):
        await ours.receive()


async def test_close_is_ours_and_can_be_repeated(raw: Raw) -> None:
    make, far = raw
    ours = make()
    waiting = asyncio.create_task(ours.receive())
    await asyncio.sleep(0)
    await asyncio.gather(ours.close("bye"), ours.close())
    await ours.close()
    assert ours.end_reason is SessionEnd.CLOSED_BY_US
    with pytest.raises(ConnectionClosed):
        await waiting
    with pytest.raises(ConnectionClosed) as caught:
        await far.recv()
    assert caught.value.reason == "bye"


@pytest.mark.rule("WS-06")
async def test_what_comes_while_the_session_is_being_closed_is_not_delivered_and_a_status_counts() -> None:
    """It cannot be acknowledged, and the session may have been replaced by one in which messages come already."""
    near, far = connections()
    may_close, close = asyncio.Event(), near.close

    async def slow_close(code: int = NORMAL_CLOSURE, reason: str = "") -> None:
        await may_close.wait()
        await close(code, reason)

    near.close = slow_close  # type: ignore[method-assign]
    ours = session(near)
    async with within(10):
        sending = asyncio.create_task(ours.send(text("m1")))
        await far.recv()
        await far.send(text("m2"))
        assert (await ours.receive()).id == "m2"
        closing = asyncio.create_task(ours.close())
        await asyncio.sleep(0)
        await far.send(text("m3"))
        await far.send(status("m1"))
        assert await sending == "m1"
        may_close.set()
        await closing
        assert [message.id async for message in ours] == []


@pytest.mark.rule("WS-06")
async def test_while_its_owner_is_in_doubt_nothing_is_delivered_and_then_all_of_it_in_its_order(raw: Raw) -> None:
    make, far = raw
    ours, guard = make(), Guard(may=False)
    ours.guard_with(guard)
    async with within(10):
        for number in range(5):
            await far.send(text(f"m{number}"))
        await until(lambda: len(guard.calls) == 1)
        await asyncio.sleep(0)
        guard.settle()
        assert [(await ours.receive()).id for _ in range(5)] == [f"m{number}" for number in range(5)]
        assert [await answer(far) for _ in range(5)] == [(f"m{number}", "OK") for number in range(5)]
        await far.send(text("m5"))
        assert await answer(far) == ("m5", "OK")


@pytest.mark.rule("WS-06")
async def test_a_process_that_stands_still_while_it_handles_a_text_looks_again_before_it_delivers_it(raw: Raw) -> None:
    make, far = raw
    guard, shown, asked = Guard(), list[str | None](), list[str | None]()

    def stand_still(_: str, message: Message) -> None:
        shown.append(message.id)
        guard.may = len(shown) > 1

    def note(_: Session, message: Message) -> None:
        asked.append(message.id)

    ours = make(on_message=stand_still, answer=note)
    ours.guard_with(guard)
    async with within(10):
        await far.send(text("m1"))
        await until(lambda: len(guard.calls) == 1)
        await far.send(text("m2"))
        assert (shown, asked) == (["m1"], [])
        guard.settle()
        assert [(await ours.receive()).id for _ in range(2)] == asked == ["m1", "m2"]


@pytest.mark.rule("WS-06")
@pytest.mark.parametrize("by_us", [True, False])
async def test_what_was_withheld_of_a_session_that_has_ended_is_never_delivered(raw: Raw, by_us: bool) -> None:
    make, far = raw
    asked: list[str | None] = []

    def note(_: Session, message: Message) -> None:
        asked.append(message.id)

    ours, guard = make(answer=note), Guard(may=False)
    ours.guard_with(guard)
    async with within(10):
        await far.send(text("m1"))
        await until(lambda: len(guard.calls) == 1)
        await (ours if by_us else far).close()
        await ours.wait_closed()
        guard.settle()
        assert [message.id async for message in ours] == []
    assert asked == []


async def test_a_cancelled_receive_loses_nothing(raw: Raw) -> None:
    make, far = raw
    ours = make()
    for number in range(20):
        waiting = asyncio.create_task(ours.receive())
        await asyncio.sleep(0)
        await far.send(text(f"m{number:02}"))
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        if not waiting.cancelled():
            assert waiting.result().id == f"m{number:02}"
        else:
            assert (await ours.receive()).id == f"m{number:02}"


async def test_who_sends_is_told_when_the_message_leaves_if_it_does(raw: Raw) -> None:
    make, far = raw
    ours = make()
    left: list[str] = []
    with pytest.raises(UsageError):
        await ours.send({"message_type": "Handshake"}, leaving=lambda _: left.append("never"))
    sending = asyncio.create_task(ours.send(text("m1"), leaving=lambda _: left.append("m1")))
    await far.recv()
    assert left == ["m1"]
    await far.send(status("m1"))
    await sending
    await far.close()
    await ours.wait_closed()
    with pytest.raises(ConnectionClosed):
        await ours.send(text("m2"), leaving=lambda _: left.append("m2"))
    assert left == ["m1"]


async def test_the_observer_sees_everything_and_its_failure_is_only_logged(
    raw: Raw, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[tuple[str, str]] = []

    def observe(direction: str, message: Message) -> None:
        seen.append((direction, message.type))
        raise RuntimeError("observer")

    make, far = raw
    ours = make(on_message=observe)
    sending = asyncio.create_task(ours.send(text("m1", "A")))
    await far.recv()
    await far.send(text("m2", "B"))
    assert await answer(far) == ("m2", "OK")
    await far.send(status("m1"))
    await sending
    assert seen == [("sent", "A"), ("received", "B"), ("sent", "ReceptionStatus"), ("received", "ReceptionStatus")]
    assert ours.end_reason is SessionEnd.OPEN
    assert "observer" in caplog.text


@pytest.mark.parametrize("fault", ["validating", "answering"])
async def test_an_error_of_ours_ends_the_session_and_is_logged_with_its_traceback(
    fault: str, raw: Raw, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("s2connect.session.session.process_failures", FailureLog())

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("the details")

    make, far = raw
    ours = make()
    if fault == "validating":
        monkeypatch.setattr(ours._conversation, "validate", fail)
    else:  # in the task that writes the answers while there is no room
        monkeypatch.setattr(ours._connection, "try_send", lambda text: False)
        monkeypatch.setattr(ours._connection, "send", fail)
    await far.send(text("m1"))
    code = 0
    async with within(5):
        while not code:
            try:
                await far.recv()
            except ConnectionClosed as closed:
                code = closed.code
        await ours.wait_closed()
    assert code == INTERNAL_ERROR
    assert ours.end_reason is SessionEnd.LOST
    (record,) = [r for r in caplog.records if r.levelno >= logging.ERROR]
    assert record.exc_info
    assert str(RM) in record.getMessage()


async def test_a_session_knows_its_facts(raw: Raw) -> None:
    make, _ = raw
    ours = make()
    assert (ours.info.local, ours.info.remote, ours.role, ours.peer.role) == (CEM, RM, Role.CEM, Role.RM)

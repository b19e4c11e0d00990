"""Answers of applications to messages, and what follows from those of the peer: exactly one for each message."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2connect import LATER, Message, RefuseMessage
from s2connect.errors import AcknowledgementTimeout, ConnectionClosed, MessageRefused, UsageError
from s2connect.messages.enums import Check
from s2connect.messages.envelope import MAX_LABEL_CHARACTERS, read_message
from s2connect.session.answers import (
    ANSWER_WITHIN,
    FIRST_RETRY,
    LAST_RETRY,
    MAX_GIVEN_UP,
    MAX_REMEMBERED,
    REMEMBERED_FOR,
    PermanentRefusals,
    decision,
    retry_pause,
)
from s2connect.session.inbox import Inbox
from s2connect.session.session import Session, SessionEnd
from s2connect.transports.base import Connection
from tests.session.test_session_session import answer, connections, session, status, text
from tests.waits import within

Raw = tuple[Callable[..., Session], Connection]
REFUSALS = ("INVALID_CONTENT", "TEMPORARY_ERROR", "PERMANENT_ERROR")


@pytest.fixture
async def raw() -> AsyncIterator[Raw]:
    """Return a function that makes our session, and the far connection in the hands of the test."""
    made: list[Session] = []
    ours, theirs = connections(capacity=1000)

    def make(**options: Any) -> Session:
        made.append(session(ours, **options))
        return made[-1]

    yield make, theirs
    for item in made:
        await item.close()


async def whole_answer(far: Connection) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(await far.recv())
    assert value.pop("message_type") == "ReceptionStatus"
    return value


def keep(_: Session, __: Message) -> Any:
    return LATER


@pytest.mark.rule("MSG-03")
@pytest.mark.parametrize("value", REFUSALS)
async def test_an_application_refuses_a_message_with_status_and_label_and_never_receives_it(
    raw: Raw, value: str
) -> None:
    make, far = raw

    def decide(_: Session, message: Message) -> None:
        if message.id == "m1":
            raise RefuseMessage(value, "the pump is \x1b[31moff\ud800")

    ours = make(answer=decide)
    await far.send(text("m1"))
    refused = await whole_answer(far)
    assert refused == {
        "subject_message_id": "m1",
        "status": value,
        "diagnostic_label": "the pump is \x1b[31moff?",
    }
    await far.send(text("m2"))
    assert await answer(far) == ("m2", "OK")
    assert (await ours.receive()).id == "m2"


@pytest.mark.parametrize("value", ["OK", "INVALID_DATA", "INVALID_MESSAGE", "NO_SUCH", ""])
def test_an_application_cannot_refuse_with_what_is_the_session_s_to_say(value: str) -> None:
    with pytest.raises(UsageError, match="PERMANENT_ERROR"):
        RefuseMessage(value)


@pytest.mark.rule("MSG-03")
async def test_an_application_that_fails_answers_temporary_error_and_its_words_reach_nobody(
    raw: Raw, caplog: pytest.LogCaptureFixture
) -> None:
    make, far = raw

    def decide(_: Session, message: Message) -> None:
        raise KeyError("password=hunter2")

    make(answer=decide)
    await far.send(text("m1"))
    refused = await whole_answer(far)
    assert (refused["status"], refused["diagnostic_label"]) == ("TEMPORARY_ERROR", "the application failed")
    assert "KeyError" in caplog.text
    await far.send(text("m2"))
    assert await answer(far) == ("m2", "TEMPORARY_ERROR")


async def wrongly_awaited(_: Session, __: Message) -> None:
    raise RefuseMessage("PERMANENT_ERROR", "never comes out")


@pytest.mark.rule("MSG-03")
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "wrong",
    [
        wrongly_awaited,
        lambda _, __: RefuseMessage("INVALID_CONTENT", "returned, not raised"),
        lambda _, __: "INVALID_CONTENT",
        lambda _, __: False,
    ],
    ids=["coroutine", "returned refusal", "status", "bool"],
)
async def test_what_an_application_answers_in_a_wrong_way_is_no_ok(raw: Raw, wrong: Any) -> None:
    make, far = raw
    ours = make(answer=wrong)
    await far.send(text("m1"))
    assert await answer(far) == ("m1", "TEMPORARY_ERROR")
    await ours.close()
    assert [message async for message in ours] == [], "it was not taken, and is not delivered"


def test_what_the_log_says_of_a_wrong_answer_names_what_is_allowed() -> None:
    with pytest.raises(UsageError, match="None or LATER, not a RefuseMessage"):
        decision(RefuseMessage("INVALID_CONTENT"))
    assert (decision(None), decision(LATER)) == (False, True)


async def test_what_the_session_refuses_by_itself_is_not_asked_of_the_application(raw: Raw) -> None:
    make, far = raw
    asked: list[str] = []
    make(answer=lambda _, message: asked.append(message.type), check=Check.RULES)
    await far.send(text("m1", "Handshake"))
    await far.send(text("m2"))
    await far.send(text("m3", "SessionRequest", request="TERMINATE"))
    assert [(await answer(far))[1] for _ in range(3)] == ["INVALID_CONTENT", "INVALID_MESSAGE", "OK"]
    assert asked == []


@pytest.mark.rule("MSG-03")
@pytest.mark.parametrize("value", ["OK", *REFUSALS])
async def test_a_message_that_is_kept_is_delivered_and_answered_once_by_the_application(raw: Raw, value: str) -> None:
    make, far = raw
    ours = make(answer=keep)
    await far.send(text("m1"))
    message = await ours.receive()
    ours.answer(message, value, "as I say")
    said = await whole_answer(far)
    assert (said["subject_message_id"], said["status"]) == ("m1", value)
    assert said.get("diagnostic_label") == (None if value == "OK" else "as I say")
    with pytest.raises(UsageError, match="waits for an answer"):
        ours.answer(message)
    await far.send(text("m2"))
    ours.answer((await ours.receive()).id or "")
    assert await answer(far) == ("m2", "OK")


async def test_only_what_was_kept_can_be_answered(raw: Raw) -> None:
    make, far = raw
    ours = make()
    await far.send(text("m1"))
    message = await ours.receive()
    for of in (message, "m1", "nobody"):
        with pytest.raises(UsageError):
            ours.answer(of)
    assert await answer(far) == ("m1", "OK")
    await ours.close()
    with pytest.raises(ConnectionClosed):
        ours.answer("m1")


@pytest.mark.rule("MSG-03")
async def test_an_application_that_forgets_is_answered_for_and_a_message_it_never_took_is_not_delivered(
    raw: Raw,
) -> None:
    make, far = raw
    ours = make(answer=lambda _, message: LATER if message.id != "m3" else None, answer_within=0.2)
    await far.send(text("m1"))
    await far.send(text("m2"))
    await far.send(text("m3"))
    taken = await ours.receive()
    assert await answer(far) == ("m3", "OK")
    first, second = await whole_answer(far), await whole_answer(far)
    assert [first["subject_message_id"], second["subject_message_id"]] == ["m1", "m2"]
    assert first["status"] == second["status"] == "TEMPORARY_ERROR"
    assert first["diagnostic_label"] == "the application has not answered within 0.2 s"
    with pytest.raises(UsageError):
        ours.answer(taken)
    assert (await ours.receive()).id == "m3"


async def test_the_same_id_again_while_the_first_is_kept_is_refused(raw: Raw) -> None:
    make, far = raw
    ours = make(answer=keep)
    await far.send(text("m1"))
    await far.send(text("m1"))
    assert await answer(far) == ("m1", "TEMPORARY_ERROR")
    ours.answer(await ours.receive())
    assert await answer(far) == ("m1", "OK")


async def test_messages_that_are_kept_are_bounded_also_where_the_application_receives_them(
    raw: Raw, caplog: pytest.LogCaptureFixture
) -> None:
    make, far = raw
    ours = make(answer=keep, inbox_limit=2, overflow_limit=1)
    for number in range(4):
        await far.send(text(f"m{number}"))
        if number < 3:
            await ours.receive()
    refused = await whole_answer(far)
    assert (refused["subject_message_id"], refused["status"]) == ("m3", "TEMPORARY_ERROR")
    assert refused["diagnostic_label"] == "too many messages wait to be handled"
    assert "Traceback" not in caplog.text
    ours.answer("m0")
    assert await answer(far) == ("m0", "OK")
    await far.send(text("m4"))
    assert (await ours.receive()).id == "m4"


async def test_the_end_that_the_peer_asks_for_leaves_no_message_without_its_answer(raw: Raw) -> None:
    make, far = raw
    make(answer=keep)
    await far.send(text("m1"))
    await far.send(text("m2", "SessionRequest", request="TERMINATE"))
    assert [await answer(far), await answer(far)] == [("m1", "TEMPORARY_ERROR"), ("m2", "OK")]


@pytest.mark.rule("MSG-04")
async def test_two_applications_that_answer_only_after_their_own_send_block_each_other_for_a_bounded_time_only() -> (
    None
):
    ours, theirs = connections()
    ends = [session(connection, answer=keep, answer_within=0.3) for connection in (ours, theirs)]

    async def run(end: Session) -> str:
        sending = asyncio.create_task(end.send({"message_type": "A"}))
        message = await end.receive()
        try:
            await sending
        except MessageRefused as error:
            return error.status
        end.answer(message)
        return "OK"

    async with within(5):
        assert await asyncio.gather(*map(run, ends)) == ["TEMPORARY_ERROR"] * 2
    for end in ends:
        await end.close()


@pytest.mark.rule("MSG-02")
async def test_what_follows_from_a_message_counts_once_the_application_has_taken_it() -> None:
    far_cem, ours_rm = connections()
    device = session(ours_rm, answer=keep, check=Check.RULES)
    select = {"message_type": "SelectControlType", "control_type": "FILL_RATE_BASED_CONTROL"}
    for value, selected in (("TEMPORARY_ERROR", None), ("OK", "FILL_RATE_BASED_CONTROL")):
        await far_cem.send(json.dumps({**select, "message_id": f"m-{value}"}))
        device.answer(await device.receive(), value)
        assert await answer(far_cem) == (f"m-{value}", value)
        assert device.control_type == selected
    await device.close()


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("put"), st.booleans()),
            st.tuples(st.just("take"), st.none()),
            st.tuples(st.just("answer"), st.integers(0, 40)),
            st.tuples(st.just("wait"), st.floats(0, 2)),
        ),
        max_size=60,
    )
)
def test_every_message_of_the_inbox_is_answered_exactly_once_whatever_happens(steps: list[tuple[str, Any]]) -> None:
    inbox, now, count = Inbox(3, 3, 10_000, ANSWER_WITHIN), 0.0, 0
    answers: Counter[str] = Counter()
    given_up: set[str] = set()
    for what, value in steps:
        if what == "put":
            message = read_message(text(f"m{count}"))
            if inbox.has_room(message):
                inbox.put(message, kept=value, now=now)
                count += 1
        elif what == "take" and len(inbox):
            assert inbox.take().id not in given_up
        elif what == "answer" and inbox.answered(f"m{value}"):
            answers[f"m{value}"] += 1
        elif what == "wait":
            now += value
            over = inbox.overdue(now)
            given_up.update(over)
            answers.update(over)
        answers.update(inbox.due())
        assert len(inbox) <= 6
    while len(inbox):
        inbox.take()
        answers.update(inbox.due())
    answers.update(inbox.overdue(now + ANSWER_WITHIN))
    assert answers == Counter({f"m{number}": 1 for number in range(count)})


# What follows from the answers of the peer (MSG-07)


@pytest.mark.rule("MSG-07")
async def test_a_permanent_error_ends_the_session_and_the_same_message_is_not_sent_in_the_next(raw: Raw) -> None:
    make, far = raw
    refusals = PermanentRefusals()
    ours = make(refusals=refusals)
    sending = asyncio.create_task(ours.send(text("m1", value=1)))
    other = asyncio.create_task(ours.send(text("m2", value=2)))
    await far.recv()
    await far.recv()
    await far.send(status("m1", "PERMANENT_ERROR", diagnostic_label="no such phase"))
    with pytest.raises(MessageRefused) as caught:
        await sending
    assert (caught.value.status, caught.value.label) == ("PERMANENT_ERROR", "no such phase")
    with pytest.raises(ConnectionClosed):
        await other
    await within_closed(ours)
    assert ours.end_reason is SessionEnd.PERMANENT_ERROR
    with pytest.raises(ConnectionClosed):
        await far.recv()

    ours_again, far_again = connections()
    again = session(ours_again, refusals=refusals)
    with pytest.raises(MessageRefused, match="was not sent") as caught:
        await again.send(text("another-id", value=1))
    assert (caught.value.status, caught.value.label) == ("PERMANENT_ERROR", "no such phase")
    sending = asyncio.create_task(again.send(text("m4", value=3)))
    assert json.loads(await far_again.recv())["message_id"] == "m4"
    await far_again.send(status("m4"))
    assert await sending == "m4"
    await again.close()


@pytest.mark.rule("MSG-07")
@pytest.mark.parametrize("way", ["timeout", "cancelled"])
async def test_a_permanent_error_that_comes_late_does_not_come_again_in_the_next_session(raw: Raw, way: str) -> None:
    make, far = raw
    refusals = PermanentRefusals()
    ours = make(refusals=refusals, ack_timeout=0.05 if way == "timeout" else 15.0)
    sending = asyncio.create_task(ours.send(text("m1", value=1)))
    await far.recv()
    if way == "cancelled":
        sending.cancel()
    with pytest.raises((AcknowledgementTimeout, asyncio.CancelledError)):
        await sending
    await far.send(status("m1", "PERMANENT_ERROR", diagnostic_label="no such phase"))
    await within_closed(ours)
    assert ours.end_reason is SessionEnd.PERMANENT_ERROR

    ours_again, _ = connections()
    again = session(ours_again, refusals=refusals)
    with pytest.raises(MessageRefused, match=r"was not sent.*no such phase"):
        await again.send(text("another-id", value=1))
    await again.close()


def test_messages_that_were_given_up_and_labels_are_remembered_within_bounds() -> None:
    refusals = PermanentRefusals()
    for number in range(MAX_GIVEN_UP + 1):
        refusals.give_up(read_message(text(f"m{number}", value=number)))
    for number in (0, 1):
        refusals.add_late(f"m{number}", "x" * 100_000, now=0.0)
    assert refusals.label_of(read_message(text("y1", value=0)), now=1.0) is None, "the oldest is forgotten"
    assert refusals.label_of(read_message(text("y1", value=1)), now=1.0) == "x" * MAX_LABEL_CHARACTERS


async def within_closed(ended: Session) -> None:
    async with within(5):
        await ended.wait_closed()


def test_what_was_refused_for_good_is_remembered_within_bounds_and_not_for_ever() -> None:
    refusals = PermanentRefusals()
    for number in range(MAX_REMEMBERED + 1):
        refusals.add(read_message(text("m1", value=number)), f"{number}", now=float(number))
    assert refusals.label_of(read_message(text("x1", value=0)), now=100.0) is None
    assert (
        refusals.label_of(read_message('{"value":1,"message_id":"y1","message_type":"PowerMeasurement"}'), now=1.0)
        == "1"
    )
    last = read_message(text("z1", value=MAX_REMEMBERED))
    assert refusals.label_of(last, now=MAX_REMEMBERED + REMEMBERED_FOR - 1) is not None
    assert refusals.label_of(last, now=MAX_REMEMBERED + REMEMBERED_FOR) is None


@pytest.mark.rule("MSG-07")
async def test_what_is_refused_for_the_time_being_is_sent_again_under_another_id(raw: Raw) -> None:
    make, far = raw
    ours = make()
    left: list[str | None] = []
    sending = asyncio.create_task(ours.send(text("m1", value=1.5), retries=1, leaving=lambda m: left.append(m.id)))
    first = json.loads(await far.recv())
    await far.send(status("m1", "TEMPORARY_ERROR"))
    second = json.loads(await far.recv())
    assert second["message_id"] != "m1"
    assert {**second, "message_id": "m1"} == first
    await far.send(status(second["message_id"]))
    assert await sending == second["message_id"]
    assert left == ["m1", second["message_id"]]


@pytest.mark.parametrize(("value", "retries"), [("TEMPORARY_ERROR", 0), ("INVALID_CONTENT", 3)])
async def test_other_refusals_and_the_last_one_are_told(raw: Raw, value: str, retries: int) -> None:
    make, far = raw
    ours = make()
    sending = asyncio.create_task(ours.send(text("m1"), retries=retries))
    await far.recv()
    await far.send(status("m1", value))
    with pytest.raises(MessageRefused) as caught:
        await sending
    assert caught.value.status == value


async def test_the_end_of_the_session_ends_the_wait_for_the_next_attempt(raw: Raw) -> None:
    make, far = raw
    ours = make()
    sending = asyncio.create_task(ours.send(text("m1"), retries=5))
    await far.recv()
    await far.send(status("m1", "TEMPORARY_ERROR"))
    await far.close()
    async with within(5):
        with pytest.raises(ConnectionClosed):
            await sending


@given(st.integers(0, 10_000), st.floats(0, 1))
def test_pauses_between_attempts_are_bounded(attempt: int, chance: float) -> None:
    assert FIRST_RETRY / 2 <= retry_pause(attempt, chance) <= LAST_RETRY


@pytest.mark.rule("SEC-03")
async def test_message_types_that_a_peer_makes_up_do_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    ours, far = connections()
    async with session(ours, check=Check.RULES):
        for number in range(50):
            await far.send(text(f"m-{number}", f"Made.Up{number}"))
            assert json.loads(await far.recv())["status"] == "INVALID_MESSAGE"
    assert len([line for line in caplog.messages if "is refused" in line]) == 1

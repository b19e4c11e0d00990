"""Handlers: messages reach their functions in order, whose failures are seen, and tasks that end when they should."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import weakref
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from examples.old_device import description as old_description
from s2connect import Handlers, RefuseMessage, Session, SessionEnd, instruction_status
from s2connect.errors import ConnectionClosed, MessageRefused, UsageError
from s2connect.messages import S2Message, ddbc, frbc, general, ombc, pebc, ppbc
from s2connect.messages.catalogue import parse
from s2connect.messages.enums import Check
from s2connect.messages.envelope import write_message
from s2connect.messages.general import (
    ControlType,
    InstructionStatus,
    InstructionStatusUpdate,
    PowerMeasurement,
    RevokableObjects,
    RevokeObject,
    SelectControlType,
)
from s2connect.session import handlers as module
from s2connect.session import memory_sessions
from s2connect.supervisor import FailureLog
from tests.session import battery_messages
from tests.session.test_session_session import connections, session
from tests.waits import until, within

FRBC = ControlType.FILL_RATE_BASED_CONTROL
SELECT = SelectControlType(control_type=FRBC)
UNSELECT = SelectControlType(control_type=ControlType.NO_SELECTION)


def typed(value: dict[str, Any]) -> S2Message:
    return parse(write_message(value)[0])


DETAILS = typed(battery_messages.resource_manager_details())
DESCRIPTION = typed(battery_messages.system_description())


def measurement(value: float) -> PowerMeasurement:
    parsed = typed(battery_messages.power_measurement(value))
    assert isinstance(parsed, PowerMeasurement)
    return parsed


def instruction(at: datetime | None = None) -> frbc.Instruction:
    parsed = typed(battery_messages.instruction(1000.0))
    assert isinstance(parsed, frbc.Instruction)
    return parsed.replace(execution_time=at or datetime.now(UTC))


class Pair:
    """Handlers on one side, and the session of the other in the hands of the test."""

    def __init__(self, handlers: Handlers, *, device: bool, check: Check = Check.RULES) -> None:
        cem, rm = connections(capacity=1000)
        self.ours = session(rm if device else cem, check=check)
        self.peer = session(cem if device else rm, check=check)
        self.failures = FailureLog()
        self.ended = asyncio.create_task(handlers.run(self.ours, failures=self.failures))

    async def receive(self) -> S2Message:
        return (await self.peer.receive()).parsed

    async def statuses(self, number: int) -> list[InstructionStatus]:
        found = [await self.receive() for _ in range(number)]
        return [each.status_type for each in found if isinstance(each, InstructionStatusUpdate)]


@contextlib.asynccontextmanager
async def pair(handlers: Handlers, *, device: bool, check: Check = Check.RULES) -> AsyncIterator[Pair]:
    made = Pair(handlers, device=device, check=check)
    try:
        async with within(10):
            yield made
            await made.peer.close()
            if not made.ended.cancelled():
                await made.ended
    finally:
        made.ended.cancel()
        await made.peer.close()


def device() -> Handlers:
    """Handlers of a device that introduces itself."""
    handlers = Handlers()
    handlers.on_open(lambda _: DETAILS)
    return handlers


async def test_what_on_open_returns_is_sent_first_and_on_close_is_called_last() -> None:
    handlers, order = Handlers(), []

    @handlers.on_open
    async def introduce(session: Session) -> list[S2Message]:
        order.append("open")
        return [DETAILS, measurement(1.0)]

    @handlers.on_close
    def gone(session: Session) -> None:
        order.append(f"closed {session.end_reason}")

    async with pair(handlers, device=True) as both:
        assert await both.receive() == DETAILS
        assert isinstance(await both.receive(), PowerMeasurement)
        await both.peer.close()
        assert await both.ended is SessionEnd.CLOSED_BY_PEER
    assert order == ["open", "closed closed_by_peer"]


async def test_messages_reach_the_handlers_of_their_class_in_their_order() -> None:
    handlers: Handlers = Handlers()
    seen: list[float] = []

    @handlers.on(PowerMeasurement)
    async def note(session: Session, message: PowerMeasurement) -> None:
        await asyncio.sleep(0)
        seen.append(message.values[0].value)

    async with pair(handlers, device=False) as both:
        await both.peer.send(DETAILS)
        await asyncio.gather(*(both.peer.send(measurement(float(number))) for number in range(50)))
        await until(lambda: len(seen) == 50)
    assert seen == [float(number) for number in range(50)]


async def test_a_plain_function_refuses_before_the_answer_and_what_it_returns_is_sent() -> None:
    handlers = device()

    @handlers.on(frbc.Instruction)
    def take(session: Session, message: frbc.Instruction) -> S2Message:
        if message.abnormal_condition:
            raise RefuseMessage("INVALID_CONTENT", "not in this state")
        return instruction_status(message, InstructionStatus.SUCCEEDED)

    async with pair(handlers, device=True) as both:
        await both.receive()
        await both.peer.send(SELECT)
        await both.ours.send(DESCRIPTION)
        assert await both.receive() == DESCRIPTION
        with pytest.raises(MessageRefused) as refusal:
            await both.peer.send(instruction().replace(abnormal_condition=True))
        assert (refusal.value.status, refusal.value.label) == ("INVALID_CONTENT", "not in this state")
        await both.peer.send(instruction())
        assert await both.statuses(1) == ["SUCCEEDED"]
        assert not both.failures.counts


async def test_a_failure_is_counted_answered_and_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    handlers = Handlers()
    later: list[float] = []

    @handlers.on(PowerMeasurement)
    async def fails_later(session: Session, message: PowerMeasurement) -> None:
        later.append(message.values[0].value)
        raise RuntimeError("later")

    @handlers.on(PowerMeasurement)
    def fails(session: Session, message: PowerMeasurement) -> None:
        if message.values[0].value < 0:
            raise RuntimeError("secret")

    async with pair(handlers, device=False) as both:
        await both.peer.send(DETAILS)
        with pytest.raises(MessageRefused) as refusal:
            await both.peer.send(measurement(-1.0))
        assert (refusal.value.status, refusal.value.label) == ("TEMPORARY_ERROR", "the application failed")
        await both.peer.send(measurement(2.0))
        await until(lambda: both.failures.counts == {"handler": 2})
        await both.peer.send(measurement(3.0))
    assert later == [2.0, 3.0], "what was refused is not handled"
    assert "the handler of PowerMeasurement in the session with" in caplog.text


async def test_messages_without_a_handler_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "s2connect.session.handlers")
    async with pair(Handlers(), device=False) as both:
        for value in (1.0, 2.0, 3.0):
            await both.peer.send(measurement(value))
    assert [r.getMessage() for r in caplog.records if "no handler" in r.getMessage()] == [
        "messages of the type PowerMeasurement come and have no handler"
    ]


async def test_a_failed_opening_asks_to_begin_anew() -> None:
    handlers = Handlers()

    @handlers.on_open
    def introduce(session: Session) -> None:
        raise RuntimeError

    async with pair(handlers, device=True) as both:
        await both.peer.wait_closed()
        assert both.peer.end_reason is SessionEnd.RECONNECT_REQUESTED
        assert both.failures.counts == {"handler": 1}


# Control types


async def test_a_device_runs_what_belongs_to_the_selected_control_type_and_nothing_else() -> None:
    handlers, running, log = device(), asyncio.Event(), []

    @handlers.while_selected(FRBC)
    async def control(session: Session) -> None:
        await session.send(DESCRIPTION)
        log.append("begun")
        running.set()
        try:
            await asyncio.Event().wait()
        finally:
            running.clear()
            log.append("ended")

    async with pair(handlers, device=True) as both:
        assert await both.receive() == DETAILS
        await both.peer.send(SELECT)
        assert await both.receive() == DESCRIPTION
        await running.wait()
        await both.peer.send(UNSELECT)
        await until(lambda: log == ["begun", "ended"])
        # Selected and taken back before the first is handled: nothing is sent that must not be sent any more.
        await asyncio.gather(both.peer.send(SELECT), both.peer.send(UNSELECT))
        await both.ours.send(measurement(1.0))
        assert isinstance(await both.receive(), PowerMeasurement)
        await both.peer.send(SELECT)
        await running.wait()
    assert log == ["begun", "ended", "begun", "ended"]
    assert not both.failures.counts


async def test_what_reports_cannot_send_between_the_new_selection_and_its_end() -> None:
    handlers, sent = device(), []

    @handlers.while_selected(FRBC)
    async def control(session: Session) -> None:
        await session.send(DESCRIPTION)
        while True:
            await session.send(frbc.StorageStatus(present_fill_level=50.0))
            sent.append(True)

    async with pair(handlers, device=True) as both:
        for _ in range(20):
            await both.peer.send(SELECT)
            before = len(sent)
            await until(lambda: len(sent) > before)  # noqa: B023
            await both.peer.send(UNSELECT)
            while len(both.peer._inbox):
                await both.peer.receive()
        assert not both.failures.counts


async def test_an_energy_manager_selects_the_first_control_type_that_it_knows_and_controls() -> None:
    handlers, controlled = Handlers(select=(ControlType.DEMAND_DRIVEN_BASED_CONTROL, FRBC)), asyncio.Event()

    @handlers.while_selected(FRBC, ControlType.DEMAND_DRIVEN_BASED_CONTROL)
    async def control(session: Session) -> None:
        assert session.control_type is FRBC
        controlled.set()

    async with pair(handlers, device=False) as both:
        await both.peer.send(DETAILS)
        selected = await both.receive()
        assert isinstance(selected, SelectControlType)
        assert selected.control_type is FRBC
        await controlled.wait()
        await both.peer.send(DETAILS.replace(message_id="again"))
        await both.peer.send(measurement(1.0))
        assert not len(both.peer._inbox), "it is selected already"


async def test_a_control_that_fails_ends_the_session_so_that_all_begins_anew() -> None:
    handlers = device()

    @handlers.while_selected(FRBC)
    async def control(session: Session) -> None:
        raise RuntimeError

    async with pair(handlers, device=True) as both:
        await both.receive()
        await both.peer.send(SELECT)
        await both.peer.wait_closed()
        assert both.peer.end_reason is SessionEnd.RECONNECT_REQUESTED
        assert both.failures.counts == {"handler": 1}


# Instructions


@contextlib.asynccontextmanager
async def controlled(carry_out: Callable[[Session, frbc.Instruction], Any]) -> AsyncIterator[Pair]:
    handlers = device()
    handlers.on_instruction(frbc.Instruction)(carry_out)
    async with pair(handlers, device=True) as both:
        await both.receive()
        await both.peer.send(SELECT)
        await both.ours.send(DESCRIPTION)
        await both.receive()
        yield both


async def test_an_instruction_is_carried_out_at_its_time_and_its_status_reported() -> None:
    begun: list[datetime] = []

    async def carry_out(session: Session, message: frbc.Instruction) -> S2Message:
        begun.append(datetime.now(UTC))
        return frbc.StorageStatus(present_fill_level=50.0)

    async with controlled(carry_out) as both:
        at = datetime.now(UTC) + timedelta(seconds=0.2)
        await both.peer.send(instruction(at))
        assert await both.statuses(2) == ["ACCEPTED", "STARTED"]
        assert isinstance(await both.receive(), frbc.StorageStatus)
        assert await both.statuses(1) == ["SUCCEEDED"]
    assert begun[0] >= at


async def test_a_plain_function_carries_out_an_instruction_as_well() -> None:
    async with controlled(lambda session, message: None) as both:
        await both.peer.send(instruction())
        assert await both.statuses(3) == ["ACCEPTED", "STARTED", "SUCCEEDED"]


async def test_an_instruction_that_fails_is_aborted() -> None:
    async def carry_out(session: Session, message: frbc.Instruction) -> None:
        raise RuntimeError

    async with controlled(carry_out) as both:
        await both.peer.send(instruction())
        assert await both.statuses(3) == ["ACCEPTED", "STARTED", "ABORTED"]
        assert both.failures.counts == {"handler": 1}


async def test_an_instruction_that_waits_can_be_revoked_and_ends_with_the_control_type() -> None:
    async def carry_out(session: Session, message: frbc.Instruction) -> None:
        raise AssertionError

    async with controlled(carry_out) as both:
        waits, ends = (instruction(datetime.now(UTC) + timedelta(hours=1)) for _ in range(2))
        await both.peer.send(waits)
        assert await both.statuses(1) == ["ACCEPTED"]
        await both.peer.send(RevokeObject(object_type=RevokableObjects.FRBC_INSTRUCTION, object_id=waits.id))
        update = await both.receive()
        assert isinstance(update, InstructionStatusUpdate)
        assert (update.status_type, update.instruction_id) == ("REVOKED", waits.id)
        await both.peer.send(ends)
        assert await both.statuses(1) == ["ACCEPTED"]
        await both.peer.send(UNSELECT)
        assert not both.failures.counts


async def test_instructions_beyond_a_bound_are_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_INSTRUCTIONS", 1)
    async with controlled(lambda session, message: None) as both:
        await both.peer.send(instruction(datetime.now(UTC) + timedelta(hours=1)))
        assert await both.statuses(1) == ["ACCEPTED"]
        await both.peer.send(instruction())
        assert await both.statuses(1) == ["REJECTED"]


# Edges


def test_what_is_the_sessions_own_business_has_no_handler() -> None:
    with pytest.raises(UsageError, match="own business"):
        Handlers().on(general.SessionRequest)


async def test_cancelled_it_closes_the_session_and_its_tasks() -> None:
    handlers, ended = device(), asyncio.Event()

    @handlers.while_selected(FRBC)
    async def control(session: Session) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with pair(handlers, device=True) as both:
        await both.receive()
        await both.peer.send(SELECT)
        await asyncio.sleep(0)
        both.ended.cancel()
        await asyncio.wait({both.ended})
        assert both.ended.cancelled()
        with pytest.raises(ConnectionClosed):
            await both.peer.send(UNSELECT)


async def test_a_message_that_came_before_the_handlers_is_handled_too() -> None:
    handlers, seen = Handlers(), asyncio.Event()

    @handlers.on(PowerMeasurement)
    def note(session: Session, message: PowerMeasurement) -> None:
        seen.set()

    cem, rm = connections()
    ours, peer = session(cem, check=Check.RULES), session(rm, check=Check.RULES)
    async with within(5):
        await peer.send(measurement(1.0))
        running = asyncio.create_task(handlers.run(ours))
        await seen.wait()
        await peer.close()
        await running


async def test_a_selection_that_came_before_the_handlers_counts() -> None:
    handlers, running = Handlers(), asyncio.Event()

    @handlers.while_selected(FRBC)
    async def control(session: Session) -> None:
        running.set()

    cem, rm = connections()
    peer, ours = session(cem, check=Check.RULES), session(rm, check=Check.RULES)
    async with within(5):
        await ours.send(DETAILS)
        await peer.send(SELECT)
        task = asyncio.create_task(handlers.run(ours))
        await running.wait()
        await peer.close()
        await task


async def test_sessions_are_freed_without_the_collector() -> None:
    handlers = device()
    handlers.on_instruction(frbc.Instruction)(lambda session, message: None)
    handlers.on(frbc.Instruction)(lambda session, message: None)

    @handlers.while_selected(FRBC)
    async def control(session: Session) -> None:
        await asyncio.Event().wait()

    async def converse() -> weakref.ref[Session]:
        async with pair(handlers, device=True) as both:
            await both.receive()
            await both.peer.send(SELECT)
            await both.ours.send(DESCRIPTION)
            await both.receive()
            await both.peer.send(instruction())
            await both.statuses(3)
            await both.peer.send(instruction(datetime.now(UTC) + timedelta(hours=1)))
            await both.statuses(1)
            return weakref.ref(both.ours)

    gc.collect()
    gc.disable()
    try:
        session = await converse()
        await until(lambda: session() is None)
    finally:
        gc.enable()


def test_every_kind_of_instruction_can_be_carried_out() -> None:
    handlers = Handlers()
    handlers.on_instruction(frbc.Instruction, ombc.Instruction, ddbc.Instruction, pebc.Instruction)(lambda *_: None)
    handlers.on_instruction(ppbc.ScheduleInstruction, ppbc.StartInterruptionInstruction)(lambda *_: None)
    handlers.on_instruction(ppbc.EndInterruptionInstruction)(lambda *_: None)
    assert len(handlers._instructions) == 7


async def test_a_class_of_today_is_that_of_yesterday_on_a_session_of_yesterday() -> None:
    handlers = Handlers(select=[ControlType.DEMAND_DRIVEN_BASED_CONTROL])
    seen: asyncio.Queue[S2Message] = asyncio.Queue()
    handlers.on(ddbc.SystemDescription)(lambda session, message: seen.put_nowait(message))
    manager, device_side = memory_sessions(s2_version="0.0.2-beta")
    task = asyncio.create_task(handlers.run(manager))
    details = DETAILS.replace(available_control_types=[ControlType.DEMAND_DRIVEN_BASED_CONTROL])
    async with within(5):
        await device_side.send(details)
        assert (await device_side.receive()).body["control_type"] == "DEMAND_DRIVEN_BASED_CONTROL"
        await device_side.send({"message_type": "DDBC.SystemDescription", **old_description()})
        assert isinstance(await seen.get(), ddbc.BetaSystemDescription)
        await device_side.close()
        await task

"""Simulated devices and energy managers in real sessions, over whatever carries those."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

from s2connect import Session, for_display
from s2connect.errors import (
    AcknowledgementTimeout,
    ConnectionClosed,
    MessageRefused,
    S2ConnectError,
    UsageError,
)
from s2connect.messages import S2Message, data_model, ddbc, frbc, ombc, pebc, ppbc
from s2connect.messages.general import InstructionStatus, InstructionStatusUpdate, SelectControlType
from s2connect.simulate.cem import EnergyManager, Outgoing
from s2connect.simulate.clock import Clock
from s2connect.simulate.devices.base import Device
from s2connect.simulate.units import MINUTE

_log = logging.getLogger(__name__)

STATE_EVERY: Final = 15 * MINUTE
"""Simulated time between two reports of how things stand."""

MAX_OUTGOING: Final = 100
"""Messages of an energy manager that wait for one device; what comes then is left out, and decided anew later."""

_BAD_NEWS: Final = frozenset({InstructionStatus.REJECTED, InstructionStatus.ABORTED})


class Report(NamedTuple):
    """Something that happened.

    Attributes:
        at: Simulated time.
        name: Which device, or the energy manager.
        event: ``connected``, ``disconnected``, ``note``, ``state``, ``instructed``, ``refused`` or ``failed``.
        text: For a person; fit for a terminal.
        values: For programs.
    """

    at: datetime
    name: str
    event: str
    text: str
    values: dict[str, Any]

    def to_value(self) -> dict[str, Any]:
        """The report as JSON value."""
        return {"at": self.at.isoformat(), "name": self.name, "event": self.event, "text": self.text, **self.values}


Reporter = Callable[[Report], None]
"""Told of what happens."""


class DeviceRunner:
    """A simulated device in one session after the other.

    Args:
        device: The device; it is this runner's alone.
        clock: The time.
        report: Told of what happens.
    """

    def __init__(self, device: Device, clock: Clock, report: Reporter) -> None:
        self.device = device
        self._clock = clock
        self._reporter = report
        self._next_state: datetime | None = None

    async def run(self, sessions: AsyncIterator[Session]) -> None:
        """Drive the device in every session, one at a time, until there are no more.

        Cancel-safe; the session that stands is closed.
        """
        async for session in sessions:
            try:
                await self.drive(session)
            except S2ConnectError as error:
                self._report("failed", str(error))
            finally:
                await session.close()

    async def drive(self, session: Session) -> None:
        """Be the resource manager of one session until it ends.

        Raises:
            UsageError: The session's version of S2 JSON is unknown here.
        """
        device = self.device
        device.version = data_model(session.info.s2_version)
        device.advance(self._clock.now())  # time before the session
        self._report("connected", f"talks with {for_display(session.peer.user_defined_name or session.peer.brand, 40)}")
        receiving: asyncio.Task[Any] | None = None
        try:
            await _send(session, [device.details()], self._failed)
            while True:
                if receiving is None:
                    receiving = asyncio.create_task(session.receive(), name=f"s2connect-simulate-{device.resource_id}")
                await asyncio.wait({receiving}, timeout=self._clock.seconds_until(device.next_due))
                said: list[S2Message] = []
                if receiving.done():
                    message = receiving.result()
                    receiving = None
                    said = device.instructed(message.parsed, self._clock.now())
                said += device.advance(self._clock.now())
                self._tell()
                await _send(session, said, self._failed)
        except ConnectionClosed:
            pass
        finally:
            if receiving is not None:
                receiving.cancel()
                await asyncio.gather(receiving, return_exceptions=True)
            device.disconnected(self._clock.now())
            self._report("disconnected", "is alone again", reason=session.end_reason.value)

    def _tell(self) -> None:
        for note in self.device.take_notes():
            self._report("note", note)
        now = self._clock.now()
        if self._next_state is None or now >= self._next_state:
            self._next_state = now + STATE_EVERY
            power = self.device.power
            self._report("state", f"{power:.0f} W, {self.device.state()}", power=power)

    def _failed(self, text: str) -> None:
        self._report("failed", text)

    def _report(self, event: str, text: str, **values: Any) -> None:
        self._reporter(Report(self._clock.now(), self.device.name, event, text, values))


class ManagerRunner:
    """A simulated energy manager in all its sessions at once.

    Args:
        manager: The energy manager; it is this runner's alone.
        clock: The time.
        report: Told of what happens.
        name: What reports call it.
    """

    def __init__(self, manager: EnergyManager, clock: Clock, report: Reporter, *, name: str = "cem") -> None:
        self.manager = manager
        self._clock = clock
        self._reporter = report
        self._name = name
        self._numbers = itertools.count(1)
        self._outgoing: dict[str, asyncio.Queue[S2Message]] = {}
        self._next_state: datetime | None = None

    async def run(self, sessions: AsyncIterator[Session]) -> None:
        """Manage the device of every session, until there are no more. Cancel-safe; sessions that stand are closed."""
        async with asyncio.TaskGroup() as group:
            looking = group.create_task(self._look(), name="s2connect-simulate-look")
            async for session in sessions:
                group.create_task(self.drive(session), name=f"s2connect-simulate-{session.info.remote}")
            looking.cancel()

    async def drive(self, session: Session) -> None:
        """Manage the device of one session until it ends; somebody has to :meth:`look` meanwhile."""
        key = f"{session.peer.id}/{next(self._numbers)}"
        queue = self._outgoing[key] = asyncio.Queue(MAX_OUTGOING)
        self.manager.connected(key)
        sending = asyncio.create_task(self._send(session, key, queue), name=f"s2connect-simulate-send-{key}")
        shown = for_display(session.peer.user_defined_name or session.peer.type, 40)
        self._report("connected", f"{shown} is there")
        try:
            async for message in session:
                self._dispatch(self.manager.received(key, message.parsed, self._clock.now()))
                self._watch(key, message.parsed)
        except S2ConnectError as error:
            self._report("failed", f"{shown}: {error}")
        finally:
            self.manager.disconnected(key)
            del self._outgoing[key]
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            await session.close()
            self._report("disconnected", f"{shown} is gone", reason=session.end_reason.value)

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(max(0.005, self._clock.seconds_until(self.manager.next_due)))
            now = self._clock.now()
            self._dispatch(self.manager.advance(now))
            if self._next_state is None or now >= self._next_state:
                self._next_state = now + STATE_EVERY
                power, count = self.manager.power, len(self.manager.devices)
                text = f"{power:.0f} W from the grid" if power >= 0 else f"{-power:.0f} W to the grid"
                self._report("state", f"{text}, devices: {count}", power=power, devices=count)

    def _dispatch(self, outgoing: Iterable[Outgoing]) -> None:
        for device, message in outgoing:
            queue = self._outgoing.get(device)
            if queue is None:
                continue
            name = for_display(self.manager.devices[device].name, 40)
            if queue.full():
                self._report("failed", f"{name} does not keep up; it is not sent a {message.message_type}")
                continue
            queue.put_nowait(message)
            self._report("instructed", f"{name}: {_summary(message)}", message=message.to_value())

    def _watch(self, key: str, message: S2Message) -> None:
        if isinstance(message, InstructionStatusUpdate) and message.status_type in _BAD_NEWS:
            name = for_display(self.manager.devices[key].name, 40)
            self._report("refused", f"{name} says {message.status_type}", instruction_id=message.instruction_id)

    async def _send(self, session: Session, key: str, queue: asyncio.Queue[S2Message]) -> None:
        def failed(text: str) -> None:
            self._report("failed", f"{key.partition('/')[0]}: {text}")

        try:
            while True:
                await _send(session, [await queue.get()], failed)
        except ConnectionClosed:
            pass

    def _report(self, event: str, text: str, **values: Any) -> None:
        self._reporter(Report(self._clock.now(), self._name, event, text, values))


def _summary(message: S2Message) -> str:
    """Summarise a message of the energy manager; ids come from the network, and are cleaned."""
    match message:
        case SelectControlType():
            return message.control_type.value
        case frbc.Instruction():
            return f"{for_display(message.operation_mode, 40)}, factor {message.operation_mode_factor:.2f}"
        case ombc.Instruction() | ddbc.Instruction():
            return f"{for_display(message.operation_mode_id, 40)}, factor {message.operation_mode_factor:.2f}"
        case pebc.Instruction():
            element = message.power_envelopes[0].power_envelope_elements[0]
            return f"from {element.lower_limit:.0f} W to {element.upper_limit:.0f} W"
        case ppbc.ScheduleInstruction():
            return f"{for_display(message.power_sequence_id, 40)} at {message.execution_time:%a %H:%M}"
    return message.message_type


async def _send(session: Session, messages: Sequence[S2Message], failed: Callable[[str], None]) -> None:
    """Send messages in order. Report those that the peer refuses or that do not fit, and go on.

    Raises:
        ConnectionClosed: The session has ended.
    """
    for message in messages:
        try:
            await session.send(message)
        except (MessageRefused, AcknowledgementTimeout, UsageError) as error:
            _log.info("%s could not be sent: %s", message.message_type, error)
            failed(f"{message.message_type}: {for_display(str(error), 200)}")

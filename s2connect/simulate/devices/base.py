"""Base of the simulated devices, and of the control types by which an energy manager controls them."""

from __future__ import annotations

import abc
import bisect
from collections import deque
from datetime import datetime, timedelta
from random import Random
from typing import Any, ClassVar, Final, Generic, NamedTuple, TypeVar

from s2connect.messages import V1, IdentifiedMessage, S2Message
from s2connect.messages.general import (
    Commodity,
    ControlType,
    InstructionStatus,
    InstructionStatusUpdate,
    PowerForecast,
    PowerForecastElement,
    PowerMeasurement,
    PowerValue,
    ResourceManagerDetails,
    RevokeObject,
    Role,
    RoleType,
    SelectControlType,
)
from s2connect.simulate.units import HOUR, MINUTE, POWER, expected, milliseconds

STEP: Final = MINUTE
"""Longest piece of time that a physical model is calculated in at once."""

MAX_NOTES: Final = 100
"""Sentences for a person that are kept until they are taken; beyond it the oldest is forgotten."""

MAX_WAITING: Final = 16
"""Instructions that may wait for their time of execution."""

D = TypeVar("D", bound="Device")


class Basics(NamedTuple):
    """Arguments common to all devices."""

    resource_id: str
    chance: Random
    """Source of its random numbers."""
    now: datetime
    name: str | None = None
    """The name that its user gave it."""
    only: ControlType | None = None
    """The only control type to offer; None offers all that it has."""
    measure_every: timedelta = MINUTE


class Device(abc.ABC):
    """A simulated device and its resource manager, without I/O: the time and random numbers come as arguments.

    What the methods return is to be sent in that order. The times that they are given never go back.

    Attributes:
        version: S2 JSON data model of the session; set it before a control type is selected.
        outlook: Grows whenever the forecast changes.
        notes: Sentences for display, without their subject, the device's name; who shows them takes them out.
    """

    kind: ClassVar[str]
    role: ClassVar[RoleType] = RoleType.ENERGY_CONSUMER
    controls: ClassVar[tuple[type[Control[Any]], ...]]

    def __init__(self, basics: Basics) -> None:
        self.resource_id = basics.resource_id
        self.name = basics.name or self.kind
        self.version = V1
        self.outlook = 0
        self._chance = basics.chance
        self._offered = {c.control_type: c for c in self.controls if basics.only in (None, c.control_type)}
        self._now = basics.now
        self._measure_every = basics.measure_every
        self._next_measurement = basics.now + basics.measure_every
        self._next_forecast = basics.now + HOUR
        self._control: Control[Any] | None = None
        self.notes: deque[str] = deque(maxlen=MAX_NOTES)

    # Messages

    def details(self) -> ResourceManagerDetails:
        """Return the first message of a session."""
        return ResourceManagerDetails(
            resource_id=self.resource_id,
            name=self.name,
            roles=[Role(role=self.role, commodity=Commodity.ELECTRICITY)],
            manufacturer="s2connect",
            model=f"Simulated {self.kind}",
            instruction_processing_delay=0,
            available_control_types=list(self._offered),
            provides_forecast=bool(self._power_elements(self._now)),
            provides_power_measurement_types=[value.commodity_quantity for value in self._values()],
        )

    def disconnected(self, now: datetime) -> None:
        """Go on without an energy manager, after the end of the session."""
        self._progress(now)
        if self._control is not None:
            self._control.stop()
            self._control = None

    def instructed(self, message: S2Message, now: datetime) -> list[S2Message]:
        """Take a message of the energy manager; those that do not fit are ignored.

        Returns:
            The status of the instruction, and other messages. For the selection of a control type descriptions and
            statuses; without one, or for one that was not offered, only a measurement.
        """
        self._progress(now)
        if not isinstance(message, SelectControlType):
            return self._control.take(message, now) if self._control else []
        self.disconnected(now)
        said: list[S2Message] = []
        if message.control_type in self._offered:
            self._control = self._offered[message.control_type](self)
            self.notes.append(f"is controlled by {message.control_type}")
            said = self._control.start(now)
        return [*said, *self._measurement(now), *self._power_forecast(now)]

    def advance(self, now: datetime) -> list[S2Message]:
        """Let time go on to ``now``. Returns the messages that were due since the last call."""
        said: list[S2Message] = []
        while (due := self.next_due) <= now:
            self._progress(due)
            if self._control is not None:
                said += self._control.due(due)
            else:
                self.alone(due)
            if due >= self._next_measurement:
                self._next_measurement = due + self._measure_every
                said += self._measurement(due)
            if due >= self._next_forecast:
                said += self._power_forecast(due)
        self._progress(now)
        return said

    @property
    def next_due(self) -> datetime:
        """Time of the next message of :meth:`advance`."""
        due = self._control.next_due if self._control else None
        return self._next_measurement if due is None else max(self._now, min(due, self._next_measurement))

    @property
    def control_type(self) -> ControlType | None:
        """Selected control type."""
        return self._control.control_type if self._control else None

    # The physical model

    @abc.abstractmethod
    def state(self) -> str:
        """Return the state for display, such as ``40 % full``."""

    @property
    @abc.abstractmethod
    def power(self) -> float:
        """Electric power in W; production is negative."""

    def alone(self, now: datetime) -> None:  # noqa: B027 - nothing, unless a device says so
        """Do what the device does without an energy manager."""

    def _step(self, start: datetime, seconds: float) -> None:  # noqa: B027 - likewise
        """Let at most :data:`STEP` pass, during which nothing is changed from outside."""

    def _power_elements(self, now: datetime) -> list[float]:
        """Return the expected W of each of the next hours."""
        return []

    def _values(self) -> list[PowerValue]:
        return [PowerValue(commodity_quantity=POWER, value=self.power)]

    def _progress(self, now: datetime) -> None:
        while self._now < now:
            piece = min(now - self._now, STEP)
            self._step(self._now, piece.total_seconds())
            self._now += piece

    def _measurement(self, now: datetime) -> list[S2Message]:
        return [PowerMeasurement(measurement_timestamp=now, values=self._values())]

    def _power_forecast(self, now: datetime) -> list[S2Message]:
        self._next_forecast = now + HOUR
        powers = self._power_elements(now)
        elements = [
            PowerForecastElement(duration=milliseconds(HOUR), power_values=[expected(power)]) for power in powers
        ]
        return [PowerForecast(start_time=now, elements=elements)] if elements else []


class Control(abc.ABC, Generic[D]):
    """Base of the control types of one device, from the selection to the next. Simulated time comes as argument.

    Instructions are accepted, wait for their time and begin, with a status at each step.
    """

    control_type: ClassVar[ControlType]
    instructions: ClassVar[tuple[type[IdentifiedMessage], ...]]

    def __init__(self, device: D) -> None:
        self._device = device
        self._waiting: list[Any] = []
        """Accepted instructions, by their time of execution."""

    @abc.abstractmethod
    def start(self, now: datetime) -> list[S2Message]:
        """Start after the selection. Returns the messages to the energy manager."""

    @abc.abstractmethod
    def objection(self, instruction: Any, now: datetime) -> str | None:
        """Return why an instruction is refused, as a sentence for the device's user; None if it is accepted."""

    @abc.abstractmethod
    def begin(self, instruction: Any, now: datetime) -> list[S2Message]:
        """Execute an instruction. Returns its status updates and other messages."""

    @abc.abstractmethod
    def tick(self, now: datetime) -> list[S2Message]:
        """Update to the time ``now``. Returns the messages that are due."""

    def stop(self) -> None:
        """Stop, because another control type is selected or the session has ended."""

    @abc.abstractmethod
    def moments(self) -> list[datetime]:
        """Return when there is work next, apart from the instructions that wait."""

    @property
    def next_due(self) -> datetime | None:
        """Time of the next work of :meth:`due`."""
        return min([*self.moments(), *(one.execution_time for one in self._waiting[:1])], default=None)

    def take(self, message: S2Message, now: datetime) -> list[S2Message]:
        """Take a message of the energy manager; those of other control types are ignored."""
        if isinstance(message, RevokeObject):
            return self._revoke(message.object_id, now)
        if not isinstance(message, self.instructions):
            return []
        instruction: Any = message  # one of those that self.instructions lists
        new = status_update(instruction.id, InstructionStatus.NEW, now)
        reason = "Too many instructions wait already." if len(self._waiting) >= MAX_WAITING else None
        reason = reason or self.objection(instruction, max(now, instruction.execution_time))
        if reason is not None:
            self._device.notes.append(f"refuses an instruction: {reason}")
            return [new, status_update(instruction.id, InstructionStatus.REJECTED, now)]
        accepted = [new, status_update(instruction.id, InstructionStatus.ACCEPTED, now)]
        if instruction.execution_time <= now:
            return [*accepted, *self.begin(instruction, now)]
        bisect.insort(self._waiting, instruction, key=lambda one: one.execution_time)
        return [*accepted]

    def _revoke(self, instruction_id: str, now: datetime) -> list[S2Message]:
        """Forget an instruction that has not begun."""
        before = len(self._waiting)
        self._waiting = [one for one in self._waiting if one.id != instruction_id]
        revoked = len(self._waiting) < before
        return [status_update(instruction_id, InstructionStatus.REVOKED, now)] if revoked else []

    def due(self, now: datetime) -> list[S2Message]:
        """Execute the instructions whose time has come. Returns all messages that are due."""
        said: list[S2Message] = []
        while self._waiting and self._waiting[0].execution_time <= now:
            instruction = self._waiting.pop(0)
            reason = self.objection(instruction, now)
            if reason is None:
                said += self.begin(instruction, now)
            else:
                self._device.notes.append(f"gives an instruction up: {reason}")
                said.append(status_update(instruction.id, InstructionStatus.ABORTED, now))
        return said + self.tick(now)


def status_update(instruction_id: str, status: InstructionStatus, now: datetime) -> InstructionStatusUpdate:
    """Return the status of an instruction."""
    return InstructionStatusUpdate(instruction_id=instruction_id, status_type=status, timestamp=now)

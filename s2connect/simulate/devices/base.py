"""Base of the simulated devices: description, measurements, forecasts and control."""

from __future__ import annotations

import abc
from collections import deque
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import ClassVar, Final, TypedDict

from s2connect.errors import UsageError
from s2connect.messages import V1, S2Message
from s2connect.messages.general import (
    Commodity,
    CommodityQuantity,
    ControlType,
    PowerForecast,
    PowerForecastElement,
    PowerMeasurement,
    PowerValue,
    ResourceManagerDetails,
    Role,
    RoleType,
    SelectControlType,
)
from s2connect.simulate.controls.base import Control
from s2connect.simulate.controls.modes import Actuator, Setting
from s2connect.simulate.units import HOUR, MINUTE, POWER, Chance, expected, milliseconds

STEP: Final = MINUTE
"""Longest piece of time that a physical model is calculated in at once."""

MAX_NOTES: Final = 100
"""Sentences for a person that are kept until they are taken; beyond it the oldest is forgotten."""


class DeviceOptions(TypedDict, total=False):
    """Options of every device; see :class:`Device`."""

    name: str | None
    offered: Sequence[ControlType] | None
    measure_every: timedelta


class Device(abc.ABC):
    """A simulated device and its resource manager, without I/O: the time and random numbers come as arguments.

    What the methods return is to be sent in that order. The times that they are given never go back.

    Args:
        resource_id: Its ``resource_id``.
        chance: Where its random numbers come from.
        now: The time, with its zone.
        name: The name that its user gave it.
        offered: Control types to offer, of those that it has; None offers all.
        measure_every: Between two measurements.

    Attributes:
        resource_id: Its ``resource_id``.
        name: The name that its user gave it.
        version: S2 JSON data model of the session; set it before :meth:`selected`.
        outlook: Grows whenever the forecast changes.

    Raises:
        UsageError: ``offered`` names a control type that it has not, or none at all.
    """

    kind: ClassVar[str]
    role: ClassVar[RoleType] = RoleType.ENERGY_CONSUMER
    control_types: ClassVar[tuple[ControlType, ...]]
    measured: ClassVar[tuple[CommodityQuantity, ...]] = (POWER,)
    forecasts_power: ClassVar[bool] = False

    def __init__(
        self,
        resource_id: str,
        chance: Chance,
        *,
        now: datetime,
        name: str | None = None,
        offered: Sequence[ControlType] | None = None,
        measure_every: timedelta = MINUTE,
    ) -> None:
        self.resource_id = resource_id
        self.name = name or self.kind
        self.version = V1
        self.outlook = 0
        self._chance = chance
        self._offered = tuple(offered) if offered is not None else self.control_types
        if not self._offered or not set(self._offered) <= set(self.control_types):
            raise UsageError(f"A {self.kind} cannot be controlled that way; it knows {', '.join(self.control_types)}.")
        self._now = now
        self._measure_every = measure_every
        self._next_measurement = now + measure_every
        self._next_forecast = now + HOUR
        self._control: Control | None = None
        self._notes: deque[str] = deque(maxlen=MAX_NOTES)
        self._actuators: dict[str, Actuator] = {}

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
            provides_forecast=self.forecasts_power,
            provides_power_measurement_types=list(self.measured),
        )

    def selected(self, control_type: ControlType, now: datetime) -> list[S2Message]:
        """Take the selection of a control type.

        Returns:
            Descriptions and statuses; without a control type, or for one that was not offered, only a measurement.
        """
        self._progress(now)
        self._stop_control()
        if control_type in self._offered:
            self._control = self._make_control(control_type, now)
            self.note(f"is controlled by {control_type}")
        said: list[S2Message] = self._control.start(now) if self._control else []
        return [*said, *self._measurement(now), *self._power_forecast(now)]

    def disconnected(self, now: datetime) -> None:
        """Go on without an energy manager, after the end of the session."""
        self._progress(now)
        self._stop_control()

    def instructed(self, message: S2Message, now: datetime) -> list[S2Message]:
        """Take a message of the energy manager; those that do not fit are ignored.

        Returns:
            The status of the instruction, and other messages.
        """
        self._progress(now)
        if isinstance(message, SelectControlType):
            return self.selected(message.control_type, now)
        return self._control.take(message, now) if self._control else []

    def advance(self, now: datetime) -> list[S2Message]:
        """Let time go on to ``now``.

        Returns:
            The messages that were due since the last call.
        """
        said: list[S2Message] = []
        while (due := self.next_due) <= now:
            self._progress(due)
            said += self._due(due)
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

    # For display

    def note(self, text: str) -> None:
        """Add a note for display."""
        self._notes.append(text)

    def take_notes(self) -> list[str]:
        """Return the notes since the last call, as sentences without their subject, the device's name."""
        notes = list(self._notes)
        self._notes.clear()
        return notes

    @abc.abstractmethod
    def state(self) -> str:
        """Return the state for display, such as ``40 % full``."""

    # The physical model

    @property
    @abc.abstractmethod
    def power(self) -> float:
        """Electric power in W; production is negative."""

    @abc.abstractmethod
    def _step(self, start: datetime, seconds: float) -> None:
        """Let at most :data:`STEP` pass, during which nothing is changed from outside."""

    @abc.abstractmethod
    def _make_control(self, control_type: ControlType, now: datetime) -> Control:
        """Make the control of a selected type."""

    def _alone(self, now: datetime) -> list[Setting]:
        """Return the settings without an energy manager."""
        return []

    def _power_elements(self, now: datetime) -> list[float]:
        """Return the expected W of each of the next hours."""
        return []

    def _values(self) -> list[PowerValue]:
        return [PowerValue(commodity_quantity=POWER, value=self.power)]

    # How actuators are seen by controls

    @property
    def actuators(self) -> dict[str, Actuator]:
        """Its actuators by id."""
        return self._actuators

    def _stop_control(self) -> None:
        if self._control is not None:
            self._control.stop()
            self._control = None

    def _progress(self, now: datetime) -> None:
        while self._now < now:
            piece = min(now - self._now, STEP)
            self._step(self._now, piece.total_seconds())
            self._now += piece

    def _due(self, now: datetime) -> list[S2Message]:
        said: list[S2Message] = []
        if self._control is not None:
            said += self._control.due(now)
        else:
            for setting in self._alone(now):
                self._actuators[setting.actuator].switch(setting.mode, setting.factor, now)
        if now >= self._next_measurement:
            self._next_measurement = now + self._measure_every
            said += self._measurement(now)
        if now >= self._next_forecast:
            said += self._power_forecast(now)
        return said

    def _measurement(self, now: datetime) -> list[S2Message]:
        return [PowerMeasurement(measurement_timestamp=now, values=self._values())]

    def _power_forecast(self, now: datetime) -> list[S2Message]:
        self._next_forecast = now + HOUR
        elements = [
            PowerForecastElement(duration=milliseconds(HOUR), power_values=[expected(power)])
            for power in self._power_elements(now)
        ]
        return [PowerForecast(start_time=now, elements=elements)] if elements else []

"""Control by operation modes: FRBC, OMBC and DDBC, which differ in their messages and share how modes change."""

from __future__ import annotations

import abc
import itertools
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, ClassVar, Final, NamedTuple, TypeVar

from s2connect.messages import BETA, S2Message, S2Object, ddbc, frbc, ombc
from s2connect.messages.general import (
    Commodity,
    CommodityQuantity,
    ControlType,
    InstructionStatus,
    NumberRange,
    PowerRange,
    Timer,
    Transition,
)
from s2connect.simulate.devices.base import Control, Device, status_update
from s2connect.simulate.units import HOUR, MINUTE, POWER, along, milliseconds, number_range

STATUS_PERIOD: Final = 5 * MINUTE
"""Between two statuses of the fill level or the demand."""

FORECAST_PERIOD: Final = HOUR
"""Between two forecasts."""


class Mode(NamedTuple):
    """An operation mode: what it has at factor 0 and factor 1."""

    id: str
    power: tuple[float, float]
    """W of electricity, or in the unit of ``quantity``."""
    rate: tuple[float, float] = (0.0, 0.0)
    """Fill rate per second (FRBC) or supply rate (DDBC)."""
    abnormal: bool = False
    """Only for abnormal conditions."""
    quantity: CommodityQuantity = POWER


class Actuator:
    """An actuator, or a device under OMBC: its modes, and which one is active, at first the first one.

    Each can change to each other; ``holds`` says by mode how long it stays there at least.
    """

    def __init__(
        self,
        id: str,  # noqa: A002 - as in the messages
        modes: Sequence[Mode],
        now: datetime,
        *,
        holds: Mapping[str, timedelta] | None = None,
        commodity: Commodity = Commodity.ELECTRICITY,
    ) -> None:
        self.id = id
        self.commodity = commodity
        self.modes = {mode.id: mode for mode in modes}
        self.mode = modes[0].id
        self.factor = 0.0
        self.previous: tuple[str, datetime] | None = None
        self._holds = holds or {}
        self.timers = {_timer(mode): now for mode in self._holds}
        """End of each timer, past or future."""

    @property
    def power(self) -> float:
        """Power of the active mode."""
        return along(self.modes[self.mode].power, self.factor)

    @property
    def rate(self) -> float:
        """Fill or supply rate of the active mode, per second."""
        return along(self.modes[self.mode].rate, self.factor)

    def objection(self, mode: str, factor: float, abnormal_condition: bool, now: datetime) -> str | None:
        """Return why it cannot change to a mode at a time; None if it can."""
        if mode not in self.modes:
            return f"There is no operation mode {mode[:40]}."
        if not 0 <= factor <= 1:
            return "The factor is not from 0 to 1."
        if self.modes[mode].abnormal and not abnormal_condition:
            return f"{mode} is for abnormal conditions only."
        if mode != self.mode and self.timers.get(_timer(self.mode), now) > now:
            return f"It has to stay {self.mode} for a while, because switching often wears it out."
        return None

    def switch(self, mode: str, factor: float, now: datetime) -> str | None:
        """Change the mode; returns the timer that this starts, if any."""
        timer = None
        if mode != self.mode:
            if mode in self._holds:
                timer = _timer(mode)
                self.timers[timer] = now + self._holds[mode]
            self.previous = self.mode, now
        self.mode, self.factor = mode, factor
        return timer

    def description(self, describe: Callable[[Mode], S2Object]) -> dict[str, Any]:
        """Return the members that all descriptions have, with the modes as a control type describes them."""

        def timers(mode: str) -> list[str]:
            return [_timer(mode)] if mode in self._holds else []

        return {
            "operation_modes": [describe(mode) for mode in self.modes.values()],
            "transitions": [
                Transition(
                    id=f"{start}:{end}",
                    from_=start,
                    to=end,
                    start_timers=timers(end),
                    blocking_timers=timers(start),
                    abnormal_condition_only=self.modes[end].abnormal,
                )
                for start, end in itertools.permutations(self.modes, 2)
            ],
            "timers": [Timer(id=_timer(mode), duration=milliseconds(holds)) for mode, holds in self._holds.items()],
        }


class Setting(NamedTuple):
    """A mode of an actuator and its factor."""

    actuator: str
    mode: str
    factor: float


class Machine(Device):
    """A device whose actuators have operation modes."""

    actuators: dict[str, Actuator]
    """By id."""

    @abc.abstractmethod
    def user_objection(self, setting: Setting, now: datetime) -> str | None:
        """Return why the user objects to a setting; None if not."""

    @abc.abstractmethod
    def corrections(self, now: datetime) -> list[Setting]:
        """Return the settings that the device changes by itself, for its limits or its user."""

    @abc.abstractmethod
    def _alone(self, now: datetime) -> list[Setting]:
        """Return the settings without an energy manager."""

    def alone(self, now: datetime) -> None:
        for setting in self._alone(now):
            self.actuators[setting.actuator].switch(setting.mode, setting.factor, now)


class Storing(Machine):
    """A device with a storage, for FRBC."""

    levels: ClassVar[tuple[float, float]] = (0.0, 100.0)
    """Lowest and highest fill level."""

    unit: ClassVar[str] = "%"

    level: Any  # float, which some calculate
    """Fill level."""

    def forecasts(self, now: datetime) -> list[S2Message]:
        """Return leakage, usage and the target of the fill level, as far as the device has them."""
        return []


class Demanding(Machine):
    """A device that has to meet a demand, for DDBC."""

    @abc.abstractmethod
    def demand(self, now: datetime) -> float:
        """Return the demand as a rate per second, in the unit of the supply rates of its modes."""


M = TypeVar("M", bound=Machine)
T = TypeVar("T")


class ModesControl(Control[M]):
    """Base of FRBC, OMBC and DDBC, each with status messages of its own for actuators and timers."""

    status_type: ClassVar[Callable[..., S2Message]]
    timer_type: ClassVar[Callable[..., S2Message]]

    @abc.abstractmethod
    def description(self, now: datetime) -> S2Message:
        """Return the system description."""

    def status(self, now: datetime) -> list[S2Message]:
        """Return the status messages beside those of the actuators."""
        return []

    def forecasts(self, now: datetime) -> list[S2Message]:
        """Return the forecasts."""
        return []

    def naming(self, actuator: Actuator) -> dict[str, str]:
        """Return the members that name an actuator in its messages."""
        return {"actuator_id": actuator.id}

    def moments(self) -> list[datetime]:
        return [self._next_status]

    def start(self, now: datetime) -> list[S2Message]:
        self._next_status = now + STATUS_PERIOD
        said = [self.description(now), *self._foreseen(now)]
        for actuator in self._device.actuators.values():
            said += self._actuator_status(actuator, *actuator.timers)
        return said + self.status(now)

    def objection(self, instruction: Any, now: datetime) -> str | None:
        setting = self._setting(instruction)
        actuator = self._device.actuators.get(setting.actuator)
        if actuator is None:
            return f"There is no actuator {setting.actuator[:40]}."
        reason = actuator.objection(setting.mode, setting.factor, instruction.abnormal_condition, now)
        if reason is None and not instruction.abnormal_condition:
            reason = self._device.user_objection(setting, now)
        return reason

    def begin(self, instruction: Any, now: datetime) -> list[S2Message]:
        """Change the mode, which takes no time."""
        started = status_update(instruction.id, InstructionStatus.STARTED, now)
        succeeded = status_update(instruction.id, InstructionStatus.SUCCEEDED, now)
        return [started, *self._switch(self._setting(instruction), now), succeeded]

    def tick(self, now: datetime) -> list[S2Message]:
        """Correct what has to be, and report at intervals."""
        said: list[S2Message] = []
        for setting in self._device.corrections(now):
            self._device.notes.append(f"sets {setting.actuator} to {setting.mode} by itself")
            said += self._switch(setting, now)
        if now >= self._next_status:
            self._next_status = now + STATUS_PERIOD
            said += self.status(now)
        if now >= self._next_forecast or self._device.outlook != self._outlook:
            said += self._foreseen(now)
        return said

    def _foreseen(self, now: datetime) -> list[S2Message]:
        self._next_forecast = now + FORECAST_PERIOD
        self._outlook = self._device.outlook
        return self.forecasts(now)

    def _setting(self, instruction: frbc.Instruction | ombc.Instruction | ddbc.Instruction) -> Setting:
        if isinstance(instruction, frbc.Instruction):
            return Setting(instruction.actuator_id, instruction.operation_mode, instruction.operation_mode_factor)
        sole = next(iter(self._device.actuators))
        actuator = instruction.actuator_id if isinstance(instruction, ddbc.Instruction) else sole
        return Setting(actuator, instruction.operation_mode_id, instruction.operation_mode_factor)

    def _described(self, kind: Callable[..., T], describe: Callable[[Mode], S2Object]) -> list[T]:
        """Return the descriptions of the actuators."""
        return [
            kind(id=one.id, supported_commodities=[one.commodity], **one.description(describe))
            for one in self._device.actuators.values()
        ]

    def _switch(self, setting: Setting, now: datetime) -> list[S2Message]:
        actuator = self._device.actuators[setting.actuator]
        before = actuator.mode, actuator.factor
        timer = actuator.switch(setting.mode, setting.factor, now)
        changed = before != (actuator.mode, actuator.factor)
        return self._actuator_status(actuator, *([timer] if timer else [])) if changed else []

    def _actuator_status(self, actuator: Actuator, *timers: str) -> list[S2Message]:
        """Return the status of an actuator, and of these timers."""
        named, (previous, since) = self.naming(actuator), actuator.previous or (None, None)
        status = self.status_type(
            **named,
            active_operation_mode_id=actuator.mode,
            operation_mode_factor=actuator.factor,
            previous_operation_mode_id=previous,
            transition_timestamp=since,
        )
        return [status, *(self.timer_type(**named, timer_id=t, finished_at=actuator.timers[t]) for t in timers)]


class FrbcControl(ModesControl[Storing]):
    """Fill Rate Based Control."""

    control_type: ClassVar = ControlType.FILL_RATE_BASED_CONTROL
    instructions: ClassVar = (frbc.Instruction,)
    status_type: ClassVar = frbc.ActuatorStatus
    timer_type: ClassVar = frbc.TimerStatus

    def description(self, now: datetime) -> S2Message:
        """Return the storage and its actuators."""
        levels, forecasts = number_range(*self._device.levels), {type(one) for one in self._device.forecasts(now)}

        def mode(mode: Mode) -> frbc.OperationMode:
            element = frbc.OperationModeElement(
                fill_level_range=levels, fill_rate=number_range(*mode.rate), power_ranges=[_power(mode)]
            )
            return frbc.OperationMode(**_of_mode(mode), elements=[element])

        return frbc.SystemDescription(
            valid_from=now,
            actuators=self._described(frbc.ActuatorDescription, mode),
            storage=frbc.StorageDescription(
                fill_level_range=levels,
                fill_level_label=self._device.unit,
                provides_leakage_behaviour=frbc.LeakageBehaviour in forecasts,
                provides_fill_level_target_profile=frbc.FillLevelTargetProfile in forecasts,
                provides_usage_forecast=frbc.UsageForecast in forecasts,
            ),
        )

    def status(self, now: datetime) -> list[S2Message]:
        """Return the fill level of the storage."""
        return [frbc.StorageStatus(present_fill_level=self._device.level)]

    def forecasts(self, now: datetime) -> list[S2Message]:
        return self._device.forecasts(now)


class OmbcControl(ModesControl[Machine]):
    """Operation Mode Based Control, of a device with one actuator."""

    control_type: ClassVar = ControlType.OPERATION_MODE_BASED_CONTROL
    instructions: ClassVar = (ombc.Instruction,)
    status_type: ClassVar = ombc.Status
    timer_type: ClassVar = ombc.TimerStatus

    def naming(self, actuator: Actuator) -> dict[str, str]:
        return {}

    def description(self, now: datetime) -> S2Message:
        """Return the modes of the device."""
        (actuator,) = self._device.actuators.values()
        modes = actuator.description(lambda mode: ombc.OperationMode(**_of_mode(mode), power_ranges=[_power(mode)]))
        return ombc.SystemDescription(valid_from=now, **modes)


class DdbcControl(ModesControl[Demanding]):
    """Demand Driven Based Control, in the data model of the session."""

    control_type: ClassVar = ControlType.DEMAND_DRIVEN_BASED_CONTROL
    instructions: ClassVar = (ddbc.Instruction,)
    status_type: ClassVar = ddbc.ActuatorStatus
    timer_type: ClassVar = ddbc.TimerStatus

    def description(self, now: datetime) -> S2Message:
        """Return the actuators; in 0.0.2-beta with the present demand."""

        def mode(mode: Mode) -> ddbc.OperationMode:
            supply = number_range(*mode.rate)
            return ddbc.OperationMode(**_of_mode(mode), power_ranges=[_power(mode)], supply_range=supply)

        members: dict[str, Any] = {
            "valid_from": now,
            "provides_average_demand_rate_forecast": True,
            "actuators": self._described(ddbc.ActuatorDescription, mode),
        }
        if self._device.version == BETA:
            return ddbc.BetaSystemDescription(**members, present_demand_rate=self._demand(now))
        return ddbc.SystemDescription(**members)

    def _demand(self, now: datetime) -> NumberRange:
        demand = self._device.demand(now)
        return number_range(demand, demand)

    def status(self, now: datetime) -> list[S2Message]:
        """Return the present demand: a message of its own, or in 0.0.2-beta another description."""
        if self._device.version == BETA:
            return [self.description(now)]
        return [ddbc.PresentDemandStatus(present_demand_rate=self._demand(now))]

    def forecasts(self, now: datetime) -> list[S2Message]:
        """Return the demand of the next day, hour by hour."""
        elements = [
            ddbc.AverageDemandRateForecastElement(
                duration=milliseconds(HOUR), demand_rate_expected=self._device.demand(now + (hour + 0.5) * HOUR)
            )
            for hour in range(24)
        ]
        return [ddbc.AverageDemandRateForecast(start_time=now, elements=elements)]


def _timer(mode: str) -> str:
    return f"{mode}-minimum"


def _of_mode(mode: Mode) -> dict[str, Any]:
    """Return the members that a mode has in every control type."""
    return {"id": mode.id, "diagnostic_label": mode.id, "abnormal_condition_only": mode.abnormal}


def _power(mode: Mode) -> PowerRange:
    low, high = mode.power
    return PowerRange(start_of_range=low, end_of_range=high, commodity_quantity=mode.quantity)

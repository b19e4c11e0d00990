"""Control by operation modes: FRBC, OMBC and DDBC, which differ in what they say and not in how modes change."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import ClassVar, Final, NamedTuple, Protocol

from s2connect.messages import BETA, S2Message, ddbc, frbc, ombc
from s2connect.messages.general import (
    Commodity,
    CommodityQuantity,
    ControlType,
    InstructionStatus,
    Timer,
    Transition,
)
from s2connect.simulate.controls.base import Control, Instruction, Notebook, status_update
from s2connect.simulate.units import milliseconds, number_range, power_range

STATUS_PERIOD: Final = timedelta(minutes=5)
"""Between two statuses of the fill level or the demand."""

FORECAST_PERIOD: Final = timedelta(hours=1)
"""Between two forecasts."""


class Mode(NamedTuple):
    """An operation mode.

    Attributes:
        id: Identifier.
        power: W of electricity (or the unit of ``quantity``) at factor 0 and factor 1.
        rate: Fill rate per second (FRBC) or supply rate (DDBC) at factor 0 and factor 1.
        abnormal: Only for abnormal conditions.
        quantity: What ``power`` is of; electricity on one phase.
    """

    id: str
    power: tuple[float, float]
    rate: tuple[float, float] = (0.0, 0.0)
    abnormal: bool = False
    quantity: CommodityQuantity = CommodityQuantity.ELECTRIC_POWER_L1

    def power_at(self, factor: float) -> float:
        """The power at a factor."""
        return self.power[0] + (self.power[1] - self.power[0]) * factor

    def rate_at(self, factor: float) -> float:
        """The fill or supply rate at a factor."""
        return self.rate[0] + (self.rate[1] - self.rate[0]) * factor


class Switching(NamedTuple):
    """A possible change of an actuator's mode, with the time for which it blocks the way back.

    Attributes:
        start: Mode that it leaves.
        end: Mode that it goes to.
        holds: How long it stays there at least.
    """

    start: str
    end: str
    holds: timedelta = timedelta()


class Actuator:
    """An actuator, or a device under OMBC: its modes, and which one is active.

    Args:
        id: Identifier.
        modes: Its modes; the first one is active in the beginning.
        switching: Possible changes.
        now: The time.
        factor: Operation mode factor in the beginning.
        commodity: What it runs on.
    """

    def __init__(
        self,
        id: str,  # noqa: A002 - as in the messages
        modes: Sequence[Mode],
        switching: Sequence[Switching],
        now: datetime,
        *,
        factor: float = 0.0,
        commodity: Commodity = Commodity.ELECTRICITY,
    ) -> None:
        self.id = id
        self.commodity = commodity
        self.modes = {mode.id: mode for mode in modes}
        self.switching = {(s.start, s.end): s for s in switching}
        self.mode = modes[0].id
        self.factor = factor
        self.previous: tuple[str, datetime] | None = None
        self.timers = {f"{s.end}-minimum": now for s in switching if s.holds}
        """End of each timer, past or future."""

    @property
    def power(self) -> float:
        """Power of the active mode."""
        return self.modes[self.mode].power_at(self.factor)

    @property
    def rate(self) -> float:
        """Fill or supply rate of the active mode, per second."""
        return self.modes[self.mode].rate_at(self.factor)

    def objection(self, mode: str, factor: float, abnormal_condition: bool, now: datetime) -> str | None:
        """Return why it cannot change to a mode at a time; None if it can."""
        if mode not in self.modes:
            return f"There is no operation mode {mode[:40]}."
        if not 0 <= factor <= 1:
            return "The factor is not from 0 to 1."
        if self.modes[mode].abnormal and not abnormal_condition:
            return f"{mode} is for abnormal conditions only."
        if mode == self.mode:
            return None
        if (self.mode, mode) not in self.switching:
            return f"It cannot change from {self.mode} to {mode}."
        if self.timers.get(f"{self.mode}-minimum", now) > now:
            return f"It has to stay {self.mode} for a while, because switching often wears it out."
        return None

    def switch(self, mode: str, factor: float, now: datetime) -> str | None:
        """Change the mode; returns the timer that this starts, if any."""
        timer = None
        if mode != self.mode:
            way = self.switching.get((self.mode, mode))
            if way is not None and way.holds:
                timer = f"{mode}-minimum"
                self.timers[timer] = now + way.holds
            self.previous = self.mode, now
        self.mode, self.factor = mode, factor
        return timer

    def described_timers(self) -> list[Timer]:
        """Its timers as descriptions have them."""
        longest: dict[str, timedelta] = {}
        for way in self.switching.values():
            if way.holds:
                name = f"{way.end}-minimum"
                longest[name] = max(longest.get(name, way.holds), way.holds)
        return [Timer(id=name, duration=milliseconds(holds)) for name, holds in longest.items()]

    def described_transitions(self) -> list[Transition]:
        """Its transitions as descriptions have them."""
        return [
            Transition(
                id=f"{way.start}:{way.end}",
                from_=way.start,
                to=way.end,
                start_timers=[f"{way.end}-minimum"] if way.holds else [],
                blocking_timers=[t for t in (f"{way.start}-minimum",) if t in self.timers],
                abnormal_condition_only=self.modes[way.end].abnormal,
            )
            for way in self.switching.values()
        ]


class Setting(NamedTuple):
    """A mode of an actuator and its factor."""

    actuator: str
    mode: str
    factor: float


class Machine(Protocol):
    """A device whose actuators have operation modes."""

    @property
    def actuators(self) -> dict[str, Actuator]:
        """Its actuators by id."""

    @property
    def version(self) -> str:
        """S2 JSON data model of the session."""

    @property
    def outlook(self) -> int:
        """Another number whenever the device expects something else than it has forecast."""

    def wish_against(self, setting: Setting, now: datetime) -> str | None:
        """Return why the user objects to a setting; None if not."""

    def corrections(self, now: datetime) -> list[Setting]:
        """Return the settings that the device changes by itself, for its limits or its user."""


class ModesControl(Control):
    """Base of FRBC, OMBC and DDBC."""

    def __init__(self, machine: Machine, notebook: Notebook, *, now: datetime) -> None:
        super().__init__(notebook)
        self._machine = machine
        self._next_status = now
        self._next_forecast = now
        self._outlook = machine.outlook

    @property
    def next_due(self) -> datetime | None:
        """Time of the next message or change."""
        waiting = super().next_due
        return self._next_status if waiting is None else min(waiting, self._next_status)

    @abc.abstractmethod
    def description(self, now: datetime) -> S2Message:
        """The system description."""

    @abc.abstractmethod
    def actuator_status(self, actuator: Actuator) -> S2Message:
        """Return the status message of an actuator."""

    @abc.abstractmethod
    def timer_status(self, actuator: Actuator, timer: str) -> S2Message:
        """Return the status message of a timer."""

    def status(self, now: datetime) -> list[S2Message]:
        """Return the status messages beside those of the actuators."""
        return []

    def forecasts(self, now: datetime) -> list[S2Message]:
        """Return the forecasts."""
        return []

    @abc.abstractmethod
    def setting(self, instruction: Instruction) -> Setting:
        """Return the setting of an instruction."""

    def start(self, now: datetime) -> list[S2Message]:
        """Describe the device and say how it stands."""
        self._next_status = now + STATUS_PERIOD
        said = [self.description(now), *self._foreseen(now)]
        for actuator in self._machine.actuators.values():
            said.append(self.actuator_status(actuator))
            said += [self.timer_status(actuator, timer) for timer in actuator.timers]
        return said + self.status(now)

    def objection(self, instruction: Instruction, now: datetime) -> str | None:
        setting = self.setting(instruction)
        actuator = self._machine.actuators.get(setting.actuator)
        if actuator is None:
            return f"There is no actuator {setting.actuator[:40]}."
        reason = actuator.objection(setting.mode, setting.factor, instruction.abnormal_condition, now)
        if reason is None and not instruction.abnormal_condition:
            reason = self._machine.wish_against(setting, now)
        return reason

    def begin(self, instruction: Instruction, now: datetime) -> list[S2Message]:
        """Change the mode, which takes no time."""
        started = status_update(instruction.id, InstructionStatus.STARTED, now)
        succeeded = status_update(instruction.id, InstructionStatus.SUCCEEDED, now)
        return [started, *self._switch(self.setting(instruction), now), succeeded]

    def tick(self, now: datetime) -> list[S2Message]:
        """Correct what has to be, and report at intervals."""
        said: list[S2Message] = []
        for setting in self._machine.corrections(now):
            self._notebook.note(f"sets {setting.actuator} to {setting.mode} by itself")
            said += self._switch(setting, now)
        if now >= self._next_status:
            self._next_status = now + STATUS_PERIOD
            said += self.status(now)
        if now >= self._next_forecast or self._machine.outlook != self._outlook:
            said += self._foreseen(now)
        return said

    def _foreseen(self, now: datetime) -> list[S2Message]:
        self._next_forecast = now + FORECAST_PERIOD
        self._outlook = self._machine.outlook
        return self.forecasts(now)

    def _switch(self, setting: Setting, now: datetime) -> list[S2Message]:
        actuator = self._machine.actuators[setting.actuator]
        before = actuator.mode, actuator.factor
        timer = actuator.switch(setting.mode, setting.factor, now)
        said: list[S2Message] = []
        if before != (actuator.mode, actuator.factor):
            said.append(self.actuator_status(actuator))
        if timer is not None:
            said.append(self.timer_status(actuator, timer))
        return said


class Storage(NamedTuple):
    """Interface of a device with a storage, for FRBC.

    Attributes:
        range: Lowest and highest fill level.
        unit: What the fill level is.
    """

    range: tuple[float, float]
    unit: str


class Storing(Machine, Protocol):
    """A device with a storage."""

    @property
    def storage(self) -> Storage:
        """Its storage."""

    @property
    def level(self) -> float:
        """Fill level."""

    def leakage(self) -> list[frbc.LeakageBehaviourElement]:
        """Return the leakage by fill level; empty without one."""

    def usage(self, now: datetime) -> list[frbc.UsageForecastElement]:
        """Return the expected usage; empty without one."""

    def target(self, now: datetime) -> list[frbc.FillLevelTargetProfileElement]:
        """Return the target of the fill level; empty without one."""


class FrbcControl(ModesControl):
    """Fill Rate Based Control."""

    control_type: ClassVar = ControlType.FILL_RATE_BASED_CONTROL
    instructions: ClassVar = (frbc.Instruction,)

    def __init__(self, machine: Storing, notebook: Notebook, *, now: datetime) -> None:
        super().__init__(machine, notebook, now=now)
        self._storing = machine

    def description(self, now: datetime) -> S2Message:
        """The storage and its actuators."""
        storage = self._storing.storage
        return frbc.SystemDescription(
            valid_from=now,
            actuators=[self._actuator(actuator) for actuator in self._storing.actuators.values()],
            storage=frbc.StorageDescription(
                fill_level_range=number_range(*storage.range),
                fill_level_label=storage.unit,
                provides_leakage_behaviour=bool(self._storing.leakage()),
                provides_fill_level_target_profile=bool(self._storing.target(now)),
                provides_usage_forecast=bool(self._storing.usage(now)),
            ),
        )

    def _actuator(self, actuator: Actuator) -> frbc.ActuatorDescription:
        whole = number_range(*self._storing.storage.range)
        modes = [
            frbc.OperationMode(
                id=mode.id,
                diagnostic_label=mode.id,
                abnormal_condition_only=mode.abnormal,
                elements=[
                    frbc.OperationModeElement(
                        fill_level_range=whole,
                        fill_rate=number_range(*mode.rate),
                        power_ranges=[power_range(*mode.power)],
                    )
                ],
            )
            for mode in actuator.modes.values()
        ]
        return frbc.ActuatorDescription(
            id=actuator.id,
            supported_commodities=[actuator.commodity],
            operation_modes=modes,
            transitions=actuator.described_transitions(),
            timers=actuator.described_timers(),
        )

    def actuator_status(self, actuator: Actuator) -> S2Message:
        return frbc.ActuatorStatus(
            actuator_id=actuator.id,
            active_operation_mode_id=actuator.mode,
            operation_mode_factor=actuator.factor,
            previous_operation_mode_id=actuator.previous[0] if actuator.previous else None,
            transition_timestamp=actuator.previous[1] if actuator.previous else None,
        )

    def timer_status(self, actuator: Actuator, timer: str) -> S2Message:
        return frbc.TimerStatus(timer_id=timer, actuator_id=actuator.id, finished_at=actuator.timers[timer])

    def status(self, now: datetime) -> list[S2Message]:
        """Return the fill level of the storage."""
        return [frbc.StorageStatus(present_fill_level=self._storing.level)]

    def forecasts(self, now: datetime) -> list[S2Message]:
        """Leakage, usage and targets, as far as the device has them."""
        said: list[S2Message] = []
        if elements := self._storing.leakage():
            said.append(frbc.LeakageBehaviour(valid_from=now, elements=elements))
        if usage := self._storing.usage(now):
            said.append(frbc.UsageForecast(start_time=now, elements=usage))
        if target := self._storing.target(now):
            said.append(frbc.FillLevelTargetProfile(start_time=now, elements=target))
        return said

    def setting(self, instruction: Instruction) -> Setting:
        assert isinstance(instruction, frbc.Instruction)
        return Setting(instruction.actuator_id, instruction.operation_mode, instruction.operation_mode_factor)


class OmbcControl(ModesControl):
    """Operation Mode Based Control, of a device with one actuator."""

    control_type: ClassVar = ControlType.OPERATION_MODE_BASED_CONTROL
    instructions: ClassVar = (ombc.Instruction,)

    def _actuator(self) -> Actuator:
        (actuator,) = self._machine.actuators.values()
        return actuator

    def description(self, now: datetime) -> S2Message:
        """The modes of the device."""
        actuator = self._actuator()
        modes = [
            ombc.OperationMode(
                id=mode.id,
                diagnostic_label=mode.id,
                power_ranges=[power_range(*mode.power)],
                abnormal_condition_only=mode.abnormal,
            )
            for mode in actuator.modes.values()
        ]
        return ombc.SystemDescription(
            valid_from=now,
            operation_modes=modes,
            transitions=actuator.described_transitions(),
            timers=actuator.described_timers(),
        )

    def actuator_status(self, actuator: Actuator) -> S2Message:
        return ombc.Status(
            active_operation_mode_id=actuator.mode,
            operation_mode_factor=actuator.factor,
            previous_operation_mode_id=actuator.previous[0] if actuator.previous else None,
            transition_timestamp=actuator.previous[1] if actuator.previous else None,
        )

    def timer_status(self, actuator: Actuator, timer: str) -> S2Message:
        return ombc.TimerStatus(timer_id=timer, finished_at=actuator.timers[timer])

    def setting(self, instruction: Instruction) -> Setting:
        assert isinstance(instruction, ombc.Instruction)
        return Setting(self._actuator().id, instruction.operation_mode_id, instruction.operation_mode_factor)


class Demanding(Machine, Protocol):
    """A device that has to meet a demand."""

    def demand(self, now: datetime) -> float:
        """Return the demand as a rate per second, in the unit of the supply rates of its modes."""


class DdbcControl(ModesControl):
    """Demand Driven Based Control, in the data model of the session."""

    control_type: ClassVar = ControlType.DEMAND_DRIVEN_BASED_CONTROL
    instructions: ClassVar = (ddbc.Instruction,)

    def __init__(self, machine: Demanding, notebook: Notebook, *, now: datetime) -> None:
        super().__init__(machine, notebook, now=now)
        self._demanding = machine

    def description(self, now: datetime) -> S2Message:
        """The actuators; in 0.0.2-beta with the present demand."""
        actuators = [self._described(actuator) for actuator in self._demanding.actuators.values()]
        if self._demanding.version == BETA:
            demand = self._demanding.demand(now)
            return ddbc.BetaSystemDescription(
                valid_from=now,
                actuators=actuators,
                provides_average_demand_rate_forecast=True,
                present_demand_rate=number_range(demand, demand),
            )
        return ddbc.SystemDescription(valid_from=now, actuators=actuators, provides_average_demand_rate_forecast=True)

    def _described(self, actuator: Actuator) -> ddbc.ActuatorDescription:
        modes = [
            ddbc.OperationMode(
                id=mode.id,
                diagnostic_label=mode.id,
                power_ranges=[power_range(*mode.power, mode.quantity)],
                supply_range=number_range(*mode.rate),
                abnormal_condition_only=mode.abnormal,
            )
            for mode in actuator.modes.values()
        ]
        return ddbc.ActuatorDescription(
            id=actuator.id,
            supported_commodities=[actuator.commodity],
            operation_modes=modes,
            transitions=actuator.described_transitions(),
            timers=actuator.described_timers(),
        )

    def actuator_status(self, actuator: Actuator) -> S2Message:
        return ddbc.ActuatorStatus(
            actuator_id=actuator.id,
            active_operation_mode_id=actuator.mode,
            operation_mode_factor=actuator.factor,
            previous_operation_mode_id=actuator.previous[0] if actuator.previous else None,
            transition_timestamp=actuator.previous[1] if actuator.previous else None,
        )

    def timer_status(self, actuator: Actuator, timer: str) -> S2Message:
        return ddbc.TimerStatus(timer_id=timer, actuator_id=actuator.id, finished_at=actuator.timers[timer])

    def status(self, now: datetime) -> list[S2Message]:
        """The present demand: a message of its own, or in 0.0.2-beta another description."""
        if self._demanding.version == BETA:
            return [self.description(now)]
        demand = self._demanding.demand(now)
        return [ddbc.PresentDemandStatus(present_demand_rate=number_range(demand, demand))]

    def forecasts(self, now: datetime) -> list[S2Message]:
        """The demand of the next day, hour by hour."""
        elements = [
            ddbc.AverageDemandRateForecastElement(
                duration=milliseconds(FORECAST_PERIOD),
                demand_rate_expected=self._demanding.demand(now + (hour + 0.5) * FORECAST_PERIOD),
            )
            for hour in range(24)
        ]
        return [ddbc.AverageDemandRateForecast(start_time=now, elements=elements)]

    def setting(self, instruction: Instruction) -> Setting:
        assert isinstance(instruction, ddbc.Instruction)
        return Setting(instruction.actuator_id, instruction.operation_mode_id, instruction.operation_mode_factor)

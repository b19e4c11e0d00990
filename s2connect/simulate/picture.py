"""State of one device as an energy manager knows it from the messages of the device."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final, NamedTuple

from s2connect.messages import S2Message, ddbc, frbc, ombc, pebc, ppbc
from s2connect.messages.general import (
    CommodityQuantity,
    ControlType,
    InstructionStatus,
    InstructionStatusUpdate,
    NumberRange,
    PowerForecast,
    PowerMeasurement,
    PowerRange,
    ResourceManagerDetails,
    Transition,
)

PREFERENCE: Final = (
    ControlType.FILL_RATE_BASED_CONTROL,
    ControlType.DEMAND_DRIVEN_BASED_CONTROL,
    ControlType.OPERATION_MODE_BASED_CONTROL,
    ControlType.POWER_PROFILE_BASED_CONTROL,
    ControlType.POWER_ENVELOPE_BASED_CONTROL,
)
"""Control types by preference, for devices that offer several."""

PATIENCE: Final = timedelta(minutes=10)
"""Pause after a refused instruction; doubled with every further refusal."""

MOST_PATIENCE: Final = timedelta(hours=2)
"""Longest pause."""

_ELECTRIC: Final = frozenset(q for q in CommodityQuantity if q.startswith("ELECTRIC."))
_Status = frbc.ActuatorStatus | ombc.Status | ddbc.ActuatorStatus
_TimerStatus = frbc.TimerStatus | ombc.TimerStatus | ddbc.TimerStatus


class Option(NamedTuple):
    """An operation mode that can be chosen now: its power in W and its rate, at factor 0 and factor 1."""

    actuator: str
    mode: str
    power: tuple[float, float]
    rate: tuple[float, float]

    def factor(self, power: float) -> float:
        """The factor that comes nearest to a power."""
        start, end = self.power
        return 0.0 if start == end else min(1.0, max(0.0, (power - start) / (end - start)))

    def power_at(self, factor: float) -> float:
        """The power at a factor."""
        return self.power[0] + (self.power[1] - self.power[0]) * factor

    def rate_at(self, factor: float) -> float:
        """The rate at a factor."""
        return self.rate[0] + (self.rate[1] - self.rate[0]) * factor


class _Machine(NamedTuple):
    """Modes of an actuator as options, and how it changes between them."""

    options: list[Option]
    transitions: list[Transition]


class Picture:
    """One device, as its energy manager sees it.

    Attributes:
        details: What it is.
        selected: How it is controlled.
        power: W of electricity that it measured last; production is negative.
        level: Fill level, where it has one.
        levels: Lowest and highest fill level.
        demand: Rate that it needs, where it has one.
        constraints: Power constraints in force.
        need: Energy that it needs.
        profile: Power profile that it offers.
        scheduled: Whether its power profile needs no instruction any more.
        forecast: Power that it expects.
        left_alone_until: When it may be instructed again.
        refusals: How many instructions it refused.
        instructions: How many it got.
    """

    def __init__(self) -> None:
        self.details: ResourceManagerDetails | None = None
        self.selected: ControlType | None = None
        self.power = 0.0
        self.level: float | None = None
        self.levels: NumberRange | None = None
        self.demand: float | None = None
        self.constraints: pebc.PowerConstraints | None = None
        self.need: pebc.EnergyConstraint | None = None
        self.profile: ppbc.PowerProfileDefinition | None = None
        self.scheduled = False
        self.forecast: PowerForecast | None = None
        self.left_alone_until: datetime | None = None
        self.refusals = 0
        self.instructions = 0
        self._patience = PATIENCE
        self.active: dict[str, tuple[str, float]] = {}
        """By actuator: mode and factor."""
        self._machines: dict[str, _Machine] = {}
        self._frbc: frbc.SystemDescription | None = None
        self._target: frbc.FillLevelTargetProfile | None = None
        self._timers: dict[tuple[str, str], datetime] = {}

    @property
    def name(self) -> str:
        """Its name; from the network, not cleaned."""
        return (self.details.name or self.details.resource_id) if self.details else ""

    def preferred(self) -> ControlType:
        """Return the control type to select."""
        offered = self.details.available_control_types if self.details else []
        return next((known for known in PREFERENCE if known in offered), ControlType.NO_SELECTION)

    def reselected(self, control_type: ControlType) -> None:
        """Another control type is selected: what was said under the one before counts no more."""
        self.selected = control_type
        self.level = self.levels = self.demand = self.constraints = self.need = self.profile = None
        self.active.clear()
        self._machines.clear()
        self._timers.clear()

    def take(self, message: S2Message, now: datetime) -> None:
        """Take note of what the device said."""
        match message:
            case ResourceManagerDetails():
                self.details = message
            case PowerMeasurement():
                self.power = sum(v.value for v in message.values if v.commodity_quantity in _ELECTRIC)
            case PowerForecast():
                self.forecast = message
            case InstructionStatusUpdate(status_type=InstructionStatus.REJECTED):
                self.refusals += 1
                self.left_alone_until = now + self._patience
                self._patience = min(2 * self._patience, MOST_PATIENCE)
            case InstructionStatusUpdate(status_type=InstructionStatus.SUCCEEDED):
                self._patience = PATIENCE
            case frbc.StorageStatus():
                self.level = message.present_fill_level
            case frbc.FillLevelTargetProfile():
                self._target = message
            case ddbc.PresentDemandStatus():
                self.demand = message.present_demand_rate.end_of_range
            case pebc.PowerConstraints():
                self.constraints = message
            case pebc.EnergyConstraint():
                self.need = message
            case ppbc.PowerProfileDefinition():
                self.profile, self.scheduled = message, False
            case ppbc.PowerProfileStatus():
                self._take_profile_status(message)
            case frbc.ActuatorStatus() | ombc.Status() | ddbc.ActuatorStatus():
                self.active[_actuator(message)] = message.active_operation_mode_id, message.operation_mode_factor
            case frbc.TimerStatus() | ombc.TimerStatus() | ddbc.TimerStatus():
                self._timers[_actuator(message), message.timer_id] = message.finished_at
            case frbc.SystemDescription() | ombc.SystemDescription() | ddbc.SystemDescription():
                self._take_description(message)

    def _take_profile_status(self, message: ppbc.PowerProfileStatus) -> None:
        for status in message.sequence_container_status:
            if self.profile is not None and status.power_profile_id == self.profile.id:
                self.scheduled = status.status is not ppbc.PowerSequenceStatus.NOT_SCHEDULED

    def _take_description(
        self, message: frbc.SystemDescription | ombc.SystemDescription | ddbc.SystemDescription
    ) -> None:
        if isinstance(message, frbc.SystemDescription):
            self._frbc, self.levels = message, message.storage.fill_level_range
            return
        if isinstance(message, ombc.SystemDescription):
            options = [
                Option("", mode.id, _electric(mode.power_ranges), (0.0, 0.0))
                for mode in message.operation_modes
                if not mode.abnormal_condition_only
            ]
            self._machines = {"": _Machine(options, message.transitions)}
            return
        if isinstance(message, ddbc.BetaSystemDescription):
            self.demand = message.present_demand_rate.end_of_range
        self._machines = {
            actuator.id: _Machine(
                [
                    Option(actuator.id, mode.id, _electric(mode.power_ranges), _pair(mode.supply_range))
                    for mode in actuator.operation_modes
                    if not mode.abnormal_condition_only
                ],
                actuator.transitions,
            )
            for actuator in message.actuators
        }

    def actuators(self) -> list[str]:
        """Its actuators."""
        if self._frbc is not None and self.selected is ControlType.FILL_RATE_BASED_CONTROL:
            return [actuator.id for actuator in self._frbc.actuators]
        return list(self._machines)

    def options(self, actuator: str, now: datetime) -> list[Option]:
        """Return the possible settings of an actuator, given its active mode, its timers and the fill level."""
        machine = self._filling(actuator) or self._machines.get(actuator)
        active = self.active.get(actuator)
        if machine is None or active is None:
            return []
        reachable = {
            way.to
            for way in machine.transitions
            if way.from_ == active[0]
            and not way.abnormal_condition_only
            and all(self._timers.get((actuator, timer), now) <= now for timer in way.blocking_timers)
        }
        return [option for option in machine.options if option.mode in reachable or option.mode == active[0]]

    def _filling(self, actuator: str) -> _Machine | None:
        if self._frbc is None or self.selected is not ControlType.FILL_RATE_BASED_CONTROL or self.level is None:
            return None
        options = []
        found = next((known for known in self._frbc.actuators if known.id == actuator), None)
        if found is None:
            return None
        for mode in found.operation_modes:
            for element in mode.elements:
                start, end = _pair(element.fill_level_range)
                if start <= self.level <= end and not mode.abnormal_condition_only:
                    options.append(Option(actuator, mode.id, _electric(element.power_ranges), _pair(element.fill_rate)))
                    break
        return _Machine(options, found.transitions)

    def lacking(self, now: datetime) -> tuple[float, timedelta] | None:
        """By how much the fill level has to rise, and how long it has for that; for the first target above it."""
        if self._target is None or self.level is None:
            return None
        moment = self._target.start_time
        for element in self._target.elements:
            end = moment + timedelta(milliseconds=element.duration)
            missing = element.fill_level_range.start_of_range - self.level
            if end > now and missing > 0:
                return missing, max(timedelta(0), moment - now)
            moment = end
        return None

    def highest(self, now: datetime) -> float | None:
        """Return the highest fill level now: of the target, or of the storage."""
        if self._target is not None:
            moment = self._target.start_time
            for element in self._target.elements:
                moment += timedelta(milliseconds=element.duration)
                if moment > now:
                    return element.fill_level_range.end_of_range
        return self.levels.end_of_range if self.levels else None

    def expected_power(self, moment: datetime) -> float:
        """W that it forecast for a moment."""
        if self.forecast is None:
            return 0.0
        end = self.forecast.start_time
        for element in self.forecast.elements:
            end += timedelta(milliseconds=element.duration)
            if moment < end:
                return sum(v.value_expected for v in element.power_values if v.commodity_quantity in _ELECTRIC)
        return 0.0


def _actuator(message: _Status | _TimerStatus) -> str:
    return getattr(message, "actuator_id", "")


def _pair(numbers: NumberRange | PowerRange) -> tuple[float, float]:
    return numbers.start_of_range, numbers.end_of_range


def _electric(ranges: list[PowerRange]) -> tuple[float, float]:
    """W of electricity at factor 0 and factor 1, over all phases."""
    electric = [_pair(one) for one in ranges if one.commodity_quantity in _ELECTRIC]
    return sum(start for start, _ in electric), sum(end for _, end in electric)

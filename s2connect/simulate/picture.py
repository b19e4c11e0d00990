"""State of one device, as far as an energy manager has it from the messages of the device."""

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
from s2connect.simulate.units import clamp, spans

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
_Description = frbc.SystemDescription | ombc.SystemDescription | ddbc.SystemDescription


class Option(NamedTuple):
    """An operation mode, at a range of the fill level where there is one: its W and its rate at factor 0 and 1."""

    actuator: str
    mode: str
    power: tuple[float, float]
    rate: tuple[float, float] = (0.0, 0.0)
    levels: tuple[float, float] | None = None

    def factor(self, power: float) -> float:
        """Return the factor that comes nearest to a power."""
        start, end = self.power
        return 0.0 if start == end else clamp((power - start) / (end - start), 0.0, 1.0)


class Picture:
    """One device, as its energy manager sees it.

    Attributes:
        power: W of electricity that it measured last; production is negative.
        scheduled: Whether its power profile needs no instruction any more.
        active: Mode and factor by actuator.
    """

    def __init__(self) -> None:
        self.details: ResourceManagerDetails | None = None
        self.power = 0.0
        self.scheduled = False
        self._left_alone_until: datetime | None = None
        self._forecast: PowerForecast | None = None
        self._patience = PATIENCE
        self._target: frbc.FillLevelTargetProfile | None = None
        self.reselected(None)

    @property
    def name(self) -> str:
        """Its name; from the network, not cleaned."""
        return (self.details.name or self.details.resource_id) if self.details else ""

    def preferred(self) -> ControlType:
        """Return the control type to select."""
        offered = self.details.available_control_types if self.details else []
        return next((known for known in PREFERENCE if known in offered), ControlType.NO_SELECTION)

    def reselected(self, control_type: ControlType | None) -> None:
        """Begin another control type: forget the messages of the one before."""
        self.selected = control_type
        self.level: float | None = None
        self.demand: float | None = None
        self.constraints: pebc.PowerConstraints | None = None
        self.need: pebc.EnergyConstraint | None = None
        self.profile: ppbc.PowerProfileDefinition | None = None
        self.active: dict[str, tuple[str, float]] = {}
        self._levels: NumberRange | None = None
        self._options: dict[str, list[Option]] = {}
        self._transitions: dict[str, list[Transition]] = {}
        self._timers: dict[tuple[str, str], datetime] = {}

    def take(self, message: S2Message, now: datetime) -> None:
        """Update the picture with a message of the device."""
        match message:
            case ResourceManagerDetails():
                self.details = message
            case PowerMeasurement():
                self.power = sum(v.value for v in message.values if v.commodity_quantity in _ELECTRIC)
            case PowerForecast():
                self._forecast = message
            case InstructionStatusUpdate(status_type=InstructionStatus.REJECTED):
                self._left_alone_until = now + self._patience
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
                for status in message.sequence_container_status:
                    if self.profile is not None and status.power_profile_id == self.profile.id:
                        self.scheduled = status.status is not ppbc.PowerSequenceStatus.NOT_SCHEDULED
            case frbc.ActuatorStatus() | ombc.Status() | ddbc.ActuatorStatus():
                self.active[_actuator(message)] = message.active_operation_mode_id, message.operation_mode_factor
            case frbc.TimerStatus() | ombc.TimerStatus() | ddbc.TimerStatus():
                self._timers[_actuator(message), message.timer_id] = message.finished_at
            case frbc.SystemDescription() | ombc.SystemDescription() | ddbc.SystemDescription():
                self._take_description(message)

    def _take_description(self, message: _Description) -> None:
        if isinstance(message, frbc.SystemDescription):
            self._levels = message.storage.fill_level_range
        elif isinstance(message, ddbc.BetaSystemDescription):
            self.demand = message.present_demand_rate.end_of_range
        # Under OMBC the device is its only actuator, without an id.
        described = [message] if isinstance(message, ombc.SystemDescription) else message.actuators
        self._transitions = {_actuator(one): one.transitions for one in described}
        self._options = {
            _actuator(one): [
                option
                for mode in one.operation_modes
                if not mode.abnormal_condition_only
                for option in _options(_actuator(one), mode)
            ]
            for one in described
        }

    def is_left_alone(self, now: datetime) -> bool:
        """Return whether it is not to be instructed, because it refused before."""
        return self._left_alone_until is not None and now < self._left_alone_until

    def limits(self, kind: pebc.PowerEnvelopeLimitType) -> tuple[float, float]:
        """Return the first range of a limit in normal conditions."""
        for allowed in self.constraints.allowed_limit_ranges if self.constraints else ():
            if allowed.limit_type is kind and not allowed.abnormal_condition_only:
                return _pair(allowed.range_boundary)
        return 0.0, 0.0

    def actuators(self) -> list[str]:
        """Its actuators."""
        return list(self._options)

    def options(self, actuator: str, now: datetime) -> list[Option]:
        """Return the possible settings of an actuator, given its active mode, its timers and the fill level."""
        if actuator not in self.active:
            return []
        mode = self.active[actuator][0]
        reachable = {mode} | {
            way.to
            for way in self._transitions.get(actuator, ())
            if way.from_ == mode
            and not way.abnormal_condition_only
            and all(self._timers.get((actuator, timer), now) <= now for timer in way.blocking_timers)
        }
        found: dict[str, Option] = {}
        for option in self._options.get(actuator, ()):
            if option.mode in reachable and self._fits(option.levels):
                found.setdefault(option.mode, option)
        return list(found.values())

    def _fits(self, levels: tuple[float, float] | None) -> bool:
        return levels is None or (self.level is not None and levels[0] <= self.level <= levels[1])

    def lacking(self, now: datetime) -> tuple[float, timedelta] | None:
        """By how much the fill level has to rise, and how long it has for that; for the first target above it."""
        if self._target is None or self.level is None:
            return None
        for start, end, element in spans(self._target.start_time, self._target.elements):
            missing = element.fill_level_range.start_of_range - self.level
            if end > now and missing > 0:
                return missing, max(timedelta(0), start - now)
        return None

    def highest(self, now: datetime) -> float | None:
        """Return the highest fill level now: of the target, or of the storage."""
        if self._target is not None:
            for _, end, element in spans(self._target.start_time, self._target.elements):
                if end > now:
                    return element.fill_level_range.end_of_range
        return self._levels.end_of_range if self._levels else None

    def expected_power(self, moment: datetime) -> float:
        """W that it forecast for a moment."""
        if self._forecast is not None:
            for _, end, element in spans(self._forecast.start_time, self._forecast.elements):
                if moment < end:
                    return sum(v.value_expected for v in element.power_values if v.commodity_quantity in _ELECTRIC)
        return 0.0


def _actuator(one: object) -> str:
    """Return the actuator of a status, or the id of a described one; under OMBC there is none."""
    return getattr(one, "actuator_id", getattr(one, "id", ""))


def _options(actuator: str, mode: frbc.OperationMode | ombc.OperationMode | ddbc.OperationMode) -> list[Option]:
    if isinstance(mode, frbc.OperationMode):
        return [
            Option(actuator, mode.id, _electric(e.power_ranges), _pair(e.fill_rate), _pair(e.fill_level_range))
            for e in mode.elements
        ]
    rate = _pair(mode.supply_range) if isinstance(mode, ddbc.OperationMode) else (0.0, 0.0)
    return [Option(actuator, mode.id, _electric(mode.power_ranges), rate)]


def _pair(numbers: NumberRange | PowerRange) -> tuple[float, float]:
    return numbers.start_of_range, numbers.end_of_range


def _electric(ranges: list[PowerRange]) -> tuple[float, float]:
    """W of electricity at factor 0 and factor 1, over all phases."""
    electric = [_pair(one) for one in ranges if one.commodity_quantity in _ELECTRIC]
    return sum(start for start, _ in electric), sum(end for _, end in electric)

"""Rules about what the messages of several control types have in common."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any, Final, Protocol

from s2connect.messages.base import ID_PATTERN
from s2connect.messages.general import Commodity, CommodityQuantity, NumberRange, PowerRange, Timer, Transition
from s2connect.messages.rules.base import Findings, Rule, Severity

ID_FORM: Final = Rule(
    "COM-01",
    Severity.WARNING,
    "all messages",
    "An identifier has 2 to 64 characters, which are letters, digits, '-', '_' or ':'.",
)
UNIQUE_ID: Final = Rule(
    "COM-02",
    Severity.ERROR,
    "actuators, operation modes, transitions, timers, power envelopes, sequence containers, power sequences",
    "An identifier stands for one object only of those that it is listed with.",
)
DEFINED_ID: Final = Rule(
    "COM-03",
    Severity.ERROR,
    "transitions",
    "The operation modes and timers that a transition names are defined beside it.",
)
INSTRUCTED_FACTOR: Final = Rule(
    "COM-04",
    Severity.ERROR,
    "OMBC.Instruction, FRBC.Instruction, DDBC.Instruction",
    "The operation mode factor of an instruction is from 0 to 1.",
)
REPORTED_FACTOR: Final = Rule(
    "COM-05",
    Severity.WARNING,
    "OMBC.Status, FRBC.ActuatorStatus, DDBC.ActuatorStatus",
    "The operation mode factor of a status is from 0 to 1.",
)
ONE_PER_QUANTITY: Final = Rule(
    "COM-06",
    Severity.ERROR,
    "power ranges, forecast values, measured values",
    "A list of powers has one entry at most for each commodity quantity.",
)
SYMMETRIC_OR_PHASES: Final = Rule(
    "COM-07",
    Severity.WARNING,
    "power ranges, forecast values, measured values, limits",
    "Electric power is told either for three phases together or for single phases, not both at once.",
)
SINGLE_PHASE_IS_L1: Final = Rule(
    "COM-08",
    Severity.WARNING,
    "power ranges, forecast values, measured values, limits, announced measurements",
    "A device on one phase calls it L1.",
)
FORECAST_ORDER: Final = Rule(
    "COM-09",
    Severity.WARNING,
    "PowerForecast, PPBC.PowerProfileDefinition, FRBC.UsageForecast, DDBC.AverageDemandRateForecast",
    "The bounds of a forecast do not descend: lower limit, lower 95 %, lower 68 %, expected, upper 68 %, upper 95 %, "
    "upper limit. (Read by value: for production the lower limit is the most negative.)",
)
LASTS: Final = Rule(
    "COM-10",
    Severity.WARNING,
    "elements of forecasts, profiles and power envelopes",
    "An element of a profile lasts longer than no time.",
)
COSTS_RANGE: Final = Rule(
    "COM-11", Severity.WARNING, "operation modes", "The range of the running costs does not start above its end."
)
PREVIOUS_MODE: Final = Rule(
    "COM-12",
    Severity.WARNING,
    "OMBC.Status, FRBC.ActuatorStatus, DDBC.ActuatorStatus",
    "The previous operation mode and the time of the transition come together, or both are missing.",
)
ABNORMAL_TRANSITION: Final = Rule(
    "COM-13",
    Severity.WARNING,
    "transitions",
    "A transition to an operation mode for abnormal conditions is for abnormal conditions only as well.",
)
NORMAL_MODE: Final = Rule(
    "COM-14",
    Severity.WARNING,
    "operation modes",
    "At least one operation mode is for other than abnormal conditions.",
)
SUPPORTED_COMMODITY: Final = Rule(
    "COM-15",
    Severity.WARNING,
    "FRBC.SystemDescription, DDBC.SystemDescription",
    "The powers of an actuator are of commodities that it supports.",
)
NAMED_ONCE: Final = Rule(
    "COM-16",
    Severity.WARNING,
    "lists of control types, measurements and commodities",
    "A list of kinds names each kind once.",
)

RULES: Final = (
    ID_FORM,
    UNIQUE_ID,
    DEFINED_ID,
    INSTRUCTED_FACTOR,
    REPORTED_FACTOR,
    ONE_PER_QUANTITY,
    SYMMETRIC_OR_PHASES,
    SINGLE_PHASE_IS_L1,
    FORECAST_ORDER,
    LASTS,
    COSTS_RANGE,
    PREVIOUS_MODE,
    ABNORMAL_TRANSITION,
    NORMAL_MODE,
    SUPPORTED_COMMODITY,
    NAMED_ONCE,
)

Checker = Callable[[Any, Findings], None]
"""Looks for broken rules in a message of one type."""

TOLERANCE: Final = 1e-6
"""By how much a number may miss a bound that it was calculated from, relative to the larger of the two and to 1."""

_FULL_ID: Final = re.compile(ID_PATTERN).fullmatch
_SINGLE_PHASES: Final = frozenset(
    {
        CommodityQuantity.ELECTRIC_POWER_L1,
        CommodityQuantity.ELECTRIC_POWER_L2,
        CommodityQuantity.ELECTRIC_POWER_L3,
    }
)
_LATER_PHASES: Final = _SINGLE_PHASES - {CommodityQuantity.ELECTRIC_POWER_L1}
_COMMODITY: Final[Mapping[CommodityQuantity, Commodity]] = {
    CommodityQuantity.ELECTRIC_POWER_L1: Commodity.ELECTRICITY,
    CommodityQuantity.ELECTRIC_POWER_L2: Commodity.ELECTRICITY,
    CommodityQuantity.ELECTRIC_POWER_L3: Commodity.ELECTRICITY,
    CommodityQuantity.ELECTRIC_POWER_3_PHASE_SYMMETRIC: Commodity.ELECTRICITY,
    CommodityQuantity.NATURAL_GAS_FLOW_RATE: Commodity.GAS,
    CommodityQuantity.HYDROGEN_FLOW_RATE: Commodity.GAS,
    CommodityQuantity.HEAT_TEMPERATURE: Commodity.HEAT,
    CommodityQuantity.HEAT_FLOW_RATE: Commodity.HEAT,
    CommodityQuantity.HEAT_THERMAL_POWER: Commodity.HEAT,
    CommodityQuantity.OIL_FLOW_RATE: Commodity.OIL,
}


class _HasQuantity(Protocol):
    @property
    def commodity_quantity(self) -> CommodityQuantity: ...


class _HasId(Protocol):
    @property
    def id(self) -> str: ...


class Mode(Protocol):
    """An operation mode of any control type."""

    @property
    def id(self) -> str:
        """Its identifier."""

    @property
    def abnormal_condition_only(self) -> bool:
        """Whether it is for abnormal conditions only."""


class Machine(Protocol):
    """What has operation modes, transitions between them, and timers: an actuator, or a device under OMBC."""

    @property
    def operation_modes(self) -> Sequence[Mode]:
        """Its modes."""

    @property
    def transitions(self) -> Sequence[Transition]:
        """Its transitions."""

    @property
    def timers(self) -> Sequence[Timer]:
        """Its timers."""


class Ids:
    """Holds identifiers against ``COM-01``.

    Args:
        names: Attributes that are identifiers and always there.
    """

    __slots__ = ("_get", "_names")

    def __init__(self, *names: str) -> None:
        self._names = names
        self._get: Callable[[Any], Iterable[str]] = (
            attrgetter(*names) if len(names) > 1 else lambda thing: (getattr(thing, names[0]),)
        )

    def __call__(self, thing: object, found: Findings, path: str = "") -> None:
        """Look at the identifiers of one object, whose members begin with ``path``."""
        if not all(map(_FULL_ID, self._get(thing))):
            for name, value in zip(self._names, self._get(thing), strict=True):
                one_id(value, found, path + name.rstrip("_"))


def one_id(value: str | None, found: Findings, path: str) -> None:
    """Hold one identifier, which may be missing, against ``COM-01``."""
    if value is not None and not _FULL_ID(value):
        found.add(ID_FORM, path, "no identifier as the standard has them")


def only_ids(*names: str) -> Checker:
    """A checker for messages whose identifiers are all that can be looked at."""
    return Ids(*names)


def unique(things: Iterable[_HasId], found: Findings, path: str) -> set[str]:
    """Hold the identifiers of the objects of one list against each other (``COM-02``), and return them."""
    seen: set[str] = set()
    for index, thing in enumerate(things):
        if thing.id in seen:
            found.add(UNIQUE_ID, f"{path}[{index}]", "the identifier is taken by another one of the list")
        seen.add(thing.id)
    return seen


def close(one: float, other: float) -> bool:
    """Whether two numbers are equal but for the rounding of a calculation."""
    return abs(one - other) <= TOLERANCE * max(1.0, abs(one), abs(other))


def is_factor(factor: float) -> bool:
    """Whether a number is from 0 to 1, but for the rounding of a calculation."""
    return -TOLERANCE <= factor <= 1 + TOLERANCE


def instructed_factor(factor: float, found: Findings) -> None:
    """Hold the factor of an instruction against ``COM-04``."""
    if not is_factor(factor):
        found.add(INSTRUCTED_FACTOR, "operation_mode_factor", "not from 0 to 1")


class Status(Protocol):
    """Says which operation mode is active; of any control type."""

    @property
    def operation_mode_factor(self) -> float:
        """From 0 to 1."""

    @property
    def previous_operation_mode_id(self) -> str | None:
        """Which mode was active before."""

    @property
    def transition_timestamp(self) -> object | None:
        """When the mode changed."""


def status(message: Status, found: Findings) -> None:
    """Hold a status against ``COM-05`` and ``COM-12``."""
    if not is_factor(message.operation_mode_factor):
        found.add(REPORTED_FACTOR, "operation_mode_factor", "not from 0 to 1")
    previous = message.previous_operation_mode_id
    if previous is not None:
        one_id(previous, found, "previous_operation_mode_id")
        if message.transition_timestamp is None:
            found.add(PREVIOUS_MODE, "transition_timestamp", "missing, although the previous operation mode is there")
    elif message.transition_timestamp is not None:
        found.add(PREVIOUS_MODE, "previous_operation_mode_id", "missing, although the time of the transition is there")


def phases(quantities: Iterable[CommodityQuantity], found: Findings, path: str) -> None:
    """Hold the quantities of what belongs together against ``COM-07`` and ``COM-08``."""
    single = _SINGLE_PHASES.intersection(quantities)
    if not single:
        return
    if CommodityQuantity.ELECTRIC_POWER_3_PHASE_SYMMETRIC in quantities:
        found.add(SYMMETRIC_OR_PHASES, path, "three phases together, and single phases as well")
    only_phase_is_l1(single, found, path)


def only_phase_is_l1(quantities: Iterable[CommodityQuantity], found: Findings, path: str) -> None:
    """Hold quantities against ``COM-08``."""
    single = _SINGLE_PHASES.intersection(quantities)
    if len(single) == 1 and single <= _LATER_PHASES:
        found.add(SINGLE_PHASE_IS_L1, path, "the only phase is not called L1")


def one_per_quantity(items: Sequence[_HasQuantity], found: Findings, path: str) -> None:
    """Hold a list of powers against ``COM-06`` to ``COM-08``."""
    if len(items) == 1:
        if items[0].commodity_quantity in _LATER_PHASES:
            found.add(SINGLE_PHASE_IS_L1, path, "the only phase is not called L1")
        return
    seen: set[CommodityQuantity] = set()
    for index, item in enumerate(items):
        if item.commodity_quantity in seen:
            found.add(ONE_PER_QUANTITY, f"{path}[{index}]", "the list has this quantity already")
        seen.add(item.commodity_quantity)
    phases(seen, found, path)


def each_once(kinds: Sequence[object], found: Findings, path: str) -> None:
    """Hold a list of kinds against ``COM-16``."""
    if len(kinds) > 1 and len(set(kinds)) < len(kinds):
        found.add(NAMED_ONCE, path, "names one of them more than once")


def forecast(bounds: Sequence[float | None], found: Findings, path: str) -> None:
    """Hold the values of a forecast, from the lower limit to the upper limit, against ``COM-09``."""
    last: float | None = None
    for bound in bounds:
        if bound is None:
            continue
        if last is not None and bound < last:
            found.add(FORECAST_ORDER, path, "the values descend from the lower limit to the upper limit")
            return
        last = bound


def lasts(duration: int, found: Findings, path: str) -> None:
    """Hold the duration of an element against ``COM-10``."""
    if duration == 0:
        found.add(LASTS, f"{path}.duration", "lasts no time")


def running_costs(costs: NumberRange | None, found: Findings, path: str) -> None:
    """Hold the costs of a mode against ``COM-11``."""
    if costs is not None and costs.start_of_range > costs.end_of_range:
        found.add(COSTS_RANGE, f"{path}.running_costs", "starts above its end")


def supported(ranges: Sequence[PowerRange], commodities: Sequence[Commodity], found: Findings, path: str) -> None:
    """Hold the powers of an actuator against what it supports (``COM-15``)."""
    for index, power_range in enumerate(ranges):
        if _COMMODITY[power_range.commodity_quantity] not in commodities:
            found.add(SUPPORTED_COMMODITY, f"{path}[{index}]", "of a commodity that the actuator does not support")


_timer_ids: Final = Ids("id")
_transition_ids: Final = Ids("id", "from_", "to")


def machine(owner: Machine, found: Findings, path: str) -> None:
    """Hold modes, transitions and timers of one actuator or device against each other (``COM-01`` to ``COM-03`` …)."""
    modes = unique(owner.operation_modes, found, f"{path}operation_modes")
    abnormal = {mode.id for mode in owner.operation_modes if mode.abnormal_condition_only}
    if len(abnormal) == len(modes):
        found.add(NORMAL_MODE, f"{path}operation_modes", "all of them are for abnormal conditions only")
    timers = unique(owner.timers, found, f"{path}timers")
    for index, timer in enumerate(owner.timers):
        _timer_ids(timer, found, f"{path}timers[{index}].")
    unique(owner.transitions, found, f"{path}transitions")
    for index, transition in enumerate(owner.transitions):
        place = f"{path}transitions[{index}]."
        _transition_ids(transition, found, place)
        if transition.from_ not in modes:
            found.add(DEFINED_ID, f"{place}from", "no operation mode that is defined here")
        if transition.to not in modes:
            found.add(DEFINED_ID, f"{place}to", "no operation mode that is defined here")
        elif transition.to in abnormal and not transition.abnormal_condition_only:
            found.add(
                ABNORMAL_TRANSITION, f"{place}abnormal_condition_only", "not set, but set for the mode it leads to"
            )
        if transition.start_timers and not timers.issuperset(transition.start_timers):
            found.add(DEFINED_ID, f"{place}start_timers", "names a timer that is not defined here")
        if transition.blocking_timers and not timers.issuperset(transition.blocking_timers):
            found.add(DEFINED_ID, f"{place}blocking_timers", "names a timer that is not defined here")

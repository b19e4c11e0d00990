"""Rules that several control types share, and the checks for them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from itertools import pairwise
from operator import attrgetter
from typing import Any, Final, Protocol

from s2connect.messages import ddbc, frbc, ombc
from s2connect.messages.base import ID_PATTERN, S2Object, is_id
from s2connect.messages.general import Commodity, CommodityQuantity
from s2connect.messages.rules.base import Findings, error, warning

ID_FORM: Final = warning(
    "COM-01", "all messages", "An identifier has 2 to 64 characters, which are letters, digits, '-', '_' or ':'."
)
UNIQUE_ID: Final = error(
    "COM-02",
    "actuators, operation modes, transitions, timers, power envelopes, sequence containers, power sequences",
    "An identifier stands for one object only of those that it is listed with.",
)
DEFINED_ID: Final = error(
    "COM-03", "transitions", "The operation modes and timers that a transition names are defined beside it."
)
INSTRUCTED_FACTOR: Final = error(
    "COM-04",
    "OMBC.Instruction, FRBC.Instruction, DDBC.Instruction",
    "The operation mode factor of an instruction is from 0 to 1.",
)
REPORTED_FACTOR: Final = warning(
    "COM-05",
    "OMBC.Status, FRBC.ActuatorStatus, DDBC.ActuatorStatus",
    "The operation mode factor of a status is from 0 to 1.",
)
ONE_PER_QUANTITY: Final = error(
    "COM-06",
    "power ranges, forecast values, measured values",
    "A list of powers has one entry at most for each commodity quantity.",
)
SYMMETRIC_OR_PHASES: Final = warning(
    "COM-07",
    "power ranges, forecast values, measured values, limits",
    "Electric power is told either for three phases together or for single phases, not both at once.",
)
SINGLE_PHASE_IS_L1: Final = warning(
    "COM-08",
    "power ranges, forecast values, measured values, limits, announced measurements",
    "A device on one phase calls it L1.",
)
FORECAST_ORDER: Final = warning(
    "COM-09",
    "PowerForecast, PPBC.PowerProfileDefinition, FRBC.UsageForecast, DDBC.AverageDemandRateForecast",
    "The bounds of a forecast do not descend: lower limit, lower 95 %, lower 68 %, expected, upper 68 %, upper 95 %, "
    "upper limit. (Read by value: for production the lower limit is the most negative.)",
)
LASTS: Final = warning(
    "COM-10",
    "elements of forecasts, profiles and power envelopes",
    "An element of a profile lasts longer than no time.",
)
COSTS_RANGE: Final = warning(
    "COM-11", "operation modes", "The range of the running costs does not start above its end."
)
PREVIOUS_MODE: Final = warning(
    "COM-12",
    "OMBC.Status, FRBC.ActuatorStatus, DDBC.ActuatorStatus",
    "The previous operation mode and the time of the transition come together, or both are missing.",
)
ABNORMAL_TRANSITION: Final = warning(
    "COM-13",
    "transitions",
    "A transition to an operation mode for abnormal conditions is for abnormal conditions only as well.",
)
NORMAL_MODE: Final = warning(
    "COM-14", "operation modes", "At least one operation mode is for other than abnormal conditions."
)
SUPPORTED_COMMODITY: Final = warning(
    "COM-15",
    "FRBC.SystemDescription, DDBC.SystemDescription",
    "The powers of an actuator are of commodities that it supports.",
)
NAMED_ONCE: Final = warning(
    "COM-16", "lists of control types, measurements and commodities", "A list of kinds names each kind once."
)

Checker = Callable[[Any, Findings], None]
"""Adds the findings about a message of one type."""

TOLERANCE: Final = 1e-6
"""By how much a number may miss a bound that it was calculated from, relative to the larger of the two and to 1."""

_BOUNDS: Final = (
    "lower_limit", "lower_95ppr", "lower_68ppr", "expected", "upper_68ppr", "upper_95ppr", "upper_limit",
)  # fmt: skip
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


Machine = ombc.SystemDescription | frbc.ActuatorDescription | ddbc.ActuatorDescription
"""An object with operation modes, transitions and timers: an actuator, or a device under OMBC."""

Instruction = ombc.Instruction | frbc.Instruction | ddbc.Instruction
"""An instruction of an operation mode."""

Status = ombc.Status | frbc.ActuatorStatus | ddbc.ActuatorStatus
"""A status with the active operation mode."""

_Powered = ombc.OperationMode | frbc.OperationModeElement | ddbc.OperationMode


@cache
def _id_members(kind: type[S2Object]) -> tuple[str, ...]:
    return tuple(name for name, field in kind.model_fields.items() if is_id(field))


def ids(thing: S2Object, found: Findings, path: str = "") -> None:
    """Check the identifiers of one object, whose members begin with ``path`` (``COM-01``)."""
    for name in _id_members(type(thing)):
        value = getattr(thing, name)
        if value is not None and not _FULL_ID(value):
            found.add(ID_FORM, path + name.rstrip("_"), "no identifier as the standard has them")


def unique(things: Iterable[_HasId], found: Findings, path: str) -> set[str]:
    """Check that no two objects of a list have the same identifier (``COM-02``), and return the identifiers."""
    seen: set[str] = set()
    for index, thing in enumerate(things):
        if thing.id in seen:
            found.add(UNIQUE_ID, f"{path}[{index}]", "the identifier is taken by another one of the list")
        seen.add(thing.id)
    return seen


def close(one: float, other: float) -> bool:
    """Return whether two numbers are equal but for rounding."""
    return abs(one - other) <= TOLERANCE * max(1.0, abs(one), abs(other))


def is_factor(factor: float) -> bool:
    """Return whether a number is from 0 to 1 but for rounding."""
    return -TOLERANCE <= factor <= 1 + TOLERANCE


def instruction(message: Instruction, found: Findings) -> None:
    """Check the factor of an instruction (``COM-04``)."""
    if not is_factor(message.operation_mode_factor):
        found.add(INSTRUCTED_FACTOR, "operation_mode_factor", "not from 0 to 1")


def status(message: Status, found: Findings) -> None:
    """Check factor and previous mode of a status (``COM-05``, ``COM-12``)."""
    if not is_factor(message.operation_mode_factor):
        found.add(REPORTED_FACTOR, "operation_mode_factor", "not from 0 to 1")
    previous = message.previous_operation_mode_id
    if previous is not None:
        if message.transition_timestamp is None:
            found.add(PREVIOUS_MODE, "transition_timestamp", "missing, although the previous operation mode is there")
    elif message.transition_timestamp is not None:
        found.add(PREVIOUS_MODE, "previous_operation_mode_id", "missing, although the time of the transition is there")


def phases(quantities: Iterable[CommodityQuantity], found: Findings, path: str) -> None:
    """Check quantities that belong together (``COM-07`` and ``COM-08``)."""
    single = _SINGLE_PHASES.intersection(quantities)
    if not single:
        return
    if CommodityQuantity.ELECTRIC_POWER_3_PHASE_SYMMETRIC in quantities:
        found.add(SYMMETRIC_OR_PHASES, path, "three phases together, and single phases as well")
    only_phase_is_l1(single, found, path)


def only_phase_is_l1(quantities: Iterable[CommodityQuantity], found: Findings, path: str) -> None:
    """Check that a single phase is L1 (``COM-08``)."""
    single = _SINGLE_PHASES.intersection(quantities)
    if len(single) == 1 and single <= _LATER_PHASES:
        found.add(SINGLE_PHASE_IS_L1, path, "the only phase is not called L1")


def one_per_quantity(items: Sequence[_HasQuantity], found: Findings, path: str) -> None:
    """Check the quantities of a list of powers (``COM-06`` to ``COM-08``)."""
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
    """Check that no kind is listed twice (``COM-16``)."""
    if len(kinds) > 1 and len(set(kinds)) < len(kinds):
        found.add(NAMED_ONCE, path, "names one of them more than once")


def forecast(prefix: str) -> Callable[[Any, Findings, str], None]:
    """Return a check of one forecast, whose members begin with ``prefix`` (``COM-09``)."""
    bounds_of = attrgetter(*(f"{prefix}_{bound}" for bound in _BOUNDS))

    def check(value: Any, found: Findings, path: str) -> None:
        bounds = [bound for bound in bounds_of(value) if bound is not None]
        if any(later < earlier for earlier, later in pairwise(bounds)):
            found.add(FORECAST_ORDER, path, "the values descend from the lower limit to the upper limit")

    return check


def forecast_elements(prefix: str) -> Checker:
    """Return a checker of messages whose elements are forecasts (``COM-09``, ``COM-10``)."""
    check = forecast(prefix)

    def checker(message: Any, found: Findings) -> None:
        for index, element in enumerate(message.elements):
            lasts(element.duration, found, f"elements[{index}]")
            check(element, found, f"elements[{index}]")

    return checker


def lasts(duration: int, found: Findings, path: str) -> None:
    """Check the duration of an element (``COM-10``)."""
    if duration == 0:
        found.add(LASTS, f"{path}.duration", "lasts no time")


def powers(thing: _Powered, commodities: Sequence[Commodity] | None, found: Findings, path: str) -> None:
    """Check powers and costs of a mode (``COM-06`` to ``COM-08``, ``COM-11``, ``COM-15``).

    Args:
        thing: The mode, or its element.
        commodities: Those that the actuator supports; None under OMBC, which has no actuators.
        found: Where findings go.
        path: Its place.
    """
    one_per_quantity(thing.power_ranges, found, f"{path}.power_ranges")
    for index, power_range in enumerate(thing.power_ranges):
        if commodities is not None and _COMMODITY[power_range.commodity_quantity] not in commodities:
            place = f"{path}.power_ranges[{index}]"
            found.add(SUPPORTED_COMMODITY, place, "of a commodity that the actuator does not support")
    costs = thing.running_costs
    if costs is not None and costs.start_of_range > costs.end_of_range:
        found.add(COSTS_RANGE, f"{path}.running_costs", "starts above its end")


def machine(actuator: Machine, found: Findings, path: str) -> None:
    """Check modes, transitions and timers of one actuator or device against each other (``COM-01`` to ``COM-03`` …)."""
    modes = unique(actuator.operation_modes, found, f"{path}operation_modes")
    abnormal = {mode.id for mode in actuator.operation_modes if mode.abnormal_condition_only}
    if len(abnormal) == len(modes):
        found.add(NORMAL_MODE, f"{path}operation_modes", "all of them are for abnormal conditions only")
    timers = unique(actuator.timers, found, f"{path}timers")
    for index, timer in enumerate(actuator.timers):
        ids(timer, found, f"{path}timers[{index}].")
    unique(actuator.transitions, found, f"{path}transitions")
    for index, transition in enumerate(actuator.transitions):
        place = f"{path}transitions[{index}]."
        ids(transition, found, place)
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

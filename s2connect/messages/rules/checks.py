"""Checks of single messages, without what was said before: first the rules that several control types share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from datetime import timedelta
from itertools import pairwise
from operator import attrgetter
from typing import Any, Final, Protocol

from s2connect.messages import ddbc, frbc, general, ombc, pebc, ppbc
from s2connect.messages.base import S2Message, S2Object, id_members
from s2connect.messages.general import Commodity, CommodityQuantity, NumberRange, PowerRange
from s2connect.messages.identifiers import odd_ids
from s2connect.messages.rules.base import MAX_FINDINGS_PER_RULE, Finding, Findings

Checker = Callable[[Any, Findings], None]
"""Adds the findings about a message of one type."""

TOLERANCE: Final = 1e-6
"""By how much a number may miss a bound that it was calculated from, relative to the larger of the two and to 1."""

_BOUNDS: Final = (
    "lower_limit", "lower_95ppr", "lower_68ppr", "expected", "upper_68ppr", "upper_95ppr", "upper_limit",
)  # fmt: skip
_NO_MODE: Final = "no operation mode that is defined here"
_NO_TIMER: Final = "names a timer that is not defined here"
_SINGLE_PHASES: Final = frozenset(
    quantity for quantity in CommodityQuantity if quantity.name[:-1] == "ELECTRIC_POWER_L"
)
_L1: Final = CommodityQuantity.ELECTRIC_POWER_L1
_LATER_PHASES: Final = _SINGLE_PHASES - {_L1}
_THREE_PHASES: Final = CommodityQuantity.ELECTRIC_POWER_3_PHASE_SYMMETRIC
_PREFIXES: Final = {"ELECTRIC": Commodity.ELECTRICITY, "NATURAL_GAS": Commodity.GAS, "HYDROGEN": Commodity.GAS}
_COMMODITY: Final = {
    quantity: _PREFIXES.get(prefix) or Commodity(prefix)
    for quantity in CommodityQuantity
    for prefix in [quantity.split(".", 1)[0]]
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


Path = str | int
"""Part of the place of a finding."""


def ids(thing: S2Object, found: Findings, *path: Path) -> None:
    """Check the identifiers of one object, of a message that has odd ones (``COM-01``)."""
    for name in id_members(type(thing)):
        value = getattr(thing, name)
        if value in found.odd_ids:
            found.add("COM-01", "no identifier as the standard has them", *path, name.rstrip("_"))
            found.odd_places += 1
            if found.odd_places == MAX_FINDINGS_PER_RULE:
                found.odd_ids = frozenset()


def unique(things: Sequence[_HasId], found: Findings, *path: Path) -> set[str]:
    """Check that no two objects of a list have the same identifier (``COM-02``), and return the identifiers."""
    names = {thing.id for thing in things}
    if len(names) < len(things):
        seen: set[str] = set()
        for index, thing in enumerate(things):
            if thing.id in seen:
                found.add("COM-02", "the identifier is taken by another one of the list", *path, index)
            seen.add(thing.id)
    return names


def close(one: float, other: float) -> bool:
    """Return whether two numbers are equal but for rounding."""
    return abs(one - other) <= TOLERANCE * max(1.0, abs(one), abs(other))


def is_factor(factor: float) -> bool:
    """Return whether a number is from 0 to 1 but for rounding."""
    return -TOLERANCE <= factor <= 1 + TOLERANCE


def descends(numbers: NumberRange | PowerRange) -> bool:
    """Return whether a range starts above its end."""
    return numbers.start_of_range > numbers.end_of_range


def instruction(message: Instruction, found: Findings) -> None:
    """Check the factor of an instruction (``COM-04``)."""
    if not is_factor(message.operation_mode_factor):
        found.add("COM-04", "not from 0 to 1", "operation_mode_factor")


def status(message: Status, found: Findings) -> None:
    """Check factor and previous mode of a status (``COM-05``, ``COM-12``)."""
    if not is_factor(message.operation_mode_factor):
        found.add("COM-05", "not from 0 to 1", "operation_mode_factor")
    previous, since = message.previous_operation_mode_id, message.transition_timestamp
    if previous is not None and since is None:
        found.add("COM-12", "missing, although the previous operation mode is there", "transition_timestamp")
    if previous is None and since is not None:
        what = "missing, although the time of the transition is there"
        found.add("COM-12", what, "previous_operation_mode_id")


def phases(quantities: Iterable[CommodityQuantity], found: Findings, *path: Path) -> None:
    """Check quantities that belong together (``COM-07`` and ``COM-08``)."""
    if _SINGLE_PHASES.isdisjoint(quantities):
        return
    if _THREE_PHASES in quantities:
        found.add("COM-07", "three phases together, and single phases as well", *path)
    only_phase_is_l1(quantities, found, *path)


def only_phase_is_l1(quantities: Iterable[CommodityQuantity], found: Findings, *path: Path) -> None:
    """Check that a single phase is L1 (``COM-08``)."""
    single = _SINGLE_PHASES.intersection(quantities)
    if len(single) == 1 and single <= _LATER_PHASES:
        found.add("COM-08", "the only phase is not called L1", *path)


def one_per_quantity(items: Sequence[_HasQuantity], found: Findings, *path: Path) -> None:
    """Check the quantities of a list of powers (``COM-06`` to ``COM-08``)."""
    if len(items) == 1:
        if items[0].commodity_quantity in _LATER_PHASES:
            found.add("COM-08", "the only phase is not called L1", *path)
        return
    quantities = {item.commodity_quantity for item in items}
    if len(quantities) < len(items):
        seen: set[CommodityQuantity] = set()
        for index, item in enumerate(items):
            if item.commodity_quantity in seen:
                found.add("COM-06", "the list has this quantity already", *path, index)
            seen.add(item.commodity_quantity)
    single = quantities & _SINGLE_PHASES
    if single and (_THREE_PHASES in quantities or (len(single) == 1 and _L1 not in single)):
        phases(quantities, found, *path)


def each_once(kinds: Sequence[object], found: Findings, *path: Path) -> None:
    """Check that no kind is listed twice (``COM-16``)."""
    if len(kinds) > 1 and len(set(kinds)) < len(kinds):
        found.add("COM-16", "names one of them more than once", *path)


def forecast(prefix: str) -> Callable[..., None]:
    """Return a check of one forecast, given with the findings and its place (``COM-09``)."""
    bounds_of = attrgetter(*(f"{prefix}_{bound}" for bound in _BOUNDS))

    def check(value: Any, found: Findings, *path: Path) -> None:
        bounds = [bound for bound in bounds_of(value) if bound is not None]
        if bounds != sorted(bounds):
            found.add("COM-09", "the values descend from the lower limit to the upper limit", *path)

    return check


def forecast_elements(prefix: str) -> Checker:
    """Return a checker of messages whose elements are forecasts (``COM-09``, ``COM-10``)."""
    check = forecast(prefix)

    def checker(message: Any, found: Findings) -> None:
        for index, element in enumerate(message.elements):
            lasts(element.duration, found, "elements", index)
            check(element, found, "elements", index)

    return checker


def lasts(duration: int, found: Findings, *path: Path) -> None:
    """Check the duration of an element (``COM-10``)."""
    if duration == 0:
        found.add("COM-10", "lasts no time", *path, "duration")


def is_plain(thing: _Powered, quantities: Set[CommodityQuantity]) -> bool:
    """Return whether powers and costs of a mode with :func:`plain_quantities` break no rule."""
    ranges = thing.power_ranges
    return len(ranges) == 1 and ranges[0].commodity_quantity in quantities and thing.running_costs is None


_PLAIN: Final = {
    commodity: frozenset(quantity for quantity, its in _COMMODITY.items() if its is commodity) - _LATER_PHASES
    for commodity in Commodity
}


def plain_quantities(commodities: Sequence[Commodity]) -> Set[CommodityQuantity]:
    """Return the quantities of which one is enough for an actuator with these commodities."""
    if len(commodities) == 1:
        return _PLAIN[commodities[0]]
    return frozenset().union(*(_PLAIN[commodity] for commodity in commodities))


def powers(thing: _Powered, commodities: Sequence[Commodity] | None, found: Findings, *path: Path) -> None:
    """Check powers and costs of a mode (``COM-06`` to ``COM-08``, ``COM-11``, ``COM-15``).

    Args:
        thing: The mode, or its element.
        commodities: Those that the actuator supports; None under OMBC, which has no actuators.
        found: Where findings go.
        path: Its place.
    """
    one_per_quantity(thing.power_ranges, found, *path, "power_ranges")
    if commodities is not None:
        for index, power_range in enumerate(thing.power_ranges):
            if _COMMODITY[power_range.commodity_quantity] not in commodities:
                what = "of a commodity that the actuator does not support"
                found.add("COM-15", what, *path, "power_ranges", index)
    if thing.running_costs is not None and descends(thing.running_costs):
        found.add("COM-11", "starts above its end", *path, "running_costs")


def machine(actuator: Machine, found: Findings, *path: Path) -> None:
    """Check modes, transitions and timers of one actuator or device against each other (``COM-01`` to ``COM-03`` …)."""
    modes = unique(actuator.operation_modes, found, *path, "operation_modes")
    abnormal = {mode.id for mode in actuator.operation_modes if mode.abnormal_condition_only}
    if len(abnormal) == len(modes):
        found.add("COM-14", "all of them are for abnormal conditions only", *path, "operation_modes")
    timers = unique(actuator.timers, found, *path, "timers")
    for index, timer in enumerate(actuator.timers):
        if found.odd_ids:
            ids(timer, found, *path, "timers", index)
    unique(actuator.transitions, found, *path, "transitions")
    for index, transition in enumerate(actuator.transitions):
        if found.odd_ids:
            ids(transition, found, *path, "transitions", index)
        if transition.from_ not in modes:
            found.add("COM-03", _NO_MODE, *path, "transitions", index, "from")
        if transition.to not in modes:
            found.add("COM-03", _NO_MODE, *path, "transitions", index, "to")
        elif transition.to in abnormal and not transition.abnormal_condition_only:
            what = "not set, but set for the mode it leads to"
            found.add("COM-13", what, *path, "transitions", index, "abnormal_condition_only")
        if not timers.issuperset(transition.start_timers):
            found.add("COM-03", _NO_TIMER, *path, "transitions", index, "start_timers")
        if not timers.issuperset(transition.blocking_timers):
            found.add("COM-03", _NO_TIMER, *path, "transitions", index, "blocking_timers")


_check_value: Final = forecast("value")
_PowerElement = general.PowerForecastElement | ppbc.PowerSequenceElement


def _general_handshake(message: general.Handshake, found: Findings) -> None:
    if message.role is general.EnergyManagementRole.RM and not message.supported_protocol_versions:
        found.add("COM-19", "missing in the handshake of a device", "supported_protocol_versions")


def _general_details(message: general.ResourceManagerDetails, found: Findings) -> None:
    if len({role.commodity for role in message.roles}) < len(message.roles):
        found.add("COM-17", "more than one of them for one commodity", "roles")
    if general.ControlType.NO_SELECTION in message.available_control_types:
        found.add("COM-18", "offers to select that nothing is selected", "available_control_types")
    each_once(message.available_control_types, found, "available_control_types")
    measurements = message.provides_power_measurement_types
    each_once(measurements, found, "provides_power_measurement_types")
    only_phase_is_l1(measurements, found, "provides_power_measurement_types")


def _general_measurement(message: general.PowerMeasurement, found: Findings) -> None:
    one_per_quantity(message.values, found, "values")


def _general_forecast(message: general.PowerForecast, found: Findings) -> None:
    profile(message.elements, found)


def profile(elements: Sequence[_PowerElement], found: Findings, *path: Path) -> None:
    """Check the elements of a forecast of powers, or of a power sequence at ``path``."""
    for index, element in enumerate(elements):
        lasts(element.duration, found, *path, "elements", index)
        one_per_quantity(element.power_values, found, *path, "elements", index, "power_values")
        for number, value in enumerate(element.power_values):
            _check_value(value, found, *path, "elements", index, "power_values", number)


def _pebc_validity(message: pebc.PowerConstraints | pebc.EnergyConstraint, found: Findings) -> None:
    begin, end = message.valid_from, message.valid_until
    if end is not None and end < begin:
        found.add("PEBC-04", "before valid_from", "valid_until")
    elif end == begin:
        found.add("PEBC-08", "equal to valid_from", "valid_until")


def _pebc_power_constraints(message: pebc.PowerConstraints, found: Findings) -> None:
    _pebc_validity(message, found)
    upper: set[CommodityQuantity] = set()
    lower: set[CommodityQuantity] = set()
    for index, allowed in enumerate(message.allowed_limit_ranges):
        is_upper = allowed.limit_type is pebc.PowerEnvelopeLimitType.UPPER_LIMIT
        (upper if is_upper else lower).add(allowed.commodity_quantity)
        if descends(allowed.range_boundary):
            found.add("PEBC-03", "starts above its end", "allowed_limit_ranges", index, "range_boundary")
    if not upper or not lower:
        which = "lower" if upper else "upper"
        found.add("PEBC-01", f"none of them is for the {which} limit", "allowed_limit_ranges")
    elif upper != lower:
        what = "a quantity has ranges for one of the two limits only"
        found.add("PEBC-02", what, "allowed_limit_ranges")
    phases(upper | lower, found, "allowed_limit_ranges")


def _pebc_energy_constraint(message: pebc.EnergyConstraint, found: Findings) -> None:
    _pebc_validity(message, found)
    if message.upper_average_power < message.lower_average_power:
        found.add("PEBC-05", "below the lower average power", "upper_average_power")


def _pebc_instruction(message: pebc.Instruction, found: Findings) -> None:
    unique(message.power_envelopes, found, "power_envelopes")
    seen: set[CommodityQuantity] = set()
    for index, envelope in enumerate(message.power_envelopes):
        if found.odd_ids:
            ids(envelope, found, "power_envelopes", index)
        if envelope.commodity_quantity in seen:
            found.add("PEBC-06", "another one has this quantity already", "power_envelopes", index)
        seen.add(envelope.commodity_quantity)
        for number, element in enumerate(envelope.power_envelope_elements):
            if element.duration == 0 or element.lower_limit > element.upper_limit:
                path = "power_envelopes", index, "power_envelope_elements", number
                if element.lower_limit > element.upper_limit:
                    found.add("PEBC-07", "the lower limit is above the upper limit", *path)
                lasts(element.duration, found, *path)
    phases(seen, found, "power_envelopes")


_MILLISECOND: Final = timedelta(milliseconds=1)
_RUNNING: Final = frozenset({ppbc.PowerSequenceStatus.EXECUTING, ppbc.PowerSequenceStatus.INTERRUPTED})
_WAITING: Final = frozenset({ppbc.PowerSequenceStatus.NOT_SCHEDULED, ppbc.PowerSequenceStatus.SCHEDULED})


def _ppbc_definition(message: ppbc.PowerProfileDefinition, found: Findings) -> None:
    unique(message.power_sequences_containers, found, "power_sequences_containers")
    shortest = 0
    for index, container in enumerate(message.power_sequences_containers):
        path = "power_sequences_containers", index
        if found.odd_ids:
            ids(container, found, *path)
        unique(container.power_sequences, found, *path, "power_sequences")
        for number, sequence in enumerate(container.power_sequences):
            if found.odd_ids:
                ids(sequence, found, *path, "power_sequences", number)
            profile(sequence.elements, found, *path, "power_sequences", number)
        shortest += min(sum(element.duration for element in one.elements) for one in container.power_sequences)
    if message.end_time <= message.start_time:
        found.add("PPBC-01", "not after start_time", "end_time")
    elif shortest > (message.end_time - message.start_time) / _MILLISECOND:
        found.add("PPBC-02", "even the shortest power sequences would end later", "end_time")


def _ppbc_status(message: ppbc.PowerProfileStatus, found: Findings) -> None:
    seen: set[tuple[str, str]] = set()
    for index, status in enumerate(message.sequence_container_status):
        path = "sequence_container_status", index
        if found.odd_ids:
            ids(status, found, *path)
        key = (status.power_profile_id, status.sequence_container_id)
        if key in seen:
            found.add("PPBC-05", "the container has a status in this message already", *path)
        seen.add(key)
        unscheduled = status.status is ppbc.PowerSequenceStatus.NOT_SCHEDULED
        if unscheduled and status.selected_sequence_id is not None:
            found.add("PPBC-04", "there, although no power sequence is scheduled", *path, "selected_sequence_id")
        elif not unscheduled and status.selected_sequence_id is None:
            found.add("PPBC-04", "missing, although the status is about one", *path, "selected_sequence_id")
        if status.status in _RUNNING and status.progress is None:
            found.add("PPBC-03", "missing, although the power sequence has started", *path, "progress")
        elif status.status in _WAITING and status.progress:
            found.add("PPBC-03", "there, although no power sequence has started", *path, "progress")


def _ombc_description(message: ombc.SystemDescription, found: Findings) -> None:
    for index, mode in enumerate(message.operation_modes):
        if found.odd_ids:
            ids(mode, found, "operation_modes", index)
        powers(mode, None, found, "operation_modes", index)
    machine(message, found)


class _LevelElement(Protocol):
    @property
    def fill_level_range(self) -> NumberRange: ...


def _frbc_fill_levels(
    elements: Sequence[_LevelElement], order: str, contiguous: str, found: Findings, *path: Path
) -> tuple[float, float] | None:
    """Look at the ranges of the fill level of elements, and return from where to where they reach, if they do."""
    begin = reached = elements[0].fill_level_range.start_of_range
    for element in elements:
        levels = element.fill_level_range
        if levels.start_of_range != reached or levels.end_of_range <= reached:
            break
        reached = levels.end_of_range
    else:
        return begin, reached
    ranges = [(e.fill_level_range.start_of_range, e.fill_level_range.end_of_range) for e in elements]
    for index, (start, end) in enumerate(ranges):
        if start >= end:
            found.add(order, "does not start below its end", *path, index, "fill_level_range")
            return None
    ranges.sort()
    for (_, end), (start, _) in pairwise(ranges):
        if end != start and not close(end, start):
            what = f"the ranges of the fill level {'leave a gap' if end < start else 'overlap'}"
            found.add(contiguous, what, *path)
            return None
    return ranges[0][0], ranges[-1][1]


def _frbc_description(message: frbc.SystemDescription, found: Findings) -> None:
    storage = message.storage.fill_level_range
    if descends(storage):
        found.add("FRBC-04", "starts above its end", "storage", "fill_level_range")
    unique(message.actuators, found, "actuators")
    for index, actuator in enumerate(message.actuators):
        if found.odd_ids:
            ids(actuator, found, "actuators", index)
        each_once(actuator.supported_commodities, found, "actuators", index, "supported_commodities")
        plain = plain_quantities(actuator.supported_commodities)
        for number, mode in enumerate(actuator.operation_modes):
            if found.odd_ids:
                ids(mode, found, "actuators", index, "operation_modes", number)
            path = "actuators", index, "operation_modes", number, "elements"
            for place, element in enumerate(mode.elements):
                if not is_plain(element, plain):
                    powers(element, actuator.supported_commodities, found, *path, place)
            _frbc_reach(mode, storage, found, *path)
        machine(actuator, found, "actuators", index)


def _frbc_reach(mode: frbc.OperationMode, storage: NumberRange, found: Findings, *path: Path) -> None:
    reach = _frbc_fill_levels(mode.elements, "FRBC-01", "FRBC-02", found, *path)
    if reach is None or descends(storage):
        return
    start, end = reach
    below = start <= storage.start_of_range or close(start, storage.start_of_range)
    above = end >= storage.end_of_range or close(end, storage.end_of_range)
    if not (below and above):
        found.add("FRBC-03", "a part of the storage's range of the fill level is missing", *path)


def _frbc_target(message: frbc.FillLevelTargetProfile, found: Findings) -> None:
    for index, element in enumerate(message.elements):
        lasts(element.duration, found, "elements", index)
        if descends(element.fill_level_range):
            found.add("FRBC-07", "starts above its end", "elements", index, "fill_level_range")


def _frbc_leakage(message: frbc.LeakageBehaviour, found: Findings) -> None:
    _frbc_fill_levels(message.elements, "FRBC-05", "FRBC-06", found, "elements")


def _ddbc_description(message: ddbc.SystemDescription, found: Findings) -> None:
    unique(message.actuators, found, "actuators")
    for index, actuator in enumerate(message.actuators):
        if found.odd_ids:
            ids(actuator, found, "actuators", index)
        each_once(actuator.supported_commodities, found, "actuators", index, "supported_commodites")
        for number, mode in enumerate(actuator.operation_modes):
            if found.odd_ids:
                ids(mode, found, "actuators", index, "operation_modes", number)
            powers(mode, actuator.supported_commodities, found, "actuators", index, "operation_modes", number)
        machine(actuator, found, "actuators", index)
        if not actuator.transitions:
            found.add("DDBC-01", "empty", "actuators", index, "transitions")


def _ddbc_present_demand(message: ddbc.PresentDemandStatus | ddbc.BetaSystemDescription, found: Findings) -> None:
    if isinstance(message, ddbc.SystemDescription):
        _ddbc_description(message, found)
    if descends(message.present_demand_rate):
        found.add("DDBC-02", "starts above its end", "present_demand_rate")


_CHECKS: Final[Mapping[type[S2Message], Checker]] = {
    general.Handshake: _general_handshake,
    general.PowerForecast: _general_forecast,
    general.PowerMeasurement: _general_measurement,
    general.ResourceManagerDetails: _general_details,
    pebc.EnergyConstraint: _pebc_energy_constraint,
    pebc.Instruction: _pebc_instruction,
    pebc.PowerConstraints: _pebc_power_constraints,
    ppbc.PowerProfileDefinition: _ppbc_definition,
    ppbc.PowerProfileStatus: _ppbc_status,
    ombc.Instruction: instruction,
    ombc.Status: status,
    ombc.SystemDescription: _ombc_description,
    frbc.ActuatorStatus: status,
    frbc.FillLevelTargetProfile: _frbc_target,
    frbc.Instruction: instruction,
    frbc.LeakageBehaviour: _frbc_leakage,
    frbc.SystemDescription: _frbc_description,
    frbc.UsageForecast: forecast_elements("usage_rate"),
    ddbc.ActuatorStatus: status,
    ddbc.AverageDemandRateForecast: forecast_elements("demand_rate"),
    ddbc.BetaSystemDescription: _ddbc_present_demand,
    ddbc.Instruction: instruction,
    ddbc.PresentDemandStatus: _ddbc_present_demand,
    ddbc.SystemDescription: _ddbc_description,
}


def check(message: S2Message) -> list[Finding]:
    """Return the findings about a message by itself, without what was said before.

    Never raises for a message of the data model. The rules that need what was said before are in
    :class:`s2connect.messages.rules.history.History`.

    Returns:
        What is found, in the order of the message; of each rule at most ``MAX_FINDINGS_PER_RULE`` places.
    """
    found = Findings()
    if odd := odd_ids(message):
        found.odd_ids = frozenset(odd)
        ids(message, found)
    checker = _CHECKS.get(type(message))
    if checker is not None:
        checker(message, found)
    return found

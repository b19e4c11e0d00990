"""Rules about Fill Rate Based Control."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Final, Protocol

from s2connect.messages import frbc
from s2connect.messages.base import S2Message
from s2connect.messages.general import NumberRange
from s2connect.messages.rules.base import Findings, Rule, Severity
from s2connect.messages.rules.common import (
    Checker,
    Ids,
    close,
    each_once,
    forecast,
    instructed_factor,
    lasts,
    machine,
    one_per_quantity,
    only_ids,
    running_costs,
    status,
    supported,
    unique,
)

ELEMENT_ORDER: Final = Rule(
    "FRBC-01",
    Severity.ERROR,
    "FRBC.SystemDescription",
    "The range of the fill level of an element of an operation mode starts below its end.",
)
ELEMENTS_CONTIGUOUS: Final = Rule(
    "FRBC-02",
    Severity.ERROR,
    "FRBC.SystemDescription",
    "The ranges of the fill level of the elements of an operation mode adjoin: no gap, and no overlap.",
)
ELEMENTS_COVER: Final = Rule(
    "FRBC-03",
    Severity.WARNING,
    "FRBC.SystemDescription",
    "The elements of an operation mode cover the range of the fill level of the storage.",
)
STORAGE_ORDER: Final = Rule(
    "FRBC-04",
    Severity.ERROR,
    "FRBC.SystemDescription",
    "The range of the fill level of the storage does not start above its end.",
)
LEAKAGE_ORDER: Final = Rule(
    "FRBC-05",
    Severity.ERROR,
    "FRBC.LeakageBehaviour",
    "The range of the fill level of an element starts below its end.",
)
LEAKAGE_CONTIGUOUS: Final = Rule(
    "FRBC-06",
    Severity.ERROR,
    "FRBC.LeakageBehaviour",
    "The ranges of the fill level of the elements adjoin: no gap, and no overlap.",
)
TARGET_ORDER: Final = Rule(
    "FRBC-07",
    Severity.ERROR,
    "FRBC.FillLevelTargetProfile",
    "The range of the fill level that is aimed for does not start above its end.",
)

RULES: Final = (
    ELEMENT_ORDER,
    ELEMENTS_CONTIGUOUS,
    ELEMENTS_COVER,
    STORAGE_ORDER,
    LEAKAGE_ORDER,
    LEAKAGE_CONTIGUOUS,
    TARGET_ORDER,
)

_message_id: Final = Ids("message_id")
_own_id: Final = Ids("id")
_instruction_ids: Final = Ids("message_id", "id", "actuator_id", "operation_mode")
_status_ids: Final = Ids("message_id", "actuator_id", "active_operation_mode_id")


class _Element(Protocol):
    @property
    def fill_level_range(self) -> NumberRange: ...


def _fill_levels(
    elements: Sequence[_Element], order: Rule, contiguous: Rule, found: Findings, path: str
) -> tuple[float, float] | None:
    """Look at the ranges of the fill level of elements, and return from where to where they reach, if they do."""
    for index, element in enumerate(elements):
        if element.fill_level_range.start_of_range >= element.fill_level_range.end_of_range:
            found.add(order, f"{path}[{index}].fill_level_range", "does not start below its end")
            return None
    if len(elements) == 1:
        return elements[0].fill_level_range.start_of_range, elements[0].fill_level_range.end_of_range
    ranges = sorted((e.fill_level_range.start_of_range, e.fill_level_range.end_of_range) for e in elements)
    for (_, end), (start, _) in pairwise(ranges):
        if not close(end, start):
            found.add(contiguous, path, f"the ranges of the fill level {'leave a gap' if end < start else 'overlap'}")
            return None
    return ranges[0][0], ranges[-1][1]


def _description(message: frbc.SystemDescription, found: Findings) -> None:
    _message_id(message, found)
    storage = message.storage.fill_level_range
    if storage.start_of_range > storage.end_of_range:
        found.add(STORAGE_ORDER, "storage.fill_level_range", "starts above its end")
    unique(message.actuators, found, "actuators")
    for index, actuator in enumerate(message.actuators):
        place = f"actuators[{index}]"
        _own_id(actuator, found, f"{place}.")
        each_once(actuator.supported_commodities, found, f"{place}.supported_commodities")
        for number, mode in enumerate(actuator.operation_modes):
            where = f"{place}.operation_modes[{number}]"
            _own_id(mode, found, f"{where}.")
            _mode(mode, actuator, storage, found, where)
        machine(actuator, found, f"{place}.")


def _mode(
    mode: frbc.OperationMode, actuator: frbc.ActuatorDescription, storage: NumberRange, found: Findings, path: str
) -> None:
    for index, element in enumerate(mode.elements):
        place = f"{path}.elements[{index}]"
        one_per_quantity(element.power_ranges, found, f"{place}.power_ranges")
        supported(element.power_ranges, actuator.supported_commodities, found, f"{place}.power_ranges")
        running_costs(element.running_costs, found, place)
    reach = _fill_levels(mode.elements, ELEMENT_ORDER, ELEMENTS_CONTIGUOUS, found, f"{path}.elements")
    if reach is None or storage.start_of_range > storage.end_of_range:
        return
    start, end = reach
    below = start <= storage.start_of_range or close(start, storage.start_of_range)
    above = end >= storage.end_of_range or close(end, storage.end_of_range)
    if not (below and above):
        found.add(ELEMENTS_COVER, f"{path}.elements", "a part of the storage's range of the fill level is missing")


def _instruction(message: frbc.Instruction, found: Findings) -> None:
    _instruction_ids(message, found)
    instructed_factor(message.operation_mode_factor, found)


def _status(message: frbc.ActuatorStatus, found: Findings) -> None:
    _status_ids(message, found)
    status(message, found)


def _target(message: frbc.FillLevelTargetProfile, found: Findings) -> None:
    _message_id(message, found)
    for index, element in enumerate(message.elements):
        lasts(element.duration, found, f"elements[{index}]")
        if element.fill_level_range.start_of_range > element.fill_level_range.end_of_range:
            found.add(TARGET_ORDER, f"elements[{index}].fill_level_range", "starts above its end")


def _leakage(message: frbc.LeakageBehaviour, found: Findings) -> None:
    _message_id(message, found)
    _fill_levels(message.elements, LEAKAGE_ORDER, LEAKAGE_CONTIGUOUS, found, "elements")


def _usage(message: frbc.UsageForecast, found: Findings) -> None:
    _message_id(message, found)
    for index, element in enumerate(message.elements):
        place = f"elements[{index}]"
        lasts(element.duration, found, place)
        bounds = (
            element.usage_rate_lower_limit,
            element.usage_rate_lower_95ppr,
            element.usage_rate_lower_68ppr,
            element.usage_rate_expected,
            element.usage_rate_upper_68ppr,
            element.usage_rate_upper_95ppr,
            element.usage_rate_upper_limit,
        )
        forecast(bounds, found, place)


CHECKS: Final[Mapping[type[S2Message], Checker]] = {
    frbc.ActuatorStatus: _status,
    frbc.FillLevelTargetProfile: _target,
    frbc.Instruction: _instruction,
    frbc.LeakageBehaviour: _leakage,
    frbc.StorageStatus: only_ids("message_id"),
    frbc.SystemDescription: _description,
    frbc.TimerStatus: only_ids("message_id", "timer_id", "actuator_id"),
    frbc.UsageForecast: _usage,
}

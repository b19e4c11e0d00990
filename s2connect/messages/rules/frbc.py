"""Rules about Fill Rate Based Control."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Final, Protocol

from s2connect.messages import frbc
from s2connect.messages.base import S2Message
from s2connect.messages.general import NumberRange
from s2connect.messages.rules.base import Findings, Rule, error, warning
from s2connect.messages.rules.common import (
    Checker,
    close,
    each_once,
    forecast_elements,
    ids,
    instruction,
    lasts,
    machine,
    powers,
    status,
    unique,
)

ELEMENT_ORDER: Final = error(
    "FRBC-01",
    "FRBC.SystemDescription",
    "The range of the fill level of an element of an operation mode starts below its end.",
)
ELEMENTS_CONTIGUOUS: Final = error(
    "FRBC-02",
    "FRBC.SystemDescription",
    "The ranges of the fill level of the elements of an operation mode adjoin: no gap, and no overlap.",
)
ELEMENTS_COVER: Final = warning(
    "FRBC-03",
    "FRBC.SystemDescription",
    "The elements of an operation mode cover the range of the fill level of the storage.",
)
STORAGE_ORDER: Final = error(
    "FRBC-04", "FRBC.SystemDescription", "The range of the fill level of the storage does not start above its end."
)
LEAKAGE_ORDER: Final = error(
    "FRBC-05", "FRBC.LeakageBehaviour", "The range of the fill level of an element starts below its end."
)
LEAKAGE_CONTIGUOUS: Final = error(
    "FRBC-06", "FRBC.LeakageBehaviour", "The ranges of the fill level of the elements adjoin: no gap, and no overlap."
)
TARGET_ORDER: Final = error(
    "FRBC-07",
    "FRBC.FillLevelTargetProfile",
    "The range of the fill level that is aimed for does not start above its end.",
)


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
    storage = message.storage.fill_level_range
    if storage.start_of_range > storage.end_of_range:
        found.add(STORAGE_ORDER, "storage.fill_level_range", "starts above its end")
    unique(message.actuators, found, "actuators")
    for index, actuator in enumerate(message.actuators):
        place = f"actuators[{index}]"
        ids(actuator, found, f"{place}.")
        each_once(actuator.supported_commodities, found, f"{place}.supported_commodities")
        for number, mode in enumerate(actuator.operation_modes):
            where = f"{place}.operation_modes[{number}]"
            ids(mode, found, f"{where}.")
            _mode(mode, actuator, storage, found, where)
        machine(actuator, found, f"{place}.")


def _mode(
    mode: frbc.OperationMode, actuator: frbc.ActuatorDescription, storage: NumberRange, found: Findings, path: str
) -> None:
    for index, element in enumerate(mode.elements):
        powers(element, actuator.supported_commodities, found, f"{path}.elements[{index}]")
    reach = _fill_levels(mode.elements, ELEMENT_ORDER, ELEMENTS_CONTIGUOUS, found, f"{path}.elements")
    if reach is None or storage.start_of_range > storage.end_of_range:
        return
    start, end = reach
    below = start <= storage.start_of_range or close(start, storage.start_of_range)
    above = end >= storage.end_of_range or close(end, storage.end_of_range)
    if not (below and above):
        found.add(ELEMENTS_COVER, f"{path}.elements", "a part of the storage's range of the fill level is missing")


def _target(message: frbc.FillLevelTargetProfile, found: Findings) -> None:
    for index, element in enumerate(message.elements):
        lasts(element.duration, found, f"elements[{index}]")
        if element.fill_level_range.start_of_range > element.fill_level_range.end_of_range:
            found.add(TARGET_ORDER, f"elements[{index}].fill_level_range", "starts above its end")


def _leakage(message: frbc.LeakageBehaviour, found: Findings) -> None:
    _fill_levels(message.elements, LEAKAGE_ORDER, LEAKAGE_CONTIGUOUS, found, "elements")


CHECKS: Final[Mapping[type[S2Message], Checker]] = {
    frbc.ActuatorStatus: status,
    frbc.FillLevelTargetProfile: _target,
    frbc.Instruction: instruction,
    frbc.LeakageBehaviour: _leakage,
    frbc.SystemDescription: _description,
    frbc.UsageForecast: forecast_elements("usage_rate"),
}

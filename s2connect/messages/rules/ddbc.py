"""Rules about Demand Driven Based Control, in both data models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from s2connect.messages import ddbc
from s2connect.messages.base import S2Message
from s2connect.messages.general import NumberRange
from s2connect.messages.rules.base import Findings, Rule, Severity
from s2connect.messages.rules.common import (
    Checker,
    Ids,
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

SOME_TRANSITION: Final = Rule(
    "DDBC-01", Severity.WARNING, "DDBC.SystemDescription", "An actuator has at least one transition."
)
DEMAND_ORDER: Final = Rule(
    "DDBC-02",
    Severity.WARNING,
    "DDBC.PresentDemandStatus, DDBC.SystemDescription of 0.0.2-beta",
    "The range of the present demand does not start above its end.",
)

RULES: Final = (SOME_TRANSITION, DEMAND_ORDER)

_message_id: Final = Ids("message_id")
_own_id: Final = Ids("id")
_instruction_ids: Final = Ids("message_id", "id", "actuator_id", "operation_mode_id")
_status_ids: Final = Ids("message_id", "actuator_id", "active_operation_mode_id")


def _description(message: ddbc.SystemDescription, found: Findings) -> None:
    _message_id(message, found)
    unique(message.actuators, found, "actuators")
    for index, actuator in enumerate(message.actuators):
        place = f"actuators[{index}]"
        _own_id(actuator, found, f"{place}.")
        each_once(actuator.supported_commodities, found, f"{place}.supported_commodites")
        for number, mode in enumerate(actuator.operation_modes):
            where = f"{place}.operation_modes[{number}]"
            _own_id(mode, found, f"{where}.")
            one_per_quantity(mode.power_ranges, found, f"{where}.power_ranges")
            supported(mode.power_ranges, actuator.supported_commodities, found, f"{where}.power_ranges")
            running_costs(mode.running_costs, found, where)
        machine(actuator, found, f"{place}.")
        if not actuator.transitions:
            found.add(SOME_TRANSITION, f"{place}.transitions", "empty")


def _beta_description(message: ddbc.BetaSystemDescription, found: Findings) -> None:
    _description(message, found)
    _demand(message.present_demand_rate, found)


def _present_demand(message: ddbc.PresentDemandStatus, found: Findings) -> None:
    _message_id(message, found)
    _demand(message.present_demand_rate, found)


def _demand(rate: NumberRange, found: Findings) -> None:
    if rate.start_of_range > rate.end_of_range:
        found.add(DEMAND_ORDER, "present_demand_rate", "starts above its end")


def _instruction(message: ddbc.Instruction, found: Findings) -> None:
    _instruction_ids(message, found)
    instructed_factor(message.operation_mode_factor, found)


def _status(message: ddbc.ActuatorStatus, found: Findings) -> None:
    _status_ids(message, found)
    status(message, found)


def _forecast(message: ddbc.AverageDemandRateForecast, found: Findings) -> None:
    _message_id(message, found)
    for index, element in enumerate(message.elements):
        place = f"elements[{index}]"
        lasts(element.duration, found, place)
        bounds = (
            element.demand_rate_lower_limit,
            element.demand_rate_lower_95ppr,
            element.demand_rate_lower_68ppr,
            element.demand_rate_expected,
            element.demand_rate_upper_68ppr,
            element.demand_rate_upper_95ppr,
            element.demand_rate_upper_limit,
        )
        forecast(bounds, found, place)


CHECKS: Final[Mapping[type[S2Message], Checker]] = {
    ddbc.ActuatorStatus: _status,
    ddbc.AverageDemandRateForecast: _forecast,
    ddbc.BetaSystemDescription: _beta_description,
    ddbc.Instruction: _instruction,
    ddbc.PresentDemandStatus: _present_demand,
    ddbc.SystemDescription: _description,
    ddbc.TimerStatus: only_ids("message_id", "timer_id", "actuator_id"),
}

"""Rules about Demand Driven Based Control, in both data models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from s2connect.messages import ddbc
from s2connect.messages.base import S2Message
from s2connect.messages.general import NumberRange
from s2connect.messages.rules.base import Findings, warning
from s2connect.messages.rules.common import (
    Checker,
    each_once,
    forecast_elements,
    ids,
    instruction,
    machine,
    powers,
    status,
    unique,
)

SOME_TRANSITION: Final = warning("DDBC-01", "DDBC.SystemDescription", "An actuator has at least one transition.")
DEMAND_ORDER: Final = warning(
    "DDBC-02",
    "DDBC.PresentDemandStatus, DDBC.SystemDescription of 0.0.2-beta",
    "The range of the present demand does not start above its end.",
)


def _description(message: ddbc.SystemDescription, found: Findings) -> None:
    unique(message.actuators, found, "actuators")
    for index, actuator in enumerate(message.actuators):
        place = f"actuators[{index}]"
        ids(actuator, found, f"{place}.")
        each_once(actuator.supported_commodities, found, f"{place}.supported_commodites")
        for number, mode in enumerate(actuator.operation_modes):
            where = f"{place}.operation_modes[{number}]"
            ids(mode, found, f"{where}.")
            powers(mode, actuator.supported_commodities, found, where)
        machine(actuator, found, f"{place}.")
        if not actuator.transitions:
            found.add(SOME_TRANSITION, f"{place}.transitions", "empty")


def _beta_description(message: ddbc.BetaSystemDescription, found: Findings) -> None:
    _description(message, found)
    _demand(message.present_demand_rate, found)


def _present_demand(message: ddbc.PresentDemandStatus, found: Findings) -> None:
    _demand(message.present_demand_rate, found)


def _demand(rate: NumberRange, found: Findings) -> None:
    if rate.start_of_range > rate.end_of_range:
        found.add(DEMAND_ORDER, "present_demand_rate", "starts above its end")


CHECKS: Final[Mapping[type[S2Message], Checker]] = {
    ddbc.ActuatorStatus: status,
    ddbc.AverageDemandRateForecast: forecast_elements("demand_rate"),
    ddbc.BetaSystemDescription: _beta_description,
    ddbc.Instruction: instruction,
    ddbc.PresentDemandStatus: _present_demand,
    ddbc.SystemDescription: _description,
}

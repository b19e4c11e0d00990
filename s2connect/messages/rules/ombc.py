"""Checks of Operation Mode Based Control, whose rules are those that it shares with others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from s2connect.messages import ombc
from s2connect.messages.base import S2Message
from s2connect.messages.rules.base import Findings, Rule
from s2connect.messages.rules.common import (
    Checker,
    Ids,
    instructed_factor,
    machine,
    one_per_quantity,
    only_ids,
    running_costs,
    status,
)

RULES: Final[tuple[Rule, ...]] = ()

_message_id: Final = Ids("message_id")
_mode_id: Final = Ids("id")
_instruction_ids: Final = Ids("message_id", "id", "operation_mode_id")
_status_ids: Final = Ids("message_id", "active_operation_mode_id")


def _description(message: ombc.SystemDescription, found: Findings) -> None:
    _message_id(message, found)
    for index, mode in enumerate(message.operation_modes):
        place = f"operation_modes[{index}]"
        _mode_id(mode, found, f"{place}.")
        one_per_quantity(mode.power_ranges, found, f"{place}.power_ranges")
        running_costs(mode.running_costs, found, place)
    machine(message, found, "")


def _instruction(message: ombc.Instruction, found: Findings) -> None:
    _instruction_ids(message, found)
    instructed_factor(message.operation_mode_factor, found)


def _status(message: ombc.Status, found: Findings) -> None:
    _status_ids(message, found)
    status(message, found)


CHECKS: Final[Mapping[type[S2Message], Checker]] = {
    ombc.Instruction: _instruction,
    ombc.Status: _status,
    ombc.SystemDescription: _description,
    ombc.TimerStatus: only_ids("message_id", "timer_id"),
}

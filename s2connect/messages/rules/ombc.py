"""Checks of Operation Mode Based Control, whose rules are those that it shares with others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from s2connect.messages import ombc
from s2connect.messages.base import S2Message
from s2connect.messages.rules.base import Findings
from s2connect.messages.rules.common import Checker, ids, instruction, machine, powers, status


def _description(message: ombc.SystemDescription, found: Findings) -> None:
    for index, mode in enumerate(message.operation_modes):
        place = f"operation_modes[{index}]"
        ids(mode, found, f"{place}.")
        powers(mode, None, found, place)
    machine(message, found, "")


CHECKS: Final[Mapping[type[S2Message], Checker]] = {
    ombc.Instruction: instruction,
    ombc.Status: status,
    ombc.SystemDescription: _description,
}

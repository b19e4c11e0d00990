"""Message types allowed by sender and state of a session: "State of communication" of the standard (MSG-02)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from s2connect.messages.catalogue import MESSAGES
from s2connect.messages.general import ControlType
from s2connect.model.common import Role

MAX_PENDING: Final = 16
"""Selections that are remembered while they wait for their answer; beyond it the oldest is forgotten."""

PREFIXES: Final[Mapping[ControlType, str]] = {
    ControlType.POWER_ENVELOPE_BASED_CONTROL: "PEBC",
    ControlType.POWER_PROFILE_BASED_CONTROL: "PPBC",
    ControlType.OPERATION_MODE_BASED_CONTROL: "OMBC",
    ControlType.FILL_RATE_BASED_CONTROL: "FRBC",
    ControlType.DEMAND_DRIVEN_BASED_CONTROL: "DDBC",
}
"""By control type: with what the types of its messages begin. The CEM sends its instructions, the RM all others."""

AFTERWARDS: Final = frozenset({"InstructionStatusUpdate", "RevokeObject"})
"""Types that refer to objects of a control type that may have ended, or of an earlier session (HIST-29)."""

_BOTH: Final = frozenset({"ReceptionStatus", "SessionRequest"})
_CEM: Final = _BOTH | {"SelectControlType"}
_RM: Final = _BOTH | {"ResourceManagerDetails", "PowerMeasurement", "PowerForecast"}


def _of_control_type(prefix: str) -> Mapping[Role, frozenset[str]]:
    own = frozenset(name for kinds in MESSAGES.values() for name in kinds if name.startswith(f"{prefix}."))
    instructions = frozenset(name for name in own if name.endswith("Instruction"))
    return MappingProxyType(
        {
            Role.CEM: _CEM | {"RevokeObject"} | instructions,
            Role.RM: _RM | {"RevokeObject", "InstructionStatusUpdate"} | (own - instructions),
        }
    )


TABLE: Final[Mapping[ControlType | None, Mapping[Role, frozenset[str]]]] = MappingProxyType(
    {
        None: MappingProxyType({Role.CEM: _CEM, Role.RM: _RM}),
        **{control_type: _of_control_type(prefix) for control_type, prefix in PREFIXES.items()},
    }
)
"""By selected control type, None for none, and by sender: the types of message that may be sent (errata S2C-22)."""


class SessionState:
    """Selected control type, and so the types that may be sent now. It is the same for both sides and for listeners.

    A selection counts from the moment in which the RM accepts it. Until then the CEM sends as before; of the RM both
    what fits the state before and what fits the one to come is taken, because its first message of the new control
    type may overtake its ``OK`` (errata S2C-23).
    """

    def __init__(self) -> None:
        self._selected: ControlType | None = None
        self._pending: OrderedDict[str, ControlType | None] = OrderedDict()

    @property
    def control_type(self) -> ControlType | None:
        """The selected control type; None for none, which ``NOT_CONTROLABLE`` and ``NO_SELECTION`` mean as well."""
        return self._selected

    def problem(self, sender: Role, message_type: str) -> str | None:
        """Return why a message may not be sent now, as a sentence that begins with the rule's number; None if it may.

        Args:
            sender: Who sends it.
            message_type: One of the data model.
        """
        if message_type in TABLE[self._selected][sender]:
            return None
        if sender is Role.RM and any(message_type in TABLE[pending][sender] for pending in self._pending.values()):
            return None
        if not any(message_type in row[sender] for row in TABLE.values()):
            return f"MSG-02: {message_type} is never sent by the {sender}"
        selected = f"{self._selected} is selected" if self._selected else "no control type is selected"
        return f"MSG-02: {message_type} is not sent by the {sender} while {selected}"

    def is_late(self, sender: Role, message_type: str) -> bool:
        """Return whether a message not allowed now belongs to a control type that has ended: harmless (MSG-08)."""
        return (
            self._selected is None
            and message_type in AFTERWARDS
            and any(message_type in row[sender] for row in TABLE.values())
        )

    def selecting(self, message_id: str, control_type: ControlType) -> None:
        """Note a SelectControlType of the CEM, whose answer is to come."""
        self._pending.pop(message_id, None)
        self._pending[message_id] = control_type if control_type in TABLE else None
        if len(self._pending) > MAX_PENDING:
            self._pending.popitem(last=False)

    def selected(self, message_id: str) -> None:
        """Note that the RM accepted a SelectControlType. One sent before another accepted one changes nothing."""
        if message_id not in self._pending:
            return
        while self._pending:
            earlier, control_type = self._pending.popitem(last=False)
            if earlier == message_id:
                self._selected = control_type
                return

    def refused(self, message_id: str) -> None:
        """Note that the RM refused a SelectControlType."""
        self._pending.pop(message_id, None)

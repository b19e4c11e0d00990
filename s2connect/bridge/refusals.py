"""Refusals on a link: every ReceptionStatus that is not OK, counted by status, logged once per type. Sans-I/O."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from s2connect import Role, for_display
from s2connect.messages import ReceptionStatusValue

_log = logging.getLogger(__name__)

MAX_LOGGED: Final = 64
"""Pairs of message type and status of one link that are logged; peers choose the types. All are counted."""

OTHER: Final = "OTHER"
"""Counts every status that is not in the standard, because peers can invent any."""

PEER: Final = "peer"
BRIDGE: Final = "bridge"

Counts = Mapping[tuple[Role, str, str], int]
"""Refused messages by role of their sender, refusing party (:data:`PEER`, :data:`BRIDGE`) and status."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A refused message, its texts cleaned.

    Attributes:
        at: When, in seconds of the clock of the link.
        message_type: Of the message; empty where it could not be read.
        status: Of its ReceptionStatus.
        label: Its ``diagnostic_label``; empty where it has none.
        by: Who refused it, :data:`PEER` or :data:`BRIDGE`.
    """

    at: float
    message_type: str
    status: str
    label: str
    by: str


class Refusals:
    """Refused messages of one link, through all its sessions.

    Args:
        name: Of the link, for the log.
    """

    def __init__(self, name: str = "") -> None:
        self._name = name
        self._counts: Counter[tuple[Role, str, str]] = Counter()
        self._last: dict[Role, Refusal] = {}
        self._logged: set[tuple[Role, str, str, str]] = set()

    def add(
        self, sender: Role, message_type: str | None, status: str, label: str | None, *, by: str, now: float
    ) -> None:
        """Note that a message of ``sender`` was refused, by the other peer or by the bridge."""
        refusal = Refusal(
            now, for_display(message_type or "", 60), for_display(status, 40), for_display(label or "", 200), by
        )
        known = status in ReceptionStatusValue.__members__
        self._counts[sender, by, status if known else OTHER] += 1
        self._last[sender] = refusal
        key = sender, by, refusal.message_type, refusal.status
        if key not in self._logged and len(self._logged) < MAX_LOGGED:
            self._logged.add(key)
            who = "the bridge" if by == BRIDGE else f"the {sender.other}"
            what = f"{refusal.message_type or 'a message'} of the {sender}"
            why = f" ({refusal.label})" if refusal.label else ""
            _log.warning("link %s: %s refused %s: %s%s", self._name, who, what, refusal.status, why)

    def last(self) -> dict[Role, Refusal]:
        """Last refusal of a message of each side, if any."""
        return dict(self._last)

    def counts(self) -> dict[tuple[Role, str, str], int]:
        """Number of refusals since the start; never decreases."""
        return dict(self._counts)


def refusals_object(role: Role, counts: Counts, last: Mapping[Role, Refusal], now: float) -> dict[str, Any]:
    """Return the refusals of one side's messages as a JSON object."""
    by: dict[str, dict[str, int]] = {PEER: {}, BRIDGE: {}}
    for (sender, who, status), number in counts.items():
        if sender is role:
            by[who][status] = number
    refusal = last.get(role)
    shown = refusal and {
        "seconds_ago": round(now - refusal.at, 3),
        "type": refusal.message_type,
        "status": refusal.status,
        "label": refusal.label,
        "by": refusal.by,
    }
    return {"by_peer": by[PEER], "by_bridge": by[BRIDGE], "last": shown}

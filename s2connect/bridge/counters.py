"""Counters of a link. Every ReceptionStatus that is not OK is counted by status, and logged once per type. Sans-I/O."""

from __future__ import annotations

import logging
from collections import Counter, deque
from dataclasses import dataclass
from typing import Any, Final

from s2connect import Role, for_display
from s2connect.messages import ReceptionStatusValue
from s2connect.session import Latencies, LogLimiter

_log = logging.getLogger(__name__)

MAX_LOGGED: Final = 64
"""Pairs of message type and status of one link that are logged; peers choose the types. All are counted."""

MAX_RECENT: Final = 10
"""Last refusals of a link that are kept."""

OTHER: Final = "OTHER"
"""Counts every status that is not in the standard, because peers can invent any."""

PEER: Final = "peer"
BRIDGE: Final = "bridge"

Totals = Counter[tuple[str, ...]]
"""Messages by role of their sender and fate, and refused ones by sender, refusing party and status."""


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


class Counters:
    """Counters of one link, through all its sessions.

    Args:
        name: Of the link, for the log.

    Attributes:
        messages: Messages by the role of their sender and by fate; ``bytes``; and pauses in reading (``slowed``).
        refused: Refused messages by role of their sender, refusing party (:data:`PEER`, :data:`BRIDGE`) and status.
        last: The last refused message of each side, if any.
        recent: The last refusals, with the role of the sender, oldest first.
        lines: Log limiter of the link.
        latencies: By the role of the sender, how long the other side takes to acknowledge its messages; empty until
            :meth:`measure`.
    """

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.messages: dict[Role, dict[str, int]] = {Role.RM: {}, Role.CEM: {}}
        self.refused: Counter[tuple[Role, str, str]] = Counter()
        self.last: dict[Role, Refusal] = {}
        self.recent: deque[tuple[Role, Refusal]] = deque(maxlen=MAX_RECENT)
        self.lines = LogLimiter()
        self.latencies: dict[Role, Latencies] = {}
        self._logged: set[tuple[Role, str, str, str]] = set()

    def refuse(
        self, sender: Role, message_type: str | None, status: str, label: str | None, *, by: str, now: float
    ) -> None:
        """Note that a message of ``sender`` was refused, by the other peer or by the bridge."""
        refusal = Refusal(
            now, for_display(message_type or "", 60), for_display(status, 40), for_display(label or "", 200), by
        )
        known = status in ReceptionStatusValue.__members__
        self.refused[sender, by, status if known else OTHER] += 1
        self.last[sender] = refusal
        self.recent.append((sender, refusal))
        key = sender, by, refusal.message_type, refusal.status
        if key not in self._logged and len(self._logged) < MAX_LOGGED:
            self._logged.add(key)
            who = "the bridge" if by == BRIDGE else f"the {sender.other}"
            what = f"{refusal.message_type or 'a message'} of the {sender}"
            why = f" ({refusal.label})" if refusal.label else ""
            about = {"link": self.name}
            _log.warning("link %s: %s refused %s: %s%s", self.name, who, what, refusal.status, why, extra=about)

    def measure(self) -> None:
        """Measure acknowledgements, from the next session on."""
        for role in (Role.RM, Role.CEM):
            self.latencies.setdefault(role, Latencies())

    def totals(self) -> Totals:
        """Return all numbers; they never decrease."""
        totals: Totals = Counter({(*key,): number for key, number in self.refused.items()})
        totals.update({(role, what): n for role, counts in self.messages.items() for what, n in counts.items()})
        return totals

    def refusals(self, sender: Role, now: float) -> dict[str, Any]:
        """Return the refusals of one side's messages as a JSON object."""
        by: dict[str, dict[str, int]] = {PEER: {}, BRIDGE: {}}
        for (role, who, status), number in self.refused.items():
            if role is sender:
                by[who][status] = number
        last = self.last.get(sender)
        shown = last and {
            "seconds_ago": round(now - last.at, 3),
            "type": last.message_type,
            "status": last.status,
            "label": last.label,
            "by": last.by,
        }
        return {"by_peer": by[PEER], "by_bridge": by[BRIDGE], "last": shown}

"""Peer budget: limits the event loop's time for one peer; beyond it reading is paused. Sans-I/O."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from s2connect.https.rate import ROUNDING

YIELD_AFTER: Final = 0.001
"""Seconds of work for one peer before control goes back to the event loop."""

HANDLING: Final = 0.0002
"""CPU seconds of a message beside its validation: decryption, reception, forwarding, acknowledgement."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerLimits:
    """Sustained rate and burst of one peer; a rate of 0 is no limit.

    Real devices stay far below: some messages a second, and once some hundred kilobytes of description and forecast.

    Attributes:
        messages_per_second: Messages, ReceptionStatuses included.
        message_burst: Messages at once.
        bytes_per_second: Characters of all messages.
        byte_burst: The same at once: the opening of a session.
        busy_share: Share of one processor that reading and validating its messages may take, from 0 to 1.
        busy_burst: Seconds of a processor at once.
    """

    messages_per_second: float = 500.0
    message_burst: int = 2000
    bytes_per_second: float = 512 * 1024
    byte_burst: int = 2 * 1024 * 1024
    busy_share: float = 0.2
    busy_burst: float = 0.1


DEFAULT_LIMITS: Final = PeerLimits()
"""Limits of a peer where nothing else is configured."""


class PeerBudget:
    """Budget of one peer in one session.

    A message is always dealt with; whoever has used too much is read from again once it is paid. So nothing is lost or
    refused, the transport slows the peer down where it can (WS-07), and ends the session where it cannot (MQ-15).

    Attributes:
        slowed: How often reading had to pause.
    """

    __slots__ = (
        *("_busy", "_busy_burst", "_characters", "_character_burst", "_messages", "_message_burst"),
        *("_per_busy", "_per_character", "_per_message", "_then", "_worked", "slowed"),
    )

    def __init__(self, limits: PeerLimits) -> None:
        self.slowed = 0
        self._per_message, self._message_burst = _seconds(limits.messages_per_second, limits.message_burst)
        self._per_character, self._character_burst = _seconds(limits.bytes_per_second, limits.byte_burst)
        self._per_busy, self._busy_burst = _seconds(limits.busy_share, limits.busy_burst)
        self._messages = self._characters = self._busy = -math.inf  # when the debt of each will be paid
        self._worked = self._then = 0.0

    def charge(self, size: int, worked: float, *, now: float) -> float | None:
        """Charge a processed message of ``size`` characters, whose validation took so many seconds of a processor.

        Returns:
            Seconds until the next one may be read; 0.0 for a turn of the others first; None for at once.
        """
        # Three token buckets, written out and without calls, because every message is charged.
        worked += HANDLING
        messages, characters, busy = self._messages, self._characters, self._busy
        if messages < (least := now - self._message_burst):
            messages = least
        if characters < (least := now - self._character_burst):
            characters = least
        if busy < (least := now - self._busy_burst):
            busy = least
        self._messages = messages = messages + self._per_message
        self._characters = characters = characters + size * self._per_character
        self._busy = busy = busy + worked * self._per_busy
        in_one_go = self._worked - (now - self._then)  # the loop has had a turn since, or soon has
        self._worked = worked = in_one_go + worked if in_one_go > 0.0 else worked
        self._then = now
        late = now + ROUNDING
        if messages > late or characters > late or busy > late:
            self._worked = 0.0
            self.slowed += 1
            return max(messages, characters, busy) - now
        if worked < YIELD_AFTER:
            return None
        self._worked = 0.0
        return 0.0


def _seconds(rate: float, burst: float) -> tuple[float, float]:
    """Return how long one unit is paid for at a rate, and how many seconds the burst is ahead; a rate of 0 is free."""
    return (1 / rate, burst / rate) if rate > 0 else (0.0, 0.0)

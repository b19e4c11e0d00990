"""States of a link and their transitions, without I/O, and its status for page, metrics and log."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final

from s2connect import Role
from s2connect.session import SHORT_SESSION, Backoff


class LinkState(StrEnum):
    """State of a link."""

    UNPAIRED = "unpaired"
    """A side has no pairing yet, or none any more."""
    WAITING = "waiting"
    """Waits for a peer that connects to the bridge, or for the time to connect."""
    REACHING = "reaching"
    """The bridge connects to the sides that it connects to."""
    ADMITTING = "admitting"
    """The sides that the bridge opens are connected; it admits the peers that connect to it."""
    UP = "up"
    """Both sides are connected, and messages pass."""
    PARTING = "parting"
    """One side is gone; the bridge announces it to the other."""
    FAILED = "failed"
    """A side could not be reached, or did not connect; another attempt follows."""
    REFUSED = "refused"
    """A side has refused for good; a person has to act."""
    ELSEWHERE = "elsewhere"
    """Another instance of the bridge has the link."""
    STOPPED = "stopped"
    """The bridge has ended the link."""


class LinkEvent(StrEnum):
    """Event in the life of a link."""

    PAIRED = "paired"
    UNPAIRED = "unpaired"
    BEGIN = "begin"
    """A peer requests a session, or it is time to connect."""
    REACHED = "reached"
    ARRIVED = "arrived"
    """Both sides are connected."""
    FAILED = "failed"
    REFUSED = "refused"
    LOST = "lost"
    PARTED = "parted"
    AWAY = "away"
    """Another instance has the link."""
    FREE = "free"
    """No other instance has it any more, or it was claimed here."""
    BROKEN = "broken"
    """An error of ours ended the present step of the link; another attempt follows, from any state."""
    STOP = "stop"


_S, _E = LinkState, LinkEvent

TABLE: Final[Mapping[LinkState, Mapping[LinkEvent, LinkState]]] = MappingProxyType(
    {
        _S.UNPAIRED: {_E.PAIRED: _S.WAITING},
        _S.WAITING: {_E.BEGIN: _S.REACHING, _E.UNPAIRED: _S.UNPAIRED, _E.AWAY: _S.ELSEWHERE},
        _S.REACHING: {
            _E.REACHED: _S.ADMITTING,
            _E.ARRIVED: _S.UP,
            _E.FAILED: _S.FAILED,
            _E.REFUSED: _S.REFUSED,
        },
        _S.ADMITTING: {_E.ARRIVED: _S.UP, _E.FAILED: _S.FAILED, _E.REFUSED: _S.REFUSED},
        _S.UP: {_E.LOST: _S.PARTING},
        _S.PARTING: {_E.PARTED: _S.WAITING},
        _S.FAILED: {_E.BEGIN: _S.REACHING, _E.UNPAIRED: _S.UNPAIRED, _E.AWAY: _S.ELSEWHERE},
        _S.REFUSED: {
            _E.BEGIN: _S.REACHING,
            _E.PAIRED: _S.WAITING,
            _E.UNPAIRED: _S.UNPAIRED,
            _E.AWAY: _S.ELSEWHERE,
        },
        _S.ELSEWHERE: {
            _E.BEGIN: _S.REACHING,
            _E.FREE: _S.WAITING,
            _E.UNPAIRED: _S.UNPAIRED,
            _E.AWAY: _S.ELSEWHERE,
        },
        _S.STOPPED: {},
    }
)
"""Transitions. Besides, every state but the last goes to ``stopped`` when the link is stopped, and to
``failed`` when it is broken."""


class LinkStateMachine:
    """State machine of one link: its state, since when, why, and when the bridge connects by itself.

    Its clock, in seconds, never goes back.
    """

    def __init__(self, *, paired: bool, now: float) -> None:
        self.state = LinkState.WAITING if paired else LinkState.UNPAIRED
        self.since = now
        self.reason = self.last_failure = ""
        self.retry_at: float | None = now if paired else None
        self._backoff = Backoff()
        self._up_at: float | None = None

    def on(self, event: LinkEvent, *, now: float, reason: str = "", chance: float = 0.0) -> LinkState:
        """Apply an event that is possible in this state; ``chance``, uniform in [0, 1), spreads attempts (REC-02)."""
        state = LinkState.STOPPED if event is LinkEvent.STOP else TABLE[self.state].get(event)
        if event is LinkEvent.BROKEN and self.state is not LinkState.STOPPED:
            state = LinkState.FAILED
        if state is None:
            raise ValueError(f"a link that is {self.state} cannot be {event}")
        if event is LinkEvent.ARRIVED:
            self._up_at = now
        elif event in (LinkEvent.FAILED, LinkEvent.REFUSED, LinkEvent.BROKEN):
            self.retry_at = now + self._backoff.failed(chance)
        elif event is LinkEvent.PARTED:
            # A short delay after a long session, growing ones after short ones (REC-02, REC-03).
            if self._up_at is not None and now - self._up_at >= SHORT_SESSION:
                self._backoff.established()
            self.retry_at = now + self._backoff.failed(chance)
        elif event in (LinkEvent.PAIRED, LinkEvent.FREE):
            self._backoff.established()
            self.retry_at = now
        elif event in (LinkEvent.UNPAIRED, LinkEvent.AWAY, LinkEvent.STOP):
            self.retry_at = None
        if event in (LinkEvent.FAILED, LinkEvent.REFUSED, LinkEvent.BROKEN):
            self.last_failure = reason
        elif event in (LinkEvent.ARRIVED, LinkEvent.PAIRED, LinkEvent.UNPAIRED):
            self.last_failure = ""
        self.state, self.since, self.reason = state, now, reason
        return state

    def try_now(self, now: float) -> bool:
        """Let the bridge connect now, where it waits for the time to connect. Return whether it does."""
        if not self.waits_to_connect:
            return False
        self.retry_at = now
        return True

    @property
    def waits_to_connect(self) -> bool:
        """Return whether the bridge waits for the time to connect by itself."""
        return self.retry_at is not None and LinkEvent.BEGIN in TABLE[self.state]


@dataclass(frozen=True, slots=True)
class SideStatus:
    """Status of one side of a link.

    Attributes:
        title: Name of the peer.
        connected: The peer was heard within the heartbeat, not merely sent to.
        protocol: Communication protocol; empty while not connected, as are the next two.
        s2_version: Version of S2 JSON.
        peer_address: Address.
    """

    title: str
    connected: bool
    protocol: str = ""
    s2_version: str = ""
    peer_address: str = ""


@dataclass(frozen=True, slots=True)
class LinkStatus:
    """Status of a link for display.

    Attributes:
        name: Its name.
        state: Its state.
        for_seconds: Seconds in this state.
        reason: Reason for people; empty where the state says it all.
        retry_in: Seconds until the bridge connects by itself, where it does.
        sides: By the role of the peer.
        counts: Messages by the role of the sender and by fate, since the bridge started.
        queued: Messages that wait to be sent, by the role of the receiver.
        times_up: Number of times it has been up.
        refusals: Refused messages and the last one, by the role of the sender, as JSON objects.
        last_failure: Reason of the last attempt, where it has failed and another one is under way; empty otherwise.
    """

    name: str
    state: LinkState
    for_seconds: float
    reason: str
    retry_in: float | None
    sides: Mapping[Role, SideStatus]
    counts: Mapping[Role, Mapping[str, int]]
    queued: Mapping[Role, int]
    times_up: int
    refusals: Mapping[Role, Mapping[str, Any]]
    last_failure: str = ""

"""Reasons of a session's end."""

from __future__ import annotations

from enum import StrEnum


class SessionEnd(StrEnum):
    """Reason of a session's end; ``OPEN`` before."""

    OPEN = "open"
    CLOSED_BY_US = "closed_by_us"
    CLOSED_BY_PEER = "closed_by_peer"
    LOST = "lost"
    RECONNECT_REQUESTED = "reconnect_requested"
    TERMINATE_REQUESTED = "terminate_requested"
    PERMANENT_ERROR = "permanent_error"
    """A message of ours was refused permanently (MSG-07)."""

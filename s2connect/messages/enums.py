"""Validation level of a session. Quick to import."""

from __future__ import annotations

from enum import StrEnum


class Check(StrEnum):
    """Validation level of a session: the part of each message that is validated before it is accepted or sent."""

    ENVELOPE = "envelope"
    """It is a message, and no handshake (MSG-01)."""
    SCHEMA = "schema"
    """Also every member, by the schema of the session's version."""
    RULES = "rules"
    """Also the state of the session (MSG-02) and the rules about its content."""

"""How far messages are judged: a setting, apart from what judges them, which takes long to load."""

from __future__ import annotations

from enum import StrEnum


class Check(StrEnum):
    """How much of each message of a session is judged before it is taken or sent."""

    ENVELOPE = "envelope"
    """That it is a message, and no handshake (MSG-01)."""
    SCHEMA = "schema"
    """Also every member, by the schema of the session's version."""
    RULES = "rules"
    """Also whether it may be sent now (MSG-02), and what it says."""

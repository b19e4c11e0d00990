"""Cures for a person, by the state of a pairing code. Quick to import."""

from __future__ import annotations

from typing import Final

from s2connect.web.facts import CodeState

CODES: Final = {
    CodeState.NONE: "There is no code. Make one with: s2connect code",
    CodeState.VALID: "",
    CodeState.STATIC: "",
    CodeState.USED: "The code is spent: a pairing was made with it. For another one: s2connect code",
    CodeState.EXPIRED: "The code has expired. Make a new one with: s2connect code",
    CodeState.WITHDRAWN: "The code was withdrawn after failed attempts. Make a new one with: s2connect code",
}
"""Sentence by state; empty while a code is valid."""

OVER: Final = (CodeState.USED, CodeState.EXPIRED, CodeState.WITHDRAWN)
"""States of a code that was valid."""

"""Rules about what a message says in the light of what was said before it."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from s2connect.messages.base import S2Message
from s2connect.messages.rules.base import Finding, Findings, Rule
from s2connect.model.common import Role

RULES: Final[tuple[Rule, ...]] = ()


class History:
    """What was said in one session, as far as it matters for what is said next."""

    def check(self, sender: Role, message: S2Message, now: datetime | None = None) -> list[Finding]:
        """Which rules a message would break if it came now; changes nothing."""
        return Findings()

    def accept(self, sender: Role, message: S2Message, now: datetime | None = None) -> None:
        """A message has been taken."""

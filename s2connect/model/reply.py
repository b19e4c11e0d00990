"""An HTTP answer as the cores give it."""

from __future__ import annotations

from dataclasses import dataclass

from s2connect.model.common import Wire


@dataclass(frozen=True, slots=True)
class Reply:
    """Status, and a body where there is one."""

    status: int
    body: Wire | None = None


UNAUTHORIZED = Reply(401)
BUSY = Reply(503)

"""Context of log lines: the peer that a task works for, for the forms of the log that have a field for it."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Final

current_peer: Final[ContextVar[object]] = ContextVar("s2connect_peer", default="")
"""Id of the peer for which this task works; set at the beginning of a task that is bound to one."""

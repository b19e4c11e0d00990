"""Lines of the log that a peer causes, so few that it cannot fill the log."""

from __future__ import annotations

import logging
import time
from collections.abc import Hashable
from typing import TYPE_CHECKING

from s2connect.model.log_limiter import process_lines
from s2connect.transports.base import ConnectionInfo

if TYPE_CHECKING:
    from s2connect.messages.rules import Finding


class PeerLog:
    """Log of one session, in ``log``."""

    __slots__ = ("_info", "_log", "_seen")

    def __init__(self, log: logging.Logger, info: ConnectionInfo) -> None:
        self._log = log
        self._info = info
        self._seen: frozenset[Hashable] = frozenset()

    def warn(self, kind: Hashable, what: str, *arguments: object) -> None:
        """Log a line that begins with the peer, once a minute for each kind, across sessions."""
        more = process_lines.due((self._info.local, self._info.remote, kind), time.monotonic())
        if more is not None:
            self._log.warning(f"%s {what}%s", self._info.remote, *arguments, more, extra={"peer": self._info.remote})

    def findings(self, whose: str, findings: tuple[Finding, ...]) -> None:
        """Log findings, each rule once for each side (MSG-08)."""
        about = {"peer": self._info.remote}
        for finding in findings:
            kind = (whose, finding.rule.id)
            if kind in self._seen:
                self._log.debug("session with %s: %s %s", self._info.remote, whose, finding.label, extra=about)
                continue
            self._seen |= {kind}
            more = process_lines.due((self._info.local, self._info.remote, kind), time.monotonic())
            if more is not None:
                what = "session with %s: %s %s; a message with this is taken all the same%s"
                self._log.warning(what, self._info.remote, whose, finding.label, more, extra=about)

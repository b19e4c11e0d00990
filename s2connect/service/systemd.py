"""Notifications to systemd (sd_notify): the service is ready, reloads, stops, is alive."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable, Mapping

_log = logging.getLogger(__name__)


class Notifier:
    """Sends notifications to systemd if the variables of the environment ask for them.

    ``watchdog`` is in seconds: within it systemd expects a sign of life; None without a watchdog.
    """

    def __init__(self, variables: Mapping[str, str] = os.environ) -> None:
        address = variables.get("NOTIFY_SOCKET", "")
        # A leading @ stands for the zero byte of an abstract name.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.watchdog = _watchdog(variables) if address else None

    def ready(self, status: str = "") -> None:
        """Notify that the service is running, or has reloaded."""
        self._notify("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """Notify that the service reads its settings again."""
        self._notify("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self) -> None:
        """Notify that the service ends."""
        self._notify("STOPPING=1")

    async def keep_alive(self, alive: Callable[[], bool]) -> None:
        """Send signs of life, three times as often as expected, while ``alive()``; for ever."""
        if self.watchdog is None:
            return
        logged = False
        while True:
            if alive():
                self._notify("WATCHDOG=1")
                logged = False
            elif not logged:
                _log.error("the task of a link has ended: systemd gets no more notifications from this service")
                logged = True
            await asyncio.sleep(self.watchdog / 3)

    def _notify(self, *lines: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.setblocking(False)
                sender.sendto("\n".join(lines).encode("utf-8", "replace"), self._address)
        except OSError as error:
            _log.warning("systemd cannot be notified: %s", error.strerror)


def _watchdog(variables: Mapping[str, str]) -> float | None:
    own = variables.get("WATCHDOG_PID", "")
    period = variables.get("WATCHDOG_USEC", "")
    if not period.isdecimal() or int(period) == 0 or (own and own != str(os.getpid())):
        return None
    return int(period) / 1_000_000  # of microseconds

"""What systemd is told: that a service is ready, reloads, stops, and lives (sd_notify, without its library)."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable, Mapping
from typing import Final

_log = logging.getLogger(__name__)

MICROSECONDS: Final = 1_000_000


class Notifier:
    """Tells systemd, where it asks for it; otherwise nothing happens.

    Args:
        environment: The variables ``NOTIFY_SOCKET``, ``WATCHDOG_USEC`` and ``WATCHDOG_PID``.

    Attributes:
        watchdog: Seconds within which a sign of life is expected; None where none is.
    """

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        variables = os.environ if environment is None else environment
        address = variables.get("NOTIFY_SOCKET", "")
        # A leading @ stands for the zero byte of an abstract name.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.watchdog = _watchdog(variables) if address else None

    def ready(self, status: str = "") -> None:
        """The service is up, or has reloaded."""
        self._tell("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """The service reads its settings anew."""
        self._tell("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self) -> None:
        """The service ends."""
        self._tell("STOPPING=1")

    async def keep_alive(self, alive: Callable[[], bool]) -> None:
        """Give a sign of life three times as often as it is expected, as long as ``alive()``; for ever."""
        if self.watchdog is None:
            return
        told = False
        while True:
            if alive():
                self._tell("WATCHDOG=1")
                told = False
            elif not told:
                _log.error("a link has lost its task: systemd is not told any more that this service lives")
                told = True
            await asyncio.sleep(self.watchdog / 3)

    def _tell(self, *lines: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.setblocking(False)
                sender.sendto("\n".join(lines).encode("utf-8", "replace"), self._address)
        except OSError as error:
            _log.warning("systemd cannot be told: %s", error.strerror)


def _watchdog(variables: Mapping[str, str]) -> float | None:
    own = variables.get("WATCHDOG_PID", "")
    period = variables.get("WATCHDOG_USEC", "")
    if not period.isdecimal() or int(period) == 0 or (own and own != str(os.getpid())):
        return None
    return int(period) / MICROSECONDS

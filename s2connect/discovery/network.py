"""Network monitor: notices when the addresses or links of this machine change (DISC-09)."""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections.abc import Callable

from s2connect.https.own_addresses import OwnAddress, own_addresses

log = logging.getLogger(__name__)

POLL_SECONDS = 10.0
"""Seconds between two comparisons of the addresses: where the kernel sends no notices, and to be sure where it does."""

SETTLE_SECONDS = 0.3
"""Seconds to wait after a notice: changes come in bursts."""

_NETLINK_GROUPS = 0x1 | 0x10 | 0x100  # links, IPv4 addresses, IPv6 addresses
_NEW_LINK, _DELETE_LINK = 16, 17
_RUNNING = 0x40
_HEADER = struct.Struct("=IHHII")
_LINK = struct.Struct("=BxHiII")


class NetworkMonitor:
    """Calls back in the event loop when addresses or links of this machine may have changed.

    On Linux the kernel sends notices; elsewhere, and besides, addresses are compared every ``POLL_SECONDS``.
    ``changed`` is called with whether a link came up, sometimes without need.
    """

    def __init__(self, changed: Callable[[bool], None]) -> None:
        self._changed = changed
        self._known: frozenset[OwnAddress] = frozenset()
        self._running: dict[int, bool] = {}
        self._link_came_up = False
        self._socket: socket.socket | None = None
        self._poll_timer: asyncio.TimerHandle | None = None
        self._notice_timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to watch; needs a running loop."""
        self._known = own_addresses()
        self._socket = _kernel_notices()
        loop = asyncio.get_running_loop()
        if self._socket is not None:
            loop.add_reader(self._socket, self._read)
        self._poll_timer = loop.call_later(POLL_SECONDS, self._poll)

    def close(self) -> None:
        """Stop; idempotent."""
        for timer in (self._poll_timer, self._notice_timer):
            if timer is not None:
                timer.cancel()
        self._poll_timer = self._notice_timer = None
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None

    def _poll(self) -> None:
        self._poll_timer = asyncio.get_running_loop().call_later(POLL_SECONDS, self._poll)
        try:
            if own_addresses() != self._known:
                self._notice()
        except OSError as error:  # e.g. no descriptor is free
            log.info("The addresses of this machine cannot be read now: %s", error.strerror)

    def _read(self) -> None:
        assert self._socket is not None
        try:
            data = self._socket.recv(65536)
        except BlockingIOError:
            return
        except OSError:  # more notices than the buffer holds: something has changed
            data = b""
        self._read_links(data)
        self._notice()

    def _read_links(self, data: bytes) -> None:
        position = 0
        while position + _HEADER.size + _LINK.size <= len(data):
            length, kind, *_ = _HEADER.unpack_from(data, position)
            if kind in (_NEW_LINK, _DELETE_LINK):
                _, _, index, flags, _ = _LINK.unpack_from(data, position + _HEADER.size)
                running = kind == _NEW_LINK and bool(flags & _RUNNING)
                if running and not self._running.get(index):
                    self._link_came_up = True
                self._running[index] = running
            position += max(_HEADER.size, (length + 3) & ~3)

    def _notice(self) -> None:
        if self._notice_timer is None:
            self._notice_timer = asyncio.get_running_loop().call_later(SETTLE_SECONDS, self._report)

    def _report(self) -> None:
        self._notice_timer = None
        try:
            self._known = own_addresses()
        except OSError as error:  # the next comparison notices again
            log.info("The addresses of this machine cannot be read now: %s", error.strerror)
            return
        came_up, self._link_came_up = self._link_came_up, False
        self._changed(came_up)


def _kernel_notices() -> socket.socket | None:
    if not hasattr(socket, "AF_NETLINK"):
        return None
    try:
        notices = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
    except OSError:  # forbidden in some sandboxes
        return None
    try:
        notices.bind((0, _NETLINK_GROUPS))
    except OSError:
        notices.close()
        return None
    return notices

"""User of this machine to whom a connection over loopback belongs, as the kernel says. Linux only."""

from __future__ import annotations

import ipaddress
import os
import sys
from pathlib import Path
from typing import Any, Final

MAX_TABLE_BYTES: Final = 8 * 1024 * 1024
"""Bytes that are read of the kernel's table of connections, some 50,000 of them."""

_ESTABLISHED: Final = "01"  # a connection without a process has another state, and user 0
_OVERFLOW: Final = 65534  # stands for every user of another namespace


def user_of(peer: Any, here: Any) -> int | None:
    """Return the user of the process that connected from ``peer`` to ``here``, both on this machine; None: not known.

    ``peer`` and ``here`` are socket addresses. Blocks for about a millisecond: call it in a thread.
    """
    if sys.platform != "linux" or not peer or not here:
        return None
    try:
        theirs, ours = (ipaddress.ip_address(where[0]) for where in (peer, here))
        if not (theirs.is_loopback and ours.is_loopback):
            return None
        wanted = {(_hex(theirs, peer[1]), _hex(ours, here[1]))}
        names = ["tcp6"] if theirs.version == 6 else ["tcp", "tcp6"]
        if theirs.version == 4:  # a client's socket may be one of IPv6
            mapped = (ipaddress.ip_address(f"::ffff:{one}") for one in (theirs, ours))
            wanted.add((_hex(next(mapped), peer[1]), _hex(next(mapped), here[1])))
        for name in names:
            with Path("/proc/self/net", name).open(encoding="ascii") as table:
                for line in table.read(MAX_TABLE_BYTES).splitlines()[1:]:
                    columns = line.split(None, 8)
                    if (columns[1], columns[2]) in wanted and columns[3] == _ESTABLISHED:
                        return _known(int(columns[7]))
    except (OSError, ValueError, IndexError):
        return None
    return None


def _known(user: int) -> int | None:
    return user if user != _OVERFLOW else None


def own_user() -> int:
    """Return the user of this process."""
    return os.geteuid()


def _hex(address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int) -> str:
    """Return an address as the kernel writes it: words of four bytes in the order of the machine."""
    packed = address.packed
    words = (packed[at : at + 4] for at in range(0, len(packed), 4))
    return "".join(f"{int.from_bytes(word, sys.byteorder):08X}" for word in words) + f":{port:04X}"

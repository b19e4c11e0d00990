"""Less memory for asyncio's connections: a smaller TLS read buffer, and no garbage at their end.

asyncio gives every TLS connection 256 KiB, of which an S2 session needs little.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

TLS_BUFFER_BYTES = 4 * 1024
"""Most S2 messages fit; what is longer is read in several steps."""


def set_tls_buffer(transport: asyncio.BaseTransport | None, size: int = TLS_BUFFER_BYTES) -> bool:
    """Swap the read buffer of one established TLS connection for one of so many bytes. Returns whether it did.

    Works on the instance only. It relies on private attributes of asyncio's TLS, and does nothing where they are not
    as expected: on uvloop, on a plain socket, or in a Python that has changed them.
    """
    protocol = getattr(transport, "_ssl_protocol", None)
    buffer = getattr(protocol, "_ssl_buffer", None)
    view = getattr(protocol, "_ssl_buffer_view", None)
    current = getattr(protocol, "max_size", None)
    if not isinstance(buffer, bytearray) or not isinstance(view, memoryview) or not isinstance(current, int):
        return False
    if not isinstance(protocol, asyncio.BufferedProtocol) or current == size:
        return False
    made = bytearray(size)
    values = {"max_size": size, "_ssl_buffer": made, "_ssl_buffer_view": memoryview(made)}
    for name, value in values.items():
        setattr(protocol, name, value)
    return True


def use_small_tls_buffers() -> None:
    """Give every TLS connection of this process a small read buffer from its start, for programs of their own.

    Swapping the buffers of connections that stand leaves holes in the heap, which a server with a thousand sessions
    notices. This changes asyncio for the whole process, so a library must not do it: call it first thing in ``main``.
    """
    import asyncio.sslproto

    size = getattr(asyncio.sslproto.SSLProtocol, "max_size", None)
    if isinstance(size, int):
        asyncio.sslproto.SSLProtocol.max_size = min(size, TLS_BUFFER_BYTES)


def free_transports_at_once() -> None:
    """Have every connection of this process freed at its end, without the garbage collector, for programs of their own.

    In Python 3.11 a socket transport of asyncio refers to a method of itself, until then and afterwards. Does nothing
    where asyncio is not as expected.
    """
    from asyncio import selector_events

    transport: Any = getattr(selector_events, "_SelectorSocketTransport", None)
    lost = getattr(transport, "_call_connection_lost", None)
    if sys.version_info >= (3, 12) or lost is None or getattr(lost, "frees", False):
        return

    def call_connection_lost(self: Any, error: BaseException | None) -> None:
        lost(self, error)
        self._read_ready_cb = None

    call_connection_lost.frees = True  # type: ignore[attr-defined]
    transport._call_connection_lost = call_connection_lost

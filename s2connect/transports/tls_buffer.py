"""A smaller TLS read buffer: asyncio gives every TLS connection 256 KiB, of which an S2 session needs a sixteenth."""

from __future__ import annotations

import asyncio

TLS_BUFFER_BYTES = 16 * 1024
"""One TLS record at its longest; more is read in several steps."""


def shrink_tls_buffer(transport: asyncio.BaseTransport | None) -> bool:
    """Swap the read buffer of one established TLS connection for a small one. Returns whether it did.

    Works on the instance only. It relies on private attributes of asyncio's TLS, and does nothing where they are not
    as expected: on uvloop, on a plain socket, or in a Python that has changed them.
    """
    protocol = getattr(transport, "_ssl_protocol", None)
    buffer = getattr(protocol, "_ssl_buffer", None)
    view = getattr(protocol, "_ssl_buffer_view", None)
    size = getattr(protocol, "max_size", None)
    if not isinstance(buffer, bytearray) or not isinstance(view, memoryview) or not isinstance(size, int):
        return False
    if not isinstance(protocol, asyncio.BufferedProtocol) or size <= TLS_BUFFER_BYTES:
        return False
    small = bytearray(TLS_BUFFER_BYTES)
    values = {"max_size": TLS_BUFFER_BYTES, "_ssl_buffer": small, "_ssl_buffer_view": memoryview(small)}
    for name, value in values.items():
        setattr(protocol, name, value)
    return True

"""A smaller TLS read buffer: asyncio gives every TLS connection 256 KiB, of which an S2 session needs little."""

from __future__ import annotations

import asyncio

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

"""The small TLS buffer."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from s2connect.transports.base import MAX_MESSAGE_BYTES
from s2connect.transports.tls_buffer import TLS_BUFFER_BYTES, set_tls_buffer


@pytest.mark.asyncio_only
async def test_both_sides_have_a_small_buffer_and_the_longest_messages_still_flow(rig: Any) -> None:
    async with rig(compression=False) as made:
        ends = await made.pair()
        for end in ends:
            protocol = end._transport._ssl_protocol
            assert len(protocol._ssl_buffer) == len(protocol._ssl_buffer_view) == TLS_BUFFER_BYTES
            assert not set_tls_buffer(end._transport), "the second time there is nothing to do"
        for sender, receiver in (ends, ends[::-1]):
            for size in (1, TLS_BUFFER_BYTES - 1, TLS_BUFFER_BYTES, 3 * TLS_BUFFER_BYTES + 1, MAX_MESSAGE_BYTES):
                sending = asyncio.create_task(sender.send("z" * size))
                assert await receiver.recv() == "z" * size
                await sending
            assert len(sender._transport._ssl_protocol._ssl_buffer) == TLS_BUFFER_BYTES
        await asyncio.gather(*(end.close() for end in ends))


async def test_what_is_no_tls_of_asyncio_is_left_alone() -> None:
    class Odd:
        _ssl_protocol = object()

    assert not set_tls_buffer(None)
    assert not set_tls_buffer(Odd())  # type: ignore[arg-type]

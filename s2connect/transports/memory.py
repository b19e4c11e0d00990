"""Connections within one process: for tests, examples and bridges, and as the smallest example of a transport."""

from __future__ import annotations

import asyncio
import secrets
from collections import deque

from s2connect.errors import ConnectionClosed, ProtocolViolation, SessionRefused
from s2connect.model.secret import TOKEN_BYTES, CommunicationToken
from s2connect.model.session_init import CommunicationDetails
from s2connect.transports.base import NORMAL_CLOSURE, Connection, ConnectionInfo, Offer, Trust
from s2connect.transports.offers import OpenOffers

MEMORY = "Memory"
"""Name of the transport."""

CAPACITY = 16
"""Texts that one direction holds before the writer waits (WS-07)."""


class MemoryConnection(Connection):
    """One connection of a pair. Made by :func:`memory_pair`."""

    def __init__(self, info: ConnectionInfo, capacity: int) -> None:
        self.info = info
        self._capacity = capacity
        self._inbox: deque[str] = deque()
        self._peer = self
        self._ended: ConnectionClosed | None = None
        self._gone = asyncio.Event()
        self._changed = asyncio.Event()  # of the inbox

    async def send(self, text: str) -> None:
        peer = self._peer
        while self._ended is None and len(peer._inbox) >= self._capacity:
            await peer._changed.wait()
        if self._ended is not None:
            raise ConnectionClosed(self._ended.code, self._ended.reason)
        peer._inbox.append(text)
        peer._wake()

    async def recv(self) -> str:
        """See :meth:`Connection.recv`. What the peer sent before it closed is still received."""
        while not self._inbox:
            if self._ended is not None:
                raise ConnectionClosed(self._ended.code, self._ended.reason)
            await self._changed.wait()
        text = self._inbox.popleft()
        self._wake()
        return text

    async def close(self, code: int = NORMAL_CLOSURE, reason: str = "") -> None:
        if self._ended is None:
            self._inbox.clear()
            for end in (self, self._peer):
                end._ended = ConnectionClosed(code, reason)
                end._gone.set()
                end._wake()

    async def wait_closed(self) -> None:
        await self._gone.wait()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def memory_pair(
    info_a: ConnectionInfo, info_b: ConnectionInfo, *, capacity: int = CAPACITY
) -> tuple[Connection, Connection]:
    """Make two connections that are each other's peer.

    Args:
        info_a: Facts of the first.
        info_b: Facts of the second.
        capacity: Texts that one direction holds before ``send`` waits, at least 1.
    """
    a, b = MemoryConnection(info_a, capacity), MemoryConnection(info_b, capacity)
    a._peer, b._peer = b, a
    return a, b


class MemoryHub:
    """Table of offers that the memory transports of one process share."""

    def __init__(self) -> None:
        self.offers: OpenOffers[ConnectionInfo] = OpenOffers()


class MemoryTransport:
    """Transport within one process, with tokens that behave as those of WebSocket do (SES-04)."""

    name = MEMORY

    def __init__(self, hub: MemoryHub) -> None:
        self._hub = hub
        self._offered: set[asyncio.Future[Connection]] = set()

    def can_offer(self) -> bool:
        return True

    def offer(self, info: ConnectionInfo) -> Offer:
        token = CommunicationToken.from_bytes(secrets.token_bytes(TOKEN_BYTES))
        future = self._hub.offers.open(token.reveal(), info)
        self._offered.add(future)
        future.add_done_callback(self._offered.discard)
        details = CommunicationDetails.from_value({"communicationProtocol": self.name, "memoryToken": token.reveal()})
        return Offer(details, future)

    async def connect(self, info: ConnectionInfo, details: CommunicationDetails, trust: Trust | None) -> Connection:
        """See :meth:`Transport.connect`; there is nothing to trust within a process.

        Raises:
            ProtocolViolation: The details are of another transport.
            SessionRefused: The token is wrong, spent or late.
        """
        token = (details.model_extra or {}).get("memoryToken")
        if details.communication_protocol != self.name or not isinstance(token, str):
            raise ProtocolViolation("The details are not those of a connection in memory.")
        offer = self._hub.offers.take(token, now=asyncio.get_running_loop().time())
        if offer is None or offer[1].done():
            raise SessionRefused("The token of the connection was used before, or is too old.", reason="Other")
        their_info, future = offer
        ours, theirs = memory_pair(info, their_info)
        future.set_result(theirs)
        return ours

    async def close(self) -> None:
        for future in list(self._offered):
            future.cancel()

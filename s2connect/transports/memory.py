"""Connections within one process: for tests, examples and bridges, and as the smallest example of a transport."""

from __future__ import annotations

import asyncio
import secrets
from collections import deque

from s2connect.errors import ConnectionClosed, ProtocolViolation, SessionRefused
from s2connect.model.secret import TOKEN_BYTES, CommunicationToken
from s2connect.model.session_init import CommunicationDetails
from s2connect.transports.base import NORMAL_CLOSURE, Connection, ConnectionInfo, Offer, Trust
from s2connect.transports.offers import OfferTable, OpenOffers

MEMORY = "Memory"
"""Name of the transport."""

CAPACITY = 16
"""Texts that one direction holds before the writer waits (WS-07)."""


class _Pipe:
    """One direction: a bounded queue that can end."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.texts: deque[str] = deque()
        self.changed = asyncio.Event()

    def wake(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()


class MemoryConnection(Connection):
    """One connection of a pair. Made by :func:`memory_pair`."""

    def __init__(self, info: ConnectionInfo, incoming: _Pipe, outgoing: _Pipe) -> None:
        self.info = info
        self._incoming = incoming
        self._outgoing = outgoing
        self._ended: ConnectionClosed | None = None
        self._peer: MemoryConnection | None = None
        self._gone = asyncio.Event()

    async def send(self, text: str) -> None:
        pipe = self._outgoing
        while self._ended is None and len(pipe.texts) >= pipe.capacity:
            await pipe.changed.wait()
        if self._ended is not None:
            raise ConnectionClosed(self._ended.code, self._ended.reason)
        pipe.texts.append(text)
        pipe.wake()

    async def recv(self) -> str:
        """See :meth:`Connection.recv`. What the peer sent before it closed is still received."""
        pipe = self._incoming
        while not pipe.texts:
            if self._ended is not None:
                raise ConnectionClosed(self._ended.code, self._ended.reason)
            await pipe.changed.wait()
        text = pipe.texts.popleft()
        pipe.wake()
        return text

    async def close(self, code: int = NORMAL_CLOSURE, reason: str = "") -> None:
        if self._ended is None:
            self._incoming.texts.clear()
            self._end(code, reason)
            if self._peer is not None:
                self._peer._end(code, reason)

    async def wait_closed(self) -> None:
        await self._gone.wait()

    def _end(self, code: int, reason: str) -> None:
        if self._ended is None:
            self._ended = ConnectionClosed(code, reason)
            self._gone.set()
            self._incoming.wake()
            self._outgoing.wake()


def memory_pair(
    info_a: ConnectionInfo, info_b: ConnectionInfo, *, capacity: int = CAPACITY
) -> tuple[Connection, Connection]:
    """Make two connections that are each other's peer.

    Args:
        info_a: Facts of the first.
        info_b: Facts of the second.
        capacity: Texts that one direction holds before ``send`` waits, at least 1.
    """
    there, back = _Pipe(capacity), _Pipe(capacity)
    a, b = MemoryConnection(info_a, back, there), MemoryConnection(info_b, there, back)
    a._peer, b._peer = b, a
    return a, b


class MemoryHub:
    """Table of offers that the memory transports of one process share."""

    def __init__(self) -> None:
        self.offers: OpenOffers[ConnectionInfo] = OpenOffers(OfferTable())


class MemoryTransport:
    """Transport within one process, with tokens that behave as those of WebSocket do (SES-04)."""

    name = MEMORY

    def __init__(self, hub: MemoryHub, *, capacity: int = CAPACITY) -> None:
        self._hub = hub
        self._capacity = capacity
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
        offer = self._hub.offers.take(token)
        if offer is None or offer[1].done():
            raise SessionRefused("The token of the connection was used before, or is too old.", reason="Other")
        their_info, future = offer
        ours, theirs = memory_pair(info, their_info, capacity=self._capacity)
        future.set_result(theirs)
        return ours

    async def close(self) -> None:
        for future in list(self._offered):
            future.cancel()

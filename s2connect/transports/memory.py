"""Connections within one process: for tests, examples and bridges, and as the smallest example of a transport."""

from __future__ import annotations

import asyncio
import secrets
from collections import deque

from s2connect.errors import ConnectionClosed, ProtocolViolation, SessionRefused
from s2connect.model.secret import TOKEN_BYTES, CommunicationToken
from s2connect.model.session_init import CommunicationDetails
from s2connect.supervisor import process_failures
from s2connect.transports.base import (
    INTERNAL_ERROR,
    NORMAL_CLOSURE,
    Connection,
    ConnectionInfo,
    Offer,
    Receiver,
    Trust,
)
from s2connect.transports.offers import OpenOffers

MEMORY = "Memory"
"""Name of the transport."""

CAPACITY = 16
"""Texts that one direction holds before the writer waits (WS-07)."""


class MemoryConnection(Connection):
    """One connection of a pair. Made by :func:`memory_pair`."""

    _peer: MemoryConnection | None = None

    def __init__(self, info: ConnectionInfo, capacity: int) -> None:
        self.info = info
        self._capacity = capacity
        self._inbox: deque[str] = deque()
        self._changed: asyncio.Event | None = None  # of the inbox, where something waits for it
        self._receiver: Receiver | None = None
        self._paused = self._scheduled = False
        self._senders = 0  # that wait
        self._ended: ConnectionClosed | None = None
        self._gone = asyncio.Event()

    async def send(self, text: str) -> None:
        while not self.try_send(text, waited=True):
            assert self._peer is not None
            self._senders += 1
            try:
                await self._peer._change()
            finally:
                self._senders -= 1

    def try_send(self, text: str, *, waited: bool = False) -> bool:
        """See :meth:`Connection.try_send`; ``waited`` is for :meth:`send`."""
        peer = self._peer
        if peer is None or self._ended is not None:
            raise self._end_error()
        if len(peer._inbox) >= self._capacity or (self._senders and not waited):
            return False
        peer._inbox.append(text)
        peer._arrived()
        return True

    async def recv(self) -> str:
        """See :meth:`Connection.recv`. What the peer sent before it closed is still received."""
        while not self._inbox:
            if self._ended is not None:
                raise self._end_error()
            await self._change()
        text = self._inbox.popleft()
        self._wake()
        return text

    def receive_into(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._arrived()

    def pause_reading(self) -> None:
        self._paused = True

    def resume_reading(self) -> None:
        self._paused = False
        self._arrived()

    async def close(self, code: int = NORMAL_CLOSURE, reason: str = "") -> None:
        self._end(code, reason)

    async def wait_closed(self) -> None:
        await self._gone.wait()

    def _arrived(self) -> None:
        """Let the inbox be looked at, not within the call of whoever sends."""
        if self._receiver is None:
            self._wake()
        elif not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._hand_over)

    def _hand_over(self) -> None:
        self._scheduled = False
        try:
            while self._receiver is not None and self._inbox and (not self._paused or self._ended is not None):
                text = self._inbox.popleft()
                self._wake()
                self._receiver.text_received(text)
        except Exception as error:
            process_failures.failed("receiver", error, name=f"the receiver of {self.info.remote}")
            self._inbox.clear()
            self._end(INTERNAL_ERROR, "")
        if self._receiver is not None and self._ended is not None:
            receiver, self._receiver = self._receiver, None
            receiver.connection_ended(self._end_error())

    def _end(self, code: int, reason: str) -> None:
        if self._ended is not None:
            return
        self._inbox.clear()
        for end in (self, self._peer):
            if end is not None:
                end._ended = ConnectionClosed(code, reason)
                end._peer = None  # each refers to the other
                end._gone.set()
                end._wake()
                end._arrived()

    def _end_error(self) -> ConnectionClosed:
        assert self._ended is not None
        return ConnectionClosed(self._ended.code, self._ended.reason)

    async def _change(self) -> None:
        if self._changed is None:
            self._changed = asyncio.Event()
        await self._changed.wait()

    def _wake(self) -> None:
        if self._changed is not None:
            self._changed.set()
            self._changed = None


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

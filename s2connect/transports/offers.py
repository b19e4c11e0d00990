"""Open doors of a communication server: one token, one connection, for a bounded time (SES-04)."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass

from s2connect.errors import SessionRefused
from s2connect.model.secret import TOKEN_BYTES as TOKEN_BYTES
from s2connect.model.secret import CommunicationToken
from s2connect.transports.base import Connection, ConnectionInfo

OFFER_LIFETIME = 30.0
"""SES-04: seconds from the answer to ``confirmAccessToken`` until its token is void."""

MAX_OFFERS = 1000
"""Bound on offers that wait for their client; each belongs to an authenticated pairing."""


@dataclass(frozen=True, slots=True)
class _Door:
    info: ConnectionInfo
    expires: float


class OfferTable:
    """Decides who may come in. Sans-I/O: ``now`` and random bytes are arguments; only digests of tokens are kept."""

    def __init__(self, *, lifetime: float = OFFER_LIFETIME, limit: int = MAX_OFFERS) -> None:
        self._lifetime = lifetime
        self._limit = limit
        self._doors: dict[bytes, _Door] = {}

    def __len__(self) -> int:
        return len(self._doors)

    def open(self, info: ConnectionInfo, *, now: float, random: bytes) -> tuple[CommunicationToken, bytes, float]:
        """Open a door. Returns the token, the key of the door and the time at which it shuts.

        Raises:
            SessionRefused: As many doors as allowed are open.
        """
        self.expire(now)
        if len(self._doors) >= self._limit:
            raise SessionRefused("Too many sessions are being opened at the same time.", reason="Other")
        token = CommunicationToken.from_bytes(random)
        key = self._key(token.reveal())
        expires = now + self._lifetime
        self._doors[key] = _Door(info, expires)
        return token, key, expires

    def valid(self, presented: str, *, now: float) -> bool:
        """Return whether a token would be accepted now; changes nothing."""
        door = self._doors.get(self._key(presented))
        return door is not None and now < door.expires

    def enter(self, presented: str, *, now: float) -> tuple[bytes, ConnectionInfo] | None:
        """Use a token up. None where it is wrong, spent or late (WS-02)."""
        key = self._key(presented)
        door = self._doors.pop(key, None)
        return (key, door.info) if door is not None and now < door.expires else None

    def withdraw(self, key: bytes) -> None:
        """Shut a door; no error where there is none."""
        self._doors.pop(key, None)

    def expire(self, now: float) -> None:
        """Shut the doors whose time is over."""
        for key in [key for key, door in self._doors.items() if door.expires <= now]:
            del self._doors[key]

    @staticmethod
    def _key(presented: str) -> bytes:
        # Looking up a digest leaks by its time at most something about the digest, which is of no use to anybody.
        return hashlib.sha256(presented.encode("utf-8", "surrogatepass")).digest()


class OpenOffers:
    """An :class:`OfferTable` with its timers and the futures that wait for the connections."""

    def __init__(self, table: OfferTable) -> None:
        self._table = table
        self._waiting: dict[bytes, tuple[asyncio.Future[Connection], asyncio.TimerHandle]] = {}

    def open(self, info: ConnectionInfo, random: bytes) -> tuple[CommunicationToken, asyncio.Future[Connection]]:
        """Open a door until it expires; the future is cancelled then. Cancelling the future shuts the door.

        Raises:
            SessionRefused: Too many are open.
        """
        loop = asyncio.get_running_loop()
        token, key, expires = self._table.open(info, now=loop.time(), random=random)
        future: asyncio.Future[Connection] = loop.create_future()
        self._waiting[key] = future, loop.call_at(expires, self._shut, key)
        future.add_done_callback(lambda _: self._shut(key))
        return token, future

    def valid(self, presented: str) -> bool:
        """Return whether a token would be accepted now."""
        return self._table.valid(presented, now=asyncio.get_running_loop().time())

    def enter(self, presented: str) -> tuple[ConnectionInfo, asyncio.Future[Connection]] | None:
        """Use a token up; the caller resolves or cancels the future. None where it is wrong, spent or late."""
        entered = self._table.enter(presented, now=asyncio.get_running_loop().time())
        if entered is None:
            return None
        key, info = entered
        future, timer = self._waiting.pop(key)
        timer.cancel()
        return info, future

    def close(self) -> None:
        """Shut every door."""
        for key in list(self._waiting):
            self._shut(key)

    def _shut(self, key: bytes) -> None:
        self._table.withdraw(key)
        future, timer = self._waiting.pop(key, (None, None))
        if timer is not None:
            timer.cancel()
        if future is not None:
            future.cancel()

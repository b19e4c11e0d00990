"""Offers of a communication server: one key, one connection, for a bounded time (SES-04)."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from s2connect.errors import SessionRefused
from s2connect.transports.base import Connection, ConnectionInfo

OFFER_LIFETIME = 30.0
"""SES-04: seconds from the answer to ``confirmAccessToken`` until its token is void."""

MAX_OFFERS = 1000
"""Bound on offers that wait for their client; each belongs to an authenticated pairing."""

T = TypeVar("T")


class NotPrepared(Exception):
    """An offer is open, but its connection cannot be taken here and now."""


class SharedOffers(Protocol):
    """Offers that several processes share: whichever is asked takes the connection."""

    async def is_open(self, key: str) -> bool:
        """Return whether an offer waits under a key; changes nothing."""

    async def take(self, key: str) -> tuple[ConnectionInfo, Callable[[Connection], object]] | None:
        """Use an offer up; return the connection to accept, and what to call with it. None as of ``OfferTable``.

        Raises:
            NotPrepared: It is open, but cannot be taken here and now.
        """


class OfferTable(Generic[T]):
    """Offers by a key of their own, a token or a session id. Sans-I/O; only digests of the keys are kept."""

    def __init__(self) -> None:
        self._offers: dict[bytes, tuple[T, float]] = {}

    def __len__(self) -> int:
        return len(self._offers)

    def add(self, key: str, value: T, *, now: float) -> float:
        """Add an offer. Returns the time at which it is void.

        Raises:
            SessionRefused: As many offers as allowed are waiting.
        """
        self._offers = {digest: entry for digest, entry in self._offers.items() if now < entry[1]}
        if len(self._offers) >= MAX_OFFERS:
            raise SessionRefused("Too many sessions are being opened at the same time.", reason="Other")
        expires = now + OFFER_LIFETIME
        self._offers[digest(key)] = value, expires
        return expires

    def get(self, key: str, *, now: float) -> T | None:
        """Return the value of an offer, None where the key is wrong, used or late (WS-02); changes nothing."""
        value, expires = self._offers.get(digest(key), (None, 0.0))
        return value if now < expires else None

    def take(self, key: str, *, now: float) -> T | None:
        """Use an offer up; as :meth:`get` otherwise."""
        value, expires = self._offers.pop(digest(key), (None, 0.0))
        return value if now < expires else None


class OpenOffers(OfferTable[tuple[T, "asyncio.Future[Connection]"]]):
    """Offers with the futures of their connections; whoever takes an offer resolves or cancels its future."""

    def __init__(self) -> None:
        super().__init__()
        self._timers: dict[asyncio.Future[Connection], asyncio.TimerHandle] = {}

    def open(self, key: str, value: T) -> asyncio.Future[Connection]:
        """Add an offer until it expires; the future is cancelled then. Cancelling the future withdraws the offer.

        Raises:
            SessionRefused: Too many are waiting.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Connection] = loop.create_future()
        expires = self.add(key, (value, future), now=loop.time())
        self._timers[future] = loop.call_at(expires, future.cancel)
        hashed = digest(key)
        future.add_done_callback(lambda _: self._done(hashed, future))
        return future

    def take(self, key: str, *, now: float) -> tuple[T, asyncio.Future[Connection]] | None:
        """Use an offer up; it does not expire any more."""
        found = super().take(key, now=now)
        if found is not None:
            self._disarm(found[1])
        return found

    def _done(self, digest: bytes, future: asyncio.Future[Connection]) -> None:
        self._offers.pop(digest, None)
        self._disarm(future)

    def _disarm(self, future: asyncio.Future[Connection]) -> None:
        if (timer := self._timers.pop(future, None)) is not None:
            timer.cancel()

    def close(self) -> None:
        """Withdraw every offer."""
        for (_, future), _ in list(self._offers.values()):
            future.cancel()


def digest(key: str) -> bytes:
    """Return the digest by which a secret is looked up: the time of the look-up leaks nothing about the secret."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()

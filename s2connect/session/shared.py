"""Contract for what the communication servers of one identity share, and its implementation for one process."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Protocol
from weakref import WeakValueDictionary

from s2connect.errors import NotPaired
from s2connect.model.secret import AccessToken
from s2connect.model.session_init import CommunicationDetails
from s2connect.session.ownership import Claim
from s2connect.session.server_core import Activation, SessionServer
from s2connect.store.base import GONE, Pairing, PairKey, Store
from s2connect.transports.base import ConnectionInfo


class SharedSessions(Protocol):
    """Pending tokens of communication servers (SES-02), and their offers of connections (SES-04).

    All methods may raise :class:`~s2connect.errors.StorageUnavailable`; nothing has changed then, or the whole change
    has.
    """

    def issuing(self, key: PairKey) -> AbstractAsyncContextManager[tuple[SessionServer, float]]:
        """Issue a pending token of a pair, by ``issue`` of the core; gives the core and the time."""

    def confirming(self, token: AccessToken | None) -> AbstractAsyncContextManager[tuple[SessionServer, float]]:
        """Confirm a pending token, by ``confirm`` of the core and :meth:`activate`; one at a time of one pair (SES-03).

        What is stored within the context is durable with the change, or not at all.
        """

    async def activate(
        self, activation: Activation, info: ConnectionInfo, issued_at: float
    ) -> CommunicationDetails | None:
        """Within :meth:`confirming`: make the token the active one, drop the pending tokens of the pair, and offer.

        Returns the offer of a connection that any of the servers takes, once, instead of earlier ones. Where there is a
        holder the connection should come to it: its URL is in the details, as long as it lives. None where the
        transport of this process has to offer it. It is durable at the end of the context. Raises NotPaired where the
        pairing has ended.
        """

    async def forget(self, key: PairKey) -> None:
        """Drop the pending tokens of a pair: its pairing is another one now, or has ended."""


class TakenOffer(Protocol):
    """Offer that was used up."""

    @property
    def info(self) -> ConnectionInfo:
        """The connection to accept."""

    @property
    def pairing(self) -> Pairing:
        """The pairing it is for."""

    @property
    def claim(self) -> Claim | None:
        """The claim of this instance to the session."""


class SharedOfferingSessions(SharedSessions, Protocol):
    """The same, with offers that any of several instances takes. Keys are tokens; wrong ones cost a look-up only.

    Attributes:
        holder: Name of this instance as a holder. One that was started again has another, and has prepared nothing.
    """

    holder: str

    async def is_open(self, key: str) -> bool:
        """Return whether an offer waits under a key; changes nothing (WS-02)."""

    async def open_offers(self, until: float | None) -> tuple[int, float]:
        """Return how many offers wait that expire by then, and when those that are made now expire."""

    async def take(self, key: str, *, also_of_others: bool = False) -> TakenOffer | None:
        """Use an offer up, at one instance only. None where there is none (any more), or its pairing has ended.

        Offers with another holder only where that is said.
        """

    async def held_elsewhere(self, key: str) -> tuple[Pairing, str] | None:
        """Return pairing and S2 version of an offer that waits and has another holder; None for any other."""


class MemorySessions:
    """The contract of :class:`SharedSessions` for one process, which has all in one core."""

    def __init__(self, core: SessionServer, store: Store) -> None:
        self._core = core
        self._store = store
        # Two confirmations of one pair must not activate two tokens.
        self._locks: WeakValueDictionary[PairKey, asyncio.Lock] = WeakValueDictionary()

    @contextlib.asynccontextmanager
    async def issuing(self, key: PairKey) -> AsyncIterator[tuple[SessionServer, float]]:
        yield self._core, asyncio.get_running_loop().time()

    @contextlib.asynccontextmanager
    async def confirming(self, token: AccessToken | None) -> AsyncIterator[tuple[SessionServer, float]]:
        loop = asyncio.get_running_loop()
        key = self._core.pair_of(token, now=loop.time())
        if key is None:
            yield self._core, loop.time()
            return
        lock = self._locks.setdefault(key, asyncio.Lock())
        async with lock:
            yield self._core, loop.time()

    async def activate(
        self, activation: Activation, info: ConnectionInfo, issued_at: float
    ) -> CommunicationDetails | None:
        if not await self._store.activate_token(activation.pairing, activation.digest, issued_at):
            raise NotPaired(GONE)
        self._core.forget(activation.pairing.key)
        return None

    async def forget(self, key: PairKey) -> None:
        self._core.forget(key)

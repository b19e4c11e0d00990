"""Contract for what the pairing servers of one identity share, and its implementation for one process.

Each operation is one atomic change: a context gives the core with what the change needs, and the time. What the core
has decided stands once the context was left without an exception.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Generic, Protocol, TypeVar

from s2connect.model.common import NodeId
from s2connect.model.reply import Reply
from s2connect.model.secret import PairingAttemptId
from s2connect.pairing.code import TokenTable
from s2connect.pairing.server_core import Asked, PairingServer, Queued

T = TypeVar("T")


class SharedPairing(Protocol):
    """Attempts, codes, turns and proofs of pairing servers.

    Times are seconds of one clock, which all that share have in common. All methods but :meth:`abandon` may raise
    :class:`~s2connect.errors.StorageUnavailable`; nothing has changed then, or the whole change has.

    Attributes:
        core: The core of this process, for what needs no shared state, and for what it has to report.
    """

    core: PairingServer

    async def queue(self, asked: Asked) -> Queued | Reply:
        """Queue a request on its node (PAIR-02); :meth:`abandon` what is not answered."""

    async def wait(self, queued: Queued) -> float | Reply | None:
        """Take the turn and return None if it has come; otherwise return the seconds after which to call again.

        It has to be called once a second at least. It is a refusal where there will be no turn.
        """

    def abandon(self, queued: Queued) -> None:
        """Drop a queued request that is not answered."""

    def begin(self, queued: Queued) -> AbstractAsyncContextManager[tuple[PairingServer, float]]:
        """Begin an attempt, by ``answer``, ``proofs.claim`` and ``claimed`` of the core."""

    def attempt(self, attempt_id: PairingAttemptId) -> AbstractAsyncContextManager[tuple[PairingServer, float]]:
        """Deal with a later request of an attempt; the time is that of its arrival.

        What is stored within the context is durable with the change, or not at all.
        """

    def codes(self, node: NodeId) -> AbstractAsyncContextManager[tuple[TokenTable, float]]:
        """Read or change the tokens of a node."""

    async def tables(self, nodes: Collection[NodeId]) -> tuple[Mapping[NodeId, TokenTable], float]:
        """Return the tokens of nodes, to read only, and the time."""

    async def forget(self, node: NodeId) -> None:
        """Withdraw the tokens of a node that is removed, and end the attempts on it."""


class At(Generic[T]):
    """Context that gives what is in this process, and the time of the event loop."""

    __slots__ = ("_what",)

    def __init__(self, what: T) -> None:
        self._what = what

    async def __aenter__(self) -> tuple[T, float]:
        return self._what, asyncio.get_running_loop().time()

    async def __aexit__(self, *failure: object) -> None:
        """Nothing is undone: the core has no halves."""


class MemoryPairing:
    """The contract of :class:`SharedPairing` for one process, which has all in one core."""

    def __init__(self, core: PairingServer) -> None:
        self.core = core

    async def queue(self, asked: Asked) -> Queued | Reply:
        now = asyncio.get_running_loop().time()
        self.core.expire(now=now)
        return self.core.queue(asked, now=now)

    async def wait(self, queued: Queued) -> float | Reply | None:
        now = asyncio.get_running_loop().time()
        at = self.core.wait(queued, now=now)
        return at - now if isinstance(at, float | int) else at

    def abandon(self, queued: Queued) -> None:
        self.core.abandon(queued)

    def begin(self, queued: Queued) -> AbstractAsyncContextManager[tuple[PairingServer, float]]:
        return At(self.core)

    def attempt(self, attempt_id: PairingAttemptId) -> AbstractAsyncContextManager[tuple[PairingServer, float]]:
        return At(self.core)

    def codes(self, node: NodeId) -> AbstractAsyncContextManager[tuple[TokenTable, float]]:
        return At(self.core.tokens(node))

    async def tables(self, nodes: Collection[NodeId]) -> tuple[Mapping[NodeId, TokenTable], float]:
        return {node: self.core.tokens(node) for node in nodes}, asyncio.get_running_loop().time()

    async def forget(self, node: NodeId) -> None:
        self.core.forget(node)
